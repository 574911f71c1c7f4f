//! Ids of traces and spans: random, not secret. The surprise: a generator for secrets costs more than all the rest that an
//! unsampled request pays, so each thread has a small one of its own (splitmix64), begun with a secret seed.
use std::cell::Cell;

/// 64 random bits.
#[inline]
fn next() -> u64 {
    thread_local! {
        /// 0: not seeded yet.
        static STATE: Cell<u64> = const { Cell::new(0) };
    }
    STATE.with(|state| {
        let mut seed = state.get();
        if seed == 0 {
            seed = rand::random();
        }
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(seed);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// Never 0, which is no id.
#[inline]
pub fn span() -> u64 {
    next().max(1)
}

/// Never 0, which is no id.
#[inline]
pub fn trace() -> u128 {
    (u128::from(next()) << 64 | u128::from(next())).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn ids_differ_between_and_within_threads() {
        let of_a_thread = || (0..1000).map(|_| super::span()).collect::<Vec<u64>>();
        let others = std::thread::spawn(of_a_thread).join().unwrap();
        let all: HashSet<u64> = of_a_thread().into_iter().chain(others).collect();
        assert_eq!(all.len(), 2000);
        // What samplers look at is spread evenly.
        let low = (0..4000).filter(|_| super::trace() >> 127 == 0).count();
        assert!((1800..2200).contains(&low), "{low}");
    }
}
