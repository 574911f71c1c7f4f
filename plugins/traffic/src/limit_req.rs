//! Limits the rate of requests per key by a leaky bucket.
//!
//! Use it to smooth bursts: requests above `rate` per second are delayed so that they leave at that rate, and those more
//! than `burst` above it are refused. With `nodelay` the burst passes at once. Buckets are shared by all workers and
//! survive reloads; a change of the plugin's configuration begins anew.
//!
//! At most `plugin_attr.limit-req.max_keys` (1000000) buckets are held; then those that are empty first make room, counted by
//! `sluice_limit_evictions_total`.
//!
//! Differences from APISIX: the policies `redis` and `redis-cluster` are accepted but not available yet, so an object that
//! uses them is refused when it is built. The limit is exact over all workers.
//
// Read in apisix/plugins/limit-req.lua and lua-resty-limit-traffic's req.lua.
use crate::counters::{Counters, Entry, PINNED, Prefix};
use crate::limit_key::{KeySource, KeyType, prefix_of};
use crate::redis_schema as redis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_plugin::{BuildError, Clock, Context, Define, Env, Flow, Info, Outcome, Phases, Plugin, Reply};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "limit-req";

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Policy {
    Redis,
    RedisCluster,
    #[default]
    Local,
}

/// The plugin's configuration.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[schemars(extend(
    "if" = redis::policy_is("redis"),
    "then" = redis::redis(false),
    "else" = json!({"if": redis::policy_is("redis-cluster"), "then": redis::redis_cluster(false)}),
    "encrypt_fields" = ["redis_password"],
))]
pub struct Config {
    /// Requests per second.
    #[schemars(extend("exclusiveMinimum" = 0))]
    rate: f64,
    /// Requests above the rate that are delayed (or, with `nodelay`, let pass); more are refused.
    #[schemars(extend("minimum" = 0))]
    burst: f64,
    /// What is counted: a variable or a text with variables, by `key_type`.
    key: String,
    /// How `key` is read.
    #[serde(default)]
    key_type: KeyType,
    /// Where buckets are held. Only `local` is available.
    #[serde(default)]
    policy: Policy,
    /// Status of a refused request.
    #[serde(default = "service_unavailable")]
    #[schemars(range(min = 200, max = 599))]
    rejected_code: u16,
    /// `error_msg` of a refused request.
    #[schemars(length(min = 1))]
    rejected_msg: Option<String>,
    /// Lets requests within the burst pass without delay.
    #[serde(default)]
    nodelay: bool,
    /// Lets requests pass where the limit cannot be determined.
    #[serde(default)]
    allow_degradation: bool,
}

fn service_unavailable() -> u16 {
    503
}

/// A bucket: thousandths of a request above the rate, and when that was, milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    excess: u64,
    last: u64,
}

/// Thousandths of a request.
struct Rate {
    per_second: f64,
    burst: f64,
}

impl Rate {
    /// Puts a request into the bucket: the delay in seconds, or `None` where it is refused and leaves no trace.
    /// As in APISIX what is kept is whole thousandths, and a clock that goes back counts as one that goes forward.
    fn incoming(&self, entry: &mut Entry<Bucket>, now: u64) -> Option<f64> {
        let excess = match entry.end {
            0 => 0.0,
            _ => {
                let elapsed = now.abs_diff(entry.value.last) as f64;
                (entry.value.excess as f64 - self.per_second * elapsed / 1000.0 + 1000.0).max(0.0)
            }
        };
        if excess > self.burst && entry.end != 0 {
            return None;
        }
        entry.value = Bucket { excess: excess as u64, last: now };
        // From then on the bucket is as good as a new one.
        let emptied = ((excess + 1000.0) * 1000.0 / self.per_second).ceil() as u64;
        entry.end = now.saturating_add(emptied).clamp(now + 1, PINNED - 1);
        Some(excess / self.per_second)
    }
}

/// The plugin.
pub struct LimitReq {
    key: KeySource,
    rate: Rate,
    buckets: Arc<Counters<Bucket>>,
    prefix: Prefix,
    rejected: Reply,
    nodelay: bool,
    allow_degradation: bool,
    clock: Clock,
}

impl Define for LimitReq {
    const INFO: Info = Info::new(NAME, 1001, Phases::ACCESS).secrets(&["redis_password"]);
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        match config.policy {
            Policy::Local => {}
            Policy::Redis => return Err(redis::unavailable("redis")),
            Policy::RedisCluster => return Err(redis::unavailable("redis-cluster")),
        }
        let buckets = Counters::shared(NAME, "buckets", env);
        Ok(LimitReq {
            key: KeySource::new(config.key_type, &config.key),
            rate: Rate { per_second: config.rate * 1000.0, burst: config.burst * 1000.0 },
            prefix: buckets.prefix(&prefix_of(&config, env)),
            buckets,
            rejected: match &config.rejected_msg {
                Some(message) => Reply::error_msg(config.rejected_code, message),
                None => Reply::status(config.rejected_code),
            },
            nodelay: config.nodelay,
            allow_degradation: config.allow_degradation,
            clock: env.clock.clone(),
        })
    }
}

