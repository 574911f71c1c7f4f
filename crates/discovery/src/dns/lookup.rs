//! One name to nodes, by hickory-resolver. The surprise: of a name with SRV records each target is asked for by itself, and
//! weights are multiplied so that addresses of one target can share its weight (apisix/core/dns/client.lua `resolve_srv`).
use super::Kind;
use crate::registry::Unusable;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::system_conf;
use sluice_upstream::ServiceNode;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// For one attempt at one server, and attempts (apisix/core/dns/client.lua).
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// Records of one name that are used; more are ignored.
const MAX_RECORDS: usize = 1024;
/// SRV targets asked for at the same time.
const CONCURRENT: usize = 16;

/// What a name stands for now.
#[derive(Debug)]
pub(super) struct Answer {
    /// Empty: the server says that there is nothing.
    pub nodes: Vec<ServiceNode>,
    /// What was found.
    pub kind: Option<Kind>,
    pub ttl: Duration,
}

pub(super) struct Client {
    resolver: TokioResolver,
    order: Vec<Kind>,
}

/// Addresses and how long they hold.
type Addresses = (Vec<IpAddr>, Duration);

/// Why a name could not be asked for: no server answered, or one answered with a failure.
enum Failure {
    Silent(String),
    Refused(String),
}

impl Failure {
    fn text(self) -> String {
        match self {
            Failure::Silent(text) | Failure::Refused(text) => text,
        }
    }
}

impl Client {
    /// Of `servers`, else of the file `resolv_conf`.
    pub fn new(servers: &[SocketAddr], resolv_conf: Option<&str>, order: Vec<Kind>) -> Result<Client, Unusable> {
        let (system, options) = match resolv_conf {
            Some(path) => {
                let text = std::fs::read(path).map_err(|e| Unusable(format!("resolv_conf: {path}: {e}")))?;
                system_conf::parse_resolv_conf(text).map_err(|e| Unusable(format!("resolv_conf: {path}: {e}")))?
            }
            // search domains and ndots stay the system's
            None => {
                system_conf::read_system_conf().unwrap_or_else(|_| (ResolverConfig::default(), ResolverOpts::default()))
            }
        };
        let config = if servers.is_empty() {
            system
        } else {
            let server = |address: &SocketAddr| {
                let over = |protocol| {
                    let mut connection = ConnectionConfig::new(protocol);
                    connection.port = address.port();
                    connection
                };
                NameServerConfig::new(address.ip(), true, vec![over(ProtocolConfig::Udp), over(ProtocolConfig::Tcp)])
            };
            let (domain, search) = (system.domain().cloned(), system.search().to_vec());
            ResolverConfig::from_parts(domain, search, servers.iter().map(server).collect())
        };
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let own = builder.options_mut();
        own.ndots = options.ndots;
        own.timeout = TIMEOUT;
        own.attempts = ATTEMPTS;
        own.cache_size = 0;
        own.use_hosts_file = ResolveHosts::Never;
        let resolver = builder.build().map_err(|error| Unusable(error.to_string()))?;
        Ok(Client { resolver, order })
    }

