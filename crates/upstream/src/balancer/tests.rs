//! Tests of `balancer`.
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::*;
use crate::health::Target;

fn build(algorithm: Algorithm, nodes: &[(u32, i32)]) -> Balancer {
    let nodes = nodes.iter().zip(1..).map(|((weight, priority), port)| {
        checked(Endpoint { priority: *priority, ..Endpoint::new("10.0.0.1", port, *weight) })
    });
    Balancer::build(&BalancerSettings { algorithm, ..Default::default() }, nodes.collect()).unwrap()
}

const ALL: [Algorithm; 7] = [
    Algorithm::RoundRobin,
    Algorithm::Chash,
    Algorithm::LeastConn,
    Algorithm::Ewma,
    Algorithm::Random,
    Algorithm::P2c,
    Algorithm::Adaptive,
];

fn input(random: u64, key: &[u8]) -> PickInput<'_> {
    PickInput { hash_key: Some(key), random, now_ms: 1, ..Default::default() }
}

#[test]
fn lower_tiers_serve_when_the_higher_are_used_up() {
    for algorithm in ALL {
        let balancer = build(algorithm, &[(1, 0), (1, 5), (1, 5), (1, -1)]);
        let mut tried = Tried::new();
        let mut order = Vec::new();
        while let Some(picked) = balancer.pick(&input(7, b"k"), &tried) {
            order.push(picked.endpoint.priority);
            tried.insert(picked.index);
        }
        assert_eq!(order, [5, 5, 0, -1], "{algorithm:?}");
    }
}

#[test]
fn unhealthy_tiers_are_passed_over_and_all_unhealthy_serve() {
    for algorithm in ALL {
        let balancer = build(algorithm, &[(1, 1), (1, 1), (1, 0)]);
        balancer.nodes()[0].health.as_ref().unwrap().force(false);
        balancer.nodes()[1].health.as_ref().unwrap().force(false);
        assert_eq!(balancer.pick(&input(7, b"k"), &Tried::new()).unwrap().index, 2, "{algorithm:?}");
        balancer.nodes()[2].health.as_ref().unwrap().force(false);
        assert_ne!(balancer.pick(&input(7, b"k"), &Tried::new()).unwrap().index, 2, "{algorithm:?}");
        balancer.nodes()[1].health.as_ref().unwrap().force(true);
        assert_eq!(balancer.pick(&input(7, b"k"), &Tried::new()).unwrap().index, 1, "{algorithm:?}");
    }
}

#[test]
fn shares_of_the_healthy_stay_exact() {
    let balancer = build(Algorithm::RoundRobin, &[(1, 0), (1, 0), (1, 0)]);
    balancer.nodes()[1].health.as_ref().unwrap().force(false);
    let mut counts = [0; 3];
    for _ in 0..100 {
        counts[balancer.pick(&PickInput::default(), &Tried::new()).unwrap().index as usize] += 1;
    }
    assert_eq!(counts, [50, 0, 50]);
}

#[test]
fn a_lone_node_is_always_given() {
    for algorithm in ALL {
        let balancer = build(algorithm, &[(0, 0)]);
        balancer.nodes()[0].health.as_ref().unwrap().force(false);
        let mut tried = Tried::new();
        tried.insert(0);
        assert_eq!(balancer.pick(&input(7, b"k"), &tried).unwrap().index, 0);
    }
    assert!(build(Algorithm::RoundRobin, &[]).pick(&PickInput::default(), &Tried::new()).is_none());
}

#[test]
fn no_weight_at_all() {
    assert!(build(Algorithm::Chash, &[(0, 0), (0, 0)]).pick(&input(0, b"k"), &Tried::new()).is_none());
    // as t/node/healthcheck-passive: the node without weight takes over when the other is down
    let balancer = build(Algorithm::RoundRobin, &[(0, 0), (1, 0)]);
    assert_eq!(balancer.pick(&PickInput::default(), &Tried::new()).unwrap().index, 1);
    balancer.nodes()[1].health.as_ref().unwrap().force(false);
    assert_eq!(balancer.pick(&PickInput::default(), &Tried::new()).unwrap().index, 0);
}

#[test]
fn a_node_listed_twice_counts_once() {
    let nodes = vec![Endpoint::new("a", 1, 5), Endpoint::new("b", 1, 1), Endpoint::new("a", 1, 1)];
    let balancer = Balancer::build(&BalancerSettings::default(), nodes).unwrap();
    assert_eq!(balancer.nodes().len(), 2);
    assert_eq!(balancer.nodes()[0].weight, 1);
}

