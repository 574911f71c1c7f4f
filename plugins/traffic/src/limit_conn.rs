//! Limits the number of requests per key that are under way at a time.
//!
//! Use it to protect slow upstreams: up to `conn` requests pass at once, up to `burst` more wait `default_conn_delay`
//! seconds (twice that from the second multiple of `conn`, and so on), further ones are refused. `rules` puts several
//! limits on one request. Counts are shared by all workers and survive reloads. A request counts until its log phase, or
//! until it is abandoned in whatever way.
//!
//! At most `plugin_attr.limit-conn.max_keys` (1000000) keys with requests under way are counted; beyond that requests of new
//! keys fail with 500, or pass with `allow_degradation`.
//!
//! With the policies `redis` and `redis-cluster` requests are counted in Redis, over all gateways. One that a gateway cannot
//! sign off (it was killed, or Redis is away) counts for `key_ttl` seconds. When Redis is away requests get 500 at once, or
//! pass with `allow_degradation` ([rate limiting](../../guide/rate-limiting.md)).
//!
//! Differences from APISIX: `only_use_default_delay` has no effect, as in APISIX 3.18, where the delay learned from latencies is
//! forgotten with each request. `redis_keepalive_pool` and `redis_cluster_name` have none either: a worker has one connection for
//! all its requests.
//
// Read in apisix/plugins/limit-conn.lua, limit-conn/{init,util}.lua and lua-resty-limit-traffic's conn.lua.
use crate::counters::{Counters, Full, Key, PINNED, Prefix};
use crate::decisions::{Decision, Decisions};
use crate::limit_key::{KeySource, KeyType, applies, prefix_of};
use crate::limit_number::{LimitNumber, natural, positive};
use crate::redis_fields::{RedisFields, RedisPolicy};
use crate::redis_schema as redis;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_expr::Template;
use sluice_plugin::{BuildError, Clock, Context, Define, Env, Flow, Info, Outcome, Phases, Plugin, Reply};
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::Duration;

mod remote;
use remote::{Remote, RemoteLease};

const NAME: &str = "limit-conn";

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Policy {
    Redis,
    RedisCluster,
    #[default]
    Local,
}

/// One of several limits.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Rule {
    /// Requests under way without delay; a string may hold variables.
    #[schemars(schema_with = "positive")]
    conn: LimitNumber,
    /// Further requests that are delayed; a string may hold variables.
    #[schemars(schema_with = "natural")]
    burst: LimitNumber,
    /// Text with variables. The rule applies only where one of them has a value.
    key: String,
}

/// The plugin's configuration: `conn`, `burst` and `key`, or `rules`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[schemars(extend(
    "oneOf" = [{"required": ["conn", "burst", "default_conn_delay", "key"]}, {"required": ["default_conn_delay", "rules"]}],
    "if" = redis::policy_is("redis"),
    "then" = redis::redis(true),
    "else" = json!({"if": redis::policy_is("redis-cluster"), "then": redis::redis_cluster(true)}),
    "encrypt_fields" = ["redis_password"],
))]
pub struct Config {
    /// Requests under way without delay; a string may hold variables.
    #[serde(default)]
    #[schemars(schema_with = "positive")]
    conn: Option<LimitNumber>,
    /// Further requests that are delayed; a string may hold variables.
    #[serde(default)]
    #[schemars(schema_with = "natural")]
    burst: Option<LimitNumber>,
    /// Seconds that a request waits for each full `conn` before it.
    #[schemars(extend("exclusiveMinimum" = 0))]
    default_conn_delay: Option<f64>,
    /// Without effect.
    #[serde(default)]
    only_use_default_delay: bool,
    /// What is counted: a variable or a text with variables, by `key_type`.
    key: Option<String>,
    /// How `key` is read.
    #[serde(default)]
    key_type: KeyType,
    /// Where counts are held.
    #[serde(default)]
    policy: Policy,
    /// Status of a refused request.
    #[serde(default = "service_unavailable")]
    #[schemars(range(min = 200, max = 599))]
    rejected_code: u16,
    /// `error_msg` of a refused request.
    #[schemars(length(min = 1))]
    rejected_msg: Option<String>,
    /// Lets requests pass where the limit cannot be determined.
    #[serde(default)]
    allow_degradation: bool,
    /// Several limits instead of `conn`, `burst` and `key`, all of which must hold.
    rules: Option<Vec<Rule>>,
    #[serde(flatten)]
    #[schemars(skip)]
    redis: RedisFields,
}

fn service_unavailable() -> u16 {
    503
}

struct Limit {
    conn: LimitNumber,
    burst: LimitNumber,
    key: KeySource,
    /// A rule: it applies only where a variable of its key has a value.
    applies: Option<Template>,
}

