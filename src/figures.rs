//! The node's figures for `prometheus`: who owns what it shows.
use sluice_net::Drain;
use sluice_plugins_observe::prometheus::{Connections, NodeFigures, NodeHealth};
use sluice_proxy::Figures;
use sluice_upstream::NodeStates;
use std::sync::Arc;

/// See the file's head.
pub struct Node {
    pub drain: Drain,
    pub figures: Figures,
    pub states: Arc<NodeStates>,
}

impl NodeFigures for Node {
    fn connections(&self) -> Connections {
        let active = self.drain.open() as u64;
        let accepted = self.drain.accepted();
        let writing = (self.figures.in_flight.value().max(0.0) as u64).min(active);
        // A head is read within the turn that found it: nothing is ever "reading" for longer.
        Connections { active, accepted, handled: accepted, reading: 0, writing, waiting: active - writing }
    }
    fn requests(&self) -> u64 {
        self.figures.requests.value()
    }
    /// As the Control API has it: upstreams that stand in plugins are left out (apisix/control/v1.lua).
    fn nodes(&self) -> Vec<NodeHealth> {
        let reports = self.states.health().into_iter().filter(|report| !report.name.contains('#'));
        let nodes = reports.flat_map(|report| {
            report.nodes.into_iter().map(move |node| NodeHealth {
                name: report.name.clone(),
                healthy: node.is_up(),
                ip: node.ip,
                port: node.port,
            })
        });
        nodes.collect()
    }
}
