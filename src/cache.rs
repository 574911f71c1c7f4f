//! The zones of `proxy-cache`: read from `apisix.proxy_cache` of config.yaml, opened, and shown as metrics.
//!
//! The surprise: a zone is on disk where it has a `disk_path`, in Redis or Memcached where it has one of those (ours), and else in
//! memory, as APISIX has it. Folders that do not begin with `/` stand below the prefix.
use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_config::settings::Settings;
use sluice_config::unit::{parse_size, parse_time};
use sluice_engine_cache::disk::DiskSettings;
use sluice_engine_cache::memcached::MemcachedSettings;
use sluice_engine_cache::store::Usage;
use sluice_engine_cache::zone::{Counts, Place, ZoneSettings};
use sluice_engine_cache::{Status, Zone, Zones};
use sluice_engine_redis::{Servers, Settings as RedisSettings, Tls};
use sluice_telemetry::metrics::Kind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// nginx's `inactive` in APISIX (apisix/cli/ngx_tpl.lua).
const INACTIVE: Duration = Duration::from_secs(86_400);
const DEFAULT_TTL: u64 = 10;
/// Zones of APISIX's own defaults (conf/config.yaml.example).
const DEFAULT_ZONES: &str = r#"[
    {"name": "disk_cache_one", "memory_size": "50m", "disk_size": "1G", "disk_path": "/tmp/disk_cache_one", "cache_levels": "1:2"},
    {"name": "memory_cache", "memory_size": "50m"}
]"#;

