//! `type: adaptive` (ours): nodes share requests by weight and by what was measured of them: latency, requests in flight,
//! errors (5xx count), and the load they report where [`crate::load_report`] reads it.
//!
//! The surprise: up to [`ALL`] nodes are all looked at, so that with several bad ones no draw is among bad ones only; of
//! more, four are drawn by weight.
use crate::endpoint::Endpoint;
use crate::p2c::{Draw, Member, choose, mix, pick_again};
use crate::tried::Tried;

/// So many nodes are all compared.
const ALL: usize = 8;
/// Of more, so many are drawn.
const DRAWN: usize = 4;

/// Compiled adaptive choice over some of a balancer's nodes.
#[derive(Debug)]
pub struct Adaptive(Draw);

impl Adaptive {
    pub fn build(nodes: &[Endpoint], members: &[u32], percents: &[u8]) -> Adaptive {
        Adaptive(Draw::build(nodes, members, percents))
    }

    #[inline]
    pub fn pick(&self, nodes: &[Endpoint], random: u64, now_ms: u64, tried: &Tried) -> Option<u32> {
        let members = &self.0.members;
        if !tried.is_empty() {
            return pick_again(members, nodes, random, now_ms, tried);
        }
        if members.len() <= ALL {
            return choose(members, nodes, true, random, now_ms);
        }
        let mut bits = random;
        let mut drawn = [Member { index: 0, weight: 1.0, inverse: 1.0 }; DRAWN];
        for place in &mut drawn {
            *place = *members.get(self.0.one(bits))?;
            bits = mix(bits);
        }
        choose(&drawn, nodes, false, bits, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2c::tests::shares;
    use std::time::Duration;

    #[test]
    fn two_bad_nodes_of_five_get_next_to_nothing() {
        let nodes: Vec<_> = (1..6).map(|port| Endpoint::new("10.0.0.1", port, 1)).collect();
        for (node, ms) in nodes.iter().zip([5, 100, 5, 100, 5]) {
            node.state.measured.latency(Duration::from_millis(ms), 1, false);
        }
        let picker = Adaptive::build(&nodes, &[0, 1, 2, 3, 4], &[]);
        let got = shares(5, 100_000, |random| picker.pick(&nodes, random, 1, &Tried::new()));
        assert!(got[1] + got[3] < 0.002 && got[1] > 0.0, "{got:?}");
        assert!(got[0] > 0.3 && got[2] > 0.3 && got[4] > 0.3, "{got:?}");
    }

    #[test]
    fn weights_hold_among_equals_few_or_many() {
        for count in [4usize, 20] {
            let nodes: Vec<_> = (0..count).map(|i| Endpoint::new("10.0.0.1", 1, if i == 0 { 4 } else { 1 })).collect();
            let members: Vec<u32> = (0..count as u32).collect();
            let picker = Adaptive::build(&nodes, &members, &[]);
            let got = shares(count, 100_000, |random| picker.pick(&nodes, random, 1, &Tried::new()));
            let wanted = 4.0 / (count as f64 + 3.0);
            assert!((got[0] - wanted).abs() < 0.01, "{count}: {got:?}");
        }
    }

    #[test]
    fn failing_and_loaded_nodes_are_avoided() {
        let nodes: Vec<_> = (1..4).map(|port| Endpoint::new("10.0.0.1", port, 1)).collect();
        for node in &nodes {
            node.state.measured.latency(Duration::from_millis(5), 1, false);
        }
        for step in 0..40 {
            nodes[0].state.measured.attempt(step % 3 == 0, 1);
        }
        nodes[1].state.measured.report(0.5, 1);
        nodes[2].state.measured.report(0.1, 1);
        let picker = Adaptive::build(&nodes, &[0, 1, 2], &[]);
        let got = shares(3, 50_000, |random| picker.pick(&nodes, random, 1, &Tried::new()));
        assert!(got[0] < 0.02 && got[1] < 0.15 && got[2] > 0.8, "{got:?}");
    }
}
