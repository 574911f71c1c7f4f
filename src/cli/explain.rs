//! `sluice explain METHOD URL`: what would become of a request, without sending it.
use super::{ConfigArgument, Output};
use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_config::{CompiledRoute, RouteUpstream, Snapshot};
use sluice_plugin::{ChainEntry, Connection, Context};
use sluice_router::{Outcome, Request};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::rc::Rc;

#[derive(clap::Args)]
pub struct Explain {
    #[command(flatten)]
    config: ConfigArgument,
    /// The request's method.
    method: String,
    /// `http://host/path?query`; only a path takes the host `localhost`.
    url: String,
    /// A header, `name: value`. May be repeated.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The request's body.
    #[arg(short, long, value_name = "TEXT")]
    data: Option<String>,
    /// The client's address.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// `text` or `json`.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Explain {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = crate::boot::config_path(self.config.config.clone())?;
        let found = sluice_config::check::check(&path, &sluice_config::environment::Environment::Process);
        let (Some(settings), Some(raw)) = (&found.settings, &found.config) else {
            anyhow::bail!("the configuration cannot be read:\n{found}");
        };
        let mut compiler = crate::boot::compiler(settings, crate::boot::Services::default())?;
        let applied = compiler.replace_all(crate::source::objects(raw));
        for error in crate::source::errors(raw, &applied.problems) {
            eprintln!("sluice: {error}");
        }
        let cx = self.context(&applied.snapshot)?;
        let explanation = explain(&applied.snapshot, &cx);
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&explanation)?),
            Output::Text => print!("{}", text(&explanation)),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn context(&self, snapshot: &Snapshot) -> anyhow::Result<Context> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 9080));
        let connection = Rc::new(Connection::new(SocketAddr::new(self.client, 0), local, None));
        let mut cx = Context::new(connection, snapshot.consumers.clone());
        let rest = self.url.strip_prefix("http://").or(self.url.strip_prefix("https://"));
        let (host, target) = match rest {
            Some(rest) => rest.find('/').map_or((rest, "/"), |at| rest.split_at(at)),
            None => ("localhost", self.url.as_str()),
        };
        anyhow::ensure!(target.starts_with('/'), "the URL must be http://host/path or /path, not {:?}", self.url);
        let mut headers = Vec::new();
        for header in &self.headers {
            let (name, value) =
                header.split_once(':').with_context(|| format!("a header is `name: value`, not {header:?}"))?;
            headers.push((name.trim(), value.trim()));
        }
        let named = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("host")).map(|(_, v)| *v);
        headers.retain(|(n, _)| !n.eq_ignore_ascii_case("host"));
        cx.request.assemble(&self.method, target, named.unwrap_or(host), &headers);
        cx.request_body = self.data.clone().map(String::into_bytes);
        Ok(cx)
    }
}

/// Everything that matching decides about a request.
fn explain(snapshot: &Snapshot, cx: &Context) -> Value {
    let request = Request {
        path: cx.request.path(),
        host: cx.request.host(),
        method: cx.request.method_text(),
        remote_addr: cx.client_ip(),
    };
    let candidates: Vec<Value> = snapshot
        .router
        .explain(&request, cx)
        .into_iter()
        .map(|c| match c.outcome {
            Outcome::Won => json!({"route": &*c.id, "uri": &*c.uri, "won": true}),
            Outcome::Lost { reason } => json!({"route": &*c.id, "uri": &*c.uri, "won": false, "reason": reason}),
        })
        .collect();
    let found = snapshot.router.find(&request, cx);
    let route = found.as_ref().map(|found| {
        let params: serde_json::Map<String, Value> =
            found.params.iter().map(|(n, v)| (n.to_string(), json!(&**v))).collect();
        describe(found.handle, found.uri, found.host, params)
    });
    json!({
        "request": {"method": cx.request.method_text(), "host": cx.request.host(), "path": cx.request.path(), "args": cx.request.query()},
        "candidates": candidates,
        "route": route,
        "global_plugins": snapshot.global.entries().iter().map(plugin).collect::<Vec<_>>(),
    })
}

