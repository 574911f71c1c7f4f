//! `zone_preference` (ours): nodes in the gateway's own zone are asked first.
//!
//! The surprise: the others are not out. They are a tier below, for retries, and share with the own zone as equals when less
//! than [`ZonePreference::min_healthy_percent`] of it is well, so that the few who are left there do not drown.
use std::sync::Arc;

use crate::endpoint::Endpoint;

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZonePreference {
    /// The gateway's zone (`sluice.zone`).
    pub zone: Arc<str>,
    /// The field of a node's `metadata` that names its zone.
    pub metadata_key: Arc<str>,
    /// Of the nodes in the own zone, by weight; below, all zones share.
    pub min_healthy_percent: u8,
}

impl ZonePreference {
    /// Whether the node is in the gateway's zone.
    pub(crate) fn is_local(&self, node: &Endpoint) -> bool {
        let name = node.metadata.as_ref().and_then(|metadata| metadata.get(&*self.metadata_key));
        name.and_then(|name| name.as_str()).is_some_and(|name| name == &*self.zone)
    }

    /// The priorities in which too little of the own zone is in use.
    pub(crate) fn spilled(&self, nodes: &[Endpoint], in_use: impl Fn(u32) -> bool) -> Vec<i32> {
        // priority, weight of the zone, weight in use
        let mut zones: Vec<(i32, u64, u64)> = Vec::new();
        for (index, node) in (0u32..).zip(nodes).filter(|(_, node)| self.is_local(node)) {
            let weight = u64::from(node.weight);
            let used = if in_use(index) { weight } else { 0 };
            match zones.iter_mut().find(|(priority, ..)| *priority == node.priority) {
                Some(zone) => *zone = (zone.0, zone.1 + weight, zone.2 + used),
                None => zones.push((node.priority, weight, used)),
            }
        }
        let few = |(_, weight, used): &(i32, u64, u64)| {
            u128::from(*used) * 100 < u128::from(*weight) * u128::from(self.min_healthy_percent.min(100)) || *used == 0
        };
        zones.iter().filter(|zone| few(zone)).map(|(priority, ..)| *priority).collect()
    }
}
