//! Which stream route takes a TCP connection (apisix/stream/router/ip_port.lua).
//!
//! Connections with a server name first look among the routes with `sni`: the exact name, then the longest suffix
//! (`*.foo.com`, any depth), and among routes of one `sni` the first that fits. All others, and those that found none there,
//! take the first route without `sni` that fits, in the order of the configuration. The surprise: a shorter suffix is tried
//! where the routes of the longer one refuse the addresses.
use crate::Outcome;
use crate::router::MAX_EXPLAINED;
use foldhash::HashMap;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub struct StreamRequest<'a> {
    /// The client.
    pub remote: IpAddr,
    /// Our side of the socket.
    pub server: SocketAddr,
    /// The server name that the client asked for; none on a plain connection.
    pub sni: Option<&'a str>,
}

/// A stream route's conditions; an absent one always holds.
#[derive(Clone, Debug, Default)]
pub struct StreamConditions {
    pub remote_addr: Option<IpNet>,
    pub server_addr: Option<IpNet>,
    pub server_port: Option<u16>,
    /// A name, or `*` and the end of one.
    pub sni: Option<Box<str>>,
}

/// Reads `remote_addr` and `server_addr`: an address or a network.
pub fn stream_address(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.ok().map(|net| net.trunc())
}

impl StreamConditions {
    /// Why they do not hold, in words.
    fn refuses(&self, request: &StreamRequest<'_>) -> Option<String> {
        let (remote, server) = (request.remote.to_canonical(), request.server.ip().to_canonical());
        if let Some(net) = self.remote_addr.filter(|net| !net.contains(&remote)) {
            return Some(format!("remote_addr {remote} is not in {net}"));
        }
        if let Some(net) = self.server_addr.filter(|net| !net.contains(&server)) {
            return Some(format!("server_addr {server} is not in {net}"));
        }
        let port = self.server_port.filter(|port| *port != request.server.port())?;
        Some(format!("server_port {} is not {port}", request.server.port()))
    }

    fn accepts(&self, request: &StreamRequest<'_>) -> bool {
        let within = |net: &Option<IpNet>, ip: IpAddr| net.is_none_or(|net| net.contains(&ip.to_canonical()));
        within(&self.remote_addr, request.remote)
            && within(&self.server_addr, request.server.ip())
            && self.server_port.is_none_or(|port| port == request.server.port())
    }
}

type Routes<T> = Vec<(StreamConditions, T)>;

/// All stream routes, compiled.
#[derive(Clone, Debug)]
pub struct StreamRouter<T> {
    exact: HashMap<Box<str>, Routes<T>>,
    /// By what follows the `*`; longest first.
    suffixes: Vec<(Box<str>, Routes<T>)>,
    others: Routes<T>,
}

impl<T> Default for StreamRouter<T> {
    fn default() -> Self {
        StreamRouter { exact: HashMap::default(), suffixes: Vec::new(), others: Vec::new() }
    }
}

impl<T> StreamRouter<T> {
    /// Compiles the routes, first come first served.
    pub fn build(routes: impl IntoIterator<Item = (StreamConditions, T)>) -> StreamRouter<T> {
        let mut router = StreamRouter::default();
        for (conditions, handle) in routes {
            let Some(sni) = conditions.sni.as_deref().map(str::to_ascii_lowercase) else {
                router.others.push((conditions, handle));
                continue;
            };
            match sni.strip_prefix('*') {
                None => router.exact.entry(sni.into()).or_default().push((conditions, handle)),
                Some(suffix) => match router.suffixes.iter_mut().find(|(known, _)| **known == *suffix) {
                    Some((_, routes)) => routes.push((conditions, handle)),
                    None => router.suffixes.push((suffix.into(), vec![(conditions, handle)])),
                },
            }
        }
        router.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        router
    }

    /// The route that takes a connection.
    pub fn find(&self, request: &StreamRequest<'_>) -> Option<&T> {
        fn first<'r, T>(routes: &'r Routes<T>, request: &StreamRequest<'_>) -> Option<&'r T> {
            routes.iter().find(|(conditions, _)| conditions.accepts(request)).map(|(_, handle)| handle)
        }
        let by_name = request.sni.and_then(|sni| {
            let sni = normal(sni);
            self.exact.get(sni.as_str()).and_then(|routes| first(routes, request)).or_else(|| {
                let mut fitting = self.suffixes.iter().filter(|(suffix, _)| sni.ends_with(&**suffix));
                fitting.find_map(|(_, routes)| first(routes, request))
            })
        });
        by_name.or_else(|| first(&self.others, request))
    }

    /// The routes that are looked at for a connection, in order, and what became of each.
    pub fn explain(&self, request: &StreamRequest<'_>) -> Vec<(&T, Outcome)> {
        let mut tables: Vec<&Routes<T>> = Vec::new();
        if let Some(sni) = request.sni.map(normal) {
            tables.extend(self.exact.get(sni.as_str()));
            tables
                .extend(self.suffixes.iter().filter(|(suffix, _)| sni.ends_with(&**suffix)).map(|(_, routes)| routes));
        }
        tables.push(&self.others);
        let mut won = false;
        let judged = tables.into_iter().flatten().take(MAX_EXPLAINED).map(|(conditions, handle)| {
            let outcome = match conditions.refuses(request) {
                Some(reason) => Outcome::Lost { reason },
                None if std::mem::replace(&mut won, true) => {
                    Outcome::Lost { reason: "matches too, but comes later".to_owned() }
                }
                None => Outcome::Won,
            };
            (handle, outcome)
        });
        judged.collect()
    }

