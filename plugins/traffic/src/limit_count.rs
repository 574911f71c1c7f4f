//! Limits the number of requests per key in a window of time.
//!
//! Use it for quotas: so many requests a minute, per client address, consumer, header or a combination. The window is
//! `fixed` (it begins with a key's first request) or `sliding` (the last window counts in proportion). `rules` puts several
//! limits on one request. Counters are shared by all workers and survive reloads; a change of the plugin's configuration
//! begins anew. `group` shares counters between objects with the same configuration; to change that of a group in use,
//! give it another name. What a request found stands in `X-RateLimit-Limit`, `X-RateLimit-Remaining` and
//! `X-RateLimit-Reset` (names by plugin metadata) and in `$rate_limiting_info`.
//!
//! At most `plugin_attr.limit-count.max_keys` (1000000) counters are held; then those that end first make room, counted
//! by `sluice_limit_evictions_total`.
//!
//! With the policies `redis`, `redis-cluster` and `redis-sentinel` the counters are in Redis and shared by all gateways.
//! `sync_interval` counts locally and tells Redis later. When Redis is away requests get 500 at once, or pass with
//! `allow_degradation` ([rate limiting](../../guide/rate-limiting.md)).
//!
//! Differences from APISIX: the sliding window never reports a negative remainder, and both windows are exact over all workers.
//! `redis_keepalive_pool` and `redis_cluster_name` have no effect: a worker has one connection for all its requests.
//
// Read in apisix/plugins/limit-count.lua, limit-count/{init,limit-count-local,util}.lua, limit-count/sliding-window/, and
// lua-resty-limit-traffic's count.lua.
use crate::counters::{Counters, Full, Prefix};
use crate::decisions::{Decision, Decisions};
use crate::limit_key::{KeySource, KeyType as VariableKey, applies, prefix_of};
use crate::limit_number::{LimitNumber, positive};
use crate::redis_fields::{RedisFields, RedisPolicy};
use crate::redis_schema as redis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_expr::Template;
use sluice_plugin::{
    BuildError, Clock, Context, Define, Env, Flow, Info, Outcome, Phases, Plugin, RateLimiting, Reply,
};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::Arc;

mod delayed;
mod remote;
mod window;
use delayed::Delayed;
use remote::Remote;
use window::{Counted, Sliding};

