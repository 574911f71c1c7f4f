//! The tests of the OWASP Core Rule Set through a proxy: a real process, its rules from a checkout of the rule set, an upstream
//! that answers as the tests want. With `--cost`, what those rules cost on a clean small request. Start it with `cargo xtask crs`.

mod backend;
mod corpus;
mod cost;
mod logs;
mod proxies;
mod report;
mod send;
mod verdict;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::Output;
use crate::peers::Site;
use report::Row;

/// Run the regression tests of the Core Rule Set through the gateway, or measure what its rules cost.
#[derive(clap::Args)]
#[command(after_help = "Examples: cargo xtask crs --checkout ../coreruleset
          cargo xtask crs --checkout ../coreruleset --only 942,9321 --peer sluice,nginx
          cargo xtask crs --checkout ../coreruleset --cost")]
pub struct Args {
    /// A checkout of github.com/coreruleset/coreruleset
    #[arg(long)]
    checkout: PathBuf,
    /// Only tests of rules whose numbers begin so, comma-separated
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Proxies, comma-separated: sluice nginx [default: sluice; both with --cost]
    #[arg(long, value_delimiter = ',')]
    peer: Vec<String>,
    /// Fail below this share of tests passed, percent
    #[arg(long)]
    at_least: Option<f64>,
    /// Keep logs and configurations in this folder
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Measure CPU per request with and without the rules instead
    #[arg(long)]
    cost: bool,
    /// Rounds of the measurement; every proxy runs once in each, in random order
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Measured seconds of one run
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// The paranoia level that is measured
    #[arg(long, default_value_t = 1)]
    level: u8,
}

pub fn run(args: &Args, output: Output, sluice: Option<PathBuf>) -> Result<()> {
    let checkout = std::fs::canonicalize(&args.checkout)?;
    let folder = tempfile::Builder::new().prefix("sluice-crs-").tempdir()?;
    // nginx's worker must reach its files.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let site = Site { folder, cert: String::new(), key: String::new() };
    let peers = peers(args)?;
    let result = if args.cost {
        cost::run(args, &checkout, &peers, output, sluice.as_deref(), &site)
    } else {
        let tests = corpus::load(&checkout, &args.only)?;
        let rows = peers.iter().map(|peer| corpus_through(peer, &tests, &checkout, sluice.as_deref(), &site));
        rows.collect::<Result<Vec<_>>>().and_then(|rows| report::print(&rows, output, args.at_least))
    };
    if let Some(keep) = &args.keep {
        let kept = site.folder.keep();
        std::fs::create_dir_all(keep)?;
        let moved = std::process::Command::new("cp").arg("-r").arg(&kept).arg(keep).status()?;
        eprintln!("kept in {} ({moved})", keep.display());
        std::fs::remove_dir_all(kept)?;
    }
    result
}

fn peers(args: &Args) -> Result<Vec<&'static str>> {
    const NAMES: [&str; 2] = ["sluice", "nginx"];
    if let Some(unknown) = args.peer.iter().find(|p| !NAMES.contains(&p.as_str())) {
        bail!("no peer named {unknown}; there are {}", NAMES.join(", "));
    }
    let chosen = |name: &&str| match args.peer.is_empty() {
        true => args.cost || *name == "sluice",
        false => args.peer.iter().any(|p| p == name),
    };
    Ok(NAMES.into_iter().filter(chosen).collect())
}

fn corpus_through(
    peer: &'static str,
    tests: &[corpus::Test],
    checkout: &std::path::Path,
    program: Option<&std::path::Path>,
    site: &Site,
) -> Result<Row> {
    let upstream = backend::start()?;
    let home = site.path(peer);
    let directives = proxies::for_corpus(checkout, &home.join("audit.log"));
    let plan = proxies::Plan { program, upstream: upstream.port(), directives: Some(&directives), pinned: false };
    let proxy = proxies::start(peer, &plan, site)?;
    let begun = std::time::Instant::now();
    let statuses = send::all(tests, proxy.addr);
    eprintln!("{peer}: {} requests in {:.0} s", statuses.len(), begun.elapsed().as_secs_f64());
    // asked to end, a proxy writes what waits for its logs
    drop(proxy);
    let seen = logs::read(&home, statuses.len())?;
    let mut first = 0;
    let verdicts = tests.iter().map(|test| {
        let verdict = verdict::of(test, first, &statuses, &seen);
        first += test.stages.len();
        (test.group.clone(), test.name.clone(), verdict)
    });
    Ok(Row { peer, verdicts: verdicts.collect() })
}
