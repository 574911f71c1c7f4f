//! CPU per request of a clean small GET with the rules and without, on Sluice and on nginx with libmodsecurity: the same
//! directives, alternating runs in random order, medians. What the rules cost is the difference on the same proxy.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::seq::SliceRandom;
use serde_json::json;

use super::{Args, proxies};
use crate::engine::{Engine, Load};
use crate::peers::{Peer, Site};
use crate::setup::WORKLOADS;
use crate::{Output, accounting, ports};

const CONNECTIONS: usize = 32;

pub fn run(
    args: &Args,
    checkout: &Path,
    peers: &[&'static str],
    output: Output,
    program: Option<&Path>,
    site: &Site,
) -> Result<()> {
    accounting::pin(1).context("the measurement needs two cores")?;
    let upstream = ports::free(&[std::net::Ipv4Addr::LOCALHOST])?;
    let mut engine = Engine::new(upstream)?;
    let directives = proxies::for_cost(checkout, args.level);
    let mut running = Vec::new();
    for peer in peers {
        for rules in [false, true] {
            let name = match (*peer, rules) {
                ("sluice", true) => "sluice+crs",
                ("nginx", true) => "nginx+crs",
                (bare, _) => bare,
            };
            let directives = rules.then_some(directives.as_slice());
            let plan = proxies::Plan { program, upstream, directives, pinned: true };
            running.push(proxies::start(name, &plan, site)?);
        }
    }
    for peer in &running {
        check(&mut engine, peer)?;
    }
    let request = WORKLOADS.first().context("no workload")?.request();
    let mut samples: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for round in 0..args.rounds {
        running.shuffle(&mut rand::rng());
        for peer in &running {
            eprint!("\r{}/{} {}        ", round + 1, args.rounds, peer.name);
            let load = Load {
                addr: peer.addr,
                tls: None,
                request: &request,
                shared: None,
                connections: CONNECTIONS,
                rate: None,
                seconds: args.seconds,
                warm_up: 0.3,
                pids: &peer.pids,
            };
            let sample = engine.run(&load)?;
            ensure!(sample.bad == 0, "{}: {} answers were not 200", peer.name, sample.bad);
            samples.entry(peer.name).or_default().push(sample.cpu);
        }
    }
    eprintln!("\r                        ");
    let median = |name: &str| {
        let mut list = samples.get(name)?.clone();
        list.sort_by(f64::total_cmp);
        list.get(list.len() / 2).copied()
    };
    let rules = |bare: &str, with: &str| Some(median(with)? - median(bare)?);
    let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    let (ours, theirs) = (rules("sluice", "sluice+crs"), rules("nginx", "nginx+crs"));
    let rows = [
        ("sluice", median("sluice"), median("sluice+crs"), ours),
        ("nginx + libmodsecurity", median("nginx"), median("nginx+crs"), theirs),
    ];
    let whole = ratio(median("sluice+crs"), median("nginx+crs"));
    match output {
        Output::Json => {
            let all: BTreeMap<_, _> =
                rows.iter().map(|(n, b, w, d)| (n, json!({"bare": b, "rules": w, "difference": d}))).collect();
            let value = json!({"unit": "microseconds of CPU per request", "level": args.level, "peers": all,
                "rules_ratio": ratio(ours, theirs), "whole_ratio": whole, "samples": samples});
            println!("{}", serde_json::to_string_pretty(&value)?);
        }
        Output::Text => {
            println!(
                "CPU per request, µs, paranoia level {}, a clean small GET; {}",
                args.level,
                accounting::processor()
            );
            println!("| | without rules | with rules | the rules |\n|---|---|---|---|");
            for (name, bare, with, difference) in rows {
                if let (Some(bare), Some(with), Some(difference)) = (bare, with, difference) {
                    println!("| {name} | {bare:.1} | {with:.1} | {difference:.1} |");
                }
            }
            if let (Some(rules), Some(whole)) = (ratio(ours, theirs), whole) {
                println!("\nsluice / nginx: the rules {rules:.3}, the whole request {whole:.3}");
            }
        }
    }
    Ok(())
}

/// Its rules are on: an attack is refused. A measurement of rules that never run would look splendid.
fn check(engine: &mut Engine, peer: &Peer) -> Result<()> {
    let attack = b"GET /?q=1%27%20or%20%271%27%3D%271%20union%20select%201 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n";
    let client = engine.connect(peer.addr, None)?;
    let status = engine.ask(client, attack, std::time::Duration::from_secs(10));
    engine.hang_up();
    let (status, wanted) = (status?, if peer.name.ends_with("+crs") { 403 } else { 200 });
    ensure!(status == wanted, "{} answers an attack with {status}, not {wanted}", peer.name);
    Ok(())
}