#[test]
fn a_dropped_request_gives_its_place_back() {
    let balancer = build(Algorithm::LeastConn, &[(1, 0), (1, 0)]);
    let picked = balancer.pick(&PickInput::default(), &Tried::new()).unwrap();
    let held = balancer.hold(&picked);
    assert_eq!(picked.endpoint.state.active(), 1);
    drop(held);
    assert_eq!(picked.endpoint.state.active(), 0);
    let picked = balancer.pick(&PickInput::default(), &Tried::new()).unwrap();
    balancer.hold(&picked).done(&Outcome { latency: Duration::ZERO, ok: true, now_ms: 0 });
    assert_eq!(picked.endpoint.state.active(), 0);
}

#[test]
fn ewma_learns_from_answers_only() {
    let balancer = build(Algorithm::Ewma, &[(1, 0), (1, 0)]);
    let outcome = |millis, ok| Outcome { latency: Duration::from_millis(millis), ok, now_ms: 1000 };
    balancer.done(0, &outcome(50, true));
    balancer.done(1, &outcome(90, true));
    balancer.done(1, &outcome(0, false));
    assert_eq!(balancer.pick(&PickInput { now_ms: 1000, ..Default::default() }, &Tried::new()).unwrap().index, 0);
}

#[test]
fn types_by_name() {
    assert_eq!(Algorithm::parse("least_conn"), Ok(Algorithm::LeastConn));
    assert_eq!(Algorithm::parse("x").unwrap_err().to_string(), "invalid balancer type: x");
}

