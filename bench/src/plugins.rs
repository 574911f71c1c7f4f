//! What each plugin adds to a request: CPU of the whole process with the plugin less without it, in alternating runs against
//! one process that has a route for each; and instructions in user space, which no neighbour disturbs.
//!
//! The surprise: the work of the control threads is in it. What a logger costs is not only what its entry costs the worker,
//! but also joining and sending it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::engine::{Engine, Load};
use crate::peers::{Peer, Site, find};
use crate::sinks::{Mood, Sinks};
use crate::{Output, accounting, ports, table};

/// Measure what each plugin adds to the CPU of a request, and count its instructions with valgrind.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask bench plugins --only prometheus,key-auth")]
pub struct Args {
    /// Plugins, comma-separated [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds; each plugin runs once in each
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Measured seconds of one run
    #[arg(long, default_value_t = 0.6)]
    seconds: f64,
    /// Leave the instructions out
    #[arg(long)]
    no_instructions: bool,
    /// Requests per plugin under valgrind
    #[arg(long, default_value_t = 800)]
    requests: usize,
}

/// A row of the table.
struct Row {
    /// As it is shown; the plugin's name unless two rows are of one.
    name: &'static str,
    /// The plugins of its route.
    plugins: fn(&Sinks) -> Value,
    /// More lines of the request's head.
    head: &'static str,
    /// The answer is 64 KiB instead of 1 KiB; compared with a route without plugins that answers the same.
    large: bool,
    /// µs of user CPU that it may add.
    goal: Option<f64>,
}

const fn row(name: &'static str, plugins: fn(&Sinks) -> Value) -> Row {
    Row { name, plugins, head: "", large: false, goal: None }
}

impl Row {
    const fn head(self, head: &'static str) -> Row {
        Row { head, ..self }
    }
    const fn large(self) -> Row {
        Row { large: true, ..self }
    }
    const fn goal(self, goal: f64) -> Row {
        Row { goal: Some(goal), ..self }
    }
}

const RULES: [&str; 6] = [
    "SecRuleEngine On",
    "SecRequestBodyAccess On",
    "SecRule ARGS \"@rx (?i)union\\s+select\" \"id:1,phase:2,deny,status:403,t:urlDecodeUni\"",
    "SecRule REQUEST_HEADERS:User-Agent \"@pm nikto sqlmap nmap\" \"id:2,phase:1,deny,status:403,t:lowercase\"",
    "SecRule REQUEST_URI \"@contains ../\" \"id:3,phase:1,deny,status:403,t:normalizePath\"",
    "SecRule REQUEST_METHOD \"!@within GET POST PUT DELETE\" \"id:4,phase:1,deny,status:405\"",
];

