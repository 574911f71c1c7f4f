//! What a route demands beside its URI: method, client address, host; and the compiled route itself.
//!
//! The surprise: an unknown request method matches only routes that name no method, as in lua-resty-radixtree.
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use sluice_expr::{Expr, Lookup, Predicate, Variable};
use smallvec::SmallVec;

use crate::pattern::Pattern;
use crate::{Request, RouteSpec};

const METHODS: [&str; 10] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"];

/// A set of request methods; the empty set means any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MethodSet(u16);

impl MethodSet {
    /// Any method.
    pub const ANY: MethodSet = MethodSet(0);

    /// The set of the named methods; the first unknown name is the error.
    pub fn of<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<MethodSet, String> {
        names.into_iter().try_fold(MethodSet(0), |set, name| {
            Self::bit(name).map(|bit| MethodSet(set.0 | bit)).ok_or_else(|| name.to_owned())
        })
    }

    /// Whether a request with this method may match.
    pub fn allows(self, method: &str) -> bool {
        self.0 == 0 || Self::bit(method).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Whether every method of `other` is allowed here.
    pub(crate) fn covers(self, other: MethodSet) -> bool {
        self.0 == 0 || (other.0 != 0 && other.0 & !self.0 == 0)
    }

    fn bit(name: &str) -> Option<u16> {
        METHODS.iter().position(|m| *m == name).map(|i| 1 << i)
    }
}

impl std::fmt::Display for MethodSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> =
            METHODS.iter().enumerate().filter(|(i, _)| self.0 & (1 << i) != 0).map(|(_, m)| *m).collect();
        f.write_str(&names.join(", "))
    }
}

/// One entry of `remote_addrs`: `10.0.0.0/8`, `::1`, or with `!` in front an exception (not in APISIX).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteAddr {
    pub net: IpNet,
    pub negated: bool,
}

impl FromStr for RemoteAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (negated, net) = match text.strip_prefix('!') {
            Some(net) => (true, net),
            None => (false, text),
        };
        let parsed = net.parse::<IpNet>().or_else(|_| net.parse::<IpAddr>().map(IpNet::from));
        Ok(RemoteAddr { net: parsed.map_err(|_| format!("invalid ip address: {text}"))?, negated })
    }
}

/// Inside one of the networks (if any is given) and none of the exceptions.
fn address_allowed(list: &[RemoteAddr], address: &IpAddr) -> bool {
    let (mut wanted, mut inside) = (false, false);
    for entry in list {
        let contains = entry.net.contains(address);
        if entry.negated && contains {
            return false;
        }
        if !entry.negated {
            wanted = true;
            inside |= contains;
        }
    }
    inside || !wanted
}

/// A host of a route, lower-case: `foo.com`, `*.foo.com` (anything that ends in `.foo.com`) or `foo.com:8080`, which is
/// compared with the `Host` header.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) text: Box<str>,
}

impl Host {
    pub(crate) fn new(text: &str) -> Host {
        Host { text: text.to_ascii_lowercase().into() }
    }

    pub(crate) fn wildcard(&self) -> Option<&str> {
        self.text.strip_prefix('*')
    }

    /// Neither wildcard nor port: found by hash.
    pub(crate) fn is_plain(&self) -> bool {
        !self.text.starts_with('*') && !self.text.contains(':')
    }

    /// Whether every host that `other` stands for is one here.
    pub(crate) fn covers(&self, other: &Host) -> bool {
        match (self.wildcard(), other.wildcard()) {
            (Some(own), Some(other)) => other.ends_with(own),
            (Some(own), None) => !other.text.contains(':') && other.text.ends_with(own),
            (None, _) => self.text == other.text,
        }
    }

    fn matches(&self, host: &str) -> bool {
        match self.wildcard() {
            Some(suffix) => host.ends_with(suffix),
            None => *self.text == *host,
        }
    }
}

/// A route, compiled.
#[derive(Debug)]
pub(crate) struct Route<T> {
    pub(crate) id: Arc<str>,
    /// Place in the order of insertion; kept when the route changes.
    pub(crate) sequence: u64,
    pub(crate) priority: i64,
    /// In place when there is one: one cache miss less.
    pub(crate) patterns: SmallVec<[Pattern; 1]>,
    pub(crate) hosts: Box<[Host]>,
    methods: MethodSet,
    remote_addrs: Box<[RemoteAddr]>,
    vars: Option<Arc<Expr>>,
    filter: Option<Arc<dyn Predicate>>,
    pub(crate) handle: T,
}

/// A request as the predicates see it.
pub(crate) struct Subject<'r> {
    pub(crate) request: &'r Request<'r>,
    /// Lower-case.
    pub(crate) host: &'r str,
    pub(crate) lookup: &'r dyn Lookup,
    /// Whether hosts are a predicate here, and not the way to the route.
    pub(crate) check_host: bool,
}

