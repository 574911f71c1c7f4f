//! One series: label values and its block of cells. The surprise: a series takes its cells' old contents as its zero
//! point, because cells are reused without being cleared.
use super::cell::{self, Reader, SINK};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// How a family's cells are laid out.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// One `u64`.
    Counter,
    /// One wrapping `i64` for differences; what was set lives in the series.
    Gauge,
    /// A `u64` per bound, one for `+Inf`, and last the `f64` sum. Bounds are sorted, finite and differ.
    Histogram(Box<[f64]>),
}

impl Shape {
    pub(super) fn cells(&self) -> usize {
        match self {
            Shape::Counter | Shape::Gauge => 1,
            Shape::Histogram(bounds) => bounds.len() + 2,
        }
    }
    /// The present sums of a block.
    pub(super) fn read(&self, reader: &Reader, first: u32, out: &mut Vec<u64>) {
        out.clear();
        match self {
            Shape::Counter | Shape::Gauge => out.push(reader.sum(first)),
            Shape::Histogram(bounds) => {
                let counts = bounds.len() as u32 + 1;
                out.extend((0..counts).map(|i| reader.sum(first + i)));
                out.push(reader.sum_float(first + counts).to_bits());
            }
        }
    }
    /// `now` minus `zero`, cell by cell.
    pub(super) fn subtract(&self, now: &mut [u64], zero: &[u64]) {
        let float = match self {
            Shape::Histogram(bounds) => bounds.len() + 1,
            _ => usize::MAX,
        };
        for (i, (now, zero)) in now.iter_mut().zip(zero).enumerate() {
            *now = if i == float {
                (f64::from_bits(*now) - f64::from_bits(*zero)).to_bits()
            } else {
                now.wrapping_sub(*zero)
            };
        }
    }
}

#[derive(Debug)]
pub(super) struct Series {
    pub(super) values: Box<[Box<str>]>,
    /// `a="b",c="d"`, escaped, or empty.
    pub(super) text: Box<str>,
    pub(super) first: u32,
    length: usize,
    /// The block's contents when this series got it; `None` is all zero.
    pub(super) zero: Option<Box<[u64]>>,
    /// Gauges: the `f64` last set, and whether it was set since the last scrape.
    pub(super) set: AtomicU64,
    pub(super) touched: AtomicBool,
}

impl Series {
    /// A series with fresh cells, or one on the sink when there are none left.
    pub(super) fn new(shape: &Shape, values: Box<[Box<str>]>, text: Box<str>) -> Series {
        let length = shape.cells();
        let (first, used) = cell::allocate(length).unwrap_or((SINK, false));
        let zero = used.then(|| {
            let mut zero = Vec::new();
            shape.read(&Reader::new(), first, &mut zero);
            zero.into_boxed_slice()
        });
        Series { values, text, first, length, zero, set: AtomicU64::new(0), touched: AtomicBool::new(false) }
    }

    pub(super) fn is_sink(&self) -> bool {
        self.first == SINK
    }

    pub(super) fn matches(&self, labels: &[&str]) -> bool {
        self.values.len() == labels.len() && self.values.iter().zip(labels).all(|(own, given)| **own == **given)
    }

    /// Cells since creation.
    pub(super) fn read(&self, shape: &Shape, reader: &Reader, out: &mut Vec<u64>) {
        shape.read(reader, self.first, out);
        if let Some(zero) = &self.zero {
            shape.subtract(out, zero);
        }
    }

    /// A gauge's value.
    pub(super) fn gauge(&self, reader: &Reader) -> f64 {
        f64::from_bits(self.set.load(Relaxed)) + self.difference(reader) as f64
    }

    fn difference(&self, reader: &Reader) -> i64 {
        let zero = self.zero.as_ref().and_then(|zero| zero.first()).copied().unwrap_or(0);
        reader.sum(self.first).wrapping_sub(zero) as i64
    }

    pub(super) fn set_gauge(&self, value: f64) {
        let difference = self.difference(&Reader::new()) as f64;
        self.set.store((value - difference).to_bits(), Relaxed);
        self.touched.store(true, Relaxed);
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        cell::release(self.first, self.length);
    }
}
