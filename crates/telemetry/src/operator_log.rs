//! The operator's log: `2026/11/23 13:00:00 [warn] module: message key=value`, on stderr or in a file, level changeable at run
//! time. The surprise: what repeats itself has an allowance per second; what exceeds it is counted and told a moment later.
//!
//! Lines repeat each other when they come from one place in the program and speak of the same thing: of the route, upstream,
//! plugin and so on that their fields name ([`SUBJECTS`]), or, where they name none, in the same words. Lines that somebody
//! has asked for by configuring a feature (rule matches of the firewall, records of `debug-logger`, `ngx.log` of Lua) have a
//! field `always`; they are never held back.
use crate::time_format;
use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
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

/// Fields that say what a line speaks of.
const SUBJECTS: &[&str] = &[
    "route", "upstream", "node", "plugin", "resource", "service", "registry", "server", "mirror", "zone", "ssl",
    "group",
];
/// The field that marks a line as asked for; it is not shown.
const ALWAYS: &str = "always";
/// Things a place in the program may speak of within a second, and wordings where it names none; lines of further ones share
/// one allowance.
const MAX_THINGS: usize = 256;
const MAX_WORDINGS: usize = 32;
/// How long an allowance holds, and when what exceeded it is told.
const WINDOW: Duration = Duration::from_secs(1);

struct Allowance {
    since: Instant,
    used: u32,
    suppressed: u64,
    /// The first of them.
    first: String,
}

/// The allowances of a place in the program.
type Things = HashMap<u64, Allowance>;

struct Output {
    path: Option<PathBuf>,
    sink: Box<dyn Write + Send>,
    /// One entry per call site in the program, so bounded by the program; each with at most [`MAX_THINGS`] and one.
    sites: HashMap<Identifier, Things>,
    /// Lines that were not written and will not be.
    suppressed: u64,
}

impl Output {
    /// How many lines of this kind were suppressed before, if this one may be written.
    fn admit(&mut self, site: Identifier, line: &Line, burst: u32, now: Instant) -> Result<u64, &mut Allowance> {
        let things = self.sites.entry(site).or_default();
        let (mut thing, most) = line.thing();
        if things.len() >= most && !things.contains_key(&thing) {
            things.retain(|_, a| a.suppressed > 0 || now.saturating_duration_since(a.since) < WINDOW);
            if things.len() >= most {
                thing = 0;
            }
        }
        let fresh = || Allowance { since: now, used: 0, suppressed: 0, first: String::new() };
        let allowance = things.entry(thing).or_insert_with(fresh);
        if now.saturating_duration_since(allowance.since) >= WINDOW {
            allowance.since = now;
            allowance.used = 0;
        }
        if allowance.used < burst {
            allowance.used += 1;
            return Ok(std::mem::take(&mut allowance.suppressed));
        }
        allowance.suppressed += 1;
        self.suppressed += 1;
        Err(allowance)
    }

    /// Writes the first line of what was suppressed in windows that are over, with the number of the others.
    fn tell_suppressed(&mut self, now: Instant) {
        let mut text = Vec::new();
        let mut told = 0;
        for things in self.sites.values_mut() {
            things.retain(|_, a| {
                let over = now.saturating_duration_since(a.since) >= WINDOW;
                if over && a.suppressed > 0 {
                    told += 1;
                    time_format::time_error_log(SystemTime::now(), &mut text);
                    text.extend_from_slice(a.first.as_bytes());
                    finish(a.suppressed - 1, &mut text);
                }
                !over
            });
        }
        self.suppressed -= told;
        let _ = self.sink.write_all(&text);
    }
}

/// Ends a line.
fn finish(suppressed: u64, text: &mut Vec<u8>) {
    if suppressed > 0 {
        // Writing to memory cannot fail.
        let _ = write!(text, " suppressed={suppressed}");
    }
    text.push(b'\n');
}

/// The log. Cloning shares it: give one clone to `tracing_subscriber`'s registry, keep one.
#[derive(Clone)]
pub struct OperatorLog {
    level: Arc<AtomicU8>,
    /// Lines of a kind per second.
    burst: u32,
    output: Arc<Mutex<Output>>,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

impl OperatorLog {
    /// Lines of a kind per second unless told otherwise.
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

