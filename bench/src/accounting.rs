//! CPU time and memory of a process as the kernel counts them, and the pinning of ourselves.
//!
//! Run time comes from `schedstat` (nanoseconds, exact); user and system time from `stat` (ticks of 10 ms, sampled): their sum
//! may differ from the run time a little.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// CPU time since the start of the process, all threads, nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    pub run: f64,
    pub user: f64,
    pub system: f64,
}

impl std::ops::Sub for Cpu {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { run: self.run - other.run, user: self.user - other.user, system: self.system - other.system }
    }
}

/// The time of all these processes together.
pub fn cpu(pids: &[u32]) -> Result<Cpu> {
    let mut total = Cpu::default();
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
            // A thread may end between the listing and the look.
            let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
            total.run += text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold spaces: count the fields after it. utime and stime are fields 14 and 15.
        let (_, after) = stat.rsplit_once(')').context("stat")?;
        let mut fields = after.split_whitespace().skip(11).map(|n| n.parse::<f64>().unwrap_or(0.0));
        total.user += fields.next().unwrap_or(0.0) * 1e7;
        total.system += fields.next().unwrap_or(0.0) * 1e7;
    }
    Ok(total)
}

/// Resident memory of all these processes, KiB.
pub fn resident_kib(pids: &[u32]) -> Result<f64> {
    let mut total = 0.0;
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        total += line.trim().trim_end_matches(" kB").trim().parse::<f64>()?;
    }
    Ok(total)
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

/// Pins this thread to one core.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin to core {core}"))
}

/// Model name of the processor, for the head of a table.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown");
    model.trim_start_matches([' ', '\t', ':']).to_owned()
}
