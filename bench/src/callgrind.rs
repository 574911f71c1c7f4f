//! Instructions per request of the plain path: the difference between two runs under valgrind that differ only in the
//! number of requests, so that start and stop fall out. Kernel instructions are not counted; the figure does not move with
//! the machine's mood, which makes it the one to watch from change to change.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::engine::Engine;
use crate::peers::{CALLS, UPSTREAM, find};
use crate::setup::{Setup, WORKLOADS, Workload, resources};

/// Requests of HTTP/2 that are sent in one piece; the next follow when all are answered.
const BATCH: usize = 8;

#[derive(clap::Args)]
pub struct Args {
    /// Requests of the shorter run; the longer one makes three times as many
    #[arg(long, default_value_t = 500)]
    requests: usize,
    /// These workloads alone, comma-separated; nothing is recorded
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the figures are recorded
    #[arg(long, default_value = "bench/callgrind.txt")]
    record: PathBuf,
    /// Count another proxy instead, run as BINARY PORT TLSPORT CERT KEY; nothing is recorded
    #[arg(long)]
    prototype: Option<PathBuf>,
}

pub fn run(args: &Args, sluice: PathBuf) -> Result<()> {
    let valgrind = find("valgrind").context("valgrind is missing (Debian: valgrind)")?;
    let mut lines = String::from(
        "# Instructions per request in user space, one worker, keep-alive; `cargo xtask bench callgrind`\n",
    );
    // The bare proxy speaks HTTP/1 alone.
    let counted = |w: &&Workload| {
        let chosen = args.only.is_empty() || args.only.iter().any(|only| only == w.name);
        let http2 = w.setup == Setup::Http2 && !w.is_handshake() && args.prototype.is_none();
        chosen && (w.setup == Setup::Plain || http2)
    };
    for workload in WORKLOADS.iter().filter(|w| !w.tls).filter(counted) {
        let mut counts = [0u64; 2];
        for (count, requests) in counts.iter_mut().zip([args.requests, args.requests * 3]) {
            *count = instructions(args, &valgrind, &sluice, workload, requests)?;
        }
        let [short, long] = counts;
        let each = long.saturating_sub(short) / (args.requests as u64 * 2).max(1);
        let line = format!("{:<8} {each}\n", workload.name);
        print!("{line}");
        lines.push_str(&line);
    }
    if args.prototype.is_none() && args.only.is_empty() {
        std::fs::write(&args.record, lines).with_context(|| args.record.display().to_string())?;
    }
    Ok(())
}

/// All instructions of one run of the proxy that answers this many requests.
fn instructions(args: &Args, valgrind: &PathBuf, sluice: &PathBuf, workload: &Workload, requests: usize) -> Result<u64> {
    let site = crate::certificate()?;
    let home = site.home("home")?;
    let out = home.join("callgrind.out");
    let mut command = Command::new(valgrind);
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", out.display())).arg("-q");
    let port = 8014;
    match &args.prototype {
        Some(program) => {
            let ports = [port.to_string(), "8414".to_owned()];
            command.arg(program).args(ports).arg(site.path("cert.pem")).arg(site.path("key.pem"));
        }
        None => {
            crate::peers::write_sluice(&home, &resources(workload.setup, UPSTREAM, &site.cert, &site.key))?;
            command.arg(sluice).arg("run").arg("-c").arg(home.join("conf/config.yaml"));
            command.arg("--data-dir").arg(home.join("data"));
        }
    }
    let mut child = command.stdin(Stdio::null()).spawn().context("valgrind")?;
    let result = load(&mut child, port, workload, requests);
    // valgrind writes its file when the process ends by itself or by SIGTERM.
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    }
    child.wait()?;
    result?;
    let text = std::fs::read_to_string(&out).context("callgrind wrote nothing")?;
    let total = text.lines().find_map(|l| l.strip_prefix("totals: ").or(l.strip_prefix("summary: ")));
    total
        .and_then(|n| n.split_whitespace().next())
        .and_then(|n| n.parse().ok())
        .context("no totals in callgrind's file")
}

fn load(child: &mut Child, port: u16, workload: &Workload, requests: usize) -> Result<()> {
    let mut engine = Engine::new(UPSTREAM)?;
    engine.answer_calls(CALLS, crate::setup::MESSAGE)?;
    let (request, call) = (workload.request(), workload.call());
    let start = Instant::now();
    let addr = ([127, 0, 0, 1], port).into();
    let client = loop {
        if let Ok(client) = engine.connect(addr, None) {
            break client;
        }
        if let Some(status) = child.try_wait()? {
            bail!("ended at once with {status}");
        }
        ensure!(start.elapsed() < Duration::from_secs(60), "does not listen on {addr}");
        std::thread::sleep(Duration::from_millis(50));
    };
    if let Some(call) = &call {
        return engine.batches(addr, call, BATCH, requests);
    }
    for _ in 0..requests {
        let status = engine.ask(client, &request, Duration::from_secs(20))?;
        ensure!(status == 200, "answers {status}");
    }
    Ok(())
}
