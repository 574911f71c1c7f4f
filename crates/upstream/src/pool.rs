//! Idle upstream connections of one worker, newest first. Nothing is shared between workers, so nothing is locked.
//!
//! The surprise: an idle connection is not watched. Whether it still is quiet is asked when it is taken, which costs no
//! system call unless something did arrive; [`Pool::sweep`] closes those that idled too long.
use foldhash::{HashMap, HashMapExt};
use sluice_net::{Address, Stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Pairs of node and server name that TLS connections are kept for: clients may choose the names.
const MAX_NAMES: usize = 10_000;

/// Connections with the same key are interchangeable: same address, same TLS identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub address: Address,
    /// From [`crate::Tls::identity_for`]; 0 for plain.
    pub tls: u64,
}

/// `keepalive_pool` of an upstream, or nginx's `keepalive*` of config.yaml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Idle connections kept per node.
    pub size: usize,
    pub idle_timeout: Duration,
    /// Requests on one connection; 0 is no limit.
    pub requests: u64,
}

impl Default for PoolSettings {
    /// APISIX's defaults (conf/config.yaml: `nginx_config.http.upstream`).
    fn default() -> Self {
        PoolSettings { size: 320, idle_timeout: Duration::from_secs(60), requests: 1000 }
    }
}

/// How many connections to nodes are open, over all workers. Touched once when one is made and once when it goes.
#[derive(Clone, Debug, Default)]
pub struct OpenConnections(Arc<AtomicUsize>);

impl OpenConnections {
    /// Counts one connection until the guard is dropped.
    pub fn guard(&self) -> OpenGuard {
        self.0.fetch_add(1, Ordering::Relaxed);
        OpenGuard(self.0.clone())
    }

    /// Open ones, idle ones included.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`OpenConnections::guard`].
#[derive(Debug)]
pub struct OpenGuard(Arc<AtomicUsize>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection and what it has done so far.
#[derive(Debug)]
pub struct Pooled {
    pub stream: Stream,
    /// Requests it has carried.
    pub requests: u64,
    /// Counts it; none for a stream within a connection that is counted by itself.
    pub open: Option<OpenGuard>,
}

struct Idle {
    pooled: Pooled,
    until: Instant,
}

/// See the file's head.
#[derive(Default)]
pub struct Pool {
    idle: HashMap<PoolKey, Vec<Idle>>,
    count: usize,
}

impl Pool {
    pub fn new() -> Pool {
        Pool { idle: HashMap::new(), count: 0 }
    }

    /// A connection that was quiet when it was looked at. It may still turn out to be closed: then the request, of which
    /// no byte was answered, is sent on another.
    #[inline]
    pub fn take(&mut self, key: &PoolKey) -> Option<Pooled> {
        let list = self.idle.get_mut(key)?;
        while let Some(mut idle) = list.pop() {
            self.count -= 1;
            if idle.pooled.stream.is_quiet() {
                return Some(idle.pooled);
            }
        }
        None
    }

    /// Keeps a connection whose last response ended cleanly.
    #[inline]
    pub fn put(&mut self, key: &PoolKey, pooled: Pooled, settings: &PoolSettings, now: Instant) {
        if settings.size == 0 || settings.requests != 0 && pooled.requests >= settings.requests {
            return;
        }
        let idle = Idle { pooled, until: now + settings.idle_timeout };
        let full = key.tls != 0 && self.idle.len() >= MAX_NAMES;
        match self.idle.get_mut(key) {
            Some(list) => {
                if list.len() >= settings.size {
                    list.remove(0);
                    self.count -= 1;
                }
                list.push(idle);
            }
            None if full => return,
            None => {
                self.idle.insert(key.clone(), vec![idle]);
            }
        }
        self.count += 1;
    }

    /// Closes what has idled too long.
    pub fn sweep(&mut self, now: Instant) {
        self.idle.retain(|_, list| {
            list.retain(|idle| idle.until > now);
            !list.is_empty()
        });
        self.count = self.idle.values().map(Vec::len).sum();
    }

    /// Idle connections.
    pub fn len(&self) -> usize {
        self.count
    }
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair(listener: &TcpListener) -> (Stream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (Stream::Tcp(client), server)
    }

    fn pooled(stream: Stream) -> Pooled {
        Pooled { stream, requests: 1, open: None }
    }

    #[tokio::test]
    async fn reuses_the_newest_and_drops_the_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = PoolKey { address: Address::Ip(listener.local_addr().unwrap()), tls: 0 };
        let settings = PoolSettings { size: 2, ..PoolSettings::default() };
        let now = Instant::now();
        let mut pool = Pool::new();
        let mut servers = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..3 {
            let (client, server) = pair(&listener).await;
            ports.push(client.local_addr().unwrap().port());
            pool.put(&key, pooled(client), &settings, now);
            servers.push(server);
        }
        assert_eq!(pool.len(), 2);
        // The newest was closed by its server: the one before it is taken.
        drop(servers.pop());
        tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                tokio::task::yield_now().await;
                if let Some(found) = pool.take(&key) {
                    let port = found.stream.local_addr().unwrap().port();
                    if port == ports[1] {
                        break;
                    }
                    assert_eq!(port, ports[2]);
                    pool.put(&key, found, &settings, now);
                }
            }
        })
        .await
        .unwrap();
        assert!(pool.take(&key).is_none());
    }

    #[tokio::test]
    async fn limits_hold() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = PoolKey { address: Address::Ip(listener.local_addr().unwrap()), tls: 0 };
        let now = Instant::now();
        let mut pool = Pool::new();
        let (client, _server) = pair(&listener).await;
        let open = OpenConnections::default();
        let worn = Pooled { stream: client, requests: 1000, open: Some(open.guard()) };
        assert_eq!(open.count(), 1);
        pool.put(&key, worn, &PoolSettings::default(), now);
        assert_eq!(open.count(), 0, "a worn connection is closed");
        assert!(pool.is_empty());
        let (client, _server) = pair(&listener).await;
        pool.put(&key, pooled(client), &PoolSettings::default(), now);
        pool.sweep(now + Duration::from_secs(59));
        assert_eq!(pool.len(), 1);
        pool.sweep(now + Duration::from_secs(61));
        assert!(pool.is_empty());
    }
}