/// To add a plugin add a line.
const ROWS: &[Row] = &[
    row("prometheus", |_| json!({"prometheus": {}})).goal(0.3),
    row("key-auth", |_| json!({"key-auth": {}})).head("apikey: key-of-the-benchmark\r\n").goal(0.3),
    row("basic-auth", |_| json!({"basic-auth": {}})).head("Authorization: Basic YmVuY2g6c2VjcmV0\r\n"),
    row("limit-count", |_| json!({"limit-count": {"count": 2_000_000_000, "time_window": 3600, "key": "remote_addr"}}))
        .goal(0.3),
    row("limit-req", |_| json!({"limit-req": {"rate": 1_000_000_000, "burst": 1_000_000_000, "key": "remote_addr"}}))
        .goal(0.3),
    row(
        "limit-conn",
        |_| json!({"limit-conn": {"conn": 1_000_000, "burst": 0, "default_conn_delay": 1, "key": "remote_addr"}}),
    )
    .goal(0.3),
    row("ip-restriction", |_| json!({"ip-restriction": {"whitelist": ["127.0.0.0/8"]}})),
    row("ua-restriction", |_| json!({"ua-restriction": {"denylist": ["bad-bot"]}})),
    row(
        "referer-restriction",
        |_| json!({"referer-restriction": {"bypass_missing": true, "whitelist": ["*.example.com"]}}),
    ),
    row("uri-blocker", |_| json!({"uri-blocker": {"block_rules": ["\\.php$", "root.exe"]}})),
    row("cors", |_| json!({"cors": {}})),
    row("request-id", |_| json!({"request-id": {}})),
    row("proxy-rewrite", |_| json!({"proxy-rewrite": {"headers": {"set": {"X-Gateway": "bench"}}}})),
    row("response-rewrite", |_| json!({"response-rewrite": {"headers": {"set": {"X-Answer": "bench"}}}})),
    row("traffic-split", |_| json!({"traffic-split": {"rules": [{"weighted_upstreams": [{"weight": 1}]}]}})),
    row("coraza, 4 rules", |_| json!({"coraza": {"directives_map": {"d": RULES}, "default_directives": "d"}})),
    row(
        "serverless, Lua",
        |_| json!({"serverless-pre-function": {"functions": ["return function(conf, ctx) ngx.req.set_header('X-A', 'b') end"]}}),
    ),
    row("gzip, 1 KiB", |_| json!({"gzip": {"types": ["application/json"], "min_length": 20}})),
    row("gzip, 64 KiB", |_| json!({"gzip": {"types": ["application/json"]}})).large(),
    row("brotli, 64 KiB", |_| json!({"brotli": {"types": ["application/json"]}}))
        .head("Accept-Encoding: br\r\n")
        .large(),
    row("file-logger", |_| json!({"file-logger": {"path": "/dev/null"}})),
    row("http-logger", |s| json!({"http-logger": {"uri": s.http_url(), "inactive_timeout": 1}})).goal(1.0),
    row("http-logger, 3 fields", |s| {
        let format = json!({"host": "$host", "client": "$remote_addr", "status": "$status"});
        json!({"http-logger": {"uri": s.http_url(), "inactive_timeout": 1, "log_format": format}})
    })
    .goal(1.0),
    row("loki-logger", |s| json!({"loki-logger": {"endpoint_addrs": [s.http_url()], "inactive_timeout": 1}})),
    row(
        "elasticsearch-logger",
        |s| json!({"elasticsearch-logger": {"endpoint_addr": s.http_url(), "field": {"index": "logs"}, "inactive_timeout": 1}}),
    ),
    row("tcp-logger", |s| json!({"tcp-logger": {"host": "127.0.0.1", "port": s.tcp, "inactive_timeout": 1}})),
    row("udp-logger", |s| json!({"udp-logger": {"host": "127.0.0.1", "port": s.udp, "inactive_timeout": 1}})),
    row("syslog", |s| json!({"syslog": {"host": "127.0.0.1", "port": s.tcp, "inactive_timeout": 1}})),
    row(
        "opentelemetry at 1 %",
        |_| json!({"opentelemetry": {"sampler": {"name": "trace_id_ratio", "options": {"fraction": 0.01}}}}),
    )
    .goal(0.3),
];

/// Plugins whose queues take more than usual, so that the full way of every entry is measured, not its discarding.
const LOGGERS: [&str; 6] = ["http-logger", "loki-logger", "elasticsearch-logger", "tcp-logger", "udp-logger", "syslog"];

struct Ports {
    http: u16,
    upstream: u16,
    metrics: u16,
}

fn path(at: usize, large: bool) -> String {
    // The upstream goes by the path's beginning.
    if large { format!("/64k/{at}") } else { format!("/p/{at}") }
}

fn request(path: &str, head: &str) -> Vec<u8> {
    let encoding = if head.contains("Accept-Encoding") { "" } else { "Accept-Encoding: gzip\r\n" };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nX-Request-From: bench\r\n{encoding}{head}\r\n",
        crate::client::NAME
    )
    .into_bytes()
}

