//! `sluice explain METHOD URL`: what would become of a request, without sending it; `--stream`: of a connection.
use super::{ConfigArgument, Output};
use anyhow::Context as _;
use serde_json::Value;
use sluice_config::explain::{Question, StreamQuestion, explain, explain_stream};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Explain {
    #[command(flatten)]
    config: ConfigArgument,
    /// The request's method.
    #[arg(required_unless_present = "stream")]
    method: Option<String>,
    /// `http://host/path?query`; only a path takes the host `localhost`.
    #[arg(required_unless_present = "stream")]
    url: Option<String>,
    /// A header, `name: value`. May be repeated.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The request's body.
    #[arg(short, long, value_name = "TEXT")]
    data: Option<String>,
    /// Instead of a request: a connection to this address and port of `apisix.stream_proxy`.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["method", "url", "headers", "data"])]
    stream: Option<SocketAddr>,
    /// The server name that the connection asks for by TLS.
    #[arg(long, value_name = "NAME", requires = "stream")]
    sni: Option<String>,
    /// The address that the request comes from.
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
        let explanation = match self.stream {
            Some(server) => {
                let question = StreamQuestion { server, client: self.client, sni: self.sni.clone() };
                explain_stream(&applied.snapshot, &question)
            }
            None => explain(&applied.snapshot, &self.question()?).map_err(anyhow::Error::msg)?,
        };
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&explanation)?),
            Output::Text => print!("{}", text(&explanation)),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn question(&self) -> anyhow::Result<Question> {
        let mut question =
            Question::new(self.method.as_deref().unwrap_or_default(), self.url.as_deref().unwrap_or_default());
        for header in &self.headers {
            let (name, value) =
                header.split_once(':').with_context(|| format!("a header is `name: value`, not {header:?}"))?;
            question.headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        question.body = self.data.clone().map(String::into_bytes);
        question.client = self.client;
        Ok(question)
    }
}

fn text(explanation: &Value) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let tls = &explanation["tls"];
    if let Some(error) = tls["error"].as_str() {
        let _ = writeln!(out, "tls\n  {}: {error}", tls["server_name"].as_str().unwrap_or(""));
    } else if let Some(ssl) = tls["ssl"].as_str() {
        let subject = tls["certificates"][0]["subject"].as_str().unwrap_or("");
        let asks = match tls["client"]["certificate_needed"].as_bool() {
            Some(true) => ", asks for a client certificate",
            Some(false) => ", a client certificate may be shown",
            None => "",
        };
        let _ = writeln!(out, "tls\n  ssl {ssl}  {subject}{asks}");
    }
    let _ = writeln!(out, "candidates");
    let candidates = explanation["candidates"].as_array().cloned().unwrap_or_default();
    if candidates.is_empty() {
        let _ =
            writeln!(out, "  none{}", if explanation["request"].is_null() { "" } else { ": no route has this path" });
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
        let answer = match explanation["refused"].as_str() {
            Some(refused) => refused,
            None if explanation["request"].is_null() => "the connection is closed",
            None => "404 Route Not Found",
        };
        let _ = writeln!(out, "answer\n  {answer}");
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
                "  {} (priority {}{}) {}",
                p["name"].as_str().unwrap_or(""),
                p["priority"],
                p["from"].as_str().map(|from| format!(", from {from}")).unwrap_or_default(),
                p.get("config").map(Value::to_string).unwrap_or_default()
            );
            for (name, value) in p["looks_at"].as_object().into_iter().flatten() {
                let _ = writeln!(
                    out,
                    "    {}: {}",
                    name.replace('_', " "),
                    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                );
            }
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
    if let Some(kind) = upstream["discovery"]["type"].as_str() {
        let service = upstream["discovery"]["service_name"].as_str().unwrap_or("");
        let _ = writeln!(out, "  nodes from discovery {kind}, service {service}");
    }
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
