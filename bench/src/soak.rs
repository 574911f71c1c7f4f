//! Full load with every logger on, into sinks that are sound, slow, hanging and refusing. Memory has to stay flat, and every
//! request has to be accounted for: delivered, dropped or discarded, for each logger.
//!
//! The surprise: memory is judged after a quarter of the time only. Until then queues fill up to their budget, which is what
//! they are for.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::engine::{Engine, Load};
use crate::peers::{Peer, Site};
use crate::plugins::scrape;
use crate::sinks::{MOODS, Sinks};
use crate::{accounting, ports, table};

/// Load with all loggers into sinks in every mood: resident memory flat, sent + dropped = requests.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask soak --minutes 10")]
pub struct Args {
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Ten seconds, memory judged leniently: what a change must pass
    #[arg(long)]
    short: bool,
    /// Bytes that may wait for all sinks together [default: 64 MiB, 1 MiB in the short form]
    #[arg(long)]
    pending_bytes: Option<u64>,
    /// Growth of resident memory that passes, MiB
    #[arg(long, default_value_t = 16.0)]
    growth: f64,
}

const LOGGERS: [&str; 8] = [
    "http-logger",
    "loki-logger",
    "elasticsearch-logger",
    "tcp-logger",
    "udp-logger",
    "syslog",
    "file-logger",
    "kafka-logger",
];

/// Every logger, each into another mood; `turn` goes through all pairs.
fn plugins(sinks: &[Sinks], turn: usize) -> Value {
    let sink =
        |logger: usize| sinks.get((logger + turn) % sinks.len()).copied().unwrap_or(Sinks { http: 1, tcp: 1, udp: 1 });
    let batch = |plugin: Value| {
        let mut plugin = plugin;
        if let Some(plugin) = plugin.as_object_mut() {
            plugin.insert("inactive_timeout".into(), json!(1));
            plugin.insert("batch_max_size".into(), json!(200));
        }
        plugin
    };
    let broker = json!([{"host": "127.0.0.1", "port": sink(7).tcp}]);
    let mut all = Map::new();
    all.insert("http-logger".into(), batch(json!({"uri": sink(0).http_url(), "timeout": 1})));
    all.insert("loki-logger".into(), batch(json!({"endpoint_addrs": [sink(1).http_url()], "timeout": 1000})));
    let index = json!({"index": "logs"});
    all.insert(
        "elasticsearch-logger".into(),
        batch(json!({"endpoint_addr": sink(2).http_url(), "field": index, "timeout": 1})),
    );
    all.insert("tcp-logger".into(), batch(json!({"host": "127.0.0.1", "port": sink(3).tcp, "timeout": 1000})));
    all.insert("udp-logger".into(), batch(json!({"host": "127.0.0.1", "port": sink(4).udp, "timeout": 1})));
    all.insert("syslog".into(), batch(json!({"host": "127.0.0.1", "port": sink(5).tcp, "timeout": 1000})));
    all.insert("file-logger".into(), json!({"path": "logs/soak.log"}));
    all.insert("kafka-logger".into(), batch(json!({"brokers": broker, "kafka_topic": "logs", "timeout": 1})));
    all.insert("prometheus".into(), json!({}));
    Value::Object(all)
}