const NAME: &str = "limit-count";
const NO_DELAYED_SYNC: f64 = -1.0;

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
enum WindowType {
    #[default]
    Fixed,
    Sliding,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
enum KeyType {
    #[default]
    Var,
    VarCombination,
    Constant,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Policy {
    #[default]
    Local,
    Redis,
    RedisCluster,
    RedisSentinel,
}

/// One of several limits.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
pub struct Rule {
    /// Requests allowed in a window; a string may hold variables.
    #[schemars(schema_with = "positive")]
    count: LimitNumber,
    /// Length of the window in seconds; a string may hold variables.
    #[schemars(schema_with = "positive")]
    time_window: LimitNumber,
    /// Text with variables. The rule applies only where one of them has a value.
    key: String,
    /// Prefix for the rate limit headers: `X-Jack-RateLimit-Limit`. The rule's number unless given.
    header_prefix: Option<String>,
}

/// The plugin's configuration: `count` and `time_window`, or `rules`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[schemars(extend(
    "oneOf" = [{"required": ["count", "time_window"]}, {"required": ["rules"]}],
    "if" = redis::policy_is("redis"),
    "then" = redis::redis(false),
    "else" = json!({
        "if": redis::policy_is("redis-cluster"),
        "then": redis::redis_cluster(false),
        "else": {"if": redis::policy_is("redis-sentinel"), "then": redis::redis_sentinel()},
    }),
    "encrypt_fields" = ["redis_password", "sentinel_password"],
))]
pub struct Config {
    /// Requests allowed in a window; a string may hold variables.
    #[serde(default)]
    #[schemars(schema_with = "positive")]
    count: Option<LimitNumber>,
    /// Length of the window in seconds; a string may hold variables.
    #[serde(default)]
    #[schemars(schema_with = "positive")]
    time_window: Option<LimitNumber>,
    /// `fixed`: a window begins with a key's first request. `sliding`: the window before counts in proportion.
    #[serde(default)]
    window_type: WindowType,
    /// Several limits instead of `count` and `time_window`, all of which must hold.
    rules: Option<Vec<Rule>>,
    /// Objects with the same group, and the same configuration, share counters.
    group: Option<String>,
    /// What is counted: a variable, a text with variables or a constant, by `key_type`.
    #[serde(default = "remote_addr")]
    key: String,
    /// How `key` is read.
    #[serde(default)]
    key_type: KeyType,
    /// Status of a refused request.
    #[serde(default = "service_unavailable")]
    #[schemars(range(min = 200, max = 599))]
    rejected_code: u16,
    /// `error_msg` of a refused request.
    #[schemars(length(min = 1))]
    rejected_msg: Option<String>,
    /// Where counters are held.
    #[serde(default)]
    policy: Policy,
    /// Lets requests pass where the limit cannot be determined.
    #[serde(default)]
    allow_degradation: bool,
    /// Whether responses carry the rate limit headers.
    #[serde(default = "yes")]
    show_limit_quota_header: bool,
    /// Redis policies: seconds between synchronisations, -1 for none.
    #[serde(default = "no_delayed_sync")]
    #[schemars(extend("default" = -1))]
    sync_interval: f64,
    #[serde(flatten)]
    #[schemars(skip)]
    redis: RedisFields,
}

fn remote_addr() -> String {
    "remote_addr".into()
}
fn service_unavailable() -> u16 {
    503
}
fn yes() -> bool {
    true
}
fn no_delayed_sync() -> f64 {
    NO_DELAYED_SYNC
}

/// `plugin_metadata`: names of the rate limit headers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Metadata {
    #[serde(default = "limit_header")]
    limit_header: Cow<'static, str>,
    #[serde(default = "remaining_header")]
    remaining_header: Cow<'static, str>,
    #[serde(default = "reset_header")]
    reset_header: Cow<'static, str>,
}

fn limit_header() -> Cow<'static, str> {
    "X-RateLimit-Limit".into()
}
fn remaining_header() -> Cow<'static, str> {
    "X-RateLimit-Remaining".into()
}
fn reset_header() -> Cow<'static, str> {
    "X-RateLimit-Reset".into()
}

impl Metadata {
    fn of(env: &Env) -> Metadata {
        let default = || Metadata {
            limit_header: limit_header(),
            remaining_header: remaining_header(),
            reset_header: reset_header(),
        };
        env.metadata(NAME).and_then(|m| Metadata::deserialize(m).ok()).unwrap_or_else(default)
    }

    /// The names with a rule's prefix: `X-RateLimit-Limit` becomes `X-Jack-RateLimit-Limit`.
    fn prefixed(&self, prefix: &str) -> Metadata {
        let name = |n: &str| Cow::from(n.replacen("RateLimit-", &format!("{prefix}-RateLimit-"), 1));
        Metadata {
            limit_header: name(&self.limit_header),
            remaining_header: name(&self.remaining_header),
            reset_header: name(&self.reset_header),
        }
    }
}

/// One limit, compiled.
struct Limit {
    count: LimitNumber,
    window: LimitNumber,
    key: KeySource,
    /// A rule: it applies only where a variable of its key has a value.
    applies: Option<Template>,
    names: Metadata,
}

enum Table {
    Fixed(Arc<Counters<u64>>, Prefix),
    Sliding(Arc<Counters<Sliding>>, Prefix),
}

