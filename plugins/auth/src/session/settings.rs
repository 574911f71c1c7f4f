//! APISIX's `session` settings, with lua-resty-session's defaults where APISIX has none.
use super::cookie::Jar;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_engine_redis as engine;
use sluice_model::secret::is_reference;
use sluice_plugin::{BuildError, Env};
use std::time::Duration;

/// A session without ends is kept for so many seconds: 400 days, the most that browsers keep a cookie (RFC 6265bis, 5.5).
pub const LONGEST: u64 = 400 * 86_400;

/// A reference that was not resolved is known to everybody who reads the configuration.
pub fn is_too_weak(secret: &str) -> bool {
    secret.is_empty() || is_reference(secret)
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    pub secret: String,
    pub cookie_name: String,
    pub cookie_path: String,
    pub cookie_domain: Option<String>,
    pub cookie_secure: bool,
    pub cookie_http_only: bool,
    pub cookie_same_site: SameSite,
    /// Seconds; 0: no limit.
    pub idling_timeout: u64,
    pub rolling_timeout: u64,
    pub absolute_timeout: u64,
    pub storage: Storage,
    pub redis: RedisSettings,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            secret: String::new(),
            cookie_name: "session".into(),
            cookie_path: "/".into(),
            cookie_domain: None,
            cookie_secure: false,
            cookie_http_only: true,
            cookie_same_site: SameSite::Lax,
            idling_timeout: 900,
            rolling_timeout: 3600,
            absolute_timeout: 86_400,
            storage: Storage::Cookie,
            redis: RedisSettings::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SameSite {
    Strict,
    Lax,
    None,
    /// The attribute is left away.
    Default,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    Cookie,
    Redis,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RedisSettings {
    pub host: String,
    pub port: u64,
    pub username: Option<String>,
    pub password: Option<String>,
    pub database: u64,
    pub prefix: String,
    pub ssl: bool,
    pub ssl_verify: bool,
    pub server_name: Option<String>,
    /// Milliseconds.
    pub connect_timeout: u64,
    pub send_timeout: u64,
    pub read_timeout: u64,
    pub keepalive_timeout: u64,
}

impl Default for RedisSettings {
    fn default() -> RedisSettings {
        RedisSettings {
            host: "127.0.0.1".into(),
            port: 6379,
            username: None,
            password: None,
            database: 0,
            prefix: "sessions".into(),
            ssl: false,
            ssl_verify: true,
            server_name: None,
            connect_timeout: 1000,
            send_timeout: 1000,
            read_timeout: 1000,
            keepalive_timeout: 10_000,
        }
    }
}

impl Settings {
    /// What a schema does not say, where the values are there yet.
    pub fn check(&self) -> Result<(), BuildError> {
        let redis = &self.redis;
        if redis.ssl && redis.server_name.as_ref().is_some_and(|name| *name != redis.host) {
            return Err(BuildError::new("session.redis.server_name must be session.redis.host"));
        }
        Jar::new(self).map(|_| ())
    }

    /// How to reach the storage, where it is Redis.
    pub fn redis(&self, env: &Env) -> Result<Option<engine::Settings>, BuildError> {
        if self.storage == Storage::Cookie {
            return Ok(None);
        }
        let redis = &self.redis;
        let port = u16::try_from(redis.port).map_err(|_| BuildError::new("session.redis.port is no port"))?;
        if redis.password.as_deref().is_some_and(is_reference) {
            return Err(BuildError::new("session.redis.password refers to a secret that cannot be resolved"));
        }
        let breaker = env.attribute("redis");
        let number =
            |name: &str, default: u64| breaker.get(name).and_then(serde_json::Value::as_u64).unwrap_or(default);
        let trusted = env.trusted_certificates.clone();
        Ok(Some(engine::Settings {
            username: redis.username.clone(),
            password: redis.password.clone(),
            database: redis.database,
            tls: redis.ssl.then_some(engine::Tls { verify: redis.ssl_verify, trusted }),
            connect_timeout: Duration::from_millis(redis.connect_timeout.max(1)),
            read_timeout: Duration::from_millis(redis.read_timeout.max(redis.send_timeout).max(1)),
            idle: Duration::from_millis(redis.keepalive_timeout),
            failures: u32::try_from(number("breaker_failures", 3)).unwrap_or(u32::MAX),
            cool_down: Duration::from_millis(number("breaker_cool_down_ms", 1000)),
            ..engine::Settings::single(redis.host.clone(), port)
        }))
    }
}
