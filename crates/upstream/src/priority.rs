//! Tiers of nodes by `priority`: a lower tier serves only when the higher ones have nothing left to offer.
//!
//! The surprise: within a request there is no way back up by itself; higher tiers are asked again on every retry, and
//! answer `None` as all of theirs were tried (apisix/balancer/priority.lua keeps an index instead).
use crate::balancer::{BalancerSettings, PickInput, Picker};
use crate::endpoint::Endpoint;
use crate::tried::Tried;

/// One picker per priority, highest first.
#[derive(Debug)]
pub(crate) struct Tiers {
    first: Picker,
    rest: Box<[Picker]>,
}

impl Tiers {
    /// Compiles the nodes in `members`; `start` moves where a rotation begins.
    pub(crate) fn build(settings: &BalancerSettings, nodes: &[Endpoint], members: &[u32], start: u64) -> Tiers {
        let priority = |index: &u32| nodes.get(*index as usize).map_or(0, |node| node.priority);
        let mut priorities: Vec<i32> = members.iter().map(priority).collect();
        priorities.sort_unstable_by(|a, b| b.cmp(a));
        priorities.dedup();
        let mut pickers = priorities.into_iter().map(|tier| {
            let members: Vec<u32> = members.iter().copied().filter(|index| priority(index) == tier).collect();
            Picker::build(settings, nodes, &members, start)
        });
        let first = pickers.next().unwrap_or_else(|| Picker::build(settings, nodes, &[], start));
        Tiers { first, rest: pickers.collect() }
    }

    #[inline]
    pub(crate) fn pick(
        &self,
        nodes: &[Endpoint],
        input: &PickInput<'_>,
        tried: &Tried,
        in_use: Option<&Tried>,
    ) -> Option<u32> {
        self.first
            .pick(nodes, input, tried, in_use)
            .or_else(|| self.rest.iter().find_map(|picker| picker.pick(nodes, input, tried, in_use)))
    }
}
