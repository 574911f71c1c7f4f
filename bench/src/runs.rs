//! Which runs are made and in which order: setup by setup, every peer once per round in random order, so that drift of the
//! machine falls on all alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::seq::SliceRandom;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::engine::{Engine, Load, Sample};
use crate::peers::{CALLS, Peer, Site, UPSTREAM, Wanted, start};
use crate::setup::{self, Setup, WORKLOADS, Workload};
use crate::{Args, accounting, change, control, handshakes};

/// All samples of one peer in one workload.
#[derive(Default)]
pub struct Samples {
    pub saturated: Vec<Sample>,
    pub paced: Vec<Sample>,
}

#[derive(Default)]
pub struct Report {
    /// By workload (in the order of the table) and peer.
    pub rows: Vec<(&'static Workload, BTreeMap<&'static str, Samples>)>,
    /// Peer → resident KiB per idle connection, plain and TLS.
    pub idle: BTreeMap<&'static str, (f64, f64)>,
    pub change: Vec<(&'static str, change::Change)>,
    pub control: Option<control::Control>,
    pub rate: f64,
}

/// Connections held open for the memory figure.
pub const IDLE: usize = 1000;
/// Requests at once on a connection of HTTP/2.
const STREAMS: usize = 8;

pub fn all(args: &Args, wanted: &Wanted, site: &Site, rsa: &Site) -> Result<Report> {
    let chosen = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    for name in &args.only {
        let known = WORKLOADS.iter().any(|w| w.name == *name) || matches!(name.as_str(), "idle" | "change" | "control");
        anyhow::ensure!(known, "no workload named {name}");
    }
    let tls = client_config(site)?;
    let mut engine = Engine::new(UPSTREAM)?;
    engine.answer_calls(CALLS, setup::MESSAGE)?;
    let mut report = Report { rate: args.rate, ..Report::default() };
    let setups = [
        Setup::Plain,
        Setup::LimitCount,
        Setup::KeyAuth,
        Setup::TenPlugins,
        Setup::Cached,
        Setup::Http2,
        Setup::Rsa,
        Setup::Routes(10_000),
        Setup::Routes(100_000),
    ];
    for setup in setups {
        let workloads: Vec<&Workload> = WORKLOADS.iter().filter(|w| w.setup == setup && chosen(w.name)).collect();
        let idle = setup == Setup::Plain && chosen("idle");
        let changes = setup == Setup::Routes(100_000) && chosen("change");
        if workloads.is_empty() && !idle && !changes {
            continue;
        }
        let site = if setup == Setup::Rsa { rsa } else { site };
        let mut peers = start(wanted, setup, site);
        if idle {
            for peer in &peers {
                match held(&mut engine, peer, &tls) {
                    Ok(kib) => drop(report.idle.insert(peer.name, kib)),
                    Err(why) => eprintln!("{} idle: {why:#}", peer.name),
                }
            }
        }
        for workload in workloads {
            let row = measure(args, &mut engine, &mut peers, workload, &tls);
            report.rows.push((workload, row));
        }
        if changes {
            for peer in peers.iter().filter(|p| p.name == "sluice" || p.name == "apisix") {
                match change::measure(&mut engine, peer, site, args.rounds) {
                    Ok(change) => report.change.push((peer.name, change)),
                    Err(why) => eprintln!("{} change: {why:#}", peer.name),
                }
            }
        }
    }
    if chosen("control") {
        match control::measure(&mut engine, wanted, site, if args.rate > 0.0 { args.rate } else { 5000.0 }) {
            Ok(control) => report.control = Some(control),
            Err(why) => eprintln!("control: {why:#}"),
        }
    }
    Ok(report)
}

fn measure(
    args: &Args,
    engine: &mut Engine,
    peers: &mut [Peer],
    workload: &Workload,
    tls: &Arc<rustls::ClientConfig>,
) -> BTreeMap<&'static str, Samples> {
    let (request, call) = (workload.request(), workload.call());
    let shared = call.as_ref().map(|call| (call, STREAMS));
    let tls = &match &call {
        Some(_) => h2_config(tls),
        None => tls.clone(),
    };
    let mut row: BTreeMap<&'static str, Samples> = BTreeMap::new();
    let mut failed: Vec<&str> = Vec::new();
    for round in 0..args.rounds {
        peers.shuffle(&mut rand::rng());
        for peer in peers.iter() {
            if failed.contains(&peer.name) {
                continue;
            }
            eprint!("\r{} {}/{} {}        ", workload.name, round + 1, args.rounds, peer.name);
            let mut load = Load {
                addr: match (workload.tls, &call) {
                    (true, _) => peer.tls,
                    (false, Some(_)) => peer.h2,
                    (false, None) => peer.addr,
                },
                tls: workload.tls.then_some(tls),
                request: &request,
                shared,
                connections: args.connections,
                rate: None,
                seconds: args.seconds,
                warm_up: 0.3,
                pids: &peer.pids,
            };
            // Another try where something else held the core.
            let run = |engine: &mut Engine, load: &Load<'_>| match workload.is_handshake() {
                true => handshakes::run(load),
                false => engine.run(load),
            };
            let mut sample = run(engine, &load);
            for _ in 0..2 {
                if sample.as_ref().is_ok_and(|s| s.utilisation < 0.85) {
                    sample = run(engine, &load);
                }
            }
            let paced = (args.rate > 0.0 && !workload.is_handshake()).then(|| {
                load.rate = Some(args.rate);
                engine.run(&load)
            });
            let samples = row.entry(peer.name).or_default();
            for (result, list) in [(Some(sample), &mut samples.saturated), (paced, &mut samples.paced)] {
                match result {
                    Some(Ok(sample)) => list.push(sample),
                    Some(Err(why)) => {
                        eprintln!("\n{} {}: {why:#}", peer.name, workload.name);
                        failed.push(peer.name);
                    }
                    None => {}
                }
            }
        }
    }
    eprint!("\r                                        \r");
    row
}

/// Resident KiB per idle connection, plain and TLS; each connection has answered one request.
fn held(engine: &mut Engine, peer: &Peer, tls: &Arc<rustls::ClientConfig>) -> Result<(f64, f64)> {
    let request = WORKLOADS.first().context("workloads")?.request();
    let mut kib = [0.0; 2];
    for (slot, (addr, tls)) in kib.iter_mut().zip([(peer.addr, None), (peer.tls, Some(tls))]) {
        engine.hang_up();
        // A few first, so that what is allocated once is not counted.
        for _ in 0..20 {
            let client = engine.connect(addr, tls)?;
            engine.ask(client, &request, Duration::from_secs(5))?;
        }
        let before = accounting::resident_kib(&peer.pids)?;
        for _ in 0..IDLE {
            let client = engine.connect(addr, tls)?;
            engine.ask(client, &request, Duration::from_secs(5))?;
        }
        *slot = (accounting::resident_kib(&peer.pids)? - before) / IDLE as f64;
        engine.hang_up();
    }
    let [plain, tls] = kib;
    Ok((plain, tls))
}

/// The same, for connections that speak HTTP/2.
fn h2_config(tls: &Arc<rustls::ClientConfig>) -> Arc<rustls::ClientConfig> {
    let mut config = (**tls).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

fn client_config(site: &Site) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(site.cert.as_bytes())?)?;
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
