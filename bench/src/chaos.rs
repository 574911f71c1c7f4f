//! What clients see while backends fail: five real backend processes, an open loop of requests, one story after another, on
//! Sluice and its peers. Start it with `cargo xtask chaos`.
//!
//! Unlike the benchmark it pins nothing and never polls: proxy, backends and generator share the machine.

pub mod backend;
mod dns;
mod figures;
mod fleet;
mod load;
mod proxies;
mod report;
mod setup;
mod stories;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::Output;
use crate::peers::{Site, Wanted};
use dns::Dns;
use figures::{Recovery, Times};
use fleet::{Fleet, ip};
use load::Load;
use proxies::Proxy;
use report::Row;
use setup::Setup;
use stories::{Goal, STORIES, Scene, Story};

/// Break backends under load, and tell what clients saw.
#[derive(clap::Args)]
#[command(after_help = "Examples: cargo xtask chaos --story kill,freeze --peer sluice
          cargo xtask chaos --write docs/resilience.md
          cargo xtask chaos --short --sluice target/debug/sluice")]
pub struct Args {
    /// Stories, comma-separated: healthy kill freeze slow fail30 half-body all-down rolling dns reload breaker storm
    #[arg(long, value_delimiter = ',')]
    story: Vec<String>,
    /// Proxies, comma-separated: sluice nginx haproxy
    #[arg(long, value_delimiter = ',')]
    peer: Vec<String>,
    /// Four seconds a story at a low rate, Sluice alone; time does not count, errors and attempts do
    #[arg(long)]
    short: bool,
    /// Seconds of a story [default: 20; 4 with --short]
    #[arg(long)]
    seconds: Option<f64>,
    /// Requests per second; the storm has five times as many with --short, else 1000 [default: 500; 100 with --short]
    #[arg(long)]
    rate: Option<f64>,
    /// Replace the measured part of this Markdown file
    #[arg(long)]
    write: Option<PathBuf>,
}

/// A proxy that listens has a little to do still: probes, names, caches.
const SETTLE: Duration = Duration::from_millis(500);

/// How long and how hard.
pub struct Scale {
    pub rate: f64,
    pub times: Times,
    pub short: bool,
}

impl Args {
    fn scale(&self) -> Scale {
        let (seconds, rate) = if self.short { (4.0, 100.0) } else { (20.0, 500.0) };
        let part = Duration::from_secs_f64(self.seconds.unwrap_or(seconds)) / 20;
        // Calm, then the fault, then time to recover.
        let (calm, fault) = if self.short { (3, 13) } else { (4, 10) };
        let times = Times { fault: part * calm, healed: part * (calm + fault), end: part * 20 };
        Scale { rate: self.rate.unwrap_or(rate), times, short: self.short }
    }

    fn stories(&self) -> Result<Vec<&'static Story>> {
        for name in &self.story {
            if !STORIES.iter().any(|story| story.name == name) {
                bail!("no story named {name}");
            }
        }
        let chosen = |story: &&Story| self.story.is_empty() || self.story.iter().any(|name| name == story.name);
        Ok(STORIES.iter().filter(chosen).collect())
    }

    fn peers(&self) -> Result<Vec<&'static str>> {
        for name in &self.peer {
            if !proxies::NAMES.contains(&name.as_str()) {
                bail!("no peer named {name}");
            }
        }
        let chosen = |name: &&str| match self.peer.is_empty() {
            true => !self.short || *name == "sluice",
            false => self.peer.iter().any(|chosen| chosen == name),
        };
        Ok(proxies::NAMES.into_iter().filter(chosen).collect())
    }
}

