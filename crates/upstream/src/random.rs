//! Weighted random choice (`type: random`, ours; APISIX has none).
use crate::endpoint::Endpoint;
use crate::roundrobin::effective_weights;
use crate::tried::Tried;

/// Compiled random choice over some of a balancer's nodes.
#[derive(Debug)]
pub struct Random {
    members: Box<[u32]>,
    /// Cumulative weights; empty when all are equal.
    ends: Box<[u64]>,
}

/// `random` scaled to `0..bound` without division.
#[inline]
pub(crate) fn scale(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

impl Random {
    pub fn build(nodes: &[Endpoint], members: &[u32], percents: &[u8]) -> Random {
        let (members, weights) = effective_weights(nodes, members, percents);
        let mut end = 0;
        let equal = weights.iter().all(|weight| *weight == 1);
        let mut cumulate = |weight| {
            end += weight;
            end
        };
        let ends = if equal { Box::default() } else { weights.into_iter().map(&mut cumulate).collect() };
        Random { members: members.into(), ends }
    }

    /// A node by chance; among those not tried when some were.
    #[inline]
    pub fn pick(&self, random: u64, tried: &Tried) -> Option<u32> {
        if !tried.is_empty() {
            return self.pick_again(random, tried);
        }
        let slot = match self.ends.last() {
            None => scale(random, self.members.len() as u64) as usize,
            Some(total) => {
                let spot = scale(random, *total);
                self.ends.partition_point(|end| *end <= spot)
            }
        };
        self.members.get(slot).copied()
    }

    #[cold]
    fn pick_again(&self, random: u64, tried: &Tried) -> Option<u32> {
        let weight = |slot: usize| match (slot.checked_sub(1).map(|last| self.ends.get(last)), self.ends.get(slot)) {
            (None, Some(end)) => *end,
            (Some(Some(last)), Some(end)) => end - last,
            _ => 1,
        };
        let left = || self.members.iter().enumerate().filter(|(_, node)| !tried.contains(**node));
        let total: u64 = left().map(|(slot, _)| weight(slot)).sum();
        let mut spot = scale(random, total);
        for (slot, node) in left() {
            match spot.checked_sub(weight(slot)) {
                None => return Some(*node),
                Some(rest) => spot = rest,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: [u32; 3], tried: &Tried) -> [u32; 3] {
        let nodes = weights.map(|weight| Endpoint::new("127.0.0.1", 80, weight));
        let picker = Random::build(&nodes, &[0, 1, 2], &[]);
        let mut counts = [0; 3];
        for step in 0..600u64 {
            let random = step * (u64::MAX / 600) + 1000;
            counts[picker.pick(random, tried).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn shares_follow_weights() {
        assert_eq!(shares([1, 1, 1], &Tried::new()), [200, 200, 200]);
        assert_eq!(shares([3, 2, 1], &Tried::new()), [300, 200, 100]);
        assert_eq!(shares([3, 0, 1], &Tried::new()), [450, 0, 150]);
    }

    #[test]
    fn the_rest_share_when_one_was_tried() {
        let mut tried = Tried::new();
        tried.insert(0);
        assert_eq!(shares([3, 2, 1], &tried), [0, 400, 200]);
        assert_eq!(shares([1, 1, 1], &tried), [0, 300, 300]);
    }
}
