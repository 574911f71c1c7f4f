//! A zone: a store with a name, the fetches under way for it, and what it has done. And all zones of a gateway.
use crate::disk::{Closed, DiskSettings, DiskStore};
use crate::flight::Flights;
use crate::memcached::{MemcachedSettings, MemcachedStore};
use crate::memory::MemoryStore;
use crate::redis::RedisStore;
use crate::store::{Look, Purge, Store, StoreError, Usage};
use crate::stored::{Record, Stored};
use crate::vary::Vary;
use sluice_engine_redis::{Redis, Servers, Settings as RedisSettings};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// How a zone keeps its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Bytes.
    Memory(u64),
    Disk(DiskSettings),
    Redis {
        settings: Box<RedisSettings>,
        prefix: String,
        max_record: u64,
    },
    Memcached(MemcachedSettings),
}

impl Place {
    /// APISIX's word, and ours.
    pub fn strategy(&self) -> &'static str {
        match self {
            Place::Memory(_) => "memory",
            Place::Disk(_) => "disk",
            Place::Redis { .. } => "redis",
            Place::Memcached(_) => "memcached",
        }
    }
}

/// A zone as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneSettings {
    pub name: String,
    pub place: Place,
}

/// What a look-up came to; the index into [`Counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Status {
    Hit,
    Miss,
    Expired,
    Stale,
    Updating,
    Revalidated,
    Bypass,
}

impl Status {
    pub const ALL: [Status; 7] = [
        Status::Hit,
        Status::Miss,
        Status::Expired,
        Status::Stale,
        Status::Updating,
        Status::Revalidated,
        Status::Bypass,
    ];

    /// As `Apisix-Cache-Status` has it (nginx's `$upstream_cache_status`).
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Hit => "HIT",
            Status::Miss => "MISS",
            Status::Expired => "EXPIRED",
            Status::Stale => "STALE",
            Status::Updating => "UPDATING",
            Status::Revalidated => "REVALIDATED",
            Status::Bypass => "BYPASS",
        }
    }
}

/// What a zone has done since the start.
#[derive(Debug, Default)]
pub struct Counts {
    statuses: [AtomicU64; 7],
    /// Body bytes that came from the store.
    pub served_bytes: AtomicU64,
    /// Requests that waited for another's fetch.
    pub waited: AtomicU64,
    /// Answers that were to be stored and were not: too large, too many, a store that is away.
    pub not_stored: AtomicU64,
    /// Look-ups that a store could not answer.
    pub failures: AtomicU64,
    pub purged: AtomicU64,
    /// Bytes of answers that are being taken in.
    pub filling: AtomicU64,
}

impl Counts {
    #[inline]
    pub fn count(&self, status: Status) {
        self.statuses[status as usize].fetch_add(1, Ordering::Relaxed);
    }
    pub fn of(&self, status: Status) -> u64 {
        self.statuses[status as usize].load(Ordering::Relaxed)
    }
}

/// See the file's head.
#[derive(Debug)]
pub struct Zone {
    pub name: String,
    pub strategy: &'static str,
    pub store: Box<dyn Store>,
    pub flights: Arc<Flights>,
    pub counts: Counts,
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flights").field("under_way", &self.len()).finish()
    }
}

/// What is stored for a request, and the key under which it is.
#[derive(Debug, Default)]
pub struct Found {
    pub stored: Option<Arc<Stored>>,
    /// The resource's variants, where it has some.
    pub vary: Option<Arc<Vary>>,
    /// The variant's key, where it is not the resource's own.
    pub variant: Option<Vec<u8>>,
}

impl Zone {
    pub fn open(settings: &ZoneSettings, control: &tokio::runtime::Handle) -> Zone {
        let strategy = settings.place.strategy();
        let away = |why: String| -> Box<dyn Store> {
            tracing::error!(zone = %settings.name, "the cache is off: {why}");
            Box::new(Closed(why))
        };
        let store: Box<dyn Store> = match &settings.place {
            Place::Memory(limit) => Box::new(MemoryStore::new(*limit)),
            Place::Disk(disk) => match DiskStore::open(disk.clone()) {
                Ok(store) => Box::new(store),
                Err(error) => away(format!("{}: {error}", disk.path.display())),
            },
            Place::Redis { settings: redis, prefix, max_record } => {
                let cluster = matches!(redis.servers, Servers::Cluster(_));
                let client = Redis::new((**redis).clone());
                Box::new(RedisStore::new(client, &settings.name, prefix, *max_record, cluster, control.clone()))
            }
            Place::Memcached(memcached) => Box::new(MemcachedStore::new(memcached, &settings.name, control.clone())),
        };
        Zone { name: settings.name.clone(), strategy, store, flights: Arc::default(), counts: Counts::default() }
    }

