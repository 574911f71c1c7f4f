//! Peak-less moving average of latency, two nodes by chance, the faster wins (apisix/balancer/ewma.lua).
//!
//! The surprise: the average and the time of its last touch share one atomic word (`f32` milliseconds, low 32 bits of
//! the millisecond clock), so that they change together without a lock. A node without a sample scores 0 and is tried
//! first. Weights count as "0 or not" only, as APISIX ignores them here.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::random::scale;
use crate::roundrobin::effective_weights;
use crate::tried::Tried;

/// After this many milliseconds an average weighs 1/e of itself.
pub const DECAY_MS: f32 = 10_000.0;

/// Compiled EWMA choice over some of a balancer's nodes.
#[derive(Debug)]
pub struct Ewma {
    members: Box<[u32]>,
}

impl Ewma {
    pub fn build(nodes: &[Endpoint], members: &[u32]) -> Ewma {
        Ewma { members: effective_weights(nodes, members, &[]).0.into() }
    }

    /// Two different nodes by chance, the one with the lower decayed average.
    pub fn pick(&self, nodes: &[Endpoint], random: u64, now_ms: u64, tried: &Tried) -> Option<u32> {
        if !tried.is_empty() {
            let left: smallvec::SmallVec<[u32; 16]> =
                self.members.iter().copied().filter(|node| !tried.contains(*node)).collect();
            return choose(&left, nodes, random, now_ms);
        }
        choose(&self.members, nodes, random, now_ms)
    }
}

#[inline]
fn choose(members: &[u32], nodes: &[Endpoint], random: u64, now_ms: u64) -> Option<u32> {
    let len = members.len() as u64;
    if len < 2 {
        return members.first().copied();
    }
    let first = scale(random, len);
    let mut second = scale(random.rotate_left(32), len - 1);
    if second >= first {
        second += 1;
    }
    let (first, second) = (*members.get(first as usize)?, *members.get(second as usize)?);
    let value = |index: u32| nodes.get(index as usize).map_or(f32::MAX, |node| score(&node.state.ewma, now_ms));
    Some(if value(first) > value(second) { second } else { first })
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

fn pack(average: f32, touched: u32) -> u64 {
    u64::from(average.to_bits()) << 32 | u64::from(touched)
}

/// How much of the average is left; a clock that went back counts as no time.
fn left(touched: u32, now: u32) -> f32 {
    let passed = now.wrapping_sub(touched) as i32;
    (-(passed.max(0) as f32) / DECAY_MS).exp()
}

/// The average as it stands now, decayed since its last sample. 0 without a sample.
pub(crate) fn score(word: &AtomicU64, now_ms: u64) -> f32 {
    match word.load(Ordering::Relaxed) {
        0 => 0.0,
        bits => {
            let (average, touched) = unpack(bits);
            average * left(touched, now_ms as u32)
        }
    }
}

/// Takes in a sample. The first one counts in full.
pub(crate) fn sample(word: &AtomicU64, latency: Duration, now_ms: u64) {
    let (latency, now) = (latency.as_secs_f32() * 1000.0, now_ms as u32);
    let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
        let share = if bits == 0 { 0.0 } else { left(unpack(bits).1, now) };
        let average = unpack(bits).0 * share + latency * (1.0 - share);
        // 0 is "never": a touched word differs from it
        Some(pack(average.max(f32::MIN_POSITIVE), now))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_decay_with_ten_seconds() {
        let word = AtomicU64::new(0);
        assert_eq!(score(&word, 5), 0.0);
        sample(&word, Duration::from_millis(100), 1000);
        assert!((score(&word, 1000) - 100.0).abs() < 0.01);
        assert!((score(&word, 11_000) - 36.79).abs() < 0.01);
        // the clock going back changes nothing
        assert!((score(&word, 500) - 100.0).abs() < 0.01);
        sample(&word, Duration::from_millis(200), 11_000);
        assert!((score(&word, 11_000) - 163.21).abs() < 0.01);
    }

    #[test]
    fn the_faster_of_two_wins() {
        let nodes = [Endpoint::new("a", 80, 1), Endpoint::new("b", 80, 9), Endpoint::new("c", 80, 0)];
        let picker = Ewma::build(&nodes, &[0, 1, 2]);
        sample(&nodes[0].state.ewma, Duration::from_millis(50), 1000);
        sample(&nodes[1].state.ewma, Duration::from_millis(10), 1000);
        for random in [0, 1 << 31, 1 << 63, u64::MAX, 0x1234_5678_9abc_def0] {
            assert_eq!(picker.pick(&nodes, random, 1500, &Tried::new()), Some(1));
        }
        let mut tried = Tried::new();
        tried.insert(1);
        assert_eq!(picker.pick(&nodes, 7, 1500, &tried), Some(0));
        tried.insert(0);
        assert_eq!(picker.pick(&nodes, 7, 1500, &tried), None);
    }
}
