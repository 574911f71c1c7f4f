//! Tests of `p2c`; among them the promise that a slow node does not reach the 99th percentile, on a fake clock.
use super::*;
use crate::balancer::{Algorithm, Balancer, BalancerSettings, Outcome, PickInput, Picked};
use proptest::prelude::*;
use std::time::Duration;

/// Shares of the nodes in so many picks.
pub(crate) fn shares(count: usize, picks: u64, pick: impl Fn(u64) -> Option<u32>) -> Vec<f64> {
    let mut all = vec![0.0; count];
    for step in 0..picks {
        all[pick(mix(step)).unwrap() as usize] += 1.0 / picks as f64;
    }
    all
}

fn nodes(weights: &[u32]) -> (Vec<Endpoint>, Vec<u32>) {
    let nodes: Vec<_> = weights.iter().zip(1..).map(|(w, port)| Endpoint::new("10.0.0.1", port, *w)).collect();
    let members = (0..nodes.len() as u32).collect();
    (nodes, members)
}

#[test]
fn equals_share_by_weight() {
    for (weights, wanted) in
        [([1, 1, 1, 1], [0.25; 4]), ([2, 1, 1, 0], [0.5, 0.25, 0.25, 0.0]), ([98, 1, 1, 0], [0.98, 0.01, 0.01, 0.0])]
    {
        let (nodes, members) = nodes(&weights);
        let picker = P2c::build(&nodes, &members, &[]);
        let got = shares(4, 100_000, |random| picker.pick(&nodes, random, 1, &Tried::new()));
        let near = got.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 0.01);
        assert!(near, "{got:?}");
    }
}

#[test]
fn fewer_in_flight_is_preferred() {
    let (nodes, members) = nodes(&[1, 1]);
    let picker = P2c::build(&nodes, &members, &[]);
    (0..3).for_each(|_| nodes[0].state.enter());
    let got = shares(2, 10_000, |random| picker.pick(&nodes, random, 1, &Tried::new()));
    assert!(got[0] < 0.01, "{got:?}");
}

/// Requests arrive evenly, each node answers after its own time; time is counted in
/// microseconds. Returns all latencies of the measured part, and which node gave them.
fn simulate(algorithm: Algorithm, rate: u64, seconds: u64, time_of: impl Fn(u32, u64) -> u64) -> Vec<(u64, u32)> {
    let (nodes, _) = nodes(&[1; 5]);
    let balancer = Balancer::build(&BalancerSettings { algorithm, ..Default::default() }, nodes).unwrap();
    let mut ends = std::collections::BinaryHeap::new();
    let mut seen = Vec::new();
    let finish = |end: u64, begun: u64, index: u32| {
        let latency = Duration::from_micros(end - begun);
        let picked = Picked { index, endpoint: &balancer.nodes()[index as usize] };
        balancer.hold(&picked).answered(200, None, &Outcome { latency, ok: true, now_ms: 1_000_000 + end / 1000 });
    };
    for step in 0..rate * seconds {
        let now = step * 1_000_000 / rate;
        while let Some(std::cmp::Reverse((end, begun, index))) =
            ends.peek().copied().filter(|e: &std::cmp::Reverse<(u64, u64, u32)>| e.0.0 <= now)
        {
            ends.pop();
            finish(end, begun, index);
        }
        let input = PickInput { random: mix(step * 31 + 7), now_ms: 1_000_000 + now / 1000, ..Default::default() };
        let index = balancer.pick(&input, &Tried::new()).unwrap().index;
        // from half to one and a half of what the node takes
        let took = time_of(index, now) * (512 + mix(step) % 1024) / 1024;
        ends.push(std::cmp::Reverse((now + took, now, index)));
        seen.push((took, index));
    }
    seen
}

fn p99(seen: &[(u64, u32)]) -> u64 {
    let mut all: Vec<u64> = seen.iter().map(|(took, _)| *took).collect();
    all.sort_unstable();
    all[all.len() * 99 / 100]
}

#[test]
fn one_of_five_twenty_times_slower_does_not_show_in_the_99th_percentile() {
    for algorithm in [Algorithm::P2c, Algorithm::Adaptive] {
        for rate in [100, 500, 2000] {
            let healthy = p99(&simulate(algorithm, rate, 20, |_, _| 5_000));
            // slow from the sixth second to the end
            let slow =
                simulate(algorithm, rate, 30, |node, now| if node == 2 && now > 5_000_000 { 100_000 } else { 5_000 });
            let after = &slow[(rate * 5) as usize..];
            let to_it = after.iter().filter(|(_, node)| *node == 2).count() as f64 / after.len() as f64;
            assert!(p99(after) <= 2 * healthy, "{algorithm:?} at {rate}/s: {} {healthy}, {to_it}", p99(after));
            assert!(to_it < 0.01, "{algorithm:?} at {rate}/s: {to_it}");
        }
    }
}

#[test]
fn a_node_that_is_well_again_is_found_and_no_crowd_comes_before() {
    for algorithm in [Algorithm::P2c, Algorithm::Adaptive] {
        let slow_until = 20_000_000;
        let seen =
            simulate(algorithm, 1000, 60, |node, now| if node == 2 && now < slow_until { 100_000 } else { 5_000 });
        let share = |from: usize, to: usize| {
            seen[from * 1000..to * 1000].iter().filter(|(_, node)| *node == 2).count() as f64
                / ((to - from) * 1000) as f64
        };
        for second in 2..20 {
            assert!(
                share(second, second + 1) < 0.01,
                "{algorithm:?}: {} in second {second}",
                share(second, second + 1)
            );
        }
        assert!(share(50, 60) > 0.1, "{algorithm:?}: {}", share(50, 60));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn only_members_with_weight_and_not_tried(
        weights in prop::collection::vec(0u32..5, 1..20),
        latencies in prop::collection::vec(0u64..500, 20),
        random in any::<u64>(),
        adaptive in any::<bool>(),
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let (nodes, members) = nodes(&weights);
        for (node, latency) in nodes.iter().zip(&latencies) {
            if *latency > 0 {
                node.state.measured.latency(Duration::from_millis(*latency), 1, false);
            }
        }
        let (p2c, all) = (P2c::build(&nodes, &members, &[]), crate::adaptive::Adaptive::build(&nodes, &members, &[]));
        let mut tried = Tried::new();
        let mut count = 0;
        while let Some(index) = if adaptive { all.pick(&nodes, mix(random), 2, &tried) } else { p2c.pick(&nodes, random, 2, &tried) } {
            prop_assert!(weights[index as usize] > 0 && !tried.contains(index));
            tried.insert(index);
            count += 1;
        }
        prop_assert_eq!(count, weights.iter().filter(|weight| **weight > 0).count());
    }
}