/// A limit with the numbers of this request.
#[derive(Clone, Copy)]
struct Resolved<'a> {
    limit: &'a Limit,
    conn: u64,
    burst: u64,
}

/// A request that is counted; dropping it ends that.
pub(crate) struct Lease {
    counts: Arc<Counters<u64>>,
    key: Key,
}

impl Lease {
    /// Counts a request, unless `most` are under way; also how many are then.
    pub(crate) fn take(counts: &Arc<Counters<u64>>, key: Key, most: u64) -> Result<Option<(Lease, u64)>, Full> {
        let counted = counts.update(key, 0, |entry| {
            if entry.value >= most {
                return None;
            }
            entry.value += 1;
            entry.end = PINNED;
            Some(entry.value)
        })?;
        Ok(counted.map(|counted| (Lease { counts: counts.clone(), key }, counted)))
    }
}

/// Seconds to wait as the `counted`th under way.
pub(crate) fn delay_of(unit: f64, counted: u64, conn: u64) -> f64 {
    let before = if counted > conn { (counted - 1) / conn.max(1) } else { 0 };
    unit * before as f64
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The entry is there and pinned. A table can only be full for new keys.
        let left = self.counts.update(self.key, 0, |entry| {
            entry.value = entry.value.saturating_sub(1);
            entry.end = if entry.value == 0 { 0 } else { PINNED };
        });
        debug_assert_eq!(left, Ok(()));
    }
}

/// What this request is counted in, by all `limit-conn` plugins that it passed. It goes with the request's context, however
/// that ends.
#[derive(Default)]
struct Leases {
    here: SmallVec<[Lease; 2]>,
    remote: Vec<RemoteLease>,
}

enum Incoming {
    /// Seconds to wait.
    Counted(f64),
    Rejected,
}

/// The plugin.
pub struct LimitConn {
    limits: Vec<Limit>,
    delay: f64,
    counts: Arc<Counters<u64>>,
    prefix: Prefix,
    remote: Option<Remote>,
    rejected: Reply,
    allow_degradation: bool,
    clock: Clock,
    decisions: Decisions,
}

impl Define for LimitConn {
    const INFO: Info = Info::new(NAME, 1003, Phases::ACCESS.and(Phases::LOG)).secrets(&["redis_password"]);
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let policy = match config.policy {
            Policy::Local => None,
            Policy::Redis => Some(RedisPolicy::Single),
            Policy::RedisCluster => Some(RedisPolicy::Cluster),
        };
        let name = prefix_of(&config, env);
        let remote = policy.map(|policy| Remote::new(&config.redis, policy, &name, env)).transpose()?;
        let counts = Counters::shared(NAME, "requests", env);
        let prefix = counts.prefix(&name);
        let rejected = match &config.rejected_msg {
            Some(message) => Reply::error_msg(config.rejected_code, message),
            None => Reply::status(config.rejected_code),
        };
        let rule = |rule: Rule| Limit {
            conn: rule.conn,
            burst: rule.burst,
            key: KeySource::new(KeyType::VarCombination, &rule.key),
            applies: Some(Template::compile(&rule.key)),
        };
        let limits = match (config.rules, config.conn, config.burst, config.key) {
            (None, Some(conn), Some(burst), Some(key)) => {
                vec![Limit { conn, burst, key: KeySource::new(config.key_type, &key), applies: None }]
            }
            (rules, ..) => rules.into_iter().flatten().map(rule).collect(),
        };
        let delay = config.default_conn_delay.unwrap_or_default();
        let allow_degradation = config.allow_degradation;
        let (clock, decisions) = (env.clock.clone(), Decisions::of(NAME, env));
        Ok(LimitConn { limits, delay, counts, prefix, remote, rejected, allow_degradation, clock, decisions })
    }
}

impl Plugin for LimitConn {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let resolved = match self.resolve(cx) {
            Ok(resolved) if !resolved.is_empty() => resolved,
            Ok(_) => return self.degrade("failed to get limit conn rules: none applies"),
            Err(e) => return self.degrade(&format!("failed to get limit conn rules: {e}")),
        };
        if let Some(remote) = &self.remote {
            return Flow::wait(self.ask(remote, cx, resolved));
        }
        for (at, rule) in resolved.iter().enumerate() {
            match self.incoming(rule, cx) {
                Ok(Incoming::Counted(delay)) if delay >= 0.001 => {
                    return Flow::wait(self.wait(cx, resolved, at + 1, delay));
                }
                Ok(Incoming::Counted(_)) => {}
                Ok(Incoming::Rejected) => return Flow::Reply(Box::new(self.refuse())),
                Err(e) => return self.degrade(&format!("failed to limit conn: {e}")),
            }
        }
        self.decisions.count(Decision::Allowed);
        Flow::Next
    }

    fn log(&self, cx: &mut Context) {
        drop(cx.take::<Leases>());
    }
}

