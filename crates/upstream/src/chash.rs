//! Consistent hashing with lua-resty-balancer's ring, so that a key meets the same node as behind APISIX.
//!
//! The surprise: point positions are a chain of CRC32s per node (lib/resty/chash.lua, chash.c): each is the CRC of the
//! node's name (every `:` replaced by a zero byte, apisix/balancer/chash.lua) followed by the previous point, little
//! endian. A look-up guesses the place from the key's hash and walks; no binary search.
use crate::endpoint::Endpoint;
use crate::roundrobin::gcd;

/// Points per node and unit of weight (after division by the weights' common divisor).
pub const CONSISTENT_POINTS: u64 = 160;
/// Default of `chash_max_points`: 8 bytes each. APISIX has no bound and fails for want of memory.
pub const MAX_POINTS: u64 = 4_000_000;

/// A compiled ring over some of a balancer's nodes.
#[derive(Debug)]
pub struct Chash {
    points: Box<[Point]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    hash: u32,
    node: u32,
}

impl Chash {
    /// Above `max_points` all weights are scaled down together (at least one unit each): shares stay, places move.
    pub fn build(nodes: &[Endpoint], members: &[u32], max_points: u64) -> Chash {
        let members = || members.iter().filter_map(|index| Some((*index, nodes.get(*index as usize)?)));
        let divisor = members().map(|(_, node)| u64::from(node.weight)).fold(0, gcd).max(1);
        let total: u64 = members().map(|(_, node)| u64::from(node.weight) / divisor).sum();
        let units = (max_points / CONSISTENT_POINTS).max(1);
        let mut points = Vec::with_capacity((total.min(units) * CONSISTENT_POINTS) as usize);
        for (index, node) in members() {
            let mut weight = u64::from(node.weight) / divisor;
            if total > units && weight > 0 {
                weight = (u128::from(weight) * u128::from(units) / u128::from(total)).max(1) as u64;
            }
            let name = node.name().replace(':', "\0");
            let base = crc32fast::hash(name.as_bytes());
            let mut previous = 0u32;
            for _ in 0..weight * CONSISTENT_POINTS {
                let mut crc = crc32fast::Hasher::new_with_initial(base);
                crc.update(&previous.to_le_bytes());
                previous = crc.finalize();
                points.push(Point { hash: previous, node: index });
            }
        }
        // nodes keep the configured order where two meet in one place; APISIX's order there is arbitrary
        points.sort_by_key(|point| point.hash);
        Chash { points: points.into() }
    }

    /// The first usable node at or after the key's place. `None` without points (all weights 0) or usable nodes.
    #[inline]
    pub fn pick(&self, key: &[u8], usable: impl Fn(u32) -> bool) -> Option<u32> {
        let start = self.place(crc32fast::hash(key));
        let (before, after) = self.points.split_at_checked(start)?;
        // neighbours of one node are skipped in the walk, `usable` costs little
        after.iter().chain(before).map(|point| point.node).find(|node| usable(*node))
    }

    #[inline]
    fn place(&self, hash: u32) -> usize {
        let len = self.points.len();
        let guess = ((u64::from(hash) * len as u64) >> 32) as usize;
        let at = |index: usize| self.points.get(index).map(|point| point.hash);
        let mut index = guess;
        while index > 0 && at(index - 1).is_some_and(|point| point >= hash) {
            index -= 1;
        }
        while at(index).is_some_and(|point| point < hash) {
            index += 1;
        }
        if index == len { 0 } else { index }
    }
}

#[cfg(test)]
mod tests;
