//! Families as the rest of the gateway holds them, and handles to single series. The surprise: two ways to update. A
//! handle, resolved once, costs about a nanosecond; `family.add(&labels, n)` looks the labels up in a per-thread cache.
use super::cell::{self, Reader};
use super::family::Family;
use super::label_cache;
use super::series::{Series, Shape};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

macro_rules! family {
    ($family:ident, $handle:ident, $what:literal) => {
        #[doc = concat!("A family of ", $what, ". Cloning is cheap.")]
        #[derive(Clone)]
        pub struct $family(pub(super) Arc<Family>);

        #[doc = concat!("One series of a [`", stringify!($family), "`]. It stays valid as long as it is held.")]
        #[derive(Clone)]
        pub struct $handle {
            first: u32,
            series: Arc<Series>,
            family: Arc<Family>,
        }

        impl $family {
            /// The handle of a label set, in the order the label names were given. Too few values are filled with empty ones,
            /// too many ignored. Over budget: the overflow series. Resolve when configuration compiles, keep, update.
            pub fn with(&self, labels: &[&str]) -> $handle {
                let series = label_cache::with(&self.0, labels, Arc::clone);
                $handle { first: series.first, series, family: self.0.clone() }
            }
            /// Takes a series out of the exposition; it comes back, from zero, when it is updated again.
            pub fn remove(&self, labels: &[&str]) {
                self.0.remove(labels);
            }
        }

        impl $handle {
            /// The family's name.
            pub fn name(&self) -> &str {
                &self.family.name
            }
            /// The label values.
            pub fn labels(&self) -> impl Iterator<Item = &str> {
                self.series.values.iter().map(|value| &**value)
            }
        }
    };
}

family!(Counter, CounterHandle, "counters");
family!(Gauge, GaugeHandle, "gauges");
family!(Histogram, HistogramHandle, "histograms");

impl Counter {
    /// Adds to the series of `labels` without making a handle.
    pub fn add(&self, labels: &[&str], n: u64) {
        label_cache::with(&self.0, labels, |series| cell::add(series.first, n));
    }
}

impl CounterHandle {
    #[inline]
    pub fn inc(&self) {
        cell::add(self.first, 1);
    }
    #[inline]
    pub fn add(&self, n: u64) {
        cell::add(self.first, n);
    }
    /// The count since the series was created, also what expiry hid. Sums over workers: not for the request path.
    pub fn value(&self) -> u64 {
        let mut cells = Vec::new();
        self.series.read(&self.family.shape, &Reader::new(), &mut cells);
        cells.first().copied().unwrap_or(0)
    }
}

impl Gauge {
    /// Sets the series of `labels` without making a handle.
    pub fn set(&self, labels: &[&str], value: f64) {
        label_cache::with(&self.0, labels, |series| series.set_gauge(value));
    }
    /// Adds to the series of `labels` without making a handle.
    pub fn add(&self, labels: &[&str], n: i64) {
        label_cache::with(&self.0, labels, |series| cell::add(series.first, n as u64));
    }
}

impl GaugeHandle {
    /// Sets the value. Slower than [`GaugeHandle::add`] (it sums over workers), and an `add` on another thread at the same
    /// moment may be lost in it: use one of the two per series, or set from one place.
    pub fn set(&self, value: f64) {
        self.series.set_gauge(value);
    }
    /// Adds a whole number; as cheap as a counter. For what goes up and down, such as connections.
    #[inline]
    pub fn add(&self, n: i64) {
        cell::add(self.first, n as u64);
    }
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }
    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }
    /// The present value. Sums over workers: not for the request path.
    pub fn value(&self) -> f64 {
        self.series.gauge(&Reader::new())
    }
    /// Whether it was set since the last scrape.
    pub fn is_fresh(&self) -> bool {
        self.series.touched.load(Relaxed)
    }
}

impl Histogram {
    /// Observes a value in the series of `labels` without making a handle.
    pub fn observe(&self, labels: &[&str], value: f64) {
        label_cache::with(&self.0, labels, |series| observe(&self.0, series.first, value));
    }
}

impl HistogramHandle {
    /// Counts `value` in the first bucket whose bound is not below it. NaN is ignored.
    #[inline]
    pub fn observe(&self, value: f64) {
        observe(&self.family, self.first, value);
    }
    /// Number and sum of the observed values since the series was created. Not for the request path.
    pub fn count_and_sum(&self) -> (u64, f64) {
        let mut cells = Vec::new();
        self.series.read(&self.family.shape, &Reader::new(), &mut cells);
        let sum = cells.pop().map_or(0.0, f64::from_bits);
        (cells.iter().sum(), sum)
    }
}

#[inline]
fn observe(family: &Family, first: u32, value: f64) {
    if let Shape::Histogram(bounds) = &family.shape
        && !value.is_nan()
    {
        let bucket = bounds.partition_point(|bound| *bound < value);
        cell::add(first + bucket as u32, 1);
        cell::add_float(first + bounds.len() as u32 + 1, value);
    }
}
