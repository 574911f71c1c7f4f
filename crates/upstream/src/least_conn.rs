//! Least connections: the node with the fewest requests in flight per weight (apisix/balancer/least_conn.lua).
//!
//! The surprise: the score is `(1 + in flight) / weight` with the new request counted, so an idle upstream prefers
//! weight. Equal scores are broken by chance (APISIX: by heap order), else a quiet upstream would use one node only.
//! A scan, not a heap: no lock, and nodes are few. A node that warms up ([`crate::slow_start`]) takes part in so many picks
//! of a hundred as its share says; a lower weight would keep it idle until the others are many times busier.
use crate::endpoint::Endpoint;
use crate::p2c::mix;
use crate::random::scale;
use crate::roundrobin::effective_weights;
use crate::tried::Tried;

/// Compiled least-connections over some of a balancer's nodes.
#[derive(Debug)]
pub struct LeastConn {
    members: Box<[(u32, u64)]>,
    /// Percent of picks that each member takes part in; empty for all.
    percents: Box<[u8]>,
}

impl LeastConn {
    pub fn build(nodes: &[Endpoint], members: &[u32], percents: &[u8]) -> LeastConn {
        let (members, weights) = effective_weights(nodes, members, &[]);
        let percents = if percents.is_empty() {
            Box::default()
        } else {
            members.iter().map(|index| percents.get(*index as usize).copied().unwrap_or(100)).collect()
        };
        LeastConn { members: members.into_iter().zip(weights).collect(), percents }
    }

    /// `random` breaks ties.
    #[inline]
    pub fn pick(&self, nodes: &[Endpoint], random: u64, tried: &Tried) -> Option<u32> {
        if !self.percents.is_empty() {
            let takes_part = |slot: usize| {
                let percent = self.percents.get(slot).copied().unwrap_or(100);
                scale(mix(random.wrapping_add(slot as u64)), 100) < u64::from(percent)
            };
            if let Some(found) = self.pick_among(nodes, random, tried, takes_part) {
                return Some(found);
            }
        }
        self.pick_among(nodes, random, tried, |_| true)
    }

    #[inline]
    fn pick_among(
        &self,
        nodes: &[Endpoint],
        random: u64,
        tried: &Tried,
        takes_part: impl Fn(usize) -> bool,
    ) -> Option<u32> {
        let len = self.members.len();
        let start = ((u128::from(random) * len as u128) >> 64) as usize;
        let (before, after) = self.members.split_at_checked(start)?;
        let mut best: Option<(u32, u64, u64)> = None;
        for (slot, (index, weight)) in (start..).zip(after).chain((0..).zip(before)) {
            if tried.contains(*index) || !takes_part(slot) {
                continue;
            }
            let Some(node) = nodes.get(*index as usize) else { continue };
            let load = 1 + u64::from(node.state.active());
            // load / weight < best load / best weight; both factors fit 33 bits, the product may not
            let less = best.is_none_or(|(_, best_load, best_weight)| {
                u128::from(load) * u128::from(best_weight) < u128::from(best_load) * u128::from(*weight)
            });
            if less {
                best = Some((*index, load, *weight));
            }
        }
        best.map(|(index, ..)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_follow_weights() {
        let nodes: Vec<_> = [3, 2, 1, 0].map(|weight| Endpoint::new("127.0.0.1", 80, weight)).into();
        let picker = LeastConn::build(&nodes, &[0, 1, 2, 3], &[]);
        for step in 0..60u64 {
            let node = picker.pick(&nodes, step << 58, &Tried::new()).unwrap();
            nodes[node as usize].state.enter();
        }
        let loads: Vec<u32> = nodes.iter().map(|node| node.state.active()).collect();
        assert_eq!(loads, [30, 20, 10, 0]);
        nodes[2].state.leave();
        assert_eq!(picker.pick(&nodes, 0, &Tried::new()), Some(2));
        let mut tried = Tried::new();
        tried.insert(2);
        assert_ne!(picker.pick(&nodes, 0, &tried), Some(2));
    }

    #[test]
    fn chance_breaks_ties() {
        let nodes = [Endpoint::new("a", 80, 1), Endpoint::new("b", 80, 1)];
        let picker = LeastConn::build(&nodes, &[0, 1], &[]);
        assert_eq!(picker.pick(&nodes, 0, &Tried::new()), Some(0));
        assert_eq!(picker.pick(&nodes, u64::MAX, &Tried::new()), Some(1));
    }

    #[test]
    fn a_warming_node_takes_part_in_its_share_of_picks() {
        let nodes = [Endpoint::new("a", 80, 1), Endpoint::new("b", 80, 1)];
        let share = |percent: u8| {
            let picker = LeastConn::build(&nodes, &[0, 1], &[100, percent]);
            (0..10_000u64).filter(|step| picker.pick(&nodes, mix(*step), &Tried::new()) == Some(1)).count()
        };
        let shares = [10, 50, 90].map(share);
        assert!(shares[0].abs_diff(500) < 100 && shares[1].abs_diff(2500) < 200 && shares[2].abs_diff(4500) < 200);
        let mut tried = Tried::new();
        tried.insert(0);
        assert!(
            (0..100)
                .all(|step| LeastConn::build(&nodes, &[0, 1], &[100, 1]).pick(&nodes, mix(step), &tried) == Some(1))
        );
    }
}