/// The plugin.
pub struct LimitCount {
    limits: Vec<Limit>,
    table: Table,
    remote: Option<Remote>,
    delayed: Option<Arc<Delayed>>,
    /// What keys begin with, for `$rate_limiting_info`.
    prefix: Box<[u8]>,
    rejected: Reply,
    show_headers: bool,
    allow_degradation: bool,
    clock: Clock,
    decisions: Decisions,
    /// Keeps the group's configuration known while somebody uses it.
    _group: Option<Arc<Config>>,
}

impl Define for LimitCount {
    const INFO: Info =
        Info::new(NAME, 1002, Phases::ACCESS).version(0.5).secrets(&["redis_password", "sentinel_password"]).refuses();
    type Config = Config;

    fn rephrase(config: &Value, message: &str) -> Option<String> {
        let has = |name: &str| config.get(name).is_some();
        let both = (has("count") || has("time_window")) && has("rules");
        (both && message.contains("value should match only one schema")).then(|| BOTH.to_string())
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        if config.rules.is_some() && (config.count.is_some() || config.time_window.is_some()) {
            return Err(BuildError::new(BOTH));
        }
        if config.rules.is_some() && config.group.is_some() {
            return Err(BuildError::new("group and rules cannot be specified at the same time"));
        }
        if config.policy != Policy::Local && config.sync_interval != NO_DELAYED_SYNC {
            if config.sync_interval < 0.1 {
                return Err(BuildError::new("sync_interval should not be smaller than 0.1"));
            }
            if matches!(config.time_window, Some(LimitNumber::Fixed(window)) if config.sync_interval >= window as f64) {
                return Err(BuildError::new("sync_interval should be smaller than time_window"));
            }
        }
        let rules = config.rules.as_deref().unwrap_or_default();
        let repeated = rules.iter().enumerate().find(|(i, rule)| rules.iter().take(*i).any(|r| r.key == rule.key));
        match repeated {
            Some((_, rule)) => Err(BuildError(format!("duplicate key '{}' in rules", rule.key))),
            None => Ok(()),
        }
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let group = config.group.as_deref().map(|name| group(name, &config, env)).transpose()?;
        let prefix = match &config.group {
            Some(name) => format!("{name}:"),
            None => prefix_of(&config, env),
        };
        // A group's name must not meet another object's key.
        let space = if config.group.is_some() { "group" } else { "object" };
        let own = format!("{space}:{prefix}");
        let table = match config.window_type {
            WindowType::Fixed => {
                let counters = Counters::shared(NAME, "fixed", env);
                let prefix = counters.prefix(&own);
                Table::Fixed(counters, prefix)
            }
            WindowType::Sliding => {
                let counters = Counters::shared(NAME, "sliding", env);
                let prefix = counters.prefix(&own);
                Table::Sliding(counters, prefix)
            }
        };
        let rejected = match &config.rejected_msg {
            Some(message) => Reply::error_msg(config.rejected_code, message),
            None => Reply::status(config.rejected_code),
        };
        let remote = match config.policy {
            Policy::Local => None,
            Policy::Redis => Some(RedisPolicy::Single),
            Policy::RedisCluster => Some(RedisPolicy::Cluster),
            Policy::RedisSentinel => Some(RedisPolicy::Sentinel),
        };
        let sliding = config.window_type == WindowType::Sliding;
        let remote = remote.map(|policy| Remote::new(&config.redis, policy, sliding, env)).transpose()?;
        let delayed = remote.clone().filter(|_| config.sync_interval != NO_DELAYED_SYNC).map(|remote| {
            let content = crc32fast::hash(&serde_json::to_vec(&config).unwrap_or_default());
            let name = format!("{NAME}#delayed#{own}{content}");
            Delayed::shared(&name, config.sync_interval, remote, env)
        });
        Ok(LimitCount {
            limits: limits(&config, &Metadata::of(env)),
            table,
            remote,
            delayed,
            prefix: prefix.into_bytes().into(),
            rejected,
            show_headers: config.show_limit_quota_header,
            allow_degradation: config.allow_degradation,
            clock: env.clock.clone(),
            decisions: Decisions::of(NAME, env),
            _group: group,
        })
    }
}

