//! Host names to addresses, with their time to live: look-ups run on the control runtime, callers may sit on any
//! thread. The one surprise: a failing name server does not lose addresses known before; they come back marked stale.
mod cache;
mod lookup;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// An answer on its way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<Resolved<T>, DnsError>> + Send + 'a>>;

/// Resolves names; tests put their own in place.
pub trait Resolve: Send + Sync + Debug {
    /// Addresses of a host: IPv4 ones, or IPv6 ones if there are none. IP literals resolve to themselves.
    fn resolve<'a>(&'a self, host: &'a str) -> Pending<'a, IpAddr>;
    /// SRV records, as they came (RFC 2782): choosing by priority and weight is the balancer's.
    fn resolve_srv<'a>(&'a self, name: &'a str) -> Pending<'a, SrvRecord>;
}

/// An answer. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved<T> {
    /// The records.
    pub records: Arc<[T]>,
    /// Until when they hold.
    pub expires: Instant,
    /// They have expired, and a new look-up failed.
    pub stale: bool,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvRecord {
    /// Host name, without the dot at the end.
    pub target: String,
    /// Port.
    pub port: u16,
    /// Lower first.
    pub priority: u16,
    /// Share within the priority.
    pub weight: u16,
}

/// No answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// The name server says there is no such name, or it has no such record.
    #[error("no such name: {0}")]
    NoSuchName(String),
    /// No name server answered usefully.
    #[error("resolving {name}: {cause}")]
    Failed {
        /// The name asked for.
        name: String,
        /// What went wrong.
        cause: String,
    },
    /// The resolver cannot be set up.
    #[error("DNS settings: {0}")]
    Settings(String),
}

/// Settings (`apisix.dns_resolver` and its kin in config.yaml).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Name servers; those of /etc/resolv.conf when empty.
    pub servers: Vec<SocketAddr>,
    /// For one attempt at one server (`resolver_timeout`; APISIX: 5 s).
    pub timeout: Duration,
    /// Attempts.
    pub attempts: usize,
    /// Takes the place of every record's own time to live (`dns_resolver_valid`).
    pub valid: Option<Duration>,
    /// Least time to live, so that records with 0 do not cost a look-up per request.
    pub min_ttl: Duration,
    /// How long "no such name" is remembered.
    pub negative_ttl: Duration,
    /// How long a failure is remembered.
    pub failure_ttl: Duration,
    /// How long past their time addresses are used while look-ups fail.
    pub stale_ttl: Duration,
    /// Ask for IPv6 addresses too (`enable_ipv6`).
    pub ipv6: bool,
    /// Names remembered.
    pub cache_size: usize,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            valid: None,
            min_ttl: Duration::from_secs(1),
            negative_ttl: Duration::from_secs(30),
            failure_ttl: Duration::from_secs(1),
            stale_ttl: Duration::from_secs(3600),
            ipv6: true,
            cache_size: 10_000,
        }
    }
}

/// What does the asking; the cache around it decides when.
pub(crate) trait Lookup: Send + Sync + 'static {
    fn ip(&self, host: String) -> Found<IpAddr>;
    fn srv(&self, name: String) -> Found<SrvRecord>;
}

/// Records, and how long they hold from now.
pub(crate) type Found<T> = Pin<Box<dyn Future<Output = Result<(Vec<T>, Duration), DnsError>> + Send>>;

/// What the resolver has asked so far, and what it remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsStats {
    /// Look-ups that brought records.
    pub answered: u64,
    /// Look-ups that an authority answered with "no such name".
    pub no_such_name: u64,
    /// Look-ups without a useful answer.
    pub failed: u64,
    /// Names remembered.
    pub names: u64,
    /// Names of them whose last look-up failed.
    pub failing: u64,
}

/// The resolver: a bounded cache over hickory. Share it in an `Arc<dyn Resolve>`.
#[derive(Debug)]
pub struct Resolver {
    ip: cache::Cache<IpAddr>,
    srv: cache::Cache<SrvRecord>,
}

impl Resolver {
    /// Reads the system's settings where `settings` leaves them open. Look-ups run on `control`. /etc/hosts and search
    /// domains are read once, now.
    pub fn new(settings: &DnsSettings, control: Handle) -> Result<Self, DnsError> {
        // hickory's sockets and timers belong to the runtime it is built in.
        let lookup = {
            let _in = control.enter();
            Arc::new(lookup::Hickory::new(settings)?)
        };
        Ok(Self::with(settings, control, lookup))
    }

    pub(crate) fn with(settings: &DnsSettings, control: Handle, lookup: Arc<impl Lookup>) -> Self {
        let l = lookup.clone();
        Self {
            ip: cache::Cache::new(settings.clone(), control.clone(), Box::new(move |n| l.ip(n))),
            srv: cache::Cache::new(settings.clone(), control, Box::new(move |n| lookup.srv(n))),
        }
    }

    /// Addresses and SRV records together.
    pub fn stats(&self) -> DnsStats {
        let (a, b) = (self.ip.stats(), self.srv.stats());
        DnsStats {
            answered: a.answered + b.answered,
            no_such_name: a.no_such_name + b.no_such_name,
            failed: a.failed + b.failed,
            names: a.names + b.names,
            failing: a.failing + b.failing,
        }
    }

    /// The answer at hand, if it still holds: no waiting, no task.
    pub fn cached(&self, host: &str) -> Option<Resolved<IpAddr>> {
        self.ip.fresh(host)
    }
}

impl Resolve for Resolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Pending<'a, IpAddr> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse() {
            // A literal never changes; a year is as good as ever.
            let expires = Instant::now() + Duration::from_secs(365 * 86_400);
            let r = Resolved { records: Arc::new([ip]), expires, stale: false };
            return Box::pin(std::future::ready(Ok(r)));
        }
        Box::pin(self.ip.get(host))
    }

    fn resolve_srv<'a>(&'a self, name: &'a str) -> Pending<'a, SrvRecord> {
        Box::pin(self.srv.get(name))
    }
}
