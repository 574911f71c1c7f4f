//! One changed route among 100,000: how long until it answers, and what CPU the change costs.
//!
//! The CPU is what the process used from the write until it was quiet again, less what it uses in the same time when nothing
//! changes. It holds reading the file, which grows with the number of routes however small the change is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::accounting;
use crate::engine::Engine;
use crate::peers::{Peer, Site, UPSTREAM};
use crate::setup::{Setup, resources};

/// Medians over the rounds, milliseconds.
pub struct Change {
    pub in_force: f64,
    pub cpu: f64,
    pub rounds: usize,
}

const ROUTES: usize = 100_000;
/// How long after the new route answers work is still counted (old snapshots are freed late).
const SETTLE: Duration = Duration::from_millis(1500);

pub fn measure(engine: &mut Engine, peer: &Peer, site: &Site, rounds: usize) -> Result<Change> {
    let mut all = resources(Setup::Routes(ROUTES), UPSTREAM, &site.cert, &site.key);
    let (mut times, mut costs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        engine.hang_up();
        let path = format!("/changed/{round}");
        let slot = all.pointer_mut(&format!("/routes/{}/uri", ROUTES / 2 + round)).context("route")?;
        *slot = path.as_str().into();
        // Rendered and written before the clock starts; put in place by a rename, so that no half file is ever seen.
        let fresh = peer.home.join("conf/apisix.yaml.new");
        std::fs::write(&fresh, format!("{all}\n#END\n"))?;
        let quiet = accounting::cpu(&peer.pids)?.run;
        let quiet_time = Instant::now();
        std::thread::sleep(SETTLE);
        let idle_rate = (accounting::cpu(&peer.pids)?.run - quiet) / quiet_time.elapsed().as_secs_f64();

        let before = accounting::cpu(&peer.pids)?.run;
        let start = Instant::now();
        std::fs::rename(&fresh, peer.home.join("conf/apisix.yaml"))?;
        let client = engine.connect(peer.addr, None)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", crate::client::NAME);
        let mut asked = 0.0;
        while engine.ask(client, request.as_bytes(), Duration::from_secs(10))? != 200 {
            asked += 1.0;
            ensure!(start.elapsed() < Duration::from_secs(60), "the changed route is not in force after a minute");
            std::thread::sleep(Duration::from_millis(2));
        }
        times.push(start.elapsed().as_secs_f64() * 1e3);
        std::thread::sleep(SETTLE);
        let used = accounting::cpu(&peer.pids)?.run - before - idle_rate * start.elapsed().as_secs_f64();
        // Our own asking is not the change: about 30 µs each on a proxy that was asleep.
        costs.push((used - asked * 30_000.0).max(0.0) / 1e6);
    }
    Ok(Change { in_force: crate::table::median(times), cpu: crate::table::median(costs), rounds })
}