fn describe(route: &CompiledRoute, uri: &str, host: Option<&str>, params: serde_json::Map<String, Value>) -> Value {
    let upstream = match &route.upstream {
        RouteUpstream::None => json!({"error": "neither the route nor its service has an upstream: 503"}),
        RouteUpstream::Missing => json!({"error": "upstream_id names no upstream: 502"}),
        RouteUpstream::Found(upstream) => {
            let balancer = upstream.nodes.balancer();
            let nodes: Vec<Value> = upstream
                .nodes
                .configs()
                .iter()
                .map(|n| json!({"host": &*n.host, "port": n.port, "weight": n.weight, "priority": n.priority}))
                .collect();
            json!({
                "from": &*upstream.key,
                "scheme": upstream.scheme.as_str(),
                "type": format!("{:?}", balancer.settings().algorithm).to_ascii_lowercase(),
                "nodes": nodes,
            })
        }
    };
    json!({
        "id": &*route.info.route_id,
        "name": route.info.route_name.as_deref(),
        "service": route.info.service_id.as_deref(),
        "matched_uri": uri,
        "matched_host": host,
        "params": params,
        "problem": route.trouble.map(|t| format!("{t:?}")),
        "plugins": route.chain.entries().iter().map(plugin).collect::<Vec<_>>(),
        "upstream": upstream,
    })
}

fn plugin(entry: &ChainEntry) -> Value {
    json!({"name": entry.info.name, "priority": entry.priority, "from": entry.source, "config": masked(entry)})
}

/// The configuration without its secrets.
fn masked(entry: &ChainEntry) -> Value {
    let mut config = entry.config.as_ref().clone();
    for field in entry.info.secrets {
        let pointer = format!("/{}", field.replace('.', "/"));
        if let Some(value) = config.pointer_mut(&pointer) {
            *value = "***".into();
        }
    }
    config
}

fn text(explanation: &Value) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "candidates");
    let candidates = explanation["candidates"].as_array().cloned().unwrap_or_default();
    if candidates.is_empty() {
        let _ = writeln!(out, "  none: no route has this path");
    }
    for c in &candidates {
        let (route, uri) = (c["route"].as_str().unwrap_or(""), c["uri"].as_str().unwrap_or(""));
        match c["reason"].as_str() {
            None => drop(writeln!(out, "  + {route}  {uri}  matches")),
            Some(reason) => drop(writeln!(out, "  - {route}  {uri}  {reason}")),
        }
    }
    let route = &explanation["route"];
    if route.is_null() {
        let _ = writeln!(out, "answer\n  404 Route Not Found");
        return out;
    }
    let _ = writeln!(out, "route {}", route["id"].as_str().unwrap_or(""));
    for field in ["name", "service", "matched_uri", "matched_host", "problem"] {
        if let Some(value) = route[field].as_str() {
            let _ = writeln!(out, "  {field}: {value}");
        }
    }
    for (name, value) in route["params"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "  param {name}: {}", value.as_str().unwrap_or(""));
    }
    let chains = [("global plugins", &explanation["global_plugins"]), ("plugins", &route["plugins"])];
    for (title, list) in chains {
        let list = list.as_array().cloned().unwrap_or_default();
        if !list.is_empty() {
            let _ = writeln!(out, "{title}");
        }
        for p in list {
            let _ = writeln!(
                out,
                "  {} (priority {}, from {}) {}",
                p["name"].as_str().unwrap_or(""),
                p["priority"],
                p["from"].as_str().unwrap_or(""),
                p["config"]
            );
        }
    }
    let upstream = &route["upstream"];
    let _ = writeln!(out, "upstream");
    if let Some(error) = upstream["error"].as_str() {
        let _ = writeln!(out, "  {error}");
        return out;
    }
    let _ = writeln!(
        out,
        "  from {}, {}, {}",
        upstream["from"].as_str().unwrap_or(""),
        upstream["scheme"].as_str().unwrap_or(""),
        upstream["type"].as_str().unwrap_or("")
    );
    for n in upstream["nodes"].as_array().into_iter().flatten() {
        let _ = writeln!(
            out,
            "  {}:{} weight {} priority {}",
            n["host"].as_str().unwrap_or(""),
            n["port"],
            n["weight"],
            n["priority"]
        );
    }
    out
}
