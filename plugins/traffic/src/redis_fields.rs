//! The fields of a Redis policy, and the client that they describe. Plugins with the same fields share one client, whatever
//! object they stand on.
//!
//! The surprise: `redis_keepalive_pool` and `redis_cluster_name` are accepted and mean nothing here, because each worker has
//! one connection that carries all its commands at once.
//
// Read in apisix/utils/redis.lua, apisix/utils/rediscluster.lua and apisix/plugins/limit-count/util.lua.
use serde::{Deserialize, Deserializer, Serialize};
use sluice_engine_redis::{Redis, Role, Servers, Settings, Tls};
use sluice_plugin::{BuildError, Env};
use std::sync::Arc;
use std::time::Duration;

const DEFAULT_PORT: u16 = 6379;

/// As configured. Only what is set is written back, so that a local policy is the same with and without this part.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default)]
pub struct RedisFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    redis_port: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    redis_database: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    redis_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_ssl: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_ssl_verify: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    redis_keepalive_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    redis_keepalive_pool: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_cluster_nodes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_cluster_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_cluster_ssl: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_cluster_ssl_verify: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_sentinels: Option<Vec<Sentinel>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_master_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_role: Option<SentinelRole>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    redis_connect_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    redis_read_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sentinel_username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sentinel_password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    key_ttl: Option<u64>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
struct Sentinel {
    host: String,
    port: u16,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum SentinelRole {
    #[default]
    Master,
    Slave,
}

/// A JSON Schema integer may be written `5.0`.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.map(|number| number as u64))
}

/// What stands behind a policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RedisPolicy {
    Single,
    Cluster,
    Sentinel,
}

impl RedisFields {
    /// The client, shared by all plugins with these settings.
    pub fn client(&self, policy: RedisPolicy, env: &Env) -> Result<Arc<Redis>, BuildError> {
        let settings = self.settings(policy, env)?;
        Ok(env.shared.get_or_insert(&settings.key(), || Redis::new(settings)))
    }

    /// `limit-conn`: seconds that a request is counted at most.
    pub fn key_ttl(&self) -> u64 {
        self.key_ttl.unwrap_or(3600).max(1)
    }

    fn settings(&self, policy: RedisPolicy, env: &Env) -> Result<Settings, BuildError> {
        let (servers, tls, verify, idle) = match policy {
            RedisPolicy::Single => {
                let host = self.redis_host.clone().unwrap_or_default();
                (Servers::Single { host, port: port(self.redis_port)? }, self.redis_ssl, self.redis_ssl_verify, 10_000)
            }
            RedisPolicy::Cluster => {
                let nodes = self.redis_cluster_nodes.iter().flatten().map(|node| address(node));
                let servers = Servers::Cluster(nodes.collect());
                (servers, self.redis_cluster_ssl, self.redis_cluster_ssl_verify, 10_000)
            }
            RedisPolicy::Sentinel => (self.sentinel(), None, None, 60_000),
        };
        let trusted = env.trusted_certificates.clone();
        let tls = (tls == Some(true)).then(|| Tls { verify: verify == Some(true), trusted });
        let breaker = env.attribute("redis");
        let number =
            |name: &str, default: u64| breaker.get(name).and_then(serde_json::Value::as_u64).unwrap_or(default);
        let cluster = policy == RedisPolicy::Cluster;
        let millis = |own: Option<u64>| Duration::from_millis(own.or(self.redis_timeout).unwrap_or(1000).max(1));
        Ok(Settings {
            username: self.redis_username.clone().filter(|_| !cluster),
            password: self.redis_password.clone(),
            database: if cluster { 0 } else { self.redis_database.unwrap_or(0) },
            tls,
            connect_timeout: millis(self.redis_connect_timeout),
            read_timeout: millis(self.redis_read_timeout),
            idle: Duration::from_millis(self.redis_keepalive_timeout.unwrap_or(idle)),
            failures: u32::try_from(number("breaker_failures", 3)).unwrap_or(u32::MAX),
            cool_down: Duration::from_millis(number("breaker_cool_down_ms", 1000)),
            ..Settings::new(servers)
        })
    }