#[test]
fn threads_pick_and_flap_together() {
    let balancer = build(Algorithm::LeastConn, &[(2, 0), (1, 0), (1, 0), (0, 0)]);
    let rotation = build(Algorithm::RoundRobin, &[(2, 0), (1, 0), (1, 0), (0, 0)]);
    let picks = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (balancer, rotation, picks) = (&balancer, &rotation, &picks);
            scope.spawn(move || {
                for step in 0..3000u64 {
                    if thread == 0 && step % 50 == 0 {
                        rotation.nodes()[1].health.as_ref().unwrap().force(step % 100 == 0);
                        balancer.nodes()[1].health.as_ref().unwrap().force(step % 100 == 0);
                    }
                    let picked = balancer.pick(&input(step << 50, b""), &Tried::new()).unwrap();
                    assert_ne!(picked.endpoint.weight, 0);
                    balancer.hold(&picked).done(&Outcome { latency: Duration::ZERO, ok: true, now_ms: 0 });
                    assert_ne!(rotation.pick(&input(0, b""), &Tried::new()).unwrap().endpoint.weight, 0);
                    picks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(picks.into_inner(), 12_000);
    assert!(balancer.nodes().iter().all(|node| node.state.active() == 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Every weighted healthy node comes once and nothing else does, whatever the type.
    #[test]
    fn each_usable_node_once(
        nodes in prop::collection::vec((0u32..6, -1i32..2, any::<bool>()), 2..90),
        kind in 0usize..7,
        random in any::<u64>(),
        key in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let parts: Vec<_> = nodes.iter().map(|(weight, priority, _)| (*weight, *priority)).collect();
        let balancer = build(ALL[kind], &parts);
        for (node, (.., healthy)) in balancer.nodes().iter().zip(&nodes) {
            node.health.as_ref().unwrap().force(*healthy);
        }
        let none_healthy = nodes.iter().all(|(.., healthy)| !healthy);
        let candidates: Vec<_> = (0..nodes.len()).filter(|index| none_healthy || nodes[*index].2).collect();
        // a tier in which nothing has weight uses its nodes alike, but for chash
        let weightless = |tier| candidates.iter().all(|index| nodes[*index].1 != tier || nodes[*index].0 == 0);
        let wanted: std::collections::BTreeSet<u32> = candidates
            .iter()
            .filter(|index| nodes[**index].0 > 0 || (ALL[kind] != Algorithm::Chash && weightless(nodes[**index].1)))
            .map(|index| *index as u32)
            .collect();
        let (mut tried, mut got) = (Tried::new(), std::collections::BTreeSet::new());
        while let Some(picked) = balancer.pick(&input(random, &key), &tried) {
            prop_assert!(got.insert(picked.index), "{} twice", picked.index);
            tried.insert(picked.index);
        }
        prop_assert_eq!(got, wanted);
    }
}

/// With a state of health of its own.
fn checked(node: Endpoint) -> Endpoint {
    let address = node.address.unwrap();
    Endpoint { health: Some(Target::new(address, None).into()), ..node }
}

#[test]
fn a_verdict_elsewhere_does_not_restart_a_rotation() {
    let balancer = build(Algorithm::RoundRobin, &[(1, 0), (1, 0), (1, 0)]);
    let other = build(Algorithm::RoundRobin, &[(1, 0), (1, 0)]);
    let pick = || balancer.pick(&PickInput::default(), &Tried::new()).unwrap().index;
    balancer.nodes()[0].health.as_ref().unwrap().force(false);
    let mut counts = [0; 3];
    for step in 0..100 {
        other.nodes()[0].health.as_ref().unwrap().force(step % 2 == 0);
        counts[pick() as usize] += 1;
    }
    assert_eq!(counts, [0, 50, 50]);
}

#[test]
fn without_a_healthy_node_there_may_be_none() {
    let nodes = (1..3).map(|port| checked(Endpoint::new("10.0.0.1", port, 1)));
    let settings = BalancerSettings { fail_when_none: true, ..Default::default() };
    let balancer = Balancer::build(&settings, nodes.collect()).unwrap();
    let force = |node: usize, up| balancer.nodes()[node].health.as_ref().unwrap().force(up);
    let pick = || balancer.pick(&PickInput::default(), &Tried::new()).map(|picked| picked.index);
    assert!(pick().is_some() && !balancer.is_out());
    force(0, false);
    assert_eq!(pick(), Some(1));
    force(1, false);
    assert!(pick().is_none() && balancer.is_out());
    force(0, true);
    assert!(pick() == Some(0) && !balancer.is_out());

    let lone = Balancer::build(&settings, vec![checked(Endpoint::new("10.0.0.1", 1, 1))]).unwrap();
    lone.nodes()[0].health.as_ref().unwrap().force(false);
    assert!(lone.pick(&PickInput::default(), &Tried::new()).is_none());
}

#[test]
fn ejections_leave_a_share_in_use() {
    for (percent, in_use) in [(100, 4), (50, 2), (10, 3), (0, 4)] {
        let nodes = (1..5).map(|port| checked(Endpoint::new("10.0.0.1", port, 1)));
        let settings = BalancerSettings { max_ejection_percent: percent, ..Default::default() };
        let balancer = Balancer::build(&settings, nodes.collect()).unwrap();
        for node in balancer.nodes() {
            node.health.as_ref().unwrap().eject();
        }
        let picked: std::collections::HashSet<u32> =
            (0..40).filter_map(|_| balancer.pick(&PickInput::default(), &Tried::new())).map(|p| p.index).collect();
        // with 100 % all are out, which means that all are used
        assert_eq!(picked.len(), in_use, "{percent}");
        if percent == 50 {
            assert_eq!(picked, [2, 3].into(), "the first ejected stay out");
        }
    }
}

fn input_at(now_ms: u64, random: u64) -> PickInput<'static> {
    PickInput { random, now_ms, ..Default::default() }
}

#[test]
fn a_node_that_comes_back_gets_a_growing_share() {
    let kinds = [Algorithm::RoundRobin, Algorithm::LeastConn, Algorithm::Random, Algorithm::P2c, Algorithm::Adaptive];
    for algorithm in kinds {
        let nodes = (1..5).map(|port| checked(Endpoint::new("10.0.0.1", port, 1)));
        let slow_start = Some(SlowStart { window: Duration::from_secs(10), min_weight_percent: 10, aggression: 1.0 });
        let settings = BalancerSettings { algorithm, slow_start, ..Default::default() };
        let balancer = Balancer::build(&settings, nodes.collect()).unwrap();
        let share = |now_ms: u64| {
            let picks =
                (0..4000).map(|step| balancer.pick(&input_at(now_ms, crate::p2c::mix(step)), &Tried::new()).unwrap());
            let count = picks.map(|picked| {
                balancer.done(picked.index, &Outcome { latency: Duration::ZERO, ok: false, now_ms });
                picked.index
            });
            count.filter(|index| *index == 3).count()
        };
        // all are new together
        assert!(share(1_000).abs_diff(1000) < 120, "{algorithm:?}");
        balancer.nodes()[3].health.as_ref().unwrap().force(false);
        assert_eq!(share(20_000), 0);
        balancer.nodes()[3].health.as_ref().unwrap().force(true);
        let shares = [30_000, 35_000, 39_900, 41_000].map(share);
        // a tenth, half and all of a node beside three
        let wanted = [4000 / 31, 4000 / 7, 1000, 1000];
        let near = shares.iter().zip(wanted).all(|(share, wanted)| share.abs_diff(wanted) < 120);
        assert!(near && shares[0] > 0, "{algorithm:?} {shares:?}");
    }
}

#[test]
fn a_cookie_brings_back_to_the_node_until_it_is_gone() {
    for algorithm in ALL {
        let nodes = || (1..5).map(|port| checked(Endpoint::new("10.0.0.1", port, u32::from(port != 4))));
        let sticky = crate::Sticky::compile(
            &crate::StickySettings {
                cookie: None,
                path: "/".into(),
                ttl: None,
                http_only: true,
                secure: false,
                same_site: None,
                secret: None,
            },
            "upstreams/1",
        );
        let settings = BalancerSettings { algorithm, sticky: Some(sticky), ..Default::default() };
        let balancer = Balancer::build(&settings, nodes().collect()).unwrap();
        // another order, another place in the list
        let other = Balancer::build(&settings, nodes().rev().collect()).unwrap();
        for wanted in 0..4 {
            let token = balancer.token(wanted);
            let pick = |balancer: &Balancer, random, tried: &Tried| {
                let input = PickInput { sticky: token, ..input(random, b"k") };
                let picked = balancer.pick(&input, tried).unwrap();
                balancer.done(picked.index, &Outcome { latency: Duration::ZERO, ok: false, now_ms: 1 });
                picked.endpoint.port
            };
            let port = wanted as u16 + 1;
            // a node without weight keeps whom it has
            assert!((0..50).all(|step| pick(&balancer, crate::p2c::mix(step), &Tried::new()) == port));
            assert!((0..50).all(|step| pick(&other, crate::p2c::mix(step), &Tried::new()) == port));
            let mut tried = Tried::new();
            tried.insert(wanted);
            assert_ne!(pick(&balancer, 7, &tried), port);
            balancer.nodes()[wanted as usize].health.as_ref().unwrap().force(false);
            assert_ne!(pick(&balancer, 7, &Tried::new()), port);
            balancer.nodes()[wanted as usize].health.as_ref().unwrap().force(true);
            assert_eq!(pick(&balancer, 7, &Tried::new()), port);
        }
        let unknown = PickInput { sticky: crate::sticky::Token::parse(b"0000000000000001"), ..input(7, b"k") };
        assert!(balancer.pick(&unknown, &Tried::new()).is_some());
    }
}

#[test]
fn the_own_zone_serves_until_too_little_of_it_is_well() {
    for algorithm in ALL {
        let nodes = (1..9u16).map(|port| {
            let metadata = serde_json::json!({"zone": if port <= 4 { "a" } else { "b" }});
            checked(Endpoint { metadata: Some(metadata.into()), ..Endpoint::new("10.0.0.1", port, 1) })
        });
        let zone = ZonePreference { zone: "a".into(), metadata_key: "zone".into(), min_healthy_percent: 50 };
        let settings = BalancerSettings { algorithm, zone: Some(zone), ..Default::default() };
        let balancer = Balancer::build(&settings, nodes.collect()).unwrap();
        let foreign = |tried: &Tried| {
            let picks = (0..2000u64).map(|step| {
                let random = crate::p2c::mix(step);
                let picked = balancer.pick(&input(random, &random.to_le_bytes()), tried).unwrap();
                balancer.done(picked.index, &Outcome { latency: Duration::ZERO, ok: false, now_ms: 1 });
                picked.index
            });
            picks.filter(|index| *index >= 4).count()
        };
        let force = |node: usize, up| balancer.nodes()[node].health.as_ref().unwrap().force(up);
        assert_eq!(foreign(&Tried::new()), 0, "{algorithm:?}");
        force(0, false);
        force(1, false);
        assert_eq!(foreign(&Tried::new()), 0, "half is enough");
        // a retry goes on in the other zone when the own is used up
        let mut tried = Tried::new();
        (0..4).for_each(|index| tried.insert(index));
        assert_eq!(foreign(&tried), 2000);
        force(2, false);
        let spilled = foreign(&Tried::new());
        assert!((1300..1900).contains(&spilled), "four of five: {algorithm:?} {spilled}");
        (4..8).for_each(|index| {
            force(index, false);
        });
        assert_eq!(foreign(&Tried::new()), 0);
        force(3, false);
        let all = foreign(&Tried::new());
        assert!((0..2000).contains(&all), "all are down, all serve");
        (0..8).for_each(|index| {
            force(index, true);
        });
        assert_eq!(foreign(&Tried::new()), 0);
    }
}