pub fn run(args: &Args, output: Output, sluice: Option<PathBuf>) -> Result<()> {
    let (scale, stories, peers) = (args.scale(), args.stories()?, args.peers()?);
    let wanted = Wanted { sluice, ..Wanted::default() };
    let folder = tempfile::Builder::new().prefix("sluice-chaos-").tempdir()?;
    // nginx's workers drop to another user and must still reach their files.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let site = Site { folder, cert: String::new(), key: String::new() };
    let mut rows = Vec::new();
    for story in stories {
        for peer in &peers {
            eprintln!("{}: {peer}", story.name);
            match tell(story, peer, &scale, &wanted, &site) {
                Ok(row) => rows.push(row),
                Err(why) if *peer == "sluice" => return Err(why),
                Err(why) => eprintln!("{} without {peer}: {why:#}", story.name),
            }
        }
    }
    match output {
        Output::Text => print!("{}", report::text(&rows)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report::json(&rows, &scale))?),
    }
    if let Some(file) = &args.write {
        report::write(file, &rows, &scale)?;
    }
    let missed: Vec<String> = rows.iter().filter_map(Row::missed).collect();
    if !missed.is_empty() {
        bail!("not as promised:\n{}", missed.join("\n"));
    }
    Ok(())
}

/// One story on one proxy, with backends and a proxy of its own.
fn tell(story: &'static Story, peer: &'static str, scale: &Scale, wanted: &Wanted, site: &Site) -> Result<Row> {
    let mut fleet = Fleet::start()?;
    let dns = Dns::start((0..3).map(ip).collect())?;
    let mut setup = Setup { feature: story.feature, backends: fleet.addresses(), resolver: dns.address, version: 0 };
    let mut proxy = Proxy::start(peer, wanted, site, &setup)?;
    story.prepare(&fleet)?;
    let times = match story.whole {
        true => Times { fault: Duration::ZERO, healed: scale.times.end, ..scale.times },
        false => scale.times,
    };
    let rate = story.rate(scale);
    let addr = proxy.addr;
    let begin = Instant::now() + SETTLE;
    let records = std::thread::scope(|scope| {
        let load = scope.spawn(move || Load::new(addr, begin)?.run(rate, times.end));
        // The script runs here: a backend ends with the thread that launched it.
        let mut scene = Scene { fleet: &mut fleet, dns: &dns, proxy: &mut proxy, setup: &mut setup, begin, times };
        story.play(&mut scene)?;
        load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?
    })?;
    let attempts = match story.goal {
        Goal::Attempts => Some(fleet.attempts()?),
        _ => None,
    };
    let (from, until) = match story.from_end {
        true => (times.healed, times.end),
        false => (times.fault, times.healed),
    };
    // What is under way when the fault comes may fail with it.
    let early = records.iter().any(|r| r.due + r.took < times.fault && r.outcome != load::Outcome::Good);
    let figures = figures::figures(&records, &times, from, until);
    let goal = (peer == "sluice").then_some(story.goal);
    Ok(Row { story, peer, goal, rate, times, attempts, early, figures, timed: !scale.short })
}

impl Story {
    fn rate(&self, scale: &Scale) -> f64 {
        match self.rate {
            Some(_) if scale.short => scale.rate * 5.0,
            Some(rate) => rate,
            None => scale.rate,
        }
    }
}

/// A recovery for people.
fn shown(recovery: Recovery) -> String {
    match recovery {
        Recovery::Unharmed => "-".to_owned(),
        Recovery::After(time) => format!("{:.2} s", time.as_secs_f64()),
        Recovery::Never => "none".to_owned(),
    }
}

/// Replaces what stands between the marks.
fn replace_measured(text: &str, measured: &str) -> Result<String> {
    const BEGIN: &str = "<!-- measured: begin -->\n";
    const END: &str = "<!-- measured: end -->";
    let (before, rest) = text.split_once(BEGIN).context("the file has no mark of the measured part's begin")?;
    let (_, after) = rest.split_once(END).context("the file has no mark of the measured part's end")?;
    Ok(format!("{before}{BEGIN}{measured}{END}{after}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_measured_part_is_replaced() {
        let text = "a\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nz\n";
        let new = super::replace_measured(text, "new\n").unwrap();
        assert_eq!(new, text.replace("old", "new"));
        assert!(super::replace_measured("a\n", "new").is_err());
    }
}