fn configure(site: &Site, rows: &[&Row], sinks: &Sinks, ports: &Ports) -> Result<std::path::PathBuf> {
    let home = site.home("plugins")?;
    let folder = home.join("conf");
    std::fs::create_dir_all(&folder)?;
    let node = format!("127.0.0.1:{}", ports.upstream);
    let mut routes = vec![
        json!({"id": "base", "uri": "/base", "upstream_id": "u"}),
        json!({"id": "base64k", "uri": "/64k-base", "upstream_id": "u"}),
    ];
    for (at, row) in rows.iter().enumerate() {
        routes.push(json!({"id": format!("p{at}"), "uri": path(at, row.large), "upstream_id": "u", "plugins": (row.plugins)(sinks)}));
    }
    let credentials =
        json!({"key-auth": {"key": "key-of-the-benchmark"}, "basic-auth": {"username": "bench", "password": "secret"}});
    let mut metadata = LOGGERS.map(|id| json!({"id": id, "max_pending_entries": 1_000_000})).to_vec();
    metadata.push(json!({"id": "opentelemetry", "collector": {"address": format!("127.0.0.1:{}", sinks.http)}}));
    let resources = json!({
        "routes": routes,
        "upstreams": [{"id": "u", "type": "roundrobin", "nodes": {node: 1},
            "keepalive_pool": {"size": 256, "idle_timeout": 300, "requests": 100_000_000}}],
        "consumers": [{"username": "bench", "plugins": credentials}],
        "plugin_metadata": metadata,
    });
    let config = json!({
        "apisix": {"node_listen": [{"ip": "127.0.0.1", "port": ports.http}], "ssl": {"enable": false}, "enable_control": false,
            "status": {"ip": "127.0.0.1", "port": ports::free(&[Ipv4Addr::LOCALHOST])?}},
        "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "yaml"}},
        "nginx_config": {"worker_processes": 1, "http": {"enable_access_log": false, "keepalive_timeout": "300s"}},
        "plugin_attr": {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": ports.metrics}}},
        "sluice": {"limits": {"log_pending_bytes": 1 << 30, "requests_per_connection": 100_000_000}},
    });
    std::fs::write(folder.join("config.yaml"), serde_json::to_string_pretty(&config)?)?;
    std::fs::write(folder.join("apisix.yaml"), format!("{resources}\n#END\n"))?;
    Ok(home)
}

fn gateway(mut command: Command, sluice: &std::path::Path, home: &std::path::Path) -> Command {
    command
        .arg(sluice)
        .arg("run")
        .arg("-c")
        .arg(home.join("conf/config.yaml"))
        .arg("--data-dir")
        .arg(home.join("data"));
    command.current_dir(home);
    command
}

/// What one plugin adds, µs per request; medians.
struct Added {
    name: &'static str,
    user: f64,
    all: f64,
    instructions: Option<f64>,
    /// Share of a logger's entries that were not delivered.
    lost: f64,
    goal: Option<f64>,
}

pub fn run(args: &Args, output: Output, sluice: std::path::PathBuf) -> Result<()> {
    let begun = Instant::now();
    let sluice = std::path::absolute(sluice)?;
    for name in &args.only {
        ensure!(ROWS.iter().any(|row| row.name == name), "no row named {name}");
    }
    let rows: Vec<&Row> =
        ROWS.iter().filter(|r| args.only.is_empty() || args.only.iter().any(|o| o == r.name)).collect();
    accounting::pin(1).context("the benchmark needs two cores")?;
    let sinks = Sinks::start(Mood::Sound)?;
    let site = crate::certificate()?;
    let free = || ports::free(&[Ipv4Addr::LOCALHOST]);
    let ports = Ports { http: free()?, upstream: free()?, metrics: free()? };
    let home = configure(&site, &rows, &sinks, &ports)?;
    let mut engine = Engine::new(ports.upstream)?;
    let mut added = measure(args, &mut engine, &rows, &ports, &sluice, &home)?;
    if !args.no_instructions {
        match find("valgrind") {
            None => eprintln!("without instructions: valgrind is missing (Debian: valgrind)"),
            Some(valgrind) => {
                let counts = instructions(args, &mut engine, &rows, &ports, &gateway_under(&valgrind, &sluice, &home))?;
                for (row, count) in added.iter_mut().zip(counts) {
                    row.instructions = Some(count);
                }
            }
        }
    }
    eprintln!("\r{:.0} s{:40}", begun.elapsed().as_secs_f64(), "");
    match output {
        Output::Text => print!("{}", text(&added)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&rows_json(&added))?),
    }
    Ok(())
}

