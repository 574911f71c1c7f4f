//! `sluice top`: routes and upstreams by their traffic. The surprise: the gateway adds requests up only while somebody looks,
//! so the first figures come after one interval.
use super::Output;
use super::server::block_on;
use super::watch::Control;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Top {
    #[command(flatten)]
    control: Control,
    /// Seconds between two looks.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2.0)]
    interval: f64,
    /// Look once and end.
    #[arg(long)]
    once: bool,
    /// Order of rows.
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Rows of each list, in the view for people.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    rows: usize,
    /// `text`, or `json` with a line for each interval.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Sort {
    /// Requests.
    #[default]
    Rate,
    /// Answers of 500 and above.
    Errors,
    /// The slowest hundredth.
    P99,
}

impl Top {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        block_on(self.follow())
    }

    async fn follow(self) -> anyhow::Result<ExitCode> {
        let mut lines = self.control.open("/v1/traffic", &[("interval", self.interval.to_string())]).await?;
        let live = !self.once && std::io::stdout().is_terminal();
        while let Some(mut sums) = lines.next().await? {
            self.sort(&mut sums);
            let text = match self.output {
                Output::Json => format!("{sums}\n"),
                // Home, and away with what was there.
                Output::Text if live => format!("\x1b[H\x1b[2J{}", text(&sums, self.rows)),
                Output::Text => text(&sums, self.rows),
            };
            let mut out = std::io::stdout().lock();
            if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || self.once {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn sort(&self, sums: &mut Value) {
        let field = match self.sort {
            Sort::Rate => "requests",
            Sort::Errors => "server_errors",
            Sort::P99 => "p99_ms",
        };
        for list in ["routes", "upstreams"] {
            if let Some(rows) = sums[list].as_array_mut() {
                let of = |row: &Value| row[field].as_f64().unwrap_or(0.0);
                rows.sort_by(|a, b| of(b).total_cmp(&of(a)));
            }
        }
    }
}

const HEAD: &str = "      REQ/S     4xx     5xx   p50 ms   p99 ms";

fn figures(row: &Value) -> String {
    let number = |name: &str| row[name].as_f64().unwrap_or(0.0);
    format!(
        "{:>11.1} {:>7} {:>7} {:>8.2} {:>8.2}",
        number("rate"),
        number("client_errors"),
        number("server_errors"),
        number("p50_ms"),
        number("p99_ms")
    )
}

/// At most so many characters.
fn short(name: &str, width: usize) -> String {
    if name.chars().count() <= width {
        return name.to_owned();
    }
    name.chars().take(width - 1).chain(['…']).collect()
}

fn state(row: &Value) -> String {
    let mut all = Vec::new();
    if let Some(status) = row["status"].as_str().filter(|status| *status != "unchecked") {
        all.push(status.to_owned());
    }
    if row["ejected"] == true {
        all.push("ejected".into());
    }
    if let Some(breaker) = row["breaker"].as_str() {
        all.push(format!("breaker {breaker}"));
    }
    all.join(", ")
}

fn text(sums: &Value, rows: usize) -> String {
    // Writing to memory cannot fail.
    let mut out = String::new();
    let list = |name: &str| sums[name].as_array().cloned().unwrap_or_default();
    let _ = writeln!(out, "{:<32}{HEAD}", format!("last {} s", sums["seconds"]));
    let _ = writeln!(out, "{:<32}{}", "all", figures(&sums["total"]));
    let routes = list("routes");
    let _ = writeln!(out, "\n{:<32}{HEAD}", "ROUTE");
    for row in routes.iter().take(rows) {
        let id = row["name"].as_str().unwrap_or("");
        let name = row["title"].as_str().map_or_else(|| id.to_owned(), |title| format!("{id} {title}"));
        let _ = writeln!(out, "{:<32}{}", short(&name, 31), figures(row));
    }
    rest(&mut out, routes.len(), rows);
    let upstreams = list("upstreams");
    let _ = writeln!(out, "\n{:<32}{HEAD}  STATE", "UPSTREAM");
    for row in upstreams.iter().take(rows) {
        let _ = writeln!(out, "{:<32}{}  {}", short(row["name"].as_str().unwrap_or(""), 31), figures(row), state(row));
        for node in row["nodes"].as_array().into_iter().flatten() {
            let name = format!("  {}", short(node["name"].as_str().unwrap_or(""), 29));
            let _ = writeln!(out, "{name:<32}{}  {}", figures(node), state(node));
        }
    }
    rest(&mut out, upstreams.len(), rows);
    // What was written with trailing blanks for want of a state.
    out.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn rest(out: &mut String, all: usize, shown: usize) {
    if all > shown {
        let _ = writeln!(out, "... and {} more", all - shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_say_rates_errors_and_states() {
        let row = |name: &str| {
            json!({
                "name": name, "requests": 20, "rate": 10.0, "client_errors": 1, "server_errors": 2, "bytes_rate": 5.0,
                "p50_ms": 1.25, "p99_ms": 30.5,
            })
        };
        let (mut route, mut upstream, mut node) = (row("r"), row("upstreams/1"), row("127.0.0.1:80"));
        route["title"] = json!("orders");
        upstream["breaker"] = json!("open");
        node["status"] = json!("unhealthy");
        upstream["nodes"] = json!([node]);
        let sums = json!({"seconds": 2.0, "total": row("total"), "routes": [route, row("s")], "upstreams": [upstream]});
        let text = text(&sums, 1);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        assert_eq!(
            line("r orders").split_whitespace().collect::<Vec<_>>(),
            ["r", "orders", "10.0", "1", "2", "1.25", "30.50"]
        );
        assert!(line("upstreams/1").ends_with("breaker open") && line("  127.0.0.1:80").ends_with("unhealthy"));
        assert!(line("...").ends_with("and 1 more"), "{text}");
    }
}