    /// Looks for what is stored for a request. The callback gives all lines of a request field. Ready at once where both the
    /// resource and its variant are in memory.
    #[inline]
    pub fn find<'a, I>(&self, key: &[u8], value: impl Fn(&str) -> I) -> Result<Found, Look>
    where
        I: Iterator<Item = &'a [u8]>,
    {
        match self.store.look(key) {
            Look::Now(Some(Record::Answer(stored))) => Ok(Found { stored: Some(stored), ..Found::default() }),
            Look::Now(None) => Ok(Found::default()),
            Look::Now(Some(Record::Vary(vary))) => {
                let Some(variant) = vary.key(key, value) else {
                    return Ok(Found { vary: Some(vary), ..Found::default() });
                };
                match self.store.look(&variant) {
                    Look::Now(Some(Record::Answer(stored))) => {
                        Ok(Found { stored: Some(stored), vary: Some(vary), variant: Some(variant) })
                    }
                    Look::Now(_) => Ok(Found { stored: None, vary: Some(vary), variant: Some(variant) }),
                    // A store in memory answers every look-up at once.
                    later => Err(later),
                }
            }
            later => Err(later),
        }
    }

    /// The same, waiting where the store has to; a store that fails has nothing.
    pub async fn find_later<'a, I>(&self, key: &[u8], value: impl Fn(&str) -> I) -> Found
    where
        I: Iterator<Item = &'a [u8]>,
    {
        match self.wait(self.store.look(key)).await {
            Some(Record::Answer(stored)) => Found { stored: Some(stored), ..Found::default() },
            None => Found::default(),
            Some(Record::Vary(vary)) => {
                let Some(variant) = vary.key(key, value) else { return Found { vary: Some(vary), ..Found::default() } };
                let stored = match self.wait(self.store.look(&variant)).await {
                    Some(Record::Answer(stored)) => Some(stored),
                    _ => None,
                };
                Found { stored, vary: Some(vary), variant: Some(variant) }
            }
        }
    }

    async fn wait(&self, look: Look) -> Option<Record> {
        let found = match look {
            Look::Now(found) => Ok(found),
            Look::Later(later) => later.await,
        };
        found.unwrap_or_else(|_| {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            None
        })
    }

    /// Removes by an operator's wish.
    pub async fn purge(&self, purge: Purge) -> Result<Option<u64>, StoreError> {
        let removed = self.store.purge(purge).await?;
        self.counts.purged.fetch_add(removed.unwrap_or(0), Ordering::Relaxed);
        Ok(removed)
    }

    /// How full it is; none while its index is being rebuilt or another process has it.
    pub fn usage(&self) -> Usage {
        self.store.usage()
    }
}

/// All zones, by name. One is opened when it is first asked for.
#[derive(Debug, Default)]
pub struct Zones {
    configured: BTreeMap<String, (ZoneSettings, OnceLock<Arc<Zone>>)>,
    /// None: zones are only known, and never opened.
    control: Option<tokio::runtime::Handle>,
    /// Seconds that an answer is fresh on disk where it says nothing (`apisix.proxy_cache.cache_ttl`).
    pub default_ttl: u64,
    /// Nothing is checked against zones where nobody has configured any: a command without a configuration.
    pub known: bool,
}

impl Zones {
    /// Zones that are only known: nothing is opened.
    pub fn declared(list: Vec<ZoneSettings>, default_ttl: u64) -> Zones {
        let configured = list.into_iter().map(|zone| (zone.name.clone(), (zone, OnceLock::new()))).collect();
        Zones { configured, control: None, default_ttl, known: true }
    }
    /// Zones that can be used.
    pub fn new(list: Vec<ZoneSettings>, default_ttl: u64, control: tokio::runtime::Handle) -> Zones {
        Zones { control: Some(control), ..Zones::declared(list, default_ttl) }
    }
    pub fn settings(&self, name: &str) -> Option<&ZoneSettings> {
        self.configured.get(name).map(|(settings, _)| settings)
    }
    /// Opens the zone if need be.
    pub fn get(&self, name: &str) -> Option<&Arc<Zone>> {
        let (settings, zone) = self.configured.get(name)?;
        let control = self.control.as_ref()?;
        Some(zone.get_or_init(|| Arc::new(Zone::open(settings, control))))
    }
    /// Those that are open.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Zone>> {
        self.configured.values().filter_map(|(_, zone)| zone.get())
    }
}
