//! The table against a plain map, its bounds, and its exactness over threads.
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

impl<V: Copy + Default> Counters<V> {
    /// Number of keys held, expired ones included.
    fn len(&self) -> usize {
        self.shards.iter().map(|s| s.0.lock().unwrap_or_else(PoisonError::into_inner).len).sum()
    }

    /// Whether no key is held.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all entries, used or not.
    fn bytes(&self) -> usize {
        let slots: usize =
            self.shards.iter().map(|s| s.0.lock().unwrap_or_else(PoisonError::into_inner).entries.len()).sum();
        slots * size_of::<Entry<V>>()
    }
}

fn add(counters: &Counters<u64>, prefix: Prefix, key: u32, now: u64, window: u64) -> u64 {
    let key = counters.key(prefix, &key.to_be_bytes());
    let added = counters.update(key, now, |entry| {
        if entry.end == 0 {
            entry.end = now + window;
        }
        entry.value += 1;
        entry.value
    });
    added.unwrap()
}

#[test]
fn an_entry_begins_anew_after_its_end() {
    let counters = Counters::new(100);
    let prefix = counters.prefix("p");
    assert_eq!(add(&counters, prefix, 1, 1000, 50), 1);
    assert_eq!(add(&counters, prefix, 1, 1049, 50), 2);
    assert_eq!(add(&counters, prefix, 1, 1050, 50), 1);
    assert_eq!(add(&counters, counters.prefix("q"), 1, 1050, 50), 1);
}

#[test]
fn an_entry_left_without_end_is_not_kept() {
    let counters: Counters<u64> = Counters::new(100);
    let key = counters.key(counters.prefix("p"), b"k");
    assert_eq!(counters.update(key, 5, |entry| entry.end), Ok(0));
    assert!(counters.is_empty());
}

#[test]
fn a_flood_of_keys_stays_within_the_bound() {
    let counters = Counters::new(20_000);
    let prefix = counters.prefix("p");
    // Ten times the maximum, all live.
    for key in 0..200_000 {
        add(&counters, prefix, key, 1_000_000, 60_000);
        assert!(key % 10_000 != 0 || counters.len() <= 20_000 + SHARDS);
    }
    assert!(counters.len() <= 20_000 + SHARDS && counters.len() > 18_000, "{}", counters.len());
    assert!(counters.bytes() <= 20_000 * 4 * size_of::<Entry<u64>>(), "{}", counters.bytes());
    assert_eq!(size_of::<Entry<u64>>(), 32);
}

#[test]
fn expired_entries_make_room_without_eviction() {
    let counters = Counters::new(6400);
    let prefix = counters.prefix("p");
    for key in 0..100_000u32 {
        // A thousand keys live at any time.
        add(&counters, prefix, key, u64::from(key) + 1, 1000);
    }
    assert!(counters.len() < 6400, "{}", counters.len());
    assert!(counters.bytes() < 6400 * 64, "{}", counters.bytes());
}

#[test]
fn the_one_that_ends_first_goes_first() {
    let counters = Counters::new(SHARDS * 16);
    let prefix = counters.prefix("p");
    add(&counters, prefix, 0, 1000, 1_000_000);
    for key in 1..20_000 {
        add(&counters, prefix, key, 1000, 10_000);
    }
    assert_eq!(add(&counters, prefix, 0, 1001, 1_000_000), 2);
}

#[test]
fn pinned_entries_are_never_evicted() {
    let counters: Counters<u64> = Counters::new(SHARDS);
    let prefix = counters.prefix("p");
    let pin = |n: u32| counters.update(counters.key(prefix, &n.to_be_bytes()), 1, |e| e.end = PINNED);
    let refused = (0..1000).filter(|n| pin(*n) == Err(Full)).count();
    assert_eq!(counters.len() + refused, 1000);
    assert!(counters.len() <= SHARDS && refused > 0);
}

#[test]
fn threads_never_exceed_the_count() {
    let counters = Counters::new(1000);
    let prefix = counters.prefix("p");
    let passed: usize = std::thread::scope(|scope| {
        let run = || (0..5000).filter(|n| add(&counters, prefix, n % 7, 1000, 50) <= 100).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(passed, 700);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn counts_as_a_map_does(steps in prop::collection::vec((0u32..200, 0u64..40, 1u64..300), 1..600)) {
        let counters = Counters::new(100_000);
        let prefix = counters.prefix("p");
        let mut model: HashMap<u32, (u64, u64)> = HashMap::new();
        let mut now = 1;
        for (key, pause, window) in steps {
            now += pause;
            let entry = model.entry(key).or_insert((0, 0));
            if entry.0 <= now {
                *entry = (now + window, 0);
            }
            entry.1 += 1;
            prop_assert_eq!(add(&counters, prefix, key, now, window), entry.1);
        }
    }
}

/// `cargo test --release -p sluice-plugins-traffic -- --ignored --nocapture ten_million`
#[test]
#[ignore = "a measurement"]
fn ten_million_keys() {
    for max in [1_000_000, 20_000_000] {
        let counters = Counters::new(max);
        let prefix = counters.prefix("p");
        let time = |keys: &mut dyn Iterator<Item = u32>| {
            let begin = std::time::Instant::now();
            let mut count = 0;
            for key in keys {
                add(&counters, prefix, key, 1_000_000, 60_000);
                count += 1;
            }
            begin.elapsed().as_nanos() / count
        };
        let new = time(&mut (0..10_000_000));
        let hot = time(&mut (0..10_000_000).map(|n| n % 1000));
        println!(
            "at most {max}: {} held in {} MiB; new {new} ns, hot {hot} ns",
            counters.len(),
            counters.bytes() >> 20
        );
        assert!(counters.len() <= max + SHARDS);
    }
}
