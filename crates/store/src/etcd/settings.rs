//! Where etcd is and how patient to be with it. Names, defaults and units are those of `deployment.etcd`
//! (apisix/cli/config.lua); what APISIX does not have stands below them.
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone)]
pub struct EtcdSettings {
    /// Addresses of the members, `http://…` or `https://…`; one is used at a time.
    pub hosts: Vec<String>,
    /// Keys are `<prefix>/routes/1`; records of the history are below `<prefix>_sluice/`.
    pub prefix: String,
    /// The longest a read or a write may take, waiting for etcd to come back included.
    pub timeout: Duration,
    /// After so long without a message the watch is compared with etcd, if etcd's revision went on meanwhile.
    pub watch_timeout: Duration,
    /// The longest pause between attempts to reach etcd; up to half of it is added at random.
    pub resync_delay: Duration,
    /// How long a health check may take. One is made every half of that.
    pub health_check_timeout: Duration,
    /// Rounds over all addresses at start before etcd counts as away.
    pub startup_retry: u64,
    pub user: Option<String>,
    pub password: Option<String>,
    /// Our certificate chain and its key, PEM files.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Check etcd's certificate.
    pub verify: bool,
    /// The name to ask for and to check instead of the address's host.
    pub sni: Option<String>,
    /// PEM file (`apisix.ssl.ssl_trusted_certificate`); the system's certificates if none.
    pub trusted_ca: Option<PathBuf>,
    /// Make the directory entries that APISIX expects where they are missing (not on a data plane, which only reads).
    pub init_dirs: bool,
    /// Records of the history that are kept; 0 writes none.
    pub history: usize,
    /// Writes by others that this process remembers.
    pub history_of_others: usize,
    /// The snapshot on disk is at most so much older than the state.
    pub snapshot_delay: Duration,
}

impl Default for EtcdSettings {
    fn default() -> EtcdSettings {
        EtcdSettings {
            hosts: vec!["http://127.0.0.1:2379".to_owned()],
            prefix: "/apisix".to_owned(),
            timeout: Duration::from_secs(30),
            watch_timeout: Duration::from_secs(50),
            resync_delay: Duration::from_secs(5),
            health_check_timeout: Duration::from_secs(10),
            startup_retry: 2,
            user: None,
            password: None,
            cert: None,
            key: None,
            verify: true,
            sni: None,
            trusted_ca: None,
            init_dirs: true,
            history: 1000,
            history_of_others: 1000,
            snapshot_delay: Duration::from_secs(3),
        }
    }
}

impl std::fmt::Debug for EtcdSettings {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdSettings")
            .field("hosts", &self.hosts)
            .field("prefix", &self.prefix)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
