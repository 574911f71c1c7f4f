//! Weighted round robin: one atomic step per pick, exact over every cycle.
//!
//! The surprise: no state but a counter. A cycle of up to [`SEQUENCE_LIMIT`] steps is written out in smooth order
//! (nginx's smooth weighted round robin); a longer one maps step `i` to `i × stride mod total` with a stride coprime
//! to the total, a permutation of the cycle that spreads, found in the cumulative weights by binary search.
//! Distribution is that of lua-resty-balancer's roundrobin; the order within a cycle is smoother than there.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::endpoint::Endpoint;
use crate::tried::Tried;

/// Longest cycle written out: 4 bytes a step.
pub const SEQUENCE_LIMIT: u64 = 4096;

#[repr(align(64))]
#[derive(Debug)]
struct Counter(AtomicU64);

#[derive(Debug)]
enum Cycle {
    Written(Box<[u32]>),
    Strided { total: u64, stride: u64, ends: Box<[u64]> },
}

/// Compiled round robin over some of a balancer's nodes.
#[derive(Debug)]
pub struct RoundRobin {
    cycle: Cycle,
    members: Box<[u32]>,
    counters: Box<[Counter]>,
}

pub(crate) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Weights of `members` as used: divided by their common divisor; all zero counts as all one, because APISIX goes
/// on with weight-0 nodes when nothing else is left (t/node/healthcheck-passive). Nodes without weight are left out.
/// `percents`: of its weight that each node has by its index, see [`crate::slow_start`]; empty for all of it.
pub(crate) fn effective_weights(nodes: &[Endpoint], members: &[u32], percents: &[u8]) -> (Vec<u32>, Vec<u64>) {
    let percent = |index: &u32| percents.get(*index as usize).map_or(100, |percent| u64::from(*percent));
    let weight = |index: &u32| nodes.get(*index as usize).map_or(0, |node| u64::from(node.weight)) * percent(index);
    let divisor = members.iter().map(weight).fold(0, gcd);
    if divisor == 0 {
        return (members.to_vec(), vec![1; members.len()]);
    }
    members.iter().map(|index| (*index, weight(index) / divisor)).filter(|(_, weight)| *weight > 0).unzip()
}

impl RoundRobin {
    /// `shards`: counters to spread workers over (1 = one order for all). `start`: where the cycle begins.
    pub fn build(nodes: &[Endpoint], members: &[u32], shards: u16, start: u64) -> RoundRobin {
        RoundRobin::build_warming(nodes, members, &[], shards, start)
    }

    /// With shares of weights, see [`crate::slow_start`].
    pub(crate) fn build_warming(
        nodes: &[Endpoint],
        members: &[u32],
        percents: &[u8],
        shards: u16,
        start: u64,
    ) -> RoundRobin {
        let (members, weights) = effective_weights(nodes, members, percents);
        let total: u64 = weights.iter().sum();
        let cycle = if total <= SEQUENCE_LIMIT {
            Cycle::Written(smooth(&members, &weights, total))
        } else {
            let mut end = 0;
            let ends = weights.iter().map(|weight| {
                end += weight;
                end
            });
            Cycle::Strided { total, ends: ends.collect(), stride: stride(total) }
        };
        let shards = u64::from(shards.max(1));
        // workers begin at different places of the cycle, so that a burst over all of them spreads too
        let counter = |shard| Counter(AtomicU64::new((start % total.max(1)) + shard * total / shards));
        RoundRobin { cycle, members: members.into(), counters: (0..shards).map(counter).collect() }
    }

    #[inline]
    fn step(&self, worker: u16) -> u64 {
        let counter = match &*self.counters {
            [only] => only,
            several => match several.get(usize::from(worker) % several.len().max(1)) {
                Some(counter) => counter,
                None => return 0,
            },
        };
        counter.0.fetch_add(1, Ordering::Relaxed)
    }

    #[inline]
    fn at(&self, step: u64) -> Option<u32> {
        match &self.cycle {
            Cycle::Written(order) => {
                let len = order.len() as u64;
                if len == 0 {
                    return None;
                }
                order.get((step % len) as usize).copied()
            }
            Cycle::Strided { total, stride, ends } => {
                let spot = match (step % total).checked_mul(*stride) {
                    Some(product) => product % total,
                    None => (u128::from(step % total) * u128::from(*stride) % u128::from(*total)) as u64,
                };
                self.members.get(ends.partition_point(|end| *end <= spot)).copied()
            }
        }
    }

    /// The next node in turn. A retry goes on in the cycle until a node comes that was not tried.
    #[inline]
    pub fn pick(&self, worker: u16, tried: &Tried) -> Option<u32> {
        let node = self.at(self.step(worker))?;
        if tried.is_empty() || !tried.contains(node) {
            return Some(node);
        }
        self.pick_again(worker, tried)
    }