    /// Tells how many lines were suppressed where no later line of their kind does. To be called every second or so.
    pub fn tell_suppressed(&self) {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).tell_suppressed(Instant::now());
    }

    /// As `tell_suppressed`, at the end of the process: of the current second too.
    pub fn tell_all_suppressed(&self) {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).tell_suppressed(Instant::now() + WINDOW);
    }

    /// Lines suppressed so far, of all kinds.
    pub fn suppressed(&self) -> u64 {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).suppressed
    }

    fn write(&self, event: &Event<'_>, now: Instant) {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let head = || format!(" [{level}] {}: {}{}", metadata.target(), line.message, line.fields);
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let mut suppressed = 0;
        if metadata.fields().field(ALWAYS).is_none() {
            match output.admit(metadata.callsite(), &line, self.burst, now) {
                Ok(before) => suppressed = before,
                Err(allowance) if allowance.suppressed == 1 => return allowance.first = head(),
                Err(_) => return,
            }
        }
        let mut text = Vec::with_capacity(128);
        time_format::time_error_log(SystemTime::now(), &mut text);
        text.extend_from_slice(head().as_bytes());
        finish(suppressed, &mut text);
        // Nowhere is left to report a failure of this log.
        let _ = output.sink.write_all(&text);
    }
}

/// Message and fields, with control characters escaped so that one event is one line.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
    /// Of the fields that say what the line speaks of.
    subjects: Option<DefaultHasher>,
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
    /// What the line speaks of, never 0, and how many such things its place in the program may speak of.
    fn thing(&self) -> (u64, usize) {
        let (hasher, most) = match &self.subjects {
            Some(subjects) => (subjects.clone(), MAX_THINGS),
            None => {
                let mut hasher = DefaultHasher::new();
                self.message.hash(&mut hasher);
                (hasher, MAX_WORDINGS)
            }
        };
        (hasher.finish().max(1), most)
    }

    fn put(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            clean(value, &mut self.message);
        } else if field.name() != ALWAYS {
            if SUBJECTS.contains(&field.name()) && !value.is_empty() {
                value.hash(self.subjects.get_or_insert_default());
            }
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
    fn allowances_are_of_what_lines_speak_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("error.log");
        let log = OperatorLog::file(&path, Level::WARN, 3).unwrap();
        let count = |what: &str| std::fs::read_to_string(&path).unwrap().lines().filter(|l| l.contains(what)).count();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log.clone()), || {
            let fail = |route: &str, n: u32| tracing::error!(route, n, "the sink is away");
            (0..10).for_each(|n| fail("a", n));
            fail("b", 0);
            assert_eq!((count("route=a"), count("route=b")), (3, 1));
            let say = |text: &str, n: u32| tracing::error!(n, "{text}");
            (0..10).for_each(|n| say("one", n));
            say("another", 0);
            assert_eq!((count(": one"), count(": another")), (3, 1));
            (0..10).for_each(|n| tracing::warn!(always = true, rule = n, "a rule matched"));
            assert_eq!((count("a rule matched"), count("always")), (10, 0));
            (0..1000).for_each(|n| say(&format!("text {n}"), n));
            assert_eq!(count(": text"), MAX_WORDINGS - 2 + 3, "an attacker's words are bounded");

            assert_eq!(log.suppressed(), 7 + 7 + 1000 - 33);
            let later = Instant::now() + WINDOW;
            log.output.lock().unwrap().tell_suppressed(later);
            assert_eq!(count("route=a n=3 suppressed=6"), 1);
            assert_eq!(count(": one n=3 suppressed=6"), 1);
            assert_eq!(log.suppressed(), 6 + 6 + 1000 - 34, "what is told is not suppressed");
            log.output.lock().unwrap().tell_suppressed(later);
            assert_eq!(count("suppressed="), 3, "told once");
        });
    }

    #[test]
    fn nginx_level_names() {
        assert_eq!(level("notice"), Some(Level::INFO));
        assert_eq!(level("emerg"), Some(Level::ERROR));
        assert_eq!(level("loud"), None);
    }
}