fn measure(
    args: &Args,
    engine: &mut Engine,
    rows: &[&Row],
    ports: &Ports,
    sluice: &std::path::Path,
    home: &std::path::Path,
) -> Result<Vec<Added>> {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", "0"]);
    let peer = Peer::start("sluice", home, ports.http, ports.http, gateway(pinned, sluice, home))?;
    let once = |engine: &mut Engine, request: &[u8]| -> Result<(f64, f64)> {
        settle(&peer.pids)?;
        let load = Load {
            addr: peer.addr,
            tls: None,
            request,
            shared: None,
            connections: 64,
            rate: None,
            seconds: args.seconds,
            warm_up: 0.1,
            pids: &peer.pids,
        };
        let sample = engine.run(&load)?;
        ensure!(sample.bad == 0, "{} bad answers to {}", sample.bad, String::from_utf8_lossy(request));
        Ok((sample.user, sample.cpu))
    };
    let mut differences: Vec<Vec<(f64, f64)>> = rows.iter().map(|_| Vec::new()).collect();
    for round in 0..args.rounds {
        for large in [false, true] {
            let group: Vec<(usize, &&Row)> = rows.iter().enumerate().filter(|(_, row)| row.large == large).collect();
            // A run without plugins before and after every two with.
            for pair in group.chunks(2) {
                let base = request(if large { "/64k-base" } else { "/base" }, "");
                let before = once(engine, &base)?;
                let mut with = Vec::new();
                for (at, row) in pair {
                    eprint!("\r{}/{} {:30}", round + 1, args.rounds, row.name);
                    with.push((*at, once(engine, &request(&path(*at, large), row.head))?));
                }
                let after = once(engine, &base)?;
                let base = ((before.0 + after.0) / 2.0, (before.1 + after.1) / 2.0);
                for (at, (user, all)) in with {
                    if let Some(list) = differences.get_mut(at) {
                        list.push((user - base.0, all - base.1));
                    }
                }
            }
        }
    }
    let lost = lost(ports.metrics)?;
    let row = |(row, list): (&&Row, &Vec<(f64, f64)>)| Added {
        name: row.name,
        user: table::median(list.iter().map(|d| d.0).collect()),
        all: table::median(list.iter().map(|d| d.1).collect()),
        instructions: None,
        lost: lost.iter().find(|(plugin, _)| row.name.starts_with(plugin.as_str())).map_or(0.0, |(_, share)| *share),
        goal: row.goal,
    };
    Ok(rows.iter().zip(&differences).map(row).collect())
}

/// Waits until queues are sent, so that one run's entries are not counted in the next.
fn settle(pids: &[u32]) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(4);
    loop {
        let before = accounting::cpu(pids)?.run;
        std::thread::sleep(Duration::from_millis(40));
        if accounting::cpu(pids)?.run - before < 1e6 || Instant::now() > until {
            return Ok(());
        }
    }
}

/// Shares of entries that were not delivered, by plugin.
fn lost(metrics: u16) -> Result<Vec<(String, f64)>> {
    let text = scrape(metrics)?;
    let count = |plugin: &str, result: &str| {
        let name = format!("sluice_log_entries_total{{plugin=\"{plugin}\",result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let share = |plugin: &&str| {
        let (gone, sent) = (count(plugin, "dropped") + count(plugin, "discarded"), count(plugin, "delivered"));
        ((*plugin).to_owned(), if gone + sent > 0.0 { gone / (gone + sent) } else { 0.0 })
    };
    Ok(LOGGERS.iter().map(share).collect())
}

/// The gateway's metrics.
pub fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /apisix/prometheus/metrics HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let (mut answer, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        if let Some(end) = memchr::memmem::find(&answer, b"\r\n\r\n") {
            let (head, body) = answer.split_at(end + 4);
            if body.len() >= crate::upstream::content_length(head).unwrap_or(0) {
                return Ok(String::from_utf8_lossy(body).into_owned());
            }
        }
        let n = stream.read(&mut chunk)?;
        ensure!(n > 0, "the metrics broke off");
        answer.extend_from_slice(chunk.get(..n).unwrap_or_default());
    }
}

fn gateway_under(valgrind: &std::path::Path, sluice: &std::path::Path, home: &std::path::Path) -> impl Fn() -> Command {
    let (valgrind, sluice, home) = (valgrind.to_owned(), sluice.to_owned(), home.to_owned());
    move || {
        let mut command = Command::new(&valgrind);
        command
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", home.join("callgrind").display()))
            .arg("-q");
        gateway(command, &sluice, &home)
    }
}