    /// All handles, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let named = self.exact.values().chain(self.suffixes.iter().map(|(_, routes)| routes));
        named.chain([&self.others]).flatten().map(|(_, handle)| handle)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        let named = self.exact.values().chain(self.suffixes.iter().map(|(_, routes)| routes));
        named.map(Vec::len).sum::<usize>() + self.others.len()
    }
}

/// A server name as routes are looked up by it.
fn normal(sni: &str) -> String {
    sni.strip_suffix('.').unwrap_or(sni).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request<'a>(remote: &str, server: &str, sni: Option<&'a str>) -> StreamRequest<'a> {
        StreamRequest { remote: remote.parse().unwrap(), server: server.parse().unwrap(), sni }
    }

    fn conditions(remote: &str, server: &str, port: u16, sni: &str) -> StreamConditions {
        StreamConditions {
            remote_addr: stream_address(remote),
            server_addr: stream_address(server),
            server_port: Some(port).filter(|port| *port > 0),
            sni: Some(sni).filter(|sni| !sni.is_empty()).map(Into::into),
        }
    }

    #[test]
    fn every_condition_must_hold_and_the_first_route_wins() {
        let router = StreamRouter::build([
            (conditions("10.1.2.3/8", "", 0, ""), "net"),
            (conditions("", "127.0.0.1", 9100, ""), "server"),
            (conditions("::1", "", 0, ""), "v6"),
            (conditions("", "", 9101, ""), "port"),
            (conditions("", "", 9101, ""), "never"),
        ]);
        assert_eq!(router.len(), 5);
        for (remote, server, wanted) in [
            ("10.9.9.9", "127.0.0.1:9100", Some("net")),
            ("::ffff:10.9.9.9", "127.0.0.1:1", Some("net")),
            ("11.0.0.1", "127.0.0.1:9100", Some("server")),
            ("11.0.0.1", "[::ffff:127.0.0.1]:9100", Some("server")),
            ("11.0.0.1", "127.0.0.2:9100", None),
            ("::1", "[::1]:9101", Some("v6")),
            ("::2", "[::1]:9101", Some("port")),
            ("11.0.0.1", "127.0.0.1:9102", None),
        ] {
            assert_eq!(router.find(&request(remote, server, None)).copied(), wanted, "{remote} {server}");
        }
    }

    #[test]
    fn names_exact_then_the_longest_suffix_then_routes_without() {
        let router = StreamRouter::build([
            (conditions("", "", 0, ""), "any"),
            (conditions("", "", 0, "*.com"), "com"),
            (conditions("", "", 9100, "*.Foo.com"), "foo"),
            (conditions("10.0.0.1", "", 0, "a.foo.com"), "a1"),
            (conditions("10.0.0.2", "", 0, "a.foo.com"), "a2"),
        ]);
        for (remote, port, sni, wanted) in [
            ("10.0.0.1", 9100, "a.foo.com", "a1"),
            ("10.0.0.2", 9100, "A.FOO.com.", "a2"),
            ("10.0.0.3", 9100, "a.foo.com", "foo"),
            ("10.0.0.3", 9101, "a.foo.com", "com"),
            ("10.0.0.3", 9100, "x.y.foo.com", "foo"),
            ("10.0.0.3", 9100, "foo.com", "com"),
            ("10.0.0.3", 9100, "foo.org", "any"),
        ] {
            let server = format!("127.0.0.1:{port}");
            assert_eq!(router.find(&request(remote, &server, Some(sni))), Some(&wanted), "{remote} {port} {sni}");
        }
        assert_eq!(router.find(&request("10.0.0.1", "127.0.0.1:9100", None)), Some(&"any"));
        assert!(StreamRouter::<()>::default().find(&request("::1", "[::1]:1", Some("x"))).is_none());
    }

    fn any_conditions() -> impl Strategy<Value = StreamConditions> {
        let address = prop::sample::select(vec!["", "10.0.0.1", "10.0.0.0/30", "10.0.0.0/8", "::/0"]);
        let sni = prop::sample::select(vec!["", "", "a.b", "b", "*.b", "*a.b", "*"]);
        (address.clone(), address, 0u16..3, sni).prop_map(|(r, s, p, n)| conditions(r, s, p, n))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Against the rule as it reads: rank by name, then by place in the list.
        #[test]
        fn as_a_naive_matcher(
            routes in prop::collection::vec(any_conditions(), 0..12),
            remote in prop::sample::select(vec!["10.0.0.1", "10.0.0.9", "11.0.0.1", "::1"]),
            server in prop::sample::select(vec!["10.0.0.1:1", "10.0.0.2:2", "[::1]:1"]),
            sni in prop::option::of(prop::sample::select(vec!["a.b", "x.b", "b", "c"])),
        ) {
            let request = request(remote, server, sni);
            let rank = |c: &StreamConditions| match (c.sni.as_deref(), request.sni) {
                (None, _) => Some(usize::MAX),
                (Some(own), Some(name)) if own == name => Some(0),
                (Some(own), Some(name)) => own.strip_prefix('*').filter(|s| name.ends_with(s)).map(|s| 100 - s.len()),
                (Some(_), None) => None,
            };
            let fitting = routes.iter().enumerate().filter(|(_, c)| c.accepts(&request));
            let wanted = fitting.filter_map(|(i, c)| rank(c).map(|r| (r, i))).min().map(|(_, i)| i);
            let router = StreamRouter::build(routes.iter().cloned().zip(0usize..));
            prop_assert_eq!(router.find(&request).copied(), wanted);
        }
    }
}
