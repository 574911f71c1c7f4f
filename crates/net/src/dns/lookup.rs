//! The asking itself, by hickory-resolver, with its cache turned off in favour of ours.
//! The one surprise: IPv6 addresses are asked for only when a name has no IPv4 ones.
use super::{DnsError, DnsSettings, Found, Lookup, SrvRecord};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub(super) struct Hickory(TokioResolver);

impl Hickory {
    pub(super) fn new(s: &DnsSettings) -> Result<Self, DnsError> {
        let bad = |e: NetError| DnsError::Settings(e.to_string());
        let mut builder = if s.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(bad)?
        } else {
            // Search domains and ndots stay the system's.
            let system = hickory_resolver::system_conf::read_system_conf().ok();
            let (domain, search) = match &system {
                Some((c, _)) => (c.domain().cloned(), c.search().to_vec()),
                None => (None, Vec::new()),
            };
            let servers = s.servers.iter().map(|a| {
                let over = |protocol| {
                    let mut c = ConnectionConfig::new(protocol);
                    c.port = a.port();
                    c
                };
                NameServerConfig::new(a.ip(), true, vec![over(ProtocolConfig::Udp), over(ProtocolConfig::Tcp)])
            });
            let config = ResolverConfig::from_parts(domain, search, servers.collect());
            let mut b = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            if let Some((_, o)) = system {
                b.options_mut().ndots = o.ndots;
            }
            b
        };
        let o = builder.options_mut();
        o.timeout = s.timeout;
        o.attempts = s.attempts;
        o.cache_size = 0;
        o.use_hosts_file = ResolveHosts::Always;
        o.ip_strategy = if s.ipv6 { LookupIpStrategy::Ipv4thenIpv6 } else { LookupIpStrategy::Ipv4Only };
        builder.build().map(Self).map_err(bad)
    }
}

fn failure(name: String, e: NetError) -> DnsError {
    if e.is_no_records_found() { DnsError::NoSuchName(name) } else { DnsError::Failed { name, cause: e.to_string() } }
}

fn left(until: Instant) -> Duration {
    // Part of the first second has gone by already; a record of 30 s should not count as 29.
    Duration::from_secs(until.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000) as u64)
}

impl Lookup for Hickory {
    fn ip(&self, host: String) -> Found<IpAddr> {
        let r = self.0.clone();
        Box::pin(async move {
            match r.lookup_ip(host.as_str()).await {
                Ok(found) => Ok((found.iter().collect(), left(found.valid_until()))),
                Err(e) => Err(failure(host, e)),
            }
        })
    }

    fn srv(&self, name: String) -> Found<SrvRecord> {
        let r = self.0.clone();
        Box::pin(async move {
            let found = match r.srv_lookup(name.as_str()).await {
                Ok(f) => f,
                Err(e) => return Err(failure(name, e)),
            };
            let records = found.answers().iter().filter_map(|rec| match &rec.data {
                RData::SRV(s) => Some(SrvRecord {
                    target: s.target.to_utf8().trim_end_matches('.').to_owned(),
                    port: s.port,
                    priority: s.priority,
                    weight: s.weight,
                }),
                _ => None,
            });
            Ok((records.collect(), left(found.valid_until())))
        })
    }
}
