//! The calling thread's memory of label sets: one hash and one comparison instead of a lock. The surprise: it is cleared
//! as a whole, when full or when its family dropped series, since that is rarer than it is cheap to be exact.
use super::family::Family;
use super::series::Series;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Label sets remembered per family and thread.
const CAPACITY: usize = 8192;

/// The key is a hash already.
#[derive(Default)]
struct Same(u64);
impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}
type Build = BuildHasherDefault<Same>;

#[derive(Default)]
struct Known {
    epoch: u32,
    series: HashMap<u64, Arc<Series>, Build>,
    folded: HashSet<u64, Build>,
}

thread_local! {
    /// By family number.
    static CACHE: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
}

/// Calls `use_series` with the series of `labels`.
pub(super) fn with<R>(family: &Family, labels: &[&str], use_series: impl FnOnce(&Arc<Series>) -> R) -> R {
    let hash = family.hash(labels);
    CACHE.with(|cache| {
        let Ok(mut cache) = cache.try_borrow_mut() else {
            return use_series(&family.resolve(labels, hash).0);
        };
        if cache.len() <= family.number {
            cache.resize_with(family.number + 1, Known::default);
        }
        let Some(known) = cache.get_mut(family.number) else {
            return use_series(&family.resolve(labels, hash).0);
        };
        let epoch = family.epoch();
        if known.epoch != epoch {
            *known = Known { epoch, ..Known::default() };
        }
        if let Some(series) = known.series.get(&hash)
            && series.matches(labels)
        {
            return use_series(series);
        }
        if known.folded.contains(&hash) {
            return use_series(family.overflow());
        }
        if known.series.len() + known.folded.len() >= CAPACITY {
            known.series.clear();
            known.folded.clear();
        }
        let (series, folded) = family.resolve(labels, hash);
        let done = use_series(&series);
        if folded {
            known.folded.insert(hash);
        } else {
            known.series.insert(hash, series);
        }
        done
    })
}
