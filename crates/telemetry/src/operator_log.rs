//! The operator's log: `2026/11/23 13:00:00 [warn] module: message key=value`, on stderr or in a file, level changeable at run
//! time. The surprise: each call site has an allowance per second; what exceeds it is counted and shown with its next line.
use crate::time_format;
use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// nginx's level names (`error_log_level`), by the nearest of ours; `None` for an unknown one.
pub fn level(name: &str) -> Option<Level> {
    Some(match name {
        "debug" => Level::DEBUG,
        "info" | "notice" => Level::INFO,
        "warn" => Level::WARN,
        "error" | "crit" | "alert" | "emerg" => Level::ERROR,
        _ => return None,
    })
}

fn rank(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

struct Allowance {
    since: Instant,
    used: u32,
    suppressed: u64,
}

struct Output {
    path: Option<PathBuf>,
    sink: Box<dyn Write + Send>,
    /// One entry per call site in the program, so bounded by the program.
    sites: HashMap<Identifier, Allowance>,
    suppressed: u64,
}

/// The log. Cloning shares it: give one clone to `tracing_subscriber`'s registry, keep one.
#[derive(Clone)]
pub struct OperatorLog {
    level: Arc<AtomicU8>,
    /// Lines per call site and second.
    burst: u32,
    output: Arc<Mutex<Output>>,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl OperatorLog {
    /// Lines per call site and second unless told otherwise.
    pub const BURST: u32 = 50;

    /// Logs to stderr.
    pub fn stderr(level: Level, burst: u32) -> OperatorLog {
        Self::new(Box::new(io::stderr()), None, level, burst)
    }

    /// Logs to a file, appending.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn file(path: &Path, level: Level, burst: u32) -> io::Result<OperatorLog> {
        Ok(Self::new(Box::new(open(path)?), Some(path.to_owned()), level, burst))
    }

    fn new(sink: Box<dyn Write + Send>, path: Option<PathBuf>, level: Level, burst: u32) -> OperatorLog {
        let output = Output { path, sink, sites: HashMap::new(), suppressed: 0 };
        let level = Arc::new(AtomicU8::new(rank(level)));
        OperatorLog { level, burst: burst.max(1), output: Arc::new(Mutex::new(output)) }
    }

    /// Changes the level from now on.
    pub fn set_level(&self, level: Level) {
        self.level.store(rank(level), Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Opens the file by its name again (USR1); the old one stays in use when that fails.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn reopen(&self) -> io::Result<()> {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &output.path {
            output.sink = Box::new(open(path)?);
        }
        Ok(())
    }

    /// Lines suppressed so far, all call sites.
    pub fn suppressed(&self) -> u64 {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).suppressed
    }

    fn write(&self, event: &Event<'_>, now: Instant) {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Allowance { since: now, used: 0, suppressed: 0 };
        let site = output.sites.entry(metadata.callsite()).or_insert(fresh);
        if now.saturating_duration_since(site.since) >= Duration::from_secs(1) {
            site.since = now;
            site.used = 0;
        }
        if site.used >= self.burst {
            site.suppressed += 1;
            output.suppressed += 1;
            return;
        }
        site.used += 1;
        let suppressed = std::mem::take(&mut site.suppressed);
        let mut text = Vec::with_capacity(128);
        time_format::time_error_log(SystemTime::now(), &mut text);
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        // Nowhere is left to report a failure of this log; writing to a Vec cannot fail.
        let _ = write!(text, " [{level}] {}: {}{}", metadata.target(), line.message, line.fields);
        if suppressed > 0 {
            let _ = write!(text, " suppressed={suppressed}");
        }
        text.push(b'\n');
        let _ = output.sink.write_all(&text);
    }
}

/// Message and fields, with control characters escaped so that one event is one line.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

fn clean(text: &str, out: &mut String) {
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }
}

impl Line {
    fn put(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            clean(value, &mut self.message);
        } else {
            self.fields.push(' ');
            self.fields.push_str(field.name());
            self.fields.push('=');
            clean(value, &mut self.fields);
        }
    }
}

impl<S: Subscriber> Layer<S> for OperatorLog {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if rank(*metadata.level()) <= self.level.load(Relaxed) { Interest::always() } else { Interest::never() }
    }
    fn enabled(&self, metadata: &Metadata<'_>, _context: Context<'_, S>) -> bool {
        rank(*metadata.level()) <= self.level.load(Relaxed)
    }
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.level.load(Relaxed) {
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        self.write(event, Instant::now());
    }
}

/// Makes `log` the process's only log.
///
/// # Errors
/// When another one was installed before.
pub fn install(log: &OperatorLog) -> Result<(), tracing::subscriber::SetGlobalDefaultError> {
    use tracing_subscriber::layer::SubscriberExt;
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn lines_levels_floods_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("error.log"), dir.path().join("error.log.1"));
        let log = OperatorLog::file(&path, level("warn").unwrap(), 3).unwrap();
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log.clone()), || {
            tracing::warn!(route = "1\n2", count = 5, "bad \"thing\"\r");
            let say = |n: u32| tracing::info!(n, "hello");
            say(1);
            log.set_level(Level::INFO);
            say(2);
            let text = read(&path);
            let tail = ": bad \"thing\"\\r route=1\\n2 count=5\n";
            assert!(text.contains(" [warn] sluice_telemetry::operator_log") && text.contains(tail), "{text}");
            assert!(text.ends_with(": hello n=2\n") && !text.contains("n=1"), "{text}");

            std::fs::rename(&path, &old).unwrap();
            log.reopen().unwrap();
            (0..10).for_each(|n| tracing::error!(n, "flood"));
            assert_eq!(read(&path).lines().count(), 3);
            assert_eq!(log.suppressed(), 7);
            assert_eq!(read(&old), text);
        });
    }

    #[test]
    fn nginx_level_names() {
        assert_eq!(level("notice"), Some(Level::INFO));
        assert_eq!(level("emerg"), Some(Level::ERROR));
        assert_eq!(level("loud"), None);
    }
}