fn configure(
    args: &Args,
    site: &Site,
    sinks: &[Sinks],
    http: u16,
    upstream: u16,
    metrics: u16,
) -> Result<std::path::PathBuf> {
    let home = site.home("soak")?;
    std::fs::create_dir_all(home.join("conf"))?;
    std::fs::create_dir_all(home.join("logs"))?;
    // A file that takes everything and keeps nothing, so that an hour of load does not fill a disk.
    std::os::unix::fs::symlink("/dev/null", home.join("logs/soak.log"))?;
    let node = format!("127.0.0.1:{upstream}");
    let routes: Vec<Value> = (0..sinks.len())
        .map(|turn| json!({"id": format!("r{turn}"), "uri": format!("/{turn}"), "upstream_id": "u", "plugins": plugins(sinks, turn)}))
        .collect();
    let resources = json!({
        "routes": routes,
        "upstreams": [{"id": "u", "type": "roundrobin", "nodes": {node: 1},
            "keepalive_pool": {"size": 256, "idle_timeout": 300, "requests": 100_000_000}}],
    });
    let config = json!({
        "apisix": {"node_listen": [{"ip": "127.0.0.1", "port": http}], "ssl": {"enable": false}, "enable_control": false,
            "status": {"ip": "127.0.0.1", "port": ports::free(&[Ipv4Addr::LOCALHOST])?}},
        "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "yaml"}},
        "nginx_config": {"worker_processes": 1, "error_log_level": "crit",
            "http": {"enable_access_log": true, "access_log": "/dev/null", "keepalive_timeout": "300s"}},
        "plugin_attr": {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": metrics}}},
        "sluice": {"limits": {"log_pending_bytes": args.pending_bytes.unwrap_or(if args.short { 1 << 20 } else { 64 << 20 })}},
    });
    std::fs::write(home.join("conf/config.yaml"), serde_json::to_string_pretty(&config)?)?;
    std::fs::write(home.join("conf/apisix.yaml"), format!("{resources}\n#END\n"))?;
    Ok(home)
}

pub fn run(args: &Args, sluice: std::path::PathBuf) -> Result<()> {
    let seconds = if args.short { 10.0 } else { args.minutes * 60.0 };
    let sinks: Vec<Sinks> = MOODS.iter().map(|mood| Sinks::start(*mood)).collect::<Result<_>>()?;
    let site = crate::certificate()?;
    let free = || ports::free(&[Ipv4Addr::LOCALHOST]);
    let (http, upstream, metrics) = (free()?, free()?, free()?);
    let home = configure(args, &site, &sinks, http, upstream, metrics)?;
    let mut command = Command::new(std::path::absolute(&sluice)?);
    command.arg("run").arg("-c").arg(home.join("conf/config.yaml")).arg("--data-dir").arg(home.join("data"));
    command.current_dir(&home);
    let peer = Peer::start("sluice", &home, http, http, command)?;
    let mut engine = Engine::new(upstream)?;
    let begun = Instant::now();
    let mut memory: Vec<(f64, f64)> = Vec::new();
    let (mut rates, mut slowest) = (Vec::new(), 0.0_f64);
    let mut turn = 0;
    while begun.elapsed().as_secs_f64() < seconds {
        let request = format!("GET /{} HTTP/1.1\r\nHost: {}\r\n\r\n", turn % sinks.len(), crate::client::NAME);
        let load = Load {
            addr: peer.addr,
            tls: None,
            request: request.as_bytes(),
            shared: None,
            connections: 64,
            rate: None,
            seconds: 0.9,
            warm_up: 0.1,
            pids: &peer.pids,
        };
        let sample = engine.run(&load)?;
        ensure!(sample.bad == 0, "{} answers were not 200, or connections broke", sample.bad);
        rates.push(sample.rps);
        slowest = slowest.max(sample.p99);
        memory.push((begun.elapsed().as_secs_f64(), accounting::resident_kib(&peer.pids)? / 1024.0));
        turn += 1;
        eprint!(
            "\r{:.0} of {seconds:.0} s, {:.0} MiB ",
            begun.elapsed().as_secs_f64(),
            memory.last().map_or(0.0, |m| m.1)
        );
    }
    engine.hang_up();
    eprintln!();
    let (early, late) = (mean(&memory, seconds, 0.25..0.5), mean(&memory, seconds, 0.75..2.0));
    println!("{:.0} requests/s (median), p99 at most {:.1} ms", table::median(rates), slowest / 1000.0);
    println!("resident memory: {early:.1} MiB in the second quarter, {late:.1} MiB in the last");
    account(metrics)?;
    let allowed = if args.short { args.growth * 4.0 } else { args.growth };
    ensure!(late - early <= allowed, "memory grew by {:.1} MiB, {allowed:.0} are allowed", late - early);
    Ok(())
}

/// Mean of the samples within these parts of the time.
fn mean(samples: &[(f64, f64)], seconds: f64, part: std::ops::Range<f64>) -> f64 {
    let within: Vec<f64> =
        samples.iter().filter(|(at, _)| part.contains(&(at / seconds))).map(|(_, mib)| *mib).collect();
    within.iter().sum::<f64>() / within.len().max(1) as f64
}

/// Waits until nothing is on its way, and compares.
fn account(metrics: u16) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(300);
    loop {
        let text = scrape(metrics)?;
        let value = |series: &str| text.lines().find_map(|l| l.strip_prefix(series)?.trim().parse::<f64>().ok());
        let requests = value("sluice_http_requests_total ").context("no count of requests")?;
        let mut missing = Vec::new();
        let mut lines = Vec::new();
        for plugin in LOGGERS {
            let [delivered, dropped, discarded] = ["delivered", "dropped", "discarded"].map(|result| {
                value(&format!("sluice_log_entries_total{{plugin=\"{plugin}\",result=\"{result}\"}} ")).unwrap_or(0.0)
            });
            lines.push(format!("{plugin:<21} {delivered:>10} {dropped:>10} {discarded:>10}"));
            if delivered + dropped + discarded != requests {
                missing.push(format!("{plugin}: {} of {requests}", delivered + dropped + discarded));
            }
        }
        if missing.is_empty() {
            println!("{requests} requests\n{:<21} {:>10} {:>10} {:>10}", "", "delivered", "dropped", "discarded");
            lines.iter().for_each(|line| println!("{line}"));
            return Ok(());
        }
        if Instant::now() > until {
            bail!("entries are unaccounted for:\n{}\n{}", missing.join("\n"), lines.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_all_turns_every_logger_meets_every_mood() {
        let sinks: Vec<Sinks> = (1..=4).map(|n| Sinks { http: n, tcp: n, udp: n }).collect();
        let ports: std::collections::BTreeSet<String> =
            (0..4).map(|turn| plugins(&sinks, turn)["http-logger"]["uri"].to_string()).collect();
        assert_eq!(ports.len(), 4);
        let all = plugins(&sinks, 0);
        assert!(LOGGERS.iter().all(|logger| all.get(logger).is_some()));
    }

    #[test]
    fn the_mean_is_of_its_part_alone() {
        let samples = [(1.0, 5.0), (3.0, 10.0), (4.0, 20.0), (9.0, 99.0)];
        assert_eq!(mean(&samples, 10.0, 0.25..0.5), 15.0);
    }
}
