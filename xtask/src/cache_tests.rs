//! `cargo xtask cache-tests`: runs the tests of http-tests/cache-tests (cache-tests.fyi) against Sluice, Debian's nginx and Debian's
//! Varnish, each before the same origin, and prints who passes what. The checkout is the caller's; nothing of it is in the repository.
//!
//! The surprise: the suite has three kinds of tests. Only `required` ones are demands; `optimal` ones are what a good cache does, and
//! `check` ones only tell how caches differ, so these are shown and not scored.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{process, test};

/// Run http-tests/cache-tests against Sluice, nginx and Varnish.
#[derive(clap::Args)]
#[command(
    after_help = "Example: git clone https://github.com/http-tests/cache-tests /tmp/cache-tests && cargo xtask cache-tests --checkout /tmp/cache-tests"
)]
pub struct Args {
    /// A checkout of http-tests/cache-tests
    #[arg(long, value_name = "DIR")]
    checkout: PathBuf,
    /// A Sluice that is built already
    #[arg(long, value_name = "FILE")]
    sluice: Option<PathBuf>,
    /// Only these
    #[arg(long, value_delimiter = ',', default_values_t = ["sluice", "nginx", "varnish"].map(String::from))]
    peer: Vec<String>,
    /// Only this test, with all that is said
    #[arg(long, default_value = "")]
    id: String,
    /// Name the tests that fail
    #[arg(long)]
    failures: bool,
}

const NEEDED: &[(&str, &str)] =
    &[("node", "nodejs"), ("npm", "npm"), ("nginx", "nginx-light"), ("varnishd", "varnish")];

