//! The node's figures for `prometheus`: who owns what it shows.
use sluice_net::Drain;
use sluice_plugins_observe::prometheus::{Connections, NodeFigures};
use sluice_proxy::Figures;

/// See the file's head.
pub struct Node {
    pub drain: Drain,
    pub figures: Figures,
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
}
