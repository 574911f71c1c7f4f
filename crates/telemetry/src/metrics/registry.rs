//! The registry: families by name, and rendering. The surprise: asking for a family that exists with the same definition
//! returns it, so that plugins may be rebuilt on every configuration change without losing counts.
use super::cell::Reader;
use super::family::{Family, FamilyOptions, OVERFLOW};
use super::handle::{Counter, Gauge, Histogram};
use super::series::Shape;
use super::text;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Most samples of a callback family, as many as a counted family has series unless told otherwise.
const MAX_SAMPLES: usize = 100_000;
/// Most bounds of a histogram.
const MAX_BOUNDS: usize = 1000;

/// Why a family cannot be registered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MetricError {
    #[error("metric {0} is already registered with another definition")]
    Conflict(String),
    #[error("invalid metric name or label name: {0:?}")]
    Name(String),
    #[error("metric {0}: bucket bounds must be finite numbers, at least one and at most {MAX_BOUNDS}")]
    Buckets(String),
}

/// What a callback family reports as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// Where a callback puts its samples during a scrape.
pub struct Samples<'a> {
    labels: &'a [Box<str>],
    lines: Vec<(Box<str>, f64)>,
    /// Sum and number of what found no place.
    rest: (f64, u64),
}

impl Samples<'_> {
    /// Adds the value of one label set. Beyond the family's budget values are summed up in one series whose labels all say
    /// `other`.
    pub fn push(&mut self, labels: &[&str], value: f64) {
        if self.lines.len() >= MAX_SAMPLES {
            self.rest = (self.rest.0 + value, self.rest.1 + 1);
            return;
        }
        let values: Box<[Box<str>]> = labels.iter().map(|label| Box::from(*label)).collect();
        self.lines.push((text::labels(self.labels, &values), value));
    }
}