/// Sums up a run with the suite's own rules: `{kind: {result: [ids]}}`.
const SUMMARY: &str = r"
import { readFileSync } from 'node:fs'
import tests from './tests/index.mjs'
import { determineTestResult, resultTypes } from './test-engine/lib/results.mjs'
const results = JSON.parse(readFileSync(process.env.RESULTS))
const names = new Map(Object.entries(resultTypes).map(([name, type]) => [type, name]))
const out = {}
for (const suite of tests) for (const test of suite.tests) {
  if (test.browser_only) continue
  const kind = test.kind || 'required'
  const name = names.get(determineTestResult(tests, test.id, results))
  out[kind] = out[kind] || {}
  out[kind][name] = out[kind][name] || []
  out[kind][name].push(test.id)
}
console.log(JSON.stringify(out))
";

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn run(args: &Args) -> Result<()> {
    let needed: Vec<_> =
        NEEDED.iter().filter(|(program, _)| *program != "nginx" && *program != "varnishd").copied().collect();
    let peers = [("nginx", "nginx"), ("varnishd", "varnish")];
    let wanted = peers.iter().filter(|(_, peer)| args.peer.iter().any(|own| own == peer)).map(|(program, _)| program);
    let wanted = wanted.filter_map(|program| NEEDED.iter().find(|(own, _)| own == program)).copied();
    test::install(&needed.into_iter().chain(wanted).collect::<Vec<_>>())?;
    if !args.checkout.join("node_modules").exists() {
        let npm = ["install", "--omit=dev", "--no-audit", "--no-fund"];
        let done = Command::new("npm").args(npm).current_dir(&args.checkout).status().context("npm")?;
        anyhow::ensure!(done.success(), "npm install failed in {}", args.checkout.display());
    }
    let sluice = match &args.sluice {
        Some(path) => std::fs::canonicalize(path).with_context(|| path.display().to_string())?,
        None => build()?,
    };
    let folder = std::env::temp_dir().join(format!("sluice-cache-tests-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = compare(args, &sluice, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    result
}

fn build() -> Result<PathBuf> {
    process::run(&process::cargo(), &["build", "--package", "sluice", "--bin", "sluice"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| process::root().join("target"), PathBuf::from);
    Ok(target.join("debug/sluice"))
}

fn compare(args: &Args, sluice: &Path, folder: &Path) -> Result<()> {
    let origin = free_port()?;
    let mut server = Command::new("node");
    server.arg("test-engine/server/server.mjs").current_dir(&args.checkout);
    server.env("npm_config_protocol", "http").env("npm_config_port", origin.to_string());
    server.env("npm_config_pidfile", folder.join("origin.pid"));
    let _origin = start(server, origin, &folder.join("origin.log"))?;
    let mut rows = Vec::new();
    for peer in &args.peer {
        let port = free_port()?;
        let own = folder.join(peer);
        std::fs::create_dir_all(&own)?;
        let command = match peer.as_str() {
            "sluice" => sluice_command(sluice, &own, port, origin)?,
            "nginx" => nginx_command(&own, port, origin)?,
            "varnish" => varnish_command(&own, port, origin),
            other => bail!("{other}: sluice, nginx and varnish are known"),
        };
        let _peer = start(command, port, &own.join("log"))?;
        eprintln!("> {peer}");
        let results = tests(&args.checkout, port, &args.id)?;
        if !args.id.is_empty() {
            println!("{results}");
            continue;
        }
        rows.push((peer.as_str(), summary(&args.checkout, &results, &own)?));
    }
    if args.id.is_empty() {
        print(&rows, args.failures);
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Starts a program and waits until its port accepts.
fn start(mut command: Command, port: u16, log: &Path) -> Result<Running> {
    let out = std::fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut running = Running(command.spawn().with_context(|| format!("{command:?}"))?);
    let until = Instant::now() + Duration::from_secs(30);
    // Node listens on `::1` alone or on both, as the machine has it.
    while std::net::TcpStream::connect(("localhost", port)).is_err() {
        if running.0.try_wait()?.is_some() || Instant::now() > until {
            bail!("{command:?} does not listen:\n{}", std::fs::read_to_string(log).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(running)
}

fn sluice_command(sluice: &Path, folder: &Path, port: u16, origin: u16) -> Result<Command> {
    let conf = folder.join("conf");
    std::fs::create_dir_all(&conf)?;
    let settings = json!({
        "apisix": {"node_listen": [{"ip": "127.0.0.1", "port": port}], "enable_control": false,
            "proxy_cache": {"zones": [{"name": "tests", "memory_size": "64m"}]}},
        "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "yaml"}},
        "plugins": ["proxy-cache"],
        "nginx_config": {"worker_processes": 2},
    });
    let routes = json!({"routes": [{"id": "1", "uri": "/*", "plugins": {"proxy-cache": {
        "cache_strategy": "memory", "cache_zone": "tests", "cache_control": true, "cache_set_cookie": true, "stale_if_error": 60,
        "cache_http_status": [200, 203, 204, 299, 300, 301, 302, 303, 307, 308, 400, 404, 405, 410, 414, 499, 500, 501, 502, 503, 504, 599]}},
        "upstream": {"type": "roundrobin", "scheme": "http", "nodes": {format!("127.0.0.1:{origin}"): 1}}}]});
    // JSON is YAML.
    std::fs::write(conf.join("config.yaml"), settings.to_string())?;
    std::fs::write(conf.join("apisix.yaml"), format!("{routes}\n#END\n"))?;
    let mut command = Command::new(sluice);
    command.arg("run").arg("-c").arg(conf.join("config.yaml")).arg("--data-dir").arg(folder.join("data"));
    command.current_dir(folder);
    Ok(command)
}

/// As the suite's own configuration for nginx has it.
fn nginx_command(folder: &Path, port: u16, origin: u16) -> Result<Command> {
    let at = folder.display();
    let user = if process::output("id", &["-u"]).is_ok_and(|id| id.trim_ascii() == b"0") { "user root;" } else { "" };
    let text = format!(
        "{user}daemon off; pid {at}/pid; error_log {at}/error.log; worker_processes 2; events {{ }}
http {{ access_log off;
client_body_temp_path {at}/body; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
proxy_temp_path {at}/temp; proxy_cache_path {at}/cache levels=1:2 keys_zone=tests:8m max_size=1000m inactive=600m;
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{origin}; proxy_cache tests;
proxy_cache_revalidate on; proxy_http_version 1.1; }} }} }}
"
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, text)?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(path).arg("-p").arg(folder);
    Ok(command)
}

/// With its built-in rules; but what names no time is not kept, and nothing is used after its time: most tests
/// depend on that.
fn varnish_command(folder: &Path, port: u16, origin: u16) -> Command {
    let mut command = Command::new("varnishd");
    command.args(["-F", "-a", &format!("127.0.0.1:{port}"), "-b", &format!("127.0.0.1:{origin}")]);
    command
        .args(["-p", "default_ttl=0", "-p", "default_grace=0", "-s", "malloc,64m", "-j", "none", "-n"])
        .arg(folder.join("varnish"));
    command
}

fn tests(checkout: &Path, port: u16, id: &str) -> Result<String> {
    let out = Command::new("node")
        .args(["--no-warnings", "test-engine/cli.mjs"])
        .current_dir(checkout)
        .env("npm_config_base", format!("http://127.0.0.1:{port}"))
        .env("npm_config_id", id)
        .env("npm_package_config_id", "")
        .stderr(Stdio::inherit())
        .output()?;
    anyhow::ensure!(out.status.success(), "the tests ended with {}", out.status);
    Ok(String::from_utf8(out.stdout)?)
}

fn summary(checkout: &Path, results: &str, folder: &Path) -> Result<Value> {
    let path = folder.join("results.json");
    std::fs::write(&path, results)?;
    let out = Command::new("node")
        .args(["--no-warnings", "--input-type=module", "-e", SUMMARY])
        .current_dir(checkout)
        .env("RESULTS", &path)
        .stderr(Stdio::inherit())
        .output()?;
    anyhow::ensure!(out.status.success(), "the results could not be summed up: {}", out.status);
    Ok(serde_json::from_slice(&out.stdout)?)
}

fn count(row: &Value, kind: &str, results: &[&str]) -> usize {
    results.iter().filter_map(|result| row[kind][*result].as_array()).map(Vec::len).sum()
}

fn total(row: &Value, kind: &str) -> usize {
    row[kind].as_object().into_iter().flatten().filter_map(|(_, ids)| ids.as_array()).map(Vec::len).sum()
}

fn print(rows: &[(&str, Value)], failures: bool) {
    println!("| cache | required | optimal | score | checks that are so | not decided |");
    println!("|---|---|---|---|---|---|");
    const UNDECIDED: [&str; 5] = ["untested", "setup_fail", "harness_fail", "dependency_fail", "retry"];
    for (name, row) in rows {
        let (required, optimal) = (count(row, "required", &["pass"]), count(row, "optimal", &["pass"]));
        let undecided: usize = ["required", "optimal", "check"].iter().map(|kind| count(row, kind, &UNDECIDED)).sum();
        println!(
            "| {name} | {required} of {} | {optimal} of {} | {} | {} of {} | {undecided} |",
            total(row, "required"),
            total(row, "optimal"),
            required + optimal,
            count(row, "check", &["yes"]),
            total(row, "check"),
        );
    }
    for (name, row) in rows.iter().filter(|_| failures) {
        for kind in ["required", "optimal", "check"] {
            for (result, ids) in row[kind].as_object().into_iter().flatten() {
                if result != "pass" && result != "yes" {
                    let ids: Vec<&str> = ids.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                    println!("{name} {kind} {result}: {}", ids.join(" "));
                }
            }
        }
    }
}