impl Plugin for LimitReq {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let now = self.clock.millis();
        let incoming = self.key.with(cx, |text| {
            let key = self.buckets.key(self.prefix, text);
            self.buckets.update(key, now, |entry| self.rate.incoming(entry, now))
        });
        match incoming {
            Ok(None) => Flow::reply(self.rejected.clone()),
            Ok(Some(delay)) if delay >= 0.001 && !self.nodelay => {
                let Ok(delay) = Duration::try_from_secs_f64(delay) else { return Flow::reply(self.rejected.clone()) };
                Flow::wait(async move {
                    self.clock.sleep(delay).await;
                    Outcome::Next
                })
            }
            Ok(Some(_)) => Flow::Next,
            Err(e) => {
                tracing::error!("failed to limit req: {e}");
                if self.allow_degradation { Flow::Next } else { Flow::reply(Reply::status(500)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Definition, Scope, define};

    const DEFINITION: Definition = define::<LimitReq>();

    fn get() -> Context {
        Context::for_tests("GET", "/")
    }

    fn error(config: Value) -> String {
        check(DEFINITION, Scope::Route, &mut config.clone()).unwrap_err().0
    }

    #[test]
    fn schema() {
        let mut config = json!({"rate": 1, "burst": 0.5, "key": "remote_addr"});
        check(DEFINITION, Scope::Route, &mut config).unwrap();
        assert_eq!(config["rejected_code"], 503);
        assert_eq!(config["policy"], "local");
        assert_eq!(config["nodelay"], false);
        assert_eq!(error(json!({"burst": 0, "key": "k"})), "property \"rate\" is required");
        let message = error(json!({"rate": 0, "burst": 0, "key": "k"}));
        assert_eq!(message, "property \"rate\" validation failed: expected 0 to be greater than 0");
        let message = error(json!({"rate": 1, "burst": 0, "key": "k", "policy": "redis"}));
        assert_eq!(message, "then clause did not match");
    }

    #[test]
    fn redis_is_refused_when_built() {
        let config = json!({"rate": 1, "burst": 0, "key": "k", "policy": "redis", "redis_host": "127.0.0.1"});
        let error = Harness::new(DEFINITION, config).err().unwrap();
        assert_eq!(error.0, "policy redis is not available yet");
    }

    #[test]
    fn the_burst_is_delayed_and_the_rest_refused() {
        let config =
            json!({"rate": 2, "burst": 1, "key": "remote_addr", "rejected_code": 429, "rejected_msg": "slow down"});
        let plugin = Harness::new(DEFINITION, config).unwrap();
        let begin = plugin.env.clock.millis();
        assert_eq!(plugin.request(&mut get()), None);
        assert_eq!(plugin.env.clock.millis(), begin);
        // One thousand thousandths above two thousand per second: half a second, which the fake clock moves on by.
        assert_eq!(plugin.request(&mut get()), None);
        assert_eq!(plugin.env.clock.millis(), begin + 500);
        assert_eq!(plugin.request(&mut get()), None);
        assert_eq!(plugin.env.clock.millis(), begin + 1000);
    }

    #[test]
    fn nodelay_and_refusal() {
        let config = json!({"rate": 2, "burst": 1, "key": "http_x", "rejected_code": 429, "rejected_msg": "slow down", "nodelay": true});
        let plugin = Harness::new(DEFINITION, config).unwrap();
        let begin = plugin.env.clock.millis();
        assert_eq!(plugin.request(&mut get()), None);
        assert_eq!(plugin.request(&mut get()), None);
        let refused = plugin.request(&mut get()).unwrap();
        assert_eq!(refused, Reply::error_msg(429, "slow down"));
        assert_eq!(plugin.env.clock.millis(), begin);
        let mut other = Context::for_tests("GET", "/");
        other.request.headers.set("X", "other");
        assert_eq!(plugin.request(&mut other), None);
        plugin.env.clock.advance(Duration::from_millis(500));
        assert_eq!(plugin.request(&mut get()), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn never_more_than_rate_and_burst(
            pauses in prop::collection::vec(0u64..300, 1..200), rate in 1u32..20, burst in 0u32..10,
        ) {
            let limit = Rate { per_second: f64::from(rate) * 1000.0, burst: f64::from(burst) * 1000.0 };
            let (mut entry, begin) = (Entry::default(), 1_000_000);
            let (mut now, mut passed) = (begin, 0u64);
            for pause in pauses {
                now += pause;
                if entry.end <= now {
                    entry = Entry::default();
                }
                passed += u64::from(limit.incoming(&mut entry, now).is_some());
                // What is kept is cut to whole thousandths: each request may gain less than one of them.
                let allowed = 1000 * (1 + u64::from(burst)) + u64::from(rate) * (now - begin) + passed;
                prop_assert!(passed * 1000 <= allowed, "{passed} in {} ms", now - begin);
            }
        }
    }
}