const BOTH: &str = "count/time_window and rules cannot be specified at the same time";

/// The configuration that the group has; an error where this one differs.
fn group(name: &str, config: &Config, env: &Env) -> Result<Arc<Config>, BuildError> {
    let known = env.shared.get_or_insert(&format!("{NAME}#group#{name}"), || config.clone());
    if *known != *config {
        tracing::error!(group = name, resource = %env.resource_key, "limit-count: the group has another configuration");
        return Err(BuildError::new("group conf mismatched"));
    }
    Ok(known)
}

fn limits(config: &Config, names: &Metadata) -> Vec<Limit> {
    match (&config.rules, &config.count, &config.time_window) {
        (None, Some(count), Some(window)) => {
            let key = match config.key_type {
                KeyType::Var => KeySource::new(VariableKey::Var, &config.key),
                KeyType::VarCombination => KeySource::new(VariableKey::VarCombination, &config.key),
                KeyType::Constant => KeySource::Constant(config.key.as_bytes().into()),
            };
            let (count, window) = (count.clone(), window.clone());
            vec![Limit { count, window, key, applies: None, names: names.clone() }]
        }
        (rules, _, _) => {
            let limit = |(index, rule): (usize, &Rule)| Limit {
                count: rule.count.clone(),
                window: rule.time_window.clone(),
                key: KeySource::new(VariableKey::VarCombination, &rule.key),
                applies: Some(Template::compile(&rule.key)),
                names: match &rule.header_prefix {
                    Some(prefix) => names.prefixed(prefix),
                    None => names.prefixed(&(index + 1).to_string()),
                },
            };
            rules.iter().flatten().enumerate().map(limit).collect()
        }
    }
}

/// A limit with the numbers of this request: count, and window in milliseconds.
type Applying<'a> = SmallVec<[(&'a Limit, u64, u64); 2]>;

impl Plugin for LimitCount {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let applying = match self.applying(cx) {
            Ok(applying) => applying,
            Err(problem) => {
                tracing::error!("failed to get rate limit rules: {problem}");
                self.count_undetermined();
                return if self.allow_degradation { Flow::Next } else { Flow::reply(Reply::status(500)) };
            }
        };
        for (at, (limit, count, window)) in applying.iter().enumerate() {
            let key = self.key(limit, cx);
            let counted = match (&self.remote, &self.delayed) {
                (None, _) => self.count_here(&key, *count, *window).map(Some),
                (Some(_), Some(delayed)) if *window > delayed.interval.as_millis() as u64 => {
                    delayed.count(&key, *count, *window)
                }
                (Some(_), _) => Ok(None),
            };
            let reply = match counted {
                Ok(Some(counted)) => self.tell(limit, *count, key, counted, cx),
                Ok(None) => return Flow::wait(self.rest(applying, at, cx)),
                Err(e) => self.failed(&e, false),
            };
            if let Some(reply) = reply {
                return Flow::reply(reply);
            }
        }
        Flow::Next
    }
}

