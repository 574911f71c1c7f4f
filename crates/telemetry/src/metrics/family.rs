//! A family: one name, its label names, and its series. The surprise: the scraper owns a sorted list of its own, so that the
//! map which requests look into is locked for one entry at a time only.
use super::cell::{self, Reader};
use super::series::{Series, Shape};
use super::text;
use foldhash::fast::FixedState;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// What every label of the overflow series says.
pub(super) const OVERFLOW: &str = "other";

/// Limits of a family.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilyOptions {
    /// A series without an update for so long disappears and starts at zero when it comes back (the `expire` attribute of
    /// apisix/plugins/prometheus/exporter.lua). Judged at scrapes. `None`: never.
    pub expire: Option<Duration>,
    /// Most series at a time; more fold into one series whose labels all say `other`.
    pub budget: usize,
}

impl Default for FamilyOptions {
    fn default() -> Self {
        FamilyOptions { expire: None, budget: 100_000 }
    }
}

/// Series by label values.
type ByValues = HashMap<Box<[Box<str>]>, Arc<Series>>;

pub(super) struct Family {
    pub(super) number: usize,
    pub(super) name: Box<str>,
    pub(super) help: Box<str>,
    pub(super) labels: Box<[Box<str>]>,
    pub(super) shape: Shape,
    pub(super) options: FamilyOptions,
    /// `le="…"` texts of a histogram, `+Inf` last.
    pub(super) bounds: Box<[Box<str>]>,
    map: RwLock<ByValues>,
    /// Created since the last scrape.
    fresh: Mutex<Vec<Arc<Series>>>,
    scrape: Mutex<Vec<Scraped>>,
    shown: AtomicUsize,
    epoch: AtomicU32,
    overflow: OnceLock<Arc<Series>>,
    /// Cell that counts look-ups answered with the overflow series.
    folded: u32,
}

/// A series as the scraper knows it.
pub(super) struct Scraped {
    pub(super) series: Arc<Series>,
    /// Contents when it expired last, subtracted from then on.
    restart: Option<Box<[u64]>>,
    seen: u64,
    changed: Instant,
    hidden: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Family {
    pub(super) fn new(name: &str, help: &str, labels: &[&str], shape: Shape, options: FamilyOptions) -> Family {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let bounds = match &shape {
            Shape::Histogram(bounds) => text::bounds(bounds),
            _ => Box::default(),
        };
        Family {
            number: NUMBER.fetch_add(1, Relaxed),
            name: name.into(),
            help: help.into(),
            labels: labels.iter().map(|label| Box::from(*label)).collect(),
            shape,
            options,
            bounds,
            map: RwLock::default(),
            fresh: Mutex::default(),
            scrape: Mutex::default(),
            shown: AtomicUsize::new(0),
            epoch: AtomicU32::new(0),
            overflow: OnceLock::new(),
            folded: cell::allocate(1).map_or(cell::SINK, |(first, _)| first),
        }
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Relaxed)
    }

    pub(super) fn hash(&self, labels: &[&str]) -> u64 {
        FixedState::with_seed(0x51_u64).hash_one(labels)
    }

    /// Series that are shown.
    pub(super) fn shown(&self) -> usize {
        self.shown.load(Relaxed)
    }

    /// How many look-ups were folded.
    pub(super) fn folded(&self, reader: &Reader) -> u64 {
        reader.sum(self.folded)
    }

    /// The overflow series; counts the fold.
    pub(super) fn overflow(&self) -> &Arc<Series> {
        cell::add(self.folded, 1);
        self.overflow.get_or_init(|| {
            let values: Box<[Box<str>]> = self.labels.iter().map(|_| Box::from(OVERFLOW)).collect();
            let text = text::labels(&self.labels, &values);
            let series = Arc::new(Series::new(&self.shape, values, text));
            lock(&self.fresh).push(series.clone());
            series
        })
    }

    /// Finds or creates a series; `true` when it is the overflow series. Missing labels are empty, further ones ignored.
    pub(super) fn resolve(&self, labels: &[&str], _hash: u64) -> (Arc<Series>, bool) {
        let value = |i| Box::from(labels.get(i).copied().unwrap_or(""));
        let values: Box<[Box<str>]> = (0..self.labels.len()).map(value).collect();
        if let Some(series) = self.map.read().unwrap_or_else(PoisonError::into_inner).get(&values) {
            return (series.clone(), false);
        }
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = map.get(&values) {
            return (series.clone(), false);
        }
        // Expired series that a handle keeps alive are hidden but still cost memory: at most twice the budget in all.
        if self.shown.load(Relaxed) >= self.options.budget || map.len() >= self.options.budget.saturating_mul(2) {
            drop(map);
            return (self.overflow().clone(), true);
        }
        let text = text::labels(&self.labels, &values);
        let series = Arc::new(Series::new(&self.shape, values.clone(), text));
        if series.is_sink() {
            drop(map);
            return (self.overflow().clone(), true);
        }
        map.insert(values, series.clone());
        self.shown.fetch_add(1, Relaxed);
        lock(&self.fresh).push(series.clone());
        (series, false)
    }