#[derive(Deserialize)]
struct Zoned {
    name: String,
    #[serde(default)]
    memory_size: Option<Value>,
    #[serde(default)]
    disk_size: Option<Value>,
    #[serde(default)]
    disk_path: Option<String>,
    #[serde(default)]
    cache_levels: Option<String>,
    /// Ours: `false` leaves syncing files to the system.
    #[serde(default = "yes")]
    disk_sync: bool,
    #[serde(default)]
    redis: Option<RedisZone>,
    #[serde(default)]
    memcached: Option<MemcachedZone>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedisZone {
    #[serde(default)]
    host: Option<String>,
    #[serde(default = "redis_port")]
    port: u16,
    /// `host:port` each: a cluster.
    #[serde(default)]
    cluster_nodes: Vec<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    database: u64,
    /// Milliseconds.
    #[serde(default = "timeout")]
    timeout: u64,
    #[serde(default)]
    ssl: bool,
    #[serde(default)]
    ssl_verify: bool,
    #[serde(default = "prefix")]
    key_prefix: String,
    /// Largest record.
    #[serde(default)]
    max_size: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemcachedZone {
    servers: Vec<String>,
    #[serde(default = "timeout")]
    timeout: u64,
    #[serde(default = "prefix")]
    key_prefix: String,
    #[serde(default)]
    max_size: Option<Value>,
}

fn yes() -> bool {
    true
}
fn redis_port() -> u16 {
    6379
}
fn timeout() -> u64 {
    1000
}
fn prefix() -> String {
    "sluice-cache".into()
}

/// nginx's sizes; a plain number is bytes.
fn size(value: Option<&Value>, default: u64, what: &str) -> anyhow::Result<u64> {
    let read = match value {
        None | Some(Value::Null) => Some(default),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => parse_size(text),
        Some(_) => None,
    };
    read.with_context(|| format!("apisix.proxy_cache: {what} is no size"))
}

fn levels(text: Option<&str>) -> anyhow::Result<Vec<usize>> {
    let levels: Vec<usize> = text.unwrap_or("1:2").split(':').map(|level| level.trim().parse().unwrap_or(0)).collect();
    if levels.len() > 3 || levels.iter().any(|level| !(1..=2).contains(level)) {
        bail!("apisix.proxy_cache: cache_levels are one to three numbers, each 1 or 2, such as 1:2");
    }
    Ok(levels)
}

fn address(text: &str) -> anyhow::Result<(String, u16)> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    parts.with_context(|| format!("apisix.proxy_cache: {text} is no host:port"))
}

fn place(zone: &Zoned, below: &Path, trusted: Option<&str>) -> anyhow::Result<Place> {
    let memory = size(zone.memory_size.as_ref(), 50 << 20, "memory_size")?;
    if let Some(redis) = &zone.redis {
        let servers = match (&redis.host, redis.cluster_nodes.as_slice()) {
            (Some(host), []) => Servers::Single { host: host.clone(), port: redis.port },
            (None, nodes) if !nodes.is_empty() => {
                Servers::Cluster(nodes.iter().map(|node| address(node)).collect::<anyhow::Result<_>>()?)
            }
            _ => bail!("apisix.proxy_cache: zone {} needs redis.host or redis.cluster_nodes", zone.name),
        };
        let limit = Duration::from_millis(redis.timeout);
        let settings = RedisSettings {
            username: redis.username.clone(),
            password: redis.password.clone(),
            database: redis.database,
            tls: redis.ssl.then_some(Tls { verify: redis.ssl_verify, trusted: trusted.map(Arc::from) }),
            connect_timeout: limit,
            read_timeout: limit,
            ..RedisSettings::new(servers)
        };
        let max_record = size(redis.max_size.as_ref(), 8 << 20, "redis.max_size")?;
        return Ok(Place::Redis { settings: Box::new(settings), prefix: redis.key_prefix.clone(), max_record });
    }
    if let Some(memcached) = &zone.memcached {
        if memcached.servers.is_empty() {
            bail!("apisix.proxy_cache: zone {} names no memcached.servers", zone.name);
        }
        memcached.servers.iter().try_for_each(|server| address(server).map(drop))?;
        return Ok(Place::Memcached(MemcachedSettings {
            servers: memcached.servers.clone(),
            timeout: Duration::from_millis(memcached.timeout),
            prefix: memcached.key_prefix.clone(),
            max_record: size(memcached.max_size.as_ref(), 1 << 20, "memcached.max_size")?,
        }));
    }
    let Some(path) = &zone.disk_path else { return Ok(Place::Memory(memory)) };
    Ok(Place::Disk(DiskSettings {
        path: below.join(path),
        levels: levels(zone.cache_levels.as_deref())?,
        limit: size(zone.disk_size.as_ref(), 1 << 30, "disk_size")?,
        memory,
        sync: zone.disk_sync,
        inactive: INACTIVE,
    }))
}

fn read(settings: &Settings, below: &Path) -> anyhow::Result<(Vec<ZoneSettings>, u64)> {
    let own = &settings.apisix.proxy_cache;
    let zones = match &own["zones"] {
        Value::Null => serde_json::from_str(DEFAULT_ZONES)?,
        zones => zones.clone(),
    };
    let zones: Vec<Zoned> = serde_json::from_value(zones).context("apisix.proxy_cache.zones cannot be read")?;
    let ttl = match &own["cache_ttl"] {
        Value::Null => DEFAULT_TTL,
        Value::Number(seconds) => seconds.as_u64().unwrap_or(DEFAULT_TTL),
        other => {
            let read = other.as_str().and_then(parse_time).context("apisix.proxy_cache.cache_ttl is no time")?;
            read.as_secs()
        }
    };
    let trusted = crate::boot::trusted_certificates(settings)?;
    let named =
        |zone: &Zoned| Ok(ZoneSettings { name: zone.name.clone(), place: place(zone, below, trusted.as_deref())? });
    Ok((zones.iter().map(named).collect::<anyhow::Result<_>>()?, ttl))
}

/// The zones as configured; none is opened.
pub fn declared(settings: &Settings) -> anyhow::Result<Zones> {
    let (zones, ttl) = read(settings, Path::new("."))?;
    Ok(Zones::declared(zones, ttl))
}

/// The zones, to be opened when a route wants them.
pub fn open(settings: &Settings, below: &Path, control: &tokio::runtime::Handle) -> anyhow::Result<Zones> {
    let (zones, ttl) = read(settings, below)?;
    Ok(Zones::new(zones, ttl, control.clone()))
}

/// What each zone does, for Prometheus.
pub fn register(metrics: &sluice_telemetry::Registry, zones: &Arc<Zones>) -> anyhow::Result<()> {
    let own = zones.clone();
    let help = "Requests by what the cache had for them";
    metrics.callback("sluice_cache_requests_total", help, &["zone", "status"], Kind::Counter, move |samples| {
        for zone in own.iter() {
            for status in Status::ALL {
                samples.push(&[&zone.name, &status.as_str().to_ascii_lowercase()], zone.counts.of(status) as f64);
            }
        }
    })?;
    type Figure = (&'static str, &'static str, Kind, fn(&Counts, &Usage) -> f64);
    let figures: [Figure; 10] = [
        ("served_bytes_total", "Bytes of bodies that came from the cache", Kind::Counter, |c, _| {
            count(&c.served_bytes)
        }),
        ("waited_total", "Requests that waited for another's fetch", Kind::Counter, |c, _| count(&c.waited)),
        ("not_stored_total", "Answers that could have been stored and were not", Kind::Counter, |c, _| {
            count(&c.not_stored)
        }),
        ("failures_total", "Look-ups that the store could not answer", Kind::Counter, |c, _| count(&c.failures)),
        ("purged_total", "Records removed by the Admin API", Kind::Counter, |c, _| count(&c.purged)),
        ("evictions_total", "Records removed for want of room", Kind::Counter, |_, u| u.evictions as f64),
        ("bytes", "Bytes that the zone holds; 0 in Redis and Memcached", Kind::Gauge, |_, u| u.bytes as f64),
        ("limit_bytes", "Bytes that it may hold", Kind::Gauge, |_, u| u.limit as f64),
        ("entries", "Records that it holds; 0 in Redis and Memcached", Kind::Gauge, |_, u| u.entries as f64),
        ("filling_bytes", "Bytes of answers that are being taken in", Kind::Gauge, |c, _| count(&c.filling)),
    ];
    for (name, help, kind, value) in figures {
        let own = zones.clone();
        metrics.callback(&format!("sluice_cache_{name}"), help, &["zone"], kind, move |samples| {
            for zone in own.iter() {
                samples.push(&[&zone.name], value(&zone.counts, &zone.usage()));
            }
        })?;
    }
    let own = zones.clone();
    let help = "Share of requests that the cache answered since the start";
    metrics.callback("sluice_cache_hit_ratio", help, &["zone"], Kind::Gauge, move |samples| {
        for zone in own.iter() {
            samples.push(&[&zone.name], hit_ratio(zone));
        }
    })?;
    Ok(())
}

fn count(counter: &std::sync::atomic::AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

/// Hits, whatever their freshness, of all requests that could have been one.
fn hit_ratio(zone: &Zone) -> f64 {
    let of = |status: &[Status]| status.iter().map(|s| zone.counts.of(*s)).sum::<u64>() as f64;
    let hits = of(&[Status::Hit, Status::Stale, Status::Updating, Status::Revalidated]);
    let all = hits + of(&[Status::Miss, Status::Expired]);
    if all > 0.0 { hits / all } else { 0.0 }
}

/// The zones, for the Admin API.
pub fn report(zones: &Zones) -> Vec<Value> {
    let of = |zone: &Arc<Zone>| {
        let usage = zone.usage();
        let statuses: serde_json::Map<String, Value> = Status::ALL
            .iter()
            .map(|status| (status.as_str().to_ascii_lowercase(), zone.counts.of(*status).into()))
            .collect();
        json!({"name": zone.name, "strategy": zone.strategy, "bytes": usage.bytes, "limit": usage.limit,
            "entries": usage.entries, "evictions": usage.evictions, "hit_ratio": hit_ratio(zone), "requests": statuses})
    };
    zones.iter().map(of).collect()
}