impl LimitCount {
    /// The limits for this request. All are resolved before any is counted: a wrong number must not cost the other limits a
    /// request.
    fn applying(&self, cx: &Context) -> Result<Applying<'_>, String> {
        let mut applying = SmallVec::new();
        for limit in &self.limits {
            if limit.applies.as_ref().is_some_and(|key| !applies(key, cx)) {
                continue;
            }
            let (count, window) = (limit.count.resolve(cx, false)?, limit.window.resolve(cx, false)?);
            applying.push((limit, count, window.saturating_mul(1000).max(1)));
        }
        if applying.is_empty() { Err("none applies".into()) } else { Ok(applying) }
    }

    /// The counter's whole key.
    fn key(&self, limit: &Limit, cx: &Context) -> SmallVec<[u8; 64]> {
        let mut key = SmallVec::from_slice(&self.prefix);
        limit.key.with(cx, |text| key.extend_from_slice(text));
        key
    }

    fn count_here(&self, key: &[u8], count: u64, window: u64) -> Result<Counted, Full> {
        let now = self.clock.millis();
        let text = key.get(self.prefix.len()..).unwrap_or_default();
        match &self.table {
            Table::Fixed(counters, prefix) => {
                counters.update(counters.key(*prefix, text), now, |e| window::fixed(e, now, count, window))
            }
            Table::Sliding(counters, prefix) => {
                counters.update(counters.key(*prefix, text), now, |e| window::sliding(e, now, count, window))
            }
        }
    }

    /// Goes on with Redis from the limit at this place.
    async fn rest(&self, applying: Applying<'_>, from: usize, cx: &mut Context) -> Outcome {
        let Some(remote) = &self.remote else { return Outcome::Next };
        for (limit, count, window) in applying.into_iter().skip(from) {
            let key = self.key(limit, cx);
            let delayed = self.delayed.as_ref().filter(|delayed| window > delayed.interval.as_millis() as u64);
            let reply = match delayed {
                Some(delayed) => {
                    self.count_delayed(delayed, &key, count, window).await.map_err(|e| self.failed(&e, false))
                }
                None => {
                    let counted = remote.count(&key, self.clock.millis(), count, window).await;
                    counted.map_err(|e| self.failed(&e, e.is_known()))
                }
            };
            let reply = match reply {
                Ok(counted) => self.tell(limit, count, key, counted, cx),
                Err(reply) => reply,
            };
            if let Some(reply) = reply {
                return Outcome::Reply(Box::new(reply));
            }
        }
        Outcome::Next
    }

    /// While Redis is away each gateway counts for itself.
    async fn count_delayed(
        &self,
        delayed: &Arc<Delayed>,
        key: &[u8],
        count: u64,
        window: u64,
    ) -> Result<Counted, Full> {
        if let Some(counted) = delayed.count(key, count, window)? {
            return Ok(counted);
        }
        match delayed.ask(key, window).await {
            Ok(()) => match delayed.count(key, count, window)? {
                Some(counted) => Ok(counted),
                // The window has ended in between.
                None => self.count_here(key, count, window),
            },
            Err(e) => {
                if !e.is_known() {
                    tracing::error!("sync to redis failed: {e}; counting here");
                }
                self.count_here(key, count, window)
            }
        }
    }

    /// What a limit that cannot be determined means. `known`: the log has it already.
    fn failed(&self, problem: &dyn std::fmt::Display, known: bool) -> Option<Reply> {
        if !known {
            tracing::error!("failed to limit count: {problem}");
        }
        self.count_undetermined();
        (!self.allow_degradation).then(|| Reply::error_msg(500, "failed to limit count"))
    }

    fn count_undetermined(&self) {
        self.decisions.count(if self.allow_degradation { Decision::Degraded } else { Decision::Failed });
    }

    /// Tells the client what was counted; the reply where that was too much.
    fn tell(
        &self,
        limit: &Limit,
        count: u64,
        key: SmallVec<[u8; 64]>,
        counted: Counted,
        cx: &mut Context,
    ) -> Option<Reply> {
        cx.rate_limiting =
            Some(RateLimiting { key, limit: count, remaining: counted.remaining, reset: counted.reset / 100 });
        if self.show_headers {
            let mut digits = itoa::Buffer::new();
            cx.set_response_header(limit.names.limit_header.clone(), digits.format(count));
            cx.set_response_header(limit.names.remaining_header.clone(), digits.format(counted.remaining));
            cx.set_response_header(limit.names.reset_header.clone(), window::seconds(counted.reset));
        }
        self.decisions.count(if counted.allowed { Decision::Allowed } else { Decision::Rejected });
        (!counted.allowed).then(|| self.rejected.clone())
    }
}

#[cfg(test)]
mod tests;
