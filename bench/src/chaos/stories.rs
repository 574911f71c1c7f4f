//! The stories: what breaks, when, and what a client may see of it at most.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::backend::Mode;
use super::dns::Dns;
use super::figures::Times;
use super::fleet::{Fleet, SIZE, ip};
use super::proxies::Proxy;
use super::setup::{Feature, Setup};

/// How long an address may still be used after its name has another: its TTL (1 s), and once more for the proxy to look.
const GRACE: Duration = Duration::from_secs(2);

/// What Sluice is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// No client sees an error, none has to send a request again.
    NoErrors,
    /// No errors, and p99 during the fault at most this multiple of the p99 before it.
    Latency(f64),
    /// Attempts at the backends at most the requests and the budget for retries.
    Attempts,
    /// Of the requests during the fault only those reach a backend that open the breaker or try it; it closes within its
    /// cool-down.
    Breaker,
    /// Errors are unavoidable; none before the fault.
    CalmBefore,
}

pub struct Story {
    pub name: &'static str,
    pub what: &'static str,
    pub feature: Feature,
    pub goal: Goal,
    /// Recovery counts from the end of the fault: nothing can be well before.
    pub from_end: bool,
    /// The fault lasts the whole run.
    pub whole: bool,
    /// Requests per second; `None` for the usual rate.
    pub rate: Option<f64>,
    script: fn(&mut Scene<'_>) -> Result<()>,
}

const PLAIN: Story = Story {
    name: "healthy",
    what: "nothing breaks",
    feature: Feature::Plain,
    goal: Goal::NoErrors,
    from_end: false,
    whole: false,
    rate: None,
    script: |_| Ok(()),
};

pub const STORIES: &[Story] = &[
    PLAIN,
    Story { name: "kill", what: "one backend is killed (`kill -9`), later started again", script: kill, ..PLAIN },
    Story { name: "freeze", what: "one backend is frozen (SIGSTOP), later continued", script: freeze, ..PLAIN },
    Story {
        name: "slow",
        what: "one backend takes 20 times as long",
        feature: Feature::Adaptive,
        goal: Goal::Latency(2.0),
        script: |scene| scene.mode(0..1, Mode::Slow),
        ..PLAIN
    },
    Story {
        name: "fail30",
        what: "one backend answers 30 % of its requests with 500",
        feature: Feature::Retry500,
        script: |scene| scene.mode(0..1, Mode::Failing),
        ..PLAIN
    },
    Story {
        name: "half-body",
        what: "one backend resets every answer in the middle of its body",
        goal: Goal::CalmBefore,
        script: |scene| scene.mode(0..1, Mode::HalfBody),
        ..PLAIN
    },
    Story {
        name: "all-down",
        what: "all backends are killed, later started again",
        goal: Goal::CalmBefore,
        from_end: true,
        script: all_down,
        ..PLAIN
    },
    Story {
        name: "rolling",
        what: "every backend is killed and started again, one after another",
        script: rolling,
        ..PLAIN
    },
    Story {
        name: "dns",
        what: "a name changes from three backends to the other two; 2 s later the three are killed",
        feature: Feature::Name,
        script: dns,
        ..PLAIN
    },
    Story { name: "reload", what: "another configuration is loaded each second", script: reload, ..PLAIN },
    Story {
        name: "breaker",
        what: "all backends answer everything with 500, their probes are well",
        feature: Feature::Breaker,
        goal: Goal::Breaker,
        from_end: true,
        script: |scene| scene.mode(0..SIZE, Mode::Broken),
        ..PLAIN
    },
    Story {
        name: "storm",
        what: "every backend resets every request, from the first to the last",
        feature: Feature::Budget,
        goal: Goal::Attempts,
        whole: true,
        rate: Some(1000.0),
        script: |_| Ok(()),
        ..PLAIN
    },
];

/// What a script acts on.
pub struct Scene<'a> {
    pub fleet: &'a mut Fleet,
    pub dns: &'a Dns,
    pub proxy: &'a mut Proxy,
    pub setup: &'a mut Setup,
    pub begin: Instant,
    pub times: Times,
}

impl Story {
    /// Before the proxy starts.
    pub fn prepare(&self, fleet: &Fleet) -> Result<()> {
        if self.whole { fleet.set_all(Mode::Resetting) } else { Ok(()) }
    }

    pub fn play(&self, scene: &mut Scene<'_>) -> Result<()> {
        scene.until(scene.times.fault);
        (self.script)(scene).with_context(|| format!("story {}", self.name))
    }
}

impl Scene<'_> {
    /// Sleeps until this long after the begin.
    fn until(&self, at: Duration) {
        std::thread::sleep((self.begin + at).saturating_duration_since(Instant::now()));
    }

    fn healed(&self) {
        self.until(self.times.healed);
    }

    fn mode(&mut self, backends: std::ops::Range<usize>, mode: Mode) -> Result<()> {
        backends.clone().try_for_each(|index| self.fleet.set(index, mode))?;
        self.healed();
        backends.clone().try_for_each(|index| self.fleet.set(index, Mode::Healthy))
    }
}

fn kill(scene: &mut Scene<'_>) -> Result<()> {
    scene.fleet.kill(0)?;
    scene.healed();
    scene.fleet.launch(0)
}

fn freeze(scene: &mut Scene<'_>) -> Result<()> {
    scene.fleet.freeze(0)?;
    scene.healed();
    scene.fleet.thaw(0)
}

fn all_down(scene: &mut Scene<'_>) -> Result<()> {
    scene.fleet.kill_all()?;
    scene.healed();
    scene.fleet.start_all()
}

fn rolling(scene: &mut Scene<'_>) -> Result<()> {
    let each = (scene.times.healed - scene.times.fault) / SIZE as u32;
    for index in 0..SIZE {
        let start = scene.times.fault + each * index as u32;
        scene.until(start);
        scene.fleet.kill(index)?;
        scene.until(start + each / 2);
        scene.fleet.launch(index)?;
    }
    Ok(())
}

fn dns(scene: &mut Scene<'_>) -> Result<()> {
    scene.dns.change((3..SIZE).map(ip).collect());
    scene.until(scene.times.fault + GRACE);
    (0..3).try_for_each(|index| scene.fleet.kill(index))
}

fn reload(scene: &mut Scene<'_>) -> Result<()> {
    let mut at = scene.times.fault;
    while at < scene.times.healed {
        scene.until(at);
        scene.setup.version += 1;
        scene.proxy.reload(scene.setup)?;
        at += Duration::from_secs(1);
    }
    Ok(())
}