    fn sentinel(&self) -> Servers {
        Servers::Sentinel {
            sentinels: self.redis_sentinels.iter().flatten().map(|s| (s.host.clone(), s.port)).collect(),
            master: self.redis_master_name.clone().unwrap_or_default(),
            role: match self.redis_role.unwrap_or_default() {
                SentinelRole::Master => Role::Master,
                SentinelRole::Slave => Role::Replica,
            },
            username: self.sentinel_username.clone(),
            password: self.sentinel_password.clone(),
        }
    }
}

fn port(port: Option<u64>) -> Result<u16, BuildError> {
    let Some(port) = port else { return Ok(DEFAULT_PORT) };
    u16::try_from(port).map_err(|_| BuildError(format!("{port} is not a port")))
}

/// `host:port`, `[::1]:port`, or a host alone. What is neither is a host that nobody will find: a reference to a secret is
/// looked at before it is resolved, and must pass.
fn address(text: &str) -> (String, u16) {
    let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_string();
    let port = |digits: &str| digits.parse().ok();
    match text.rsplit_once(':').map(|(host, digits)| (host, port(digits))) {
        Some((host, Some(port))) if host.ends_with(']') || !host.contains(':') => (bare(host), port),
        _ => (bare(text), DEFAULT_PORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(policy: RedisPolicy, fields: serde_json::Value) -> Settings {
        let fields: RedisFields = serde_json::from_value(fields).unwrap();
        fields.settings(policy, &Env::for_tests()).unwrap()
    }

    #[test]
    fn one_server() {
        let found = settings(RedisPolicy::Single, json!({"redis_host": "r1"}));
        assert_eq!(found, Settings::single("r1", 6379));
        let found = settings(
            RedisPolicy::Single,
            json!({"redis_host": "r1", "redis_port": 7.0, "redis_username": "anna", "redis_password": "p", "redis_database": 2,
                "redis_timeout": 50, "redis_ssl": true, "redis_keepalive_timeout": 2000}),
        );
        let wanted = Settings {
            username: Some("anna".into()),
            password: Some("p".into()),
            database: 2,
            tls: Some(Tls { verify: false, trusted: None }),
            connect_timeout: Duration::from_millis(50),
            read_timeout: Duration::from_millis(50),
            idle: Duration::from_secs(2),
            ..Settings::single("r1", 7)
        };
        assert_eq!(found, wanted);
    }

    #[test]
    fn clusters_and_sentinels() {
        let nodes = json!({"redis_cluster_nodes": ["a:1", "[::1]:2", "b"], "redis_database": 3, "redis_cluster_ssl": true,
            "redis_cluster_ssl_verify": true});
        let found = settings(RedisPolicy::Cluster, nodes);
        let nodes = [("a", 1), ("::1", 2), ("b", 6379)].map(|(host, port)| (host.to_string(), port));
        assert_eq!(found.servers, Servers::Cluster(nodes.to_vec()));
        assert_eq!((found.database, found.tls), (0, Some(Tls { verify: true, trusted: None })));
        let found = settings(
            RedisPolicy::Sentinel,
            json!({"redis_sentinels": [{"host": "s1", "port": 1}], "redis_master_name": "m", "redis_role": "slave",
                "redis_connect_timeout": 5, "sentinel_password": "p"}),
        );
        let wanted = Servers::Sentinel {
            sentinels: vec![("s1".into(), 1)],
            master: "m".into(),
            role: Role::Replica,
            username: None,
            password: Some("p".into()),
        };
        assert_eq!(found.servers, wanted);
        assert_eq!((found.connect_timeout.as_millis(), found.read_timeout.as_millis()), (5, 1000));
        assert_eq!(found.idle, Duration::from_secs(60));
    }

    #[test]
    fn equal_fields_share_a_client() {
        let env = Env::for_tests();
        let client = |fields: serde_json::Value| {
            serde_json::from_value::<RedisFields>(fields).unwrap().client(RedisPolicy::Single, &env).unwrap()
        };
        let one = client(json!({"redis_host": "r1"}));
        assert!(Arc::ptr_eq(&one, &client(json!({"redis_host": "r1", "redis_port": 6379}))));
        assert!(!Arc::ptr_eq(&one, &client(json!({"redis_host": "r1", "redis_database": 1}))));
        assert_eq!(address("$env://NODE"), ("$env://NODE".to_string(), 6379));
    }

    #[test]
    fn a_local_policy_has_no_trace_of_it() {
        assert_eq!(serde_json::to_value(RedisFields::default()).unwrap(), json!({}));
    }
}
