//! `sluice tail`: requests as they end. The surprise: who reads too slowly is told how many were left out, and the gateway
//! waits for nobody.
use super::Output;
use super::server::block_on;
use super::watch::Control;
use serde_json::Value;
use std::io::Write as _;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Tail {
    #[command(flatten)]
    control: Control,
    /// Only requests of this route, by id or name.
    #[arg(long)]
    route: Option<String>,
    /// Only these statuses: 404, 5xx, 400-499 or >=400.
    #[arg(long)]
    status: Option<String>,
    /// Only this host; `*.example.com` is all below it.
    #[arg(long)]
    host: Option<String>,
    /// Only this method.
    #[arg(long)]
    method: Option<String>,
    /// Only paths that begin so.
    #[arg(long)]
    path: Option<String>,
    /// End after so many requests.
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// `text`, or `json` with a line for each request.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Tail {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        block_on(self.follow())
    }

    async fn follow(self) -> anyhow::Result<ExitCode> {
        let filters = [
            ("route", &self.route),
            ("status", &self.status),
            ("host", &self.host),
            ("method", &self.method),
            ("path", &self.path),
        ];
        let given: Vec<(&str, String)> = filters.iter().filter_map(|(n, v)| Some((*n, v.as_ref()?.clone()))).collect();
        let mut lines = self.control.open("/v1/requests", &given).await?;
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut out = std::io::stdout().lock();
        while left > 0 {
            let Some(line) = lines.next().await? else { break };
            if line["dropped"].is_null() {
                left -= 1;
            }
            let text = match self.output {
                Output::Json => line.to_string(),
                Output::Text => text(&line),
            };
            // The reader of our output has gone, as `head` does.
            if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Milliseconds since the epoch as the time of day, UTC.
fn clock(millis: u64) -> String {
    let seconds = millis / 1000;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60, millis % 1000)
}

fn text(line: &Value) -> String {
    if let Some(dropped) = line["dropped"].as_u64() {
        return format!("... {dropped} requests left out: this reader is too slow");
    }
    let of = |name: &str| line[name].as_str().unwrap_or("-");
    let attempts: Vec<String> = line["attempts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|tried| format!("{} {} {}ms", tried["node"].as_str().unwrap_or("-"), tried["status"], tried["duration"]))
        .collect();
    format!(
        "{} {} {:>9} {} {}{} route={} {}{}",
        clock(line["time"].as_u64().unwrap_or(0)),
        line["status"],
        format!("{}ms", line["duration"]),
        of("method"),
        of("host"),
        of("target"),
        line["route_name"].as_str().unwrap_or(of("route")),
        of("client"),
        if attempts.is_empty() { format!(" by {}", of("source")) } else { format!(" -> {}", attempts.join(", ")) },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_what_matters() {
        let tried = json!([{"node": "127.0.0.1:80", "status": 200, "duration": 1.5}]);
        let line = json!({
            "time": 3_723_004, "status": 200, "duration": 2.25, "method": "GET", "host": "h", "target": "/a?b",
            "route": "1", "client": "::1", "source": "upstream", "attempts": tried,
        });
        assert_eq!(text(&line), "01:02:03.004 200    2.25ms GET h/a?b route=1 ::1 -> 127.0.0.1:80 200 1.5ms");
        assert_eq!(text(&json!({"dropped": 7})), "... 7 requests left out: this reader is too slow");
    }
}