impl LimitConn {
    /// The limits that apply. A rule whose numbers cannot be resolved does not (apisix/plugins/limit-conn/init.lua).
    fn resolve(&self, cx: &Context) -> Result<SmallVec<[Resolved<'_>; 2]>, String> {
        let mut resolved = SmallVec::new();
        for limit in &self.limits {
            let numbers = limit.conn.resolve(cx, false).and_then(|conn| Ok((conn, limit.burst.resolve(cx, true)?)));
            match (numbers, &limit.applies) {
                (Ok(_), Some(key)) if !applies(key, cx) => {}
                (Ok((conn, burst)), _) => resolved.push(Resolved { limit, conn, burst }),
                (Err(_), Some(_)) => {}
                (Err(e), None) => return Err(e),
            }
        }
        Ok(resolved)
    }

    fn incoming(&self, rule: &Resolved<'_>, cx: &mut Context) -> Result<Incoming, Full> {
        let most = rule.conn.saturating_add(rule.burst);
        let key = rule.limit.key.with(cx, |text| self.counts.key(self.prefix, text));
        let Some((lease, counted)) = Lease::take(&self.counts, key, most)? else { return Ok(Incoming::Rejected) };
        leases(cx).here.push(lease);
        Ok(Incoming::Counted(delay_of(self.delay, counted, rule.conn)))
    }

    fn refuse(&self) -> Reply {
        self.decisions.count(Decision::Rejected);
        self.rejected.clone()
    }

    async fn ask(&self, remote: &Remote, cx: &mut Context, rules: SmallVec<[Resolved<'_>; 2]>) -> Outcome {
        let mut decision = Decision::Allowed;
        for Resolved { limit, conn, burst } in rules {
            let lease = limit.key.with(cx, |text| remote.lease(text));
            // Kept before the answer is there: a request that is abandoned while it waits is signed off too.
            let leases = leases(cx);
            leases.remote.push(lease);
            let Some(lease) = leases.remote.last_mut() else { return Outcome::Next };
            match remote.incoming(lease, self.clock.seconds(), conn.saturating_add(burst)).await {
                Ok(Some(counted)) => {
                    let delay = delay_of(self.delay, counted, conn);
                    if delay >= 0.001 {
                        decision = Decision::Delayed;
                        self.clock.sleep(Duration::try_from_secs_f64(delay).unwrap_or(Duration::MAX)).await;
                    }
                }
                Ok(None) => return Outcome::Reply(Box::new(self.refuse())),
                Err(e) => {
                    if !e.is_known() {
                        tracing::error!("failed to limit conn: {e}");
                    }
                    if !self.allow_degradation {
                        self.decisions.count(Decision::Failed);
                        return Outcome::Reply(Box::new(Reply::status(500)));
                    }
                    decision = Decision::Degraded;
                }
            }
        }
        self.decisions.count(decision);
        Outcome::Next
    }

    /// Waits, then goes on with the limits from `next`.
    async fn wait(&self, cx: &mut Context, rules: SmallVec<[Resolved<'_>; 2]>, next: usize, mut delay: f64) -> Outcome {
        let mut rest = rules.iter().skip(next);
        loop {
            if delay >= 0.001 {
                self.clock.sleep(Duration::try_from_secs_f64(delay).unwrap_or(Duration::MAX)).await;
            }
            let Some(rule) = rest.next() else {
                self.decisions.count(Decision::Delayed);
                return Outcome::Next;
            };
            delay = match self.incoming(rule, cx) {
                Ok(Incoming::Counted(delay)) => delay,
                Ok(Incoming::Rejected) => return Outcome::Reply(Box::new(self.refuse())),
                Err(e) => match self.degrade(&format!("failed to limit conn: {e}")) {
                    Flow::Reply(reply) => return Outcome::Reply(reply),
                    _ => return Outcome::Next,
                },
            };
        }
    }

    fn degrade(&self, problem: &str) -> Flow<'static> {
        tracing::error!("{problem}");
        self.decisions.count(if self.allow_degradation { Decision::Degraded } else { Decision::Failed });
        if self.allow_degradation { Flow::Next } else { Flow::reply(Reply::status(500)) }
    }
}

fn leases(cx: &mut Context) -> &mut Leases {
    if cx.get::<Leases>().is_none() {
        cx.insert(Leases::default());
    }
    match cx.get_mut::<Leases>() {
        Some(leases) => leases,
        None => unreachable!("it was inserted"),
    }
}

#[cfg(test)]
mod tests;
