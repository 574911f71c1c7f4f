//! `type: p2c` (ours): of two nodes drawn by weight, the one where a request costs less: latency times requests in flight.
//!
//! The surprise: the first of the two stays sometimes although it is dearer, by [`prefer`]. Equals so share exactly by weight,
//! nodes nearly alike nearly so, and a node that was slow is found well again.
use smallvec::SmallVec;

use crate::endpoint::Endpoint;
use crate::measured::{Cost, lower, prefer};
use crate::random::scale;
use crate::roundrobin::effective_weights;
use crate::tried::Tried;

/// Another 64 random bits out of the same (splitmix64's last steps).
#[inline]
pub(crate) fn mix(random: u64) -> u64 {
    let mut bits = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// `0.0..1.0`
#[inline]
pub(crate) fn fraction(random: u64) -> f32 {
    (random >> 40) as f32 / (1u64 << 24) as f32
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub index: u32,
    pub weight: f32,
    /// Mean weight over its own.
    pub inverse: f32,
}

/// Nodes to draw by weight.
#[derive(Debug)]
pub(crate) struct Draw {
    pub members: Box<[Member]>,
    /// Cumulative weights; empty when all are equal.
    ends: Box<[u64]>,
}

impl Draw {
    pub(crate) fn build(nodes: &[Endpoint], members: &[u32], percents: &[u8]) -> Draw {
        let (members, weights) = effective_weights(nodes, members, percents);
        let total: u64 = weights.iter().sum();
        let mean = total as f32 / weights.len().max(1) as f32;
        let equal = weights.windows(2).all(|pair| pair.first() == pair.last());
        let mut end = 0;
        let ends = weights.iter().map(|weight| {
            end += weight;
            end
        });
        let ends = if equal { Box::default() } else { ends.collect() };
        let members = members.iter().zip(&weights);
        let member = |(index, weight): (&u32, &u64)| {
            let weight = *weight as f32;
            Member { index: *index, weight, inverse: mean / weight }
        };
        Draw { members: members.map(member).collect(), ends }
    }

    /// A place among the members, by weight.
    #[inline]
    pub(crate) fn one(&self, random: u64) -> usize {
        match self.ends.last() {
            None => scale(random, self.members.len() as u64) as usize,
            Some(total) => {
                let spot = scale(random, *total);
                self.ends.partition_point(|end| *end <= spot)
            }
        }
    }

    /// A place other than `first`, by weight. There must be two.
    #[inline]
    fn other(&self, first: usize, random: u64) -> usize {
        let Some(total) = self.ends.last() else {
            let second = scale(random, self.members.len() as u64 - 1) as usize;
            return second + usize::from(second >= first);
        };
        let begin = first.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let own = self.ends.get(first).copied().unwrap_or(0) - begin;
        let mut spot = scale(random, *total - own);
        if spot >= begin {
            spot += own;
        }
        self.ends.partition_point(|end| *end <= spot)
    }
}

/// One of `candidates`, more likely the cheaper it is; `weigh`: and the heavier.
#[inline]
pub(crate) fn choose(candidates: &[Member], nodes: &[Endpoint], weigh: bool, random: u64, now_ms: u64) -> Option<u32> {
    let mut costs: SmallVec<[Cost; 8]> = SmallVec::new();
    let mut assumed = 0.0;
    for member in candidates {
        let cost = Cost::of(&nodes.get(member.index as usize)?.state, member.inverse, now_ms);
        assumed = if assumed > 0.0 { lower(assumed, cost.latency) } else { cost.latency };
        costs.push(cost);
    }
    let assumed = if assumed > 0.0 { assumed } else { 1.0 };
    let least = costs.iter().map(|cost| cost.total(assumed)).fold(f32::MAX, f32::min);
    let mut shares: SmallVec<[f32; 8]> = SmallVec::new();
    let mut total = 0.0;
    for (member, cost) in candidates.iter().zip(&costs) {
        let share = prefer(cost.total(assumed) / least) * if weigh { member.weight } else { 1.0 };
        total += share;
        shares.push(share);
    }
    let mut spot = fraction(random) * total;
    for (member, share) in candidates.iter().zip(&shares) {
        if spot < *share {
            return Some(member.index);
        }
        spot -= share;
    }
    // rounding
    candidates.last().map(|member| member.index)
}

/// Compiled choice of two over some of a balancer's nodes.
#[derive(Debug)]
pub struct P2c(Draw);

impl P2c {
    pub fn build(nodes: &[Endpoint], members: &[u32], percents: &[u8]) -> P2c {
        P2c(Draw::build(nodes, members, percents))
    }

    #[inline]
    pub fn pick(&self, nodes: &[Endpoint], random: u64, now_ms: u64, tried: &Tried) -> Option<u32> {
        let members = &self.0.members;
        if members.len() < 2 || !tried.is_empty() {
            return pick_again(members, nodes, random, now_ms, tried);
        }
        let first = self.0.one(random);
        let again = mix(random);
        let second = self.0.other(first, again);
        let (first, second) = (members.get(first)?, members.get(second)?);
        let cost = |member: &Member| {
            nodes.get(member.index as usize).map(|node| Cost::of(&node.state, member.inverse, now_ms))
        };
        let (a, b) = (cost(first)?, cost(second)?);
        let assumed = lower(a.latency, b.latency);
        let ratio = a.total(assumed) / b.total(assumed);
        let stays = ratio <= 1.0 || fraction(mix(again)) < prefer(ratio);
        Some(if stays { first.index } else { second.index })
    }
}

/// Among those not tried.
#[cold]
pub(crate) fn pick_again(
    members: &[Member],
    nodes: &[Endpoint],
    random: u64,
    now_ms: u64,
    tried: &Tried,
) -> Option<u32> {
    let left: SmallVec<[Member; 16]> = members.iter().copied().filter(|member| !tried.contains(member.index)).collect();
    choose(&left, nodes, true, mix(random), now_ms)
}

#[cfg(test)]
pub(crate) mod tests;
