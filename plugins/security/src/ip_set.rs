//! A set of addresses and networks as sorted, disjoint ranges: one binary search per look-up, 8 or 32 bytes per range.
//!
//! The surprise: an IPv4-mapped network (`::ffff:10.0.0.0/104`) is the IPv4 network, and an IPv6 network that merely
//! contains the mapped range (`::/0`) holds no IPv4 address, as in lua-resty-ipmatcher.
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;

/// Addresses and networks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IpSet {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

/// An entry that is neither an address nor a network; the wording is apisix/plugins/ip-restriction/init.lua's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid ip address: {0}")]
pub struct InvalidIp(String);

impl IpSet {
    /// Compiles addresses (`10.0.0.1`, `::1`) and networks (`10.0.0.0/8`; host bits may be set).
    pub fn new<S: AsRef<str>>(entries: &[S]) -> Result<IpSet, InvalidIp> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for entry in entries.iter().map(AsRef::as_ref) {
            match network(entry).ok_or_else(|| InvalidIp(entry.to_string()))? {
                IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
            }
        }
        Ok(IpSet { v4: merged(v4), v6: merged(v6) })
    }

    /// Whether the address is in the set. An IPv4-mapped address counts as the IPv4 address.
    #[inline]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => holds(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => holds(&self.v6, u128::from(ip)),
        }
    }
}

fn network(entry: &str) -> Option<IpNet> {
    let net = match entry.parse::<IpAddr>() {
        Ok(ip) => IpNet::from(ip),
        Err(_) => entry.parse::<IpNet>().ok()?,
    };
    Some(match net {
        IpNet::V6(v6) => mapped(v6).map_or(net, IpNet::V4),
        v4 => v4,
    })
}

/// The IPv4 network that an IPv4-mapped one stands for.
fn mapped(net: Ipv6Net) -> Option<Ipv4Net> {
    let ip = net.network().to_ipv4_mapped()?;
    Ipv4Net::new(ip, net.prefix_len().checked_sub(96)?).ok()
}

/// Sorts and joins what overlaps.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlaps = next.0 <= kept.1;
        if overlaps {
            kept.1 = kept.1.max(next.1);
        }
        overlaps
    });
    ranges.into()
}

#[inline]
fn holds<T: Ord + Copy>(ranges: &[(T, T)], at: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= at);
    after.checked_sub(1).and_then(|i| ranges.get(i)).is_some_and(|(_, last)| at <= *last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn set(entries: &[&str]) -> IpSet {
        IpSet::new(entries).unwrap()
    }
    fn has(set: &IpSet, ip: &str) -> bool {
        set.contains(ip.parse().unwrap())
    }

    #[test]
    fn addresses_and_networks() {
        let set = set(&["127.0.0.0/24", "113.74.26.106", "::1", "fe80::/32", "10.1.2.3/8"]);
        for inside in ["127.0.0.0", "127.0.0.255", "113.74.26.106", "::1", "fe80::5", "10.255.0.1", "::ffff:127.0.0.9"]
        {
            assert!(has(&set, inside), "{inside}");
        }
        for outside in ["127.0.1.0", "113.74.26.107", "::2", "fe81::1", "11.0.0.0", "9.255.255.255"] {
            assert!(!has(&set, outside), "{outside}");
        }
    }

    #[test]
    fn the_two_families_are_apart_but_mapped_addresses_are_ipv4() {
        assert!(!has(&set(&["::/0"]), "1.2.3.4"));
        assert!(!has(&set(&["0.0.0.0/0"]), "2001:db8::1"));
        let mapped = set(&["::ffff:10.0.0.0/104", "::ffff:192.0.2.1"]);
        assert!(has(&mapped, "10.9.9.9") && has(&mapped, "192.0.2.1") && !has(&mapped, "192.0.2.2"));
    }

    #[test]
    fn ranges_are_joined() {
        let set = set(&["10.0.0.0/9", "10.0.0.0/8", "10.3.0.0/16", "10.3.4.5"]);
        assert_eq!(*set.v4, [(0x0a00_0000, 0x0aff_ffff)]);
    }

    #[test]
    fn what_is_no_address_is_named() {
        for wrong in ["10.0.0.0/33", "::/129", "300.1.1.1", "example.com", "", "1.2.3.4/", "1.2.3.4/-1", "::ffff::/4"] {
            assert_eq!(IpSet::new(&[wrong]).unwrap_err().to_string(), format!("invalid ip address: {wrong}"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn agrees_with_asking_each_network(
            nets in prop::collection::vec((any::<u16>(), 8u8..=32), 0..20),
            probes in prop::collection::vec(any::<u16>(), 1..20),
        ) {
            // 16 moving bits, so that networks overlap and probes hit.
            let wide = |bits: u16| Ipv4Addr::from(0x0a00_0000 | u32::from(bits) << 4);
            let nets: Vec<Ipv4Net> = nets.into_iter().map(|(ip, len)| Ipv4Net::new(wide(ip), len).unwrap()).collect();
            let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
            let set = IpSet::new(&texts).unwrap();
            for ip in probes.into_iter().map(wide) {
                prop_assert_eq!(set.contains(ip.into()), nets.iter().any(|n| n.contains(&ip)));
            }
        }

        #[test]
        fn ipv6_too(
            nets in prop::collection::vec((any::<u16>(), 64u8..=128), 0..20),
            probes in prop::collection::vec(any::<u16>(), 1..20),
        ) {
            let wide = |bits: u16| Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(bits));
            let nets: Vec<Ipv6Net> = nets.into_iter().map(|(ip, len)| Ipv6Net::new(wide(ip), len).unwrap()).collect();
            let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
            let set = IpSet::new(&texts).unwrap();
            for ip in probes.into_iter().map(wide) {
                prop_assert_eq!(set.contains(ip.into()), nets.iter().any(|n| n.contains(&ip)));
            }
        }
    }
}