    /// Asks in the configured order; the first kind of record that there is counts. `last`: what was found before.
    pub async fn ask(&self, host: &str, port: Option<u16>, last: Option<Kind>) -> Result<Answer, String> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Answer { nodes: vec![node(ip, port, 1, 0)], kind: None, ttl: Duration::MAX });
        }
        let mut asked: Vec<Kind> = Vec::new();
        let mut failed = None;
        for kind in &self.order {
            let Some(kind) = (if *kind == Kind::Last { last } else { Some(*kind) }) else { continue };
            if asked.contains(&kind) {
                continue;
            }
            asked.push(kind);
            let found = match kind {
                Kind::Srv => self.services(host, port).await,
                Kind::A | Kind::Aaaa => self
                    .addresses(host, kind)
                    .await
                    .map(|(addresses, ttl)| (addresses.into_iter().map(|ip| node(ip, port, 1, 0)).collect(), ttl)),
                Kind::Last => continue,
            };
            match found {
                Ok((nodes, ttl)) if !nodes.is_empty() => return Ok(Answer { nodes, kind: Some(kind), ttl }),
                Ok(_) => {}
                // who does not answer one question will not answer the next
                Err(Failure::Silent(error)) => return Err(error),
                Err(refused) => failed = Some(refused.text()),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(Answer { nodes: Vec::new(), kind: None, ttl: Duration::ZERO }),
        }
    }

    async fn lookup(&self, host: &str, kind: RecordType) -> Result<Option<Lookup>, Failure> {
        match self.resolver.lookup(host, kind).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_no_records_found() => Ok(None),
            Err(error @ NetError::Dns(_)) => Err(Failure::Refused(error.to_string())),
            Err(error) => Err(Failure::Silent(error.to_string())),
        }
    }

    async fn addresses(&self, host: &str, kind: Kind) -> Result<Addresses, Failure> {
        let wanted = if kind == Kind::Aaaa { RecordType::AAAA } else { RecordType::A };
        let Some(found) = self.lookup(host, wanted).await? else { return Ok((Vec::new(), Duration::ZERO)) };
        let ip = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        let mut addresses: Vec<IpAddr> = found.answers().iter().filter_map(|record| ip(&record.data)).collect();
        // servers rotate their answers; the order must not count as a change
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MAX_RECORDS);
        Ok((addresses, ttl(&found)))
    }

    /// Addresses of an SRV target, by the kinds of the configured order.
    async fn target(&self, host: &str) -> Result<Addresses, Failure> {
        let mut kinds: Vec<Kind> = self.order.iter().copied().filter(|k| matches!(k, Kind::A | Kind::Aaaa)).collect();
        if kinds.is_empty() {
            kinds.push(Kind::A);
        }
        for kind in kinds {
            let (addresses, ttl) = self.addresses(host, kind).await?;
            if !addresses.is_empty() {
                return Ok((addresses, ttl));
            }
        }
        Err(Failure::Refused(format!("failed to resolve SRV record {host}: no address")))
    }

    async fn services(&self, host: &str, port: Option<u16>) -> Result<(Vec<ServiceNode>, Duration), Failure> {
        let Some(found) = self.lookup(host, RecordType::SRV).await? else { return Ok((Vec::new(), Duration::ZERO)) };
        let mut records: Vec<&SRV> = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv),
                _ => None,
            })
            .take(MAX_RECORDS)
            .collect();
        records.sort_by_key(|srv| (srv.priority, srv.target.to_utf8(), srv.port, srv.weight));
        let mut ttl = ttl(&found);
        let mut targets: Vec<(&SRV, Vec<IpAddr>)> = Vec::with_capacity(records.len());
        for some in records.chunks(CONCURRENT) {
            let names: Vec<String> = some.iter().map(|srv| srv.target.to_utf8()).collect();
            let answers = join(names.iter().map(|name| self.target(name)).collect()).await;
            for (srv, answer) in some.iter().zip(answers) {
                let (addresses, holds) = answer?;
                ttl = ttl.min(holds);
                targets.push((srv, addresses));
            }
        }
        Ok((weigh(&targets, port), ttl))
    }
}

/// All answers, in the order of the questions.
async fn join<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        let mut open = false;
        for (future, slot) in futures.iter_mut().zip(&mut done) {
            if slot.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(output) => *slot = Some(output),
                    std::task::Poll::Pending => open = true,
                }
            }
        }
        if open { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// Targets' weights shared out among their addresses, in whole numbers.
fn weigh(targets: &[(&SRV, Vec<IpAddr>)], port: Option<u16>) -> Vec<ServiceNode> {
    let multiple = targets.iter().fold(1u64, |all, (_, addresses)| {
        let count = addresses.len().max(1) as u64;
        // beyond that shares are rounded
        Some(all / gcd(all, count) * count).filter(|multiple| *multiple <= 65_536).unwrap_or(all)
    });
    let mut nodes = Vec::new();
    for (srv, addresses) in targets {
        let share = u64::from(srv.weight.max(1)) * multiple / (addresses.len().max(1) as u64);
        let weight = u32::try_from(share.max(1)).unwrap_or(u32::MAX);
        // port 0: the usual one of the scheme
        let port = port.or(Some(srv.port).filter(|port| *port != 0));
        // lower ones first in DNS, higher ones first in APISIX
        nodes.extend(addresses.iter().map(|ip| node(*ip, port, weight, -i32::from(srv.priority))));
    }
    nodes
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn node(ip: IpAddr, port: Option<u16>, weight: u32, priority: i32) -> ServiceNode {
    ServiceNode { host: Arc::from(ip.to_string()), port, weight, priority, metadata: None }
}

fn ttl(found: &Lookup) -> Duration {
    let least = found.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    Duration::from_secs(u64::from(least))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::Name;

    #[test]
    fn weights_are_shared_in_whole_numbers() {
        let srv = |weight, port, priority| SRV::new(priority, weight, port, Name::root());
        let ips = |last: &[u8]| last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect::<Vec<_>>();
        let (first, second) = (srv(3, 80, 1), srv(0, 0, 2));
        let nodes = weigh(&[(&first, ips(&[1, 2])), (&second, ips(&[3, 4, 5]))], None);
        let seen: Vec<_> = nodes.iter().map(|n| (n.weight, n.port, n.priority)).collect();
        assert_eq!(seen, [(9, Some(80), -1), (9, Some(80), -1), (2, None, -2), (2, None, -2), (2, None, -2)]);
        assert_eq!(weigh(&[(&first, ips(&[1]))], Some(81))[0].port, Some(81));
    }
}
