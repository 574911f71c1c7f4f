//! A compiled upstream: its nodes and everything a request needs to know to talk to one.
use crate::breaker::Breaking;
use crate::concurrency::ConcurrencyLimit;
use crate::health::{Checker, HealthReport};
use crate::pool::PoolSettings;
use crate::{HostHeader, LoadReport, NodeSet, NodeStatus, RetryPolicy};
use sluice_net::tls::ClientTls;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// An upstream's `scheme`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    #[default]
    Http,
    Https,
    Grpc,
    Grpcs,
    /// Bytes of a stream route, plain.
    Tcp,
    /// Bytes of a stream route, encrypted.
    Tls,
}

impl Scheme {
    /// By APISIX's name; `None` for one that is not spoken here (`udp`, `kafka`).
    pub fn parse(name: &str) -> Option<Scheme> {
        Some(match name {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "grpc" => Scheme::Grpc,
            "grpcs" => Scheme::Grpcs,
            "tcp" => Scheme::Tcp,
            "tls" => Scheme::Tls,
            _ => return None,
        })
    }
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Grpcs | Scheme::Tls)
    }
    /// Whether nodes are asked in HTTP/2.
    pub fn is_h2(self) -> bool {
        matches!(self, Scheme::Grpc | Scheme::Grpcs)
    }
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Grpc => "grpc",
            Scheme::Grpcs => "grpcs",
            Scheme::Tcp => "tcp",
            Scheme::Tls => "tls",
        }
    }
}

/// `timeout` of an upstream or route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timeouts {
    pub connect: Duration,
    /// Between two writes of the request.
    pub send: Duration,
    /// Between two reads of the response.
    pub read: Duration,
    /// From the request's head to the response's, all attempts and waits included; ours.
    pub request: Option<Duration>,
}

impl Timeouts {
    /// The same where only so much time is left. Nothing is shorter than a millisecond, as zero may mean no limit.
    pub fn within(self, left: Duration) -> Timeouts {
        let left = left.max(Duration::from_millis(1));
        let Timeouts { connect, send, read, request } = self;
        Timeouts { connect: connect.min(left), send: send.min(left), read: read.min(left), request }
    }
}

impl Default for Timeouts {
    /// nginx's `proxy_*_timeout`.
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Timeouts { connect: minute, send: minute, read: minute, request: None }
    }
}

/// See the file's head. Shared by all workers and never changed; what moves is inside [`NodeSet`].
#[derive(Debug)]
pub struct Upstream {
    /// The stored object it belongs to: `upstreams/1`, `routes/7`.
    pub key: Arc<str>,
    pub name: Option<Arc<str>>,
    pub nodes: Arc<NodeSet>,
    pub scheme: Scheme,
    pub host: HostHeader,
    pub timeouts: Timeouts,
    /// How long a connection on a stream route may be silent both ways: the larger of `timeout.send` and `timeout.read`.
    pub stream_idle: Duration,
    pub retry: RetryPolicy,
    pub pool: PoolSettings,
    pub tls: Tls,
    /// The health checks of its nodes.
    pub health: Option<Arc<Checker>>,
    pub breaking: Option<Box<Breaking>>,
    pub concurrency: Option<Box<ConcurrencyLimit>>,
    /// Where nodes tell their load.
    pub load_report: Option<Arc<LoadReport>>,
    /// Keeps the nodes' names resolved for as long as the upstream exists.
    pub _refresh: Option<Refresh>,
}

impl Upstream {
    /// What its health checks have found; `None` where it has none.
    pub fn health(&self) -> Option<HealthReport> {
        self.health.as_ref().map(|checker| checker.report())
    }

    /// The state of its nodes; `now_ms` as for picks.
    pub fn status(&self, now_ms: u64) -> Vec<NodeStatus> {
        self.nodes.balancer().status(now_ms)
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub struct Refresh(tokio::task::AbortHandle);

impl Refresh {
    pub fn new(task: tokio::task::AbortHandle) -> Refresh {
        Refresh(task)
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How to speak TLS to the nodes.
#[derive(Clone, Debug)]
pub struct Tls {
    pub client: ClientTls,
    /// Of these TLS settings; never 0.
    pub identity: u64,
    /// The name to ask for, whatever `Host` is sent; without it that is asked for (`proxy_ssl_name $upstream_host`).
    pub sni: Option<Arc<str>>,
}

impl Tls {
    /// Tells connections apart in the pool that are for different names too: what a node has shown to one name says nothing
    /// of another (apisix/balancer.lua `pool`). Keyed, for clients may choose the name.
    pub fn identity_for(&self, name: &str) -> u64 {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        if self.sni.is_some() {
            return self.identity;
        }
        KEYS.hash_one((self.identity, name)).max(1)
    }
}