impl Subject<'_> {
    fn host_of<'a>(&self, hosts: &'a [Host]) -> Option<&'a Host> {
        hosts.iter().find(|host| {
            if !host.text.contains(':') {
                return host.matches(self.host);
            }
            // Only such hosts pay for reading the header.
            let header = self.lookup.variable(&Variable::Http("host".into()));
            match header.as_ref().map(|h| h.as_str().to_ascii_lowercase()) {
                Some(header) => host.matches(&header),
                None => host.matches(self.host),
            }
        })
    }
}

impl<T> Route<T> {
    pub(crate) fn compile(spec: RouteSpec<T>, sequence: u64, parameters: bool) -> Result<Route<T>, String> {
        if spec.uris.is_empty() {
            return Err("route has no uri".to_owned());
        }
        let patterns =
            spec.uris.iter().map(|uri| Pattern::compile(uri, parameters).map_err(|e| format!("uri {uri}: {e}")));
        Ok(Route {
            patterns: patterns.collect::<Result<_, _>>()?,
            hosts: spec.hosts.iter().map(|h| Host::new(h)).collect(),
            id: spec.id,
            sequence,
            priority: spec.priority,
            methods: spec.methods,
            remote_addrs: spec.remote_addrs.into(),
            vars: spec.vars.filter(|v| !v.is_empty()),
            filter: spec.filter,
            handle: spec.handle,
        })
    }

    /// Whether [`Route::allows`] always holds.
    pub(crate) fn is_open(&self, check_host: bool) -> bool {
        self.methods == MethodSet::ANY
            && self.remote_addrs.is_empty()
            && self.vars.is_none()
            && self.filter.is_none()
            && (!check_host || self.hosts.is_empty())
    }

    /// Whether whatever another route's conditions let in, but for URIs, these do too. Not finding it out is no: lists of
    /// addresses with exceptions are not looked into.
    pub(crate) fn covers<U>(&self, other: &Route<U>, check_host: bool) -> bool {
        let hosts = !check_host
            || self.hosts.is_empty()
            || (!other.hosts.is_empty()
                && other.hosts.iter().all(|host| self.hosts.iter().any(|own| own.covers(host))));
        let plain = |list: &[RemoteAddr]| !list.iter().any(|entry| entry.negated);
        let inside = |entry: &RemoteAddr| self.remote_addrs.iter().any(|own| own.net.contains(&entry.net));
        let addresses = self.remote_addrs.is_empty()
            || self.remote_addrs == other.remote_addrs
            || (plain(&self.remote_addrs)
                && plain(&other.remote_addrs)
                && !other.remote_addrs.is_empty()
                && other.remote_addrs.iter().all(inside));
        let vars = match (&self.vars, &other.vars) {
            (None, _) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other) || format!("{own:?}") == format!("{other:?}"),
            (Some(_), None) => false,
        };
        hosts && addresses && vars && self.filter.is_none() && self.methods.covers(other.methods)
    }

    /// Whether everything but the URI holds.
    pub(crate) fn allows(&self, subject: &Subject<'_>) -> bool {
        self.methods.allows(subject.request.method)
            && (self.remote_addrs.is_empty() || address_allowed(&self.remote_addrs, &subject.request.remote_addr))
            && (!subject.check_host || self.hosts.is_empty() || subject.host_of(&self.hosts).is_some())
            && self.vars.as_ref().is_none_or(|vars| vars.eval(subject.lookup))
            && self.filter.as_ref().is_none_or(|filter| filter.holds(subject.lookup))
    }

    /// The configured host by which a request came here.
    pub(crate) fn matched_host(&self, subject: &Subject<'_>) -> Option<&str> {
        Some(&subject.host_of(&self.hosts)?.text)
    }

    /// Why [`Route::allows`] is false, in words; `None` when it is true.
    pub(crate) fn refuses(&self, subject: &Subject<'_>) -> Option<String> {
        let request = subject.request;
        if !self.methods.allows(request.method) {
            return Some(format!("method {} is not one of {}", request.method, self.methods));
        }
        if !self.remote_addrs.is_empty() && !address_allowed(&self.remote_addrs, &request.remote_addr) {
            return Some(format!("remote address {} is not allowed", request.remote_addr));
        }
        if subject.check_host && !self.hosts.is_empty() && subject.host_of(&self.hosts).is_none() {
            let hosts: Vec<&str> = self.hosts.iter().map(|h| &*h.text).collect();
            return Some(format!("host {} is not one of {}", subject.host, hosts.join(", ")));
        }
        if let Some(failed) = self.vars.as_ref().and_then(|vars| vars.explain(subject.lookup)) {
            return Some(format!("vars: {failed}"));
        }
        let refused = self.filter.as_ref().is_some_and(|filter| !filter.holds(subject.lookup));
        refused.then(|| "filter_func does not hold".to_owned())
    }
}
