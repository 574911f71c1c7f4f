//! Tiers of nodes by `priority`: a lower tier serves only when the higher ones have nothing left to offer.
//!
//! The surprise: within a request there is no way back up by itself; higher tiers are asked again on every retry, and
//! answer `None` as all of theirs were tried (apisix/balancer/priority.lua keeps an index instead).
use crate::balancer::{BalancerSettings, PickInput, Picker};
use crate::endpoint::Endpoint;
use crate::tried::Tried;

/// One picker per tier, highest first. Within a priority the gateway's own zone comes before the others
/// ([`crate::zone`]), unless too little of it is well.
#[derive(Debug)]
pub(crate) struct Tiers {
    first: Picker,
    rest: Box<[Picker]>,
}

/// What tiers are compiled from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TierPlan<'a> {
    pub settings: &'a BalancerSettings,
    pub nodes: &'a [Endpoint],
    /// The nodes that take part.
    pub members: &'a [u32],
    /// See [`crate::slow_start`].
    pub percents: &'a [u8],
    /// Priorities whose zones are one tier.
    pub spilled: &'a [i32],
    /// Moves where a rotation begins.
    pub start: u64,
}

impl Tiers {
    pub(crate) fn build(plan: &TierPlan<'_>) -> Tiers {
        let zone = plan.settings.zone.as_ref();
        // higher first, then the own zone
        let rank = |index: &u32| {
            let node = plan.nodes.get(*index as usize);
            let priority = node.map_or(0, |node| node.priority);
            let foreign = zone
                .is_some_and(|zone| !plan.spilled.contains(&priority) && !node.is_some_and(|node| zone.is_local(node)));
            (std::cmp::Reverse(priority), foreign)
        };
        let mut ranks: Vec<_> = plan.members.iter().map(rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let mut pickers = ranks.into_iter().map(|tier| {
            let members: Vec<u32> = plan.members.iter().copied().filter(|index| rank(index) == tier).collect();
            Picker::build(plan, &members)
        });
        let first = pickers.next().unwrap_or_else(|| Picker::build(plan, &[]));
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
