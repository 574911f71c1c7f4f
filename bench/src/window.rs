//! The measured part of a run, behind its warm-up: when it begins and ends, and what CPU time fell into it.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::accounting::{self, Cpu};
use crate::engine::{Load, Sample};

pub struct Window<'a> {
    load: &'a Load<'a>,
    begin: Instant,
    end: Instant,
    /// CPU time at the beginning; none while it warms up.
    before: Option<Cpu>,
}

/// What a moment is to the window.
pub enum Moment {
    /// Within the warm-up or the measured part.
    Within,
    /// The first of the measured part: what was counted so far does not count.
    Begins,
    Over,
}

impl<'a> Window<'a> {
    pub fn open(load: &'a Load<'a>) -> Self {
        let begin = Instant::now();
        Self { load, begin, end: begin + Duration::from_secs_f64(load.warm_up), before: None }
    }

    pub fn look(&mut self, now: Instant) -> Result<Moment> {
        if now < self.end {
            return Ok(Moment::Within);
        }
        if self.before.is_some() {
            return Ok(Moment::Over);
        }
        self.before = Some(accounting::cpu(self.load.pids)?);
        self.begin = Instant::now();
        self.end = self.begin + Duration::from_secs_f64(self.load.seconds);
        Ok(Moment::Begins)
    }

    /// Rate and CPU time of what was done in it, at least one.
    pub fn sample(&self, done: u64) -> Result<Sample> {
        let elapsed = self.begin.elapsed().as_secs_f64();
        let cpu = accounting::cpu(self.load.pids)? - self.before.unwrap_or_default();
        let each = |nanos: f64| nanos / 1e3 / done as f64;
        Ok(Sample {
            rps: done as f64 / elapsed,
            cpu: each(cpu.run),
            user: each(cpu.user),
            system: each(cpu.system),
            utilisation: cpu.run / 1e9 / elapsed,
            ..Sample::default()
        })
    }
}
