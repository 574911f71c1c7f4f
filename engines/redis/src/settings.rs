//! Where Redis is and how it is spoken to. Two plugins with equal settings share one client: [`Settings::key`].
use std::sync::Arc;
use std::time::Duration;

/// How to reach Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    pub servers: Servers,
    pub username: Option<String>,
    /// An empty one is none.
    pub password: Option<String>,
    /// Ignored by a cluster, which has one only.
    pub database: u64,
    pub tls: Option<Tls>,
    /// For TCP, TLS and the log-in together.
    pub connect_timeout: Duration,
    /// For the answer to one command.
    pub read_timeout: Duration,
    /// A connection unused for so long is not used again.
    pub idle: Duration,
    /// Failures in a row after which nobody waits any more; four times as many for a cluster, where one node of several may
    /// be away.
    pub failures: u32,
    /// How long that lasts until one request tries again.
    pub cool_down: Duration,
}

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Servers {
    Single {
        host: String,
        port: u16,
    },
    /// Some nodes of a cluster; the rest is learned from them.
    Cluster(Vec<(String, u16)>),
    /// The server is the one that the first answering sentinel names.
    Sentinel {
        sentinels: Vec<(String, u16)>,
        master: String,
        role: Role,
        username: Option<String>,
        password: Option<String>,
    },
}

/// Which server of a sentinel's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Master,
    Replica,
}

/// TLS to the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Whether the server's certificate must be good for its name.
    pub verify: bool,
    /// PEM of the authorities; the system's where there is none.
    pub trusted: Option<Arc<str>>,
}

impl Settings {
    /// One server with the defaults of APISIX (apisix/utils/redis-schema.lua).
    pub fn single(host: impl Into<String>, port: u16) -> Settings {
        Settings::new(Servers::Single { host: host.into(), port })
    }

    /// APISIX's defaults.
    pub fn new(servers: Servers) -> Settings {
        Settings {
            servers,
            username: None,
            password: None,
            database: 0,
            tls: None,
            connect_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
            idle: Duration::from_secs(10),
            failures: 3,
            cool_down: Duration::from_secs(1),
        }
    }

    /// Equal for equal settings: the key under which a client is shared. It holds secrets: never log it.
    pub fn key(&self) -> String {
        format!("redis#{self:?}")
    }
}
