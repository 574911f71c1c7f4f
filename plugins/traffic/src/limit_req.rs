//! Limits the rate of requests per key by a leaky bucket.
//!
//! Use it to smooth bursts: requests above `rate` per second are delayed so that they leave at that rate, and those more
//! than `burst` above it are refused. With `nodelay` the burst passes at once. Buckets are shared by all workers and
//! survive reloads; a change of the plugin's configuration begins anew.
//!
//! At most `plugin_attr.limit-req.max_keys` (1000000) buckets are held; then those that are empty first make room, counted by
//! `sluice_limit_evictions_total`.
//!
//! With the policies `redis` and `redis-cluster` the buckets are in Redis and shared by all gateways. When Redis is away
//! requests get 500 at once, or pass with `allow_degradation` ([rate limiting](../../guide/rate-limiting.md)).
//!
//! Differences from APISIX: the limit is exact over all workers. `redis_keepalive_pool` and `redis_cluster_name` have no effect:
//! a worker has one connection for all its requests.
//
// Read in apisix/plugins/limit-req.lua, limit-req/util.lua and lua-resty-limit-traffic's req.lua.
use crate::counters::{Counters, Entry, PINNED, Prefix};
use crate::decisions::{Decision, Decisions};
use crate::limit_key::{KeySource, KeyType, prefix_of};
use crate::redis_fields::{RedisFields, RedisPolicy};
use crate::redis_schema as redis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_engine_redis::{Redis, RedisError, Reply as Answer, Script};
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
    /// Where buckets are held.
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
    #[serde(flatten)]
    #[schemars(skip)]
    redis: RedisFields,
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
#[derive(Clone, Copy)]
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
    redis: Option<Arc<Redis>>,
    /// What keys in Redis begin with.
    name: Box<[u8]>,
    rejected: Reply,
    nodelay: bool,
    allow_degradation: bool,
    clock: Clock,
    decisions: Decisions,
}

impl Define for LimitReq {
    const INFO: Info = Info::new(NAME, 1001, Phases::ACCESS).secrets(&["redis_password"]);
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let redis = match config.policy {
            Policy::Local => None,
            Policy::Redis => Some(RedisPolicy::Single),
            Policy::RedisCluster => Some(RedisPolicy::Cluster),
        };
        let redis = redis.map(|policy| config.redis.client(policy, env)).transpose()?;
        let name = prefix_of(&config, env);
        let buckets = Counters::shared(NAME, "buckets", env);
        Ok(LimitReq {
            key: KeySource::new(config.key_type, &config.key),
            rate: Rate { per_second: config.rate * 1000.0, burst: config.burst * 1000.0 },
            prefix: buckets.prefix(&name),
            name: format!("limit_req:{name}").into_bytes().into(),
            buckets,
            redis,
            rejected: match &config.rejected_msg {
                Some(message) => Reply::error_msg(config.rejected_code, message),
                None => Reply::status(config.rejected_code),
            },
            nodelay: config.nodelay,
            allow_degradation: config.allow_degradation,
            clock: env.clock.clone(),
            decisions: Decisions::of(NAME, env),
        })
    }
}

impl Plugin for LimitReq {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if let Some(redis) = &self.redis {
            return Flow::wait(async move {
                let incoming = self.ask(redis, cx).await;
                match self.decide(incoming.map_err(|e| (e.is_known(), e.to_string()))) {
                    Verdict::Pass => Outcome::Next,
                    Verdict::Wait(delay) => self.sleep(delay).await,
                    Verdict::Reply(reply) => Outcome::Reply(Box::new(reply)),
                }
            });
        }
        let now = self.clock.millis();
        let incoming = self.key.with(cx, |text| {
            let key = self.buckets.key(self.prefix, text);
            self.buckets.update(key, now, |entry| self.rate.incoming(entry, now))
        });
        match self.decide(incoming.map_err(|e| (false, e.to_string()))) {
            Verdict::Pass => Flow::Next,
            Verdict::Wait(delay) => Flow::wait(self.sleep(delay)),
            Verdict::Reply(reply) => Flow::reply(reply),
        }
    }
}

enum Verdict {
    Pass,
    Wait(Duration),
    Reply(Reply),
}

/// Puts a request into a bucket, a hash of `excess` and `last` as APISIX keeps it: the new excess, or nothing where it would
/// be above the burst. Times are milliseconds, rates thousandths of requests per second.
static INCOMING: Script = Script::new(
    "local bucket = redis.call('HMGET', KEYS[1], 'excess', 'last')
     local excess = 0
     if bucket[1] and bucket[2] then
       local drained = tonumber(ARGV[1]) * math.abs(tonumber(ARGV[3]) - tonumber(bucket[2])) / 1000
       excess = math.max(tonumber(bucket[1]) - drained + 1000, 0)
       if excess > tonumber(ARGV[2]) then return false end
     end
     redis.call('HSET', KEYS[1], 'excess', tostring(excess), 'last', ARGV[3])
     redis.call('EXPIRE', KEYS[1], ARGV[4])
     return tostring(excess)",
);

impl LimitReq {
    /// As [`Rate::incoming`], in Redis.
    async fn ask(&self, redis: &Redis, cx: &Context) -> Result<Option<f64>, RedisError> {
        let mut key = self.name.to_vec();
        self.key.with(cx, |text| key.extend_from_slice(text));
        let Rate { per_second, burst } = self.rate;
        let life = (burst / per_second).ceil() as u64 + 1;
        let texts = [per_second.to_string(), burst.to_string(), self.clock.millis().to_string(), life.to_string()];
        let [a, b, c, d] = texts.each_ref().map(String::as_bytes);
        match redis.script(&INCOMING, &[&key], &[a, b, c, d]).await? {
            Answer::Nil => Ok(None),
            excess => Ok(Some(excess.number().ok_or_else(RedisError::malformed)? / per_second)),
        }
    }

    /// The error comes with whether the log has it already.
    fn decide(&self, incoming: Result<Option<f64>, (bool, String)>) -> Verdict {
        let refused = || Verdict::Reply(self.rejected.clone());
        let (verdict, decision) = match incoming {
            Ok(None) => (refused(), Decision::Rejected),
            Ok(Some(delay)) if delay >= 0.001 && !self.nodelay => match Duration::try_from_secs_f64(delay) {
                Ok(delay) => (Verdict::Wait(delay), Decision::Delayed),
                Err(_) => (refused(), Decision::Rejected),
            },
            Ok(Some(_)) => (Verdict::Pass, Decision::Allowed),
            Err((known, problem)) => {
                if !known {
                    tracing::error!("failed to limit req: {problem}");
                }
                match self.allow_degradation {
                    true => (Verdict::Pass, Decision::Degraded),
                    false => (Verdict::Reply(Reply::status(500)), Decision::Failed),
                }
            }
        };
        self.decisions.count(decision);
        verdict
    }

    async fn sleep(&self, delay: Duration) -> Outcome {
        self.clock.sleep(delay).await;
        Outcome::Next
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