/// Ends valgrind when dropped.
struct Counted(Child);

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Instructions in user space that each plugin adds, worker and control threads together.
fn instructions(
    args: &Args,
    engine: &mut Engine,
    rows: &[&Row],
    ports: &Ports,
    gateway: &dyn Fn() -> Command,
) -> Result<Vec<f64>> {
    let mut command = gateway();
    let counted = Counted(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let address = ([127, 0, 0, 1], ports.http).into();
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(why) = engine.connect(address, None) {
        ensure!(Instant::now() < until, "under valgrind: {why:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut total = Dumps::new(&counted, gateway_folder(&command));
    let mut each = |engine: &mut Engine, request: &[u8]| -> Result<f64> {
        // A connection carries no more than a thousand requests.
        engine.hang_up();
        let client = engine.connect(address, None)?;
        // Caches and handles are made by the first requests.
        for _ in 0..50 {
            engine.ask(client, request, Duration::from_secs(20))?;
        }
        total.next()?;
        for _ in 0..args.requests {
            let status = engine.ask(client, request, Duration::from_secs(20))?;
            ensure!(status == 200, "answers {status}");
        }
        // Loggers send when nothing new came for a second.
        std::thread::sleep(Duration::from_millis(1200));
        Ok(total.next()? / args.requests as f64)
    };
    let base = each(engine, &request("/base", ""))?;
    let base64k = each(engine, &request("/64k-base", ""))?;
    let mut counts = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        eprint!("\rinstructions {:30}", row.name);
        let with = each(engine, &request(&path(at, row.large), row.head))?;
        counts.push(with - if row.large { base64k } else { base });
    }
    engine.hang_up();
    Ok(counts)
}

fn gateway_folder(command: &Command) -> std::path::PathBuf {
    command.get_current_dir().map(Into::into).unwrap_or_default()
}

/// Asks valgrind for its counts since the last time.
struct Dumps {
    pid: u32,
    folder: std::path::PathBuf,
    number: usize,
}

impl Dumps {
    fn new(counted: &Counted, folder: std::path::PathBuf) -> Dumps {
        Dumps { pid: counted.0.id(), folder, number: 0 }
    }

    fn next(&mut self) -> Result<f64> {
        self.number += 1;
        let status = Command::new("callgrind_control")
            .args(["-d", &self.pid.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("callgrind_control")?;
        ensure!(status.success(), "callgrind_control: {status}");
        let file = self.folder.join(format!("callgrind.{}", self.number));
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let line = text.lines().rev().find_map(|l| l.strip_prefix("totals: ").or(l.strip_prefix("summary: ")));
            if let Some(total) = line.and_then(|n| n.split_whitespace().next()?.parse().ok()) {
                return Ok(total);
            }
            ensure!(Instant::now() < until, "no totals in {}", file.display());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn text(rows: &[Added]) -> String {
    use std::fmt::Write as _;
    let mut out = format!("{}, added per request, medians\n\n", accounting::processor());
    let _ = writeln!(
        out,
        "| plugin | user CPU µs | all CPU µs | instructions | goal µs | entries lost |\n|---|---|---|---|---|---|"
    );
    for row in rows {
        let instructions = row.instructions.map_or("-".to_owned(), |n| format!("{n:.0}"));
        let goal = row.goal.map_or(String::new(), |goal| format!("{goal:.1}"));
        let lost = if row.lost > 0.0 { format!("{:.1} %", row.lost * 100.0) } else { String::new() };
        let _ = writeln!(out, "| {} | {:.2} | {:.2} | {instructions} | {goal} | {lost} |", row.name, row.user, row.all);
    }
    out
}

fn rows_json(rows: &[Added]) -> Value {
    let row = |row: &Added| {
        json!({"plugin": row.name, "user_us": row.user, "cpu_us": row.all, "instructions": row.instructions,
            "goal_us": row.goal, "lost": row.lost})
    };
    json!({"processor": accounting::processor(), "plugins": rows.iter().map(row).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_name_and_plugins_of_its_own() {
        let sinks = Sinks { http: 1, tcp: 2, udp: 3 };
        let names: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in ROWS {
            assert_eq!((row.plugins)(&sinks).as_object().map(|p| p.len()), Some(1), "{}", row.name);
            let request = String::from_utf8(request(&path(3, row.large), row.head)).unwrap();
            assert!(request.ends_with("\r\n\r\n") && request.matches("Accept-Encoding").count() == 1, "{request}");
        }
    }
}
