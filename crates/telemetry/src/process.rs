//! Process metrics under Prometheus' standard names, from /proc. The surprise: clock ticks are taken as 100 per second, which
//! the kernel fixes for user space on every architecture Linux still ships (USER_HZ).
use crate::metrics::{Kind, MetricError, Registry};
use std::fs;

const TICKS: f64 = 100.0;

/// Figures of this process; what cannot be read is `None`.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct ProcessFigures {
    /// User and system CPU, seconds.
    pub cpu_seconds: Option<f64>,
    pub threads: Option<f64>,
    /// Unix time, seconds.
    pub start_time: Option<f64>,
    /// Bytes.
    pub virtual_memory: Option<f64>,
    pub resident_memory: Option<f64>,
}

/// Reads them now.
pub fn figures() -> ProcessFigures {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields after the command, which is in parentheses and may contain anything (proc_pid_stat(5); the state is field 3).
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().collect()).unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok());
    let kernel = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot =
        kernel.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|text| text.trim().parse::<f64>().ok());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
    };
    ProcessFigures {
        cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS),
        threads: field(20),
        start_time: boot.zip(field(22)).map(|(boot, ticks)| boot + ticks / TICKS),
        virtual_memory: kib("VmSize:"),
        resident_memory: kib("VmRSS:"),
    }
}

/// Open file descriptors, without the one used to count them.
pub fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(count.saturating_sub(1) as f64)
}

/// The soft limit of open files.
pub fn max_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Adds `process_*` to a registry; they are read at each scrape.
pub fn register(registry: &Registry) -> Result<(), MetricError> {
    type Read = fn() -> Option<f64>;
    let families: [(&str, &str, Kind, Read); 7] = [
        ("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", Kind::Counter, || {
            figures().cpu_seconds
        }),
        ("process_resident_memory_bytes", "Resident memory size in bytes.", Kind::Gauge, || figures().resident_memory),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", Kind::Gauge, || figures().virtual_memory),
        ("process_open_fds", "Number of open file descriptors.", Kind::Gauge, open_files),
        ("process_max_fds", "Maximum number of open file descriptors.", Kind::Gauge, max_files),
        ("process_threads", "Number of OS threads in the process.", Kind::Gauge, || figures().threads),
        ("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", Kind::Gauge, || {
            figures().start_time
        }),
    ];
    for (name, help, kind, read) in families {
        registry.callback(name, help, &[], kind, move |samples| {
            if let Some(value) = read() {
                samples.push(&[], value);
            }
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Instant, SystemTime, UNIX_EPOCH};

    #[test]
    fn figures_of_this_process_are_plausible() {
        let figures = figures();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(figures.threads.unwrap() >= 1.0);
        assert!(figures.resident_memory.unwrap() > 500_000.0);
        assert!(figures.virtual_memory.unwrap() >= figures.resident_memory.unwrap());
        let start = figures.start_time.unwrap();
        assert!(start < now + 2.0 && start > now - 3600.0, "{start} {now}");
    }

    #[test]
    fn an_opened_file_is_counted_and_names_are_standard() {
        let before = open_files().unwrap();
        let files: Vec<_> = (0..20).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        assert!(open_files().unwrap() >= before + 10.0, "{}", files.len());
        let registry = Registry::new();
        register(&registry).unwrap();
        let mut out = Vec::new();
        registry.render(Instant::now(), &mut out);
        let text = String::from_utf8(out).unwrap();
        for name in
            ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "threads", "start_time_seconds"]
        {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{name}: {text}");
        }
    }
}