type Collect = Arc<dyn Fn(&mut Samples<'_>) + Send + Sync>;

struct Callback {
    help: Box<str>,
    labels: Box<[Box<str>]>,
    kind: Kind,
    collect: Collect,
    folded: AtomicU64,
}

#[derive(Clone)]
enum Entry {
    Family(Arc<Family>),
    Callback(Arc<Callback>),
}

/// A set of families that are shown together. Cloning shares it.
#[derive(Clone, Default)]
pub struct Registry {
    entries: Arc<Mutex<BTreeMap<Box<str>, Entry>>>,
}

impl Registry {
    pub fn new() -> Registry {
        Registry::default()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn family(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        shape: Shape,
        options: FamilyOptions,
    ) -> Result<Arc<Family>, MetricError> {
        check_names(name, labels)?;
        let mut entries = self.entries();
        match entries.get(name) {
            Some(Entry::Family(known))
                if known.shape == shape
                    && known.options == options
                    && known.labels.iter().map(|label| &**label).eq(labels.iter().copied()) =>
            {
                Ok(known.clone())
            }
            Some(_) => Err(MetricError::Conflict(name.to_owned())),
            None => {
                let family = Arc::new(Family::new(name, help, labels, shape, options));
                entries.insert(name.into(), Entry::Family(family.clone()));
                Ok(family)
            }
        }
    }

    /// A family of counters: the existing one if it was registered with the same definition, else a new one.
    pub fn counter(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        options: FamilyOptions,
    ) -> Result<Counter, MetricError> {
        self.family(name, help, labels, Shape::Counter, options).map(Counter)
    }

    /// A family of gauges.
    pub fn gauge(&self, name: &str, help: &str, labels: &[&str], options: FamilyOptions) -> Result<Gauge, MetricError> {
        self.family(name, help, labels, Shape::Gauge, options).map(Gauge)
    }

    /// A family of histograms. Bounds may come in any order; equal ones count once; `+Inf` is implied.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        bounds: &[f64],
        options: FamilyOptions,
    ) -> Result<Histogram, MetricError> {
        if bounds.is_empty() || bounds.len() > MAX_BOUNDS || bounds.iter().any(|bound| !bound.is_finite()) {
            return Err(MetricError::Buckets(name.to_owned()));
        }
        let mut bounds = bounds.to_vec();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        self.family(name, help, labels, Shape::Histogram(bounds.into()), options).map(Histogram)
    }

    /// A family whose samples are asked for at each scrape, on the scraping thread. Replaces one of the same name.
    pub fn callback(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        kind: Kind,
        collect: impl Fn(&mut Samples<'_>) + Send + Sync + 'static,
    ) -> Result<(), MetricError> {
        check_names(name, labels)?;
        let mut entries = self.entries();
        if let Some(Entry::Family(_)) = entries.get(name) {
            return Err(MetricError::Conflict(name.to_owned()));
        }
        let labels = labels.iter().map(|label| Box::from(*label)).collect();
        let folded = AtomicU64::new(0);
        let callback = Callback { help: help.into(), labels, kind, collect: Arc::new(collect), folded };
        entries.insert(name.into(), Entry::Callback(Arc::new(callback)));
        Ok(())
    }

    /// Counts updates that went to an overflow series, per family, under `name` (label `family`).
    pub fn report_folded(&self, name: &str) -> Result<(), MetricError> {
        // Weak: the registry must not keep itself alive through its own callback.
        let entries = Arc::downgrade(&self.entries);
        let help = "Updates folded into a family's overflow series because its series budget was used up";
        self.callback(name, help, &["family"], Kind::Counter, move |samples| {
            let Some(entries) = entries.upgrade() else { return };
            let reader = Reader::new();
            for (name, entry) in all(&entries) {
                let folded = match entry {
                    Entry::Family(family) => family.folded(&reader),
                    Entry::Callback(callback) => callback.folded.load(Relaxed),
                };
                if folded > 0 {
                    samples.push(&[&name], folded as f64);
                }
            }
        })
    }

    /// Shows how many series each counted family with labels has, if any, under `name` (label `family`).
    pub fn report_series(&self, name: &str) -> Result<(), MetricError> {
        let entries = Arc::downgrade(&self.entries);
        self.callback(name, "Series of a family", &["family"], Kind::Gauge, move |samples| {
            let Some(entries) = entries.upgrade() else { return };
            for (name, entry) in all(&entries) {
                if let Entry::Family(family) = entry
                    && !family.labels.is_empty()
                    && family.shown() > 0
                {
                    samples.push(&[&name], family.shown() as f64);
                }
            }
        })
    }

    /// Notes as of `now` which series of families with `expire` have moved, and lets the others expire, without showing
    /// anything. [`Registry::render`] does it too.
    pub fn expire(&self, now: Instant) {
        let entries: Vec<Entry> = self.entries().values().cloned().collect();
        let reader = Reader::new();
        for entry in entries {
            if let Entry::Family(family) = entry
                && family.expires()
            {
                family.scrape(&reader, now, |_, _| {});
            }
        }
    }

    /// Appends all families, sorted by name, in text format 0.0.4 (`text/plain; version=0.0.4`), and lets series expire as
    /// of `now`. Families without a sample are left out.
    pub fn render(&self, now: Instant, out: &mut Vec<u8>) {
        let reader = Reader::new();
        for (name, entry) in all(&self.entries) {
            match entry {
                Entry::Family(family) => {
                    let kind = match family.shape {
                        Shape::Counter => "counter",
                        Shape::Gauge => "gauge",
                        Shape::Histogram(_) => "histogram",
                    };
                    let mut head = false;
                    family.scrape(&reader, now, |series, cells| {
                        if !head {
                            text::header(&name, &family.help, kind, out);
                            head = true;
                        }
                        text::series(&family, &series.text, cells, out);
                    });
                }
                Entry::Callback(callback) => {
                    let mut samples = Samples { labels: &callback.labels, lines: Vec::new(), rest: (0.0, 0) };
                    (callback.collect)(&mut samples);
                    let (mut lines, (rest, folds)) = (samples.lines, samples.rest);
                    if folds > 0 {
                        callback.folded.fetch_add(folds, Relaxed);
                        let others: Box<[Box<str>]> = callback.labels.iter().map(|_| Box::from(OVERFLOW)).collect();
                        lines.push((text::labels(&callback.labels, &others), rest));
                    }
                    if lines.is_empty() {
                        continue;
                    }
                    lines.sort_by(|a, b| a.0.cmp(&b.0));
                    let kind = match callback.kind {
                        Kind::Counter => "counter",
                        Kind::Gauge => "gauge",
                    };
                    text::header(&name, &callback.help, kind, out);
                    for (labels, value) in lines {
                        text::start(&name, "", &labels, None, out);
                        text::number(value, out);
                        out.push(b'\n');
                    }
                }
            }
        }
    }
}

fn all(entries: &Mutex<BTreeMap<Box<str>, Entry>>) -> Vec<(Box<str>, Entry)> {
    let entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    entries.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect()
}

fn check_names(name: &str, labels: &[&str]) -> Result<(), MetricError> {
    let valid = |text: &str, colon: bool| {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
        text.starts_with(|c: char| !c.is_ascii_digit() && good(c)) && text.chars().all(good)
    };
    let bad = (!valid(name, true))
        .then_some(name)
        .or_else(|| labels.iter().copied().find(|label| !valid(label, false) || *label == "le"));
    bad.map_or(Ok(()), |bad| Err(MetricError::Name(bad.to_owned())))
}
