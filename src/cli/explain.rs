//! `sluice explain METHOD URL`: what would become of a request, without sending it.
use super::{ConfigArgument, Output};
use anyhow::Context as _;
use serde_json::Value;
use sluice_config::explain::{Question, explain};
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

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
        let explanation = explain(&applied.snapshot, &self.question()?).map_err(anyhow::Error::msg)?;
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&explanation)?),
            Output::Text => print!("{}", text(&explanation)),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn question(&self) -> anyhow::Result<Question> {
        let mut question = Question::new(&self.method, &self.url);
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