    /// Removes one series at once (a route was deleted); handles that still exist bring it back when they are updated.
    pub(super) fn remove(&self, labels: &[&str]) {
        let values: Box<[Box<str>]> = labels.iter().map(|label| Box::from(*label)).collect();
        let series = self.map.read().unwrap_or_else(PoisonError::into_inner).get(&values).cloned();
        let Some(series) = series else { return };
        let mut list = self.take_fresh(Instant::now());
        let reader = Reader::new();
        if let Some(entry) = list.iter_mut().find(|entry| Arc::ptr_eq(&entry.series, &series)) {
            let mut cells = Vec::new();
            series.read(&self.shape, &reader, &mut cells);
            self.hide(entry, &cells, &reader);
        }
        drop(series);
        self.purge(&mut list);
    }

    fn take_fresh(&self, now: Instant) -> MutexGuard<'_, Vec<Scraped>> {
        let mut list = lock(&self.scrape);
        let fresh = std::mem::take(&mut *lock(&self.fresh));
        if !fresh.is_empty() {
            list.extend(fresh.into_iter().map(|series| Scraped {
                series,
                restart: None,
                seen: 0,
                changed: now,
                hidden: false,
            }));
            list.sort_by(|a, b| a.series.text.cmp(&b.series.text));
        }
        list
    }

    /// `cells` is what was last shown, unadjusted, so that an update since then brings the series back and is counted.
    fn hide(&self, entry: &mut Scraped, cells: &[u64], reader: &Reader) {
        if entry.hidden {
            return;
        }
        if self.shape == Shape::Gauge {
            entry.seen = entry.series.gauge(reader).to_bits();
        } else {
            entry.seen = 0;
            entry.restart = Some(cells.into());
        }
        entry.hidden = true;
        if !self.is_overflow(&entry.series) {
            self.shown.fetch_sub(1, Relaxed);
        }
        self.epoch.fetch_add(1, Relaxed);
    }

    fn is_overflow(&self, series: &Arc<Series>) -> bool {
        self.overflow.get().is_some_and(|overflow| Arc::ptr_eq(overflow, series))
    }

    /// Forgets hidden series that nobody holds: the map, this list, and no handle.
    fn purge(&self, list: &mut Vec<Scraped>) {
        list.retain(|entry| {
            if !entry.hidden || self.is_overflow(&entry.series) {
                return true;
            }
            let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
            let held = Arc::strong_count(&entry.series) > 2;
            if !held {
                map.remove(&entry.series.values);
            }
            held
        });
    }

    pub(super) fn expires(&self) -> bool {
        self.options.expire.is_some()
    }

    /// Calls `show` for every live series in label order with its cells (gauges: the bits of the value), and expires.
    pub(super) fn scrape(&self, reader: &Reader, now: Instant, mut show: impl FnMut(&Series, &[u64])) {
        let mut list = self.take_fresh(now);
        let (mut cells, mut unadjusted) = (Vec::new(), Vec::new());
        let mut any_hidden = false;
        for entry in list.iter_mut() {
            entry.series.read(&self.shape, reader, &mut cells);
            unadjusted.clone_from(&cells);
            if let Some(restart) = &entry.restart {
                self.shape.subtract(&mut cells, restart);
            }
            let touched = entry.series.touched.swap(false, Relaxed);
            if self.shape == Shape::Gauge {
                cells.clear();
                cells.push(entry.series.gauge(reader).to_bits());
            }
            if self.options.expire.is_some() || entry.hidden {
                let mark = mark(&self.shape, &cells);
                if touched || mark != entry.seen {
                    entry.seen = mark;
                    entry.changed = now;
                    if std::mem::take(&mut entry.hidden) && !self.is_overflow(&entry.series) {
                        self.shown.fetch_add(1, Relaxed);
                    }
                } else if let Some(expire) = self.options.expire
                    && now.saturating_duration_since(entry.changed) >= expire
                {
                    self.hide(entry, &unadjusted, reader);
                }
            }
            any_hidden |= entry.hidden;
            if !entry.hidden {
                show(&entry.series, &cells);
            }
        }
        if any_hidden {
            self.purge(&mut list);
        }
    }
}

/// A number that changes with every update: the count of updates, or a gauge's bits.
fn mark(shape: &Shape, cells: &[u64]) -> u64 {
    match shape {
        Shape::Histogram(bounds) => cells.iter().take(bounds.len() + 1).fold(0, |sum, n| sum.wrapping_add(*n)),
        _ => cells.first().copied().unwrap_or(0),
    }
}
