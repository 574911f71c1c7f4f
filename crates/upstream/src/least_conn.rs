//! Least connections: the node with the fewest requests in flight per weight (apisix/balancer/least_conn.lua).
//!
//! The surprise: the score is `(1 + in flight) / weight` with the new request counted, so an idle upstream prefers
//! weight. Equal scores are broken by chance (APISIX: by heap order), else a quiet upstream would use one node only.
//! A scan, not a heap: no lock, and nodes are few.
use crate::endpoint::Endpoint;
use crate::roundrobin::effective_weights;
use crate::tried::Tried;

/// Compiled least-connections over some of a balancer's nodes.
#[derive(Debug)]
pub struct LeastConn {
    members: Box<[(u32, u64)]>,
}

impl LeastConn {
    pub fn build(nodes: &[Endpoint], members: &[u32]) -> LeastConn {
        let (members, weights) = effective_weights(nodes, members);
        LeastConn { members: members.into_iter().zip(weights).collect() }
    }

    /// `random` breaks ties.
    #[inline]
    pub fn pick(&self, nodes: &[Endpoint], random: u64, tried: &Tried) -> Option<u32> {
        let len = self.members.len();
        let start = ((u128::from(random) * len as u128) >> 64) as usize;
        let (before, after) = self.members.split_at_checked(start)?;
        let mut best: Option<(u32, u64, u64)> = None;
        for (index, weight) in after.iter().chain(before) {
            if tried.contains(*index) {
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
        let picker = LeastConn::build(&nodes, &[0, 1, 2, 3]);
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
        let picker = LeastConn::build(&nodes, &[0, 1]);
        assert_eq!(picker.pick(&nodes, 0, &Tried::new()), Some(0));
        assert_eq!(picker.pick(&nodes, u64::MAX, &Tried::new()), Some(1));
    }
}
