//! Tests of `chash`.
use proptest::prelude::*;

use super::*;

fn ring(nodes: &[(&str, u16, u32)]) -> Chash {
    let nodes: Vec<_> = nodes.iter().map(|(host, port, weight)| Endpoint::new(host, *port, *weight)).collect();
    let members: Vec<u32> = (0..nodes.len() as u32).collect();
    Chash::build(&nodes, &members, MAX_POINTS)
}

fn picks(ring: &Chash) -> Vec<u32> {
    let long = "x".repeat(100);
    let mut keys: Vec<String> =
        ["", "1", "2", "3", "jack", "rose", "127.0.0.1", "device-42", &long, "/a/b?c=d"].map(str::to_owned).into();
    keys.extend((0..30).map(|number| format!("key{number}")));
    keys.iter().map(|key| ring.pick(key.as_bytes(), |_| true).unwrap()).collect()
}

/// Figures from an independent table-driven CRC32 laid out as chash.c describes.
#[test]
fn the_layout_is_lua_resty_balancers() {
    let three = ring(&[("127.0.0.1", 1980, 1), ("127.0.0.1", 1981, 1), ("127.0.0.1", 1982, 1)]);
    let first: Vec<_> = three.points[..3].iter().map(|point| (point.hash, point.node)).collect();
    assert_eq!(first, [(0x0037_3c92, 2), (0x0047_5ccd, 0), (0x0047_d461, 0)]);
    assert_eq!((three.points.len(), three.points[479].hash), (480, 0xff7f_96b3));
    assert_eq!(
        picks(&three),
        [
            2, 2, 0, 0, 1, 2, 2, 1, 2, 0, 2, 2, 2, 1, 1, 0, 1, 2, 0, 2, 0, 1, 1, 2, 1, 0, 0, 1, 1, 0, 2, 2, 2, 1, 0, 2,
            1, 2, 1, 1
        ]
    );
}

#[test]
fn weights_are_divided_and_ipv6_is_bracketed() {
    let ring = ring(&[("10.0.0.1", 80, 6), ("10.0.0.2", 80, 3), ("::1", 8080, 3), ("10.0.0.4", 80, 0)]);
    let first: Vec<_> = ring.points[..3].iter().map(|point| (point.hash, point.node)).collect();
    assert_eq!(first, [(0x0039_3daa, 0), (0x005f_86bc, 2), (0x00c2_4c90, 2)]);
    assert_eq!((ring.points.len(), ring.points[639].hash), (640, 0xfff8_114a));
    assert_eq!(
        picks(&ring),
        [
            0, 1, 0, 0, 1, 2, 1, 0, 0, 1, 0, 2, 0, 1, 0, 2, 0, 2, 0, 1, 0, 2, 0, 0, 2, 2, 0, 0, 2, 1, 0, 2, 0, 0, 0, 2,
            0, 2, 1, 2
        ]
    );
}

#[test]
fn a_ring_is_bounded() {
    let nodes = [Endpoint::new("a", 80, 1_000_000), Endpoint::new("b", 80, 1)];
    let ring = Chash::build(&nodes, &[0, 1], 16_000);
    assert!(ring.points.len() <= 16_160, "{}", ring.points.len());
    assert!(ring.points.iter().any(|point| point.node == 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_place_is_the_first_point_not_before_the_hash(hash in any::<u32>(), count in 1u16..9) {
        let nodes: Vec<_> = (0..count).map(|port| ("10.0.0.1", port + 1, 1)).collect();
        let ring = ring(&nodes);
        for hash in [hash, 0, u32::MAX, ring.points[usize::from(count)].hash] {
            let wanted = ring.points.partition_point(|point| point.hash < hash) % ring.points.len();
            prop_assert_eq!(ring.place(hash), wanted);
        }
    }

    #[test]
    fn a_node_gone_moves_its_own_keys_only(count in 2u16..8, gone in any::<prop::sample::Index>()) {
        let nodes: Vec<_> = (0..count).map(|port| ("10.0.0.1", port + 1, 1)).collect();
        let gone = gone.index(nodes.len());
        let mut fewer = nodes.clone();
        fewer.remove(gone);
        let (all, fewer) = (ring(&nodes), ring(&fewer));
        for number in 0..300u32 {
            let key = number.to_le_bytes();
            let before = all.pick(&key, |_| true).unwrap() as usize;
            let after = fewer.pick(&key, |_| true).unwrap() as usize;
            let after = if after >= gone { after + 1 } else { after };
            prop_assert!(before == gone || before == after);
            // stepping over a node on the full ring is the same as a ring without it
            prop_assert_eq!(all.pick(&key, |node| node as usize != gone), Some(after as u32));
        }
    }
}