    #[cold]
    fn pick_again(&self, worker: u16, tried: &Tried) -> Option<u32> {
        for _ in 0..2 * self.members.len() {
            let node = self.at(self.step(worker))?;
            if !tried.contains(node) {
                return Some(node);
            }
        }
        // heavy neighbours can fill that many steps; weights matter no more then
        self.members.iter().copied().find(|node| !tried.contains(*node))
    }
}

/// nginx's smooth order: each step the node with the highest credit, which then pays the total.
fn smooth(members: &[u32], weights: &[u64], total: u64) -> Box<[u32]> {
    if weights.iter().all(|weight| *weight == 1) {
        return members.into();
    }
    let mut credit = vec![0i64; members.len()];
    (0..total)
        .filter_map(|_| {
            let mut best: Option<usize> = None;
            for (index, weight) in weights.iter().enumerate() {
                credit[index] += *weight as i64;
                if best.is_none_or(|best| credit[index] > credit[best]) {
                    best = Some(index);
                }
            }
            let best = best?;
            credit[best] -= total as i64;
            members.get(best).copied()
        })
        .collect()
}

/// Near the golden section of the total (well spread), coprime to it (every step of the cycle once).
fn stride(total: u64) -> u64 {
    let mut stride = ((total as f64) * 0.618_033_988_749_895) as u64 | 1;
    while gcd(stride, total) != 1 {
        stride += 1;
    }
    stride
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(weights: &[u32]) -> (Vec<Endpoint>, Vec<u32>) {
        let nodes: Vec<_> = weights.iter().map(|weight| Endpoint::new("127.0.0.1", 80, *weight)).collect();
        let members = (0..nodes.len() as u32).collect();
        (nodes, members)
    }

    fn order(weights: &[u32], steps: usize) -> Vec<u32> {
        let (nodes, members) = nodes(weights);
        let picker = RoundRobin::build(&nodes, &members, 1, 0);
        (0..steps).map(|_| picker.pick(0, &Tried::new()).unwrap()).collect()
    }

    #[test]
    fn spreads_the_heavy_node() {
        assert_eq!(order(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(order(&[10, 10], 4), [0, 1, 0, 1]);
        assert_eq!(order(&[0, 3], 3), [1, 1, 1]);
    }

    #[test]
    fn without_any_weight_all_are_equal() {
        assert_eq!(order(&[0, 0], 4), [0, 1, 0, 1]);
    }

    #[test]
    fn workers_with_their_own_counter_are_exact_each() {
        let (nodes, members) = nodes(&[3, 1]);
        let picker = RoundRobin::build(&nodes, &members, 2, 0);
        for worker in [0, 1, 5] {
            let light = (0..40).filter(|_| picker.pick(worker, &Tried::new()) == Some(1)).count();
            assert_eq!(light, 10);
        }
    }

    #[test]
    fn a_retry_finds_the_light_node() {
        let (nodes, members) = nodes(&[1_000_000, 1]);
        let picker = RoundRobin::build(&nodes, &members, 1, 0);
        let mut tried = Tried::new();
        tried.insert(0);
        assert_eq!(picker.pick(0, &tried), Some(1));
        tried.insert(1);
        assert_eq!(picker.pick(0, &tried), None);
    }

    #[test]
    fn no_members_no_node() {
        assert_eq!(RoundRobin::build(&[], &[], 1, 7).pick(0, &Tried::new()), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn weights_are_exact_over_a_cycle(
            weights in prop_oneof![
                prop::collection::vec(0u32..20, 1..12),
                prop::collection::vec(0u32..9000, 1..12),
            ],
            start in any::<u64>(),
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let (nodes, members) = nodes(&weights);
            let picker = RoundRobin::build(&nodes, &members, 1, start);
            let divisor = weights.iter().fold(0, |a, b| gcd(a, u64::from(*b)));
            let total: u64 = weights.iter().map(|weight| u64::from(*weight) / divisor).sum();
            for _ in 0..2 {
                let mut counts = vec![0u64; weights.len()];
                for _ in 0..total {
                    counts[picker.pick(0, &Tried::new()).unwrap() as usize] += 1;
                }
                let wanted: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) / divisor).collect();
                prop_assert_eq!(counts, wanted);
            }
        }

        #[test]
        fn long_cycles_spread(first in 5000u32..100_000, second in 5000u32..100_000) {
            prop_assume!(gcd(first.into(), second.into()) == 1);
            let picks = order(&[first, second], 1000);
            let share = picks.iter().filter(|node| **node == 0).count() as f64;
            let wanted = 1000.0 * f64::from(first) / (f64::from(first) + f64::from(second));
            prop_assert!((share - wanted).abs() < 25.0, "{share} {wanted}");
        }
    }

    #[test]
    fn threads_share_one_exact_cycle() {
        let (nodes, members) = nodes(&[3, 2, 1]);
        let picker = RoundRobin::build(&nodes, &members, 1, 0);
        let counts: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..6000 {
                        let node = picker.pick(0, &Tried::new()).unwrap();
                        counts[node as usize].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let counts: Vec<u64> = counts.into_iter().map(AtomicU64::into_inner).collect();
        assert_eq!(counts, [12_000, 8000, 4000]);
    }
}
