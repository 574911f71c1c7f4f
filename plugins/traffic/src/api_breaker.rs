//! Stops sending requests to an API that keeps failing.
//!
//! Use it to spare a service that is down, and its callers the wait. Answers of the upstream are counted by host and path: after
//! `unhealthy.failures` of them requests are answered by the gateway for 2 seconds, after twice as many for 4, and so on up to
//! `max_breaker_sec`; `healthy.successes` good answers begin anew. Counts are shared by all workers and routes, and survive
//! reloads. The circuit breaker of an upstream (`circuit_breaker`) watches connections, too, and limits how many requests
//! look whether it works again.
//!
//! At most `plugin_attr.api-breaker.max_keys` (1000000) pairs of host and path are counted; beyond that the ones not counted for
//! longest go. There are no other differences from APISIX.
//
// Read in apisix/plugins/api-breaker.lua.
use crate::counters::{Counters, Key, Prefix};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_expr::Template;
use sluice_plugin::{BuildError, Clock, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};
use std::sync::Arc;

const NAME: &str = "api-breaker";
/// Counts never expire in APISIX; here they would go after so many milliseconds without a failure: a year.
const FOREVER: u64 = 365 * 86_400_000;

/// A header of the gateway's answer.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Header {
    #[schemars(length(min = 1))]
    key: String,
    /// May hold variables.
    #[schemars(length(min = 1))]
    value: String,
}

/// What counts as a failure.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Unhealthy {
    /// Statuses of the upstream that are failures.
    #[serde(default = "server_error")]
    #[schemars(length(min = 1), inner(range(min = 500, max = 599)), extend("uniqueItems" = true))]
    http_statuses: Vec<u16>,
    /// Failures that open it, and each further multiple of them longer.
    #[serde(default = "three")]
    #[schemars(range(min = 1))]
    failures: u64,
}

/// What counts as a success.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Healthy {
    /// Statuses of the upstream that are successes.
    #[serde(default = "fine")]
    #[schemars(length(min = 1), inner(range(min = 200, max = 499)), extend("uniqueItems" = true))]
    http_statuses: Vec<u16>,
    /// Successes without a failure between them that close it.
    #[serde(default = "three")]
    #[schemars(range(min = 1))]
    successes: u64,
}

fn server_error() -> Vec<u16> {
    vec![500]
}

fn fine() -> Vec<u16> {
    vec![200]
}

fn three() -> u64 {
    3
}

fn five_minutes() -> u64 {
    300
}

fn unhealthy() -> Unhealthy {
    Unhealthy { http_statuses: server_error(), failures: three() }
}

fn healthy() -> Healthy {
    Healthy { http_statuses: fine(), successes: three() }
}

/// The plugin's configuration.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Config {
    /// Status of the gateway's answer while it is open.
    #[schemars(range(min = 200, max = 599))]
    break_response_code: u16,
    /// Body of that answer.
    break_response_body: Option<String>,
    /// Headers of that answer, where it has a body.
    break_response_headers: Option<Vec<Header>>,
    /// The longest time that it stays open, seconds.
    #[serde(default = "five_minutes")]
    #[schemars(range(min = 3))]
    max_breaker_sec: u64,
    /// What counts as a failure.
    #[serde(default = "unhealthy")]
    unhealthy: Unhealthy,
    /// What counts as a success.
    #[serde(default = "healthy")]
    healthy: Healthy,
}

/// One host and path.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    failures: u64,
    successes: u64,
    /// When it was opened last, seconds since the epoch; 0: it was not.
    opened: u64,
    /// Until when that is remembered.
    known_until: u64,
}

/// The plugin.
pub struct ApiBreaker {
    config: Config,
    headers: Vec<(String, Template)>,
    counts: Arc<Counters<Counts>>,
    prefix: Prefix,
    clock: Clock,
}

impl Define for ApiBreaker {
    const INFO: Info = Info::new(NAME, 1005, Phases::ACCESS.and(Phases::LOG));
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let counts = Counters::shared(NAME, "counts", env);
        let headers = config.break_response_headers.iter().flatten();
        Ok(ApiBreaker {
            headers: headers.map(|header| (header.key.clone(), Template::compile(&header.value))).collect(),
            prefix: counts.prefix(NAME),
            counts,
            config,
            clock: env.clock.clone(),
        })
    }
}

impl ApiBreaker {
    fn key(&self, cx: &Context) -> Key {
        let (host, path) = (cx.request.host(), cx.request.path());
        let mut text: smallvec::SmallVec<[u8; 256]> = smallvec::SmallVec::with_capacity(host.len() + path.len());
        text.extend_from_slice(host.as_bytes());
        text.extend_from_slice(path.as_bytes());
        self.counts.key(self.prefix, &text)
    }

    /// Seconds that it stays open after so many failures.
    fn length(&self, failures: u64) -> u64 {
        let times = (failures / self.config.unhealthy.failures.max(1)).max(1);
        let seconds = u32::try_from(times).ok().and_then(|times| 2u64.checked_pow(times));
        seconds.unwrap_or(u64::MAX).min(self.config.max_breaker_sec)
    }

    fn answer(&self, cx: &Context) -> Reply {
        let code = self.config.break_response_code;
        let Some(body) = &self.config.break_response_body else { return Reply::status(code) };
        let mut reply = Reply::text(code, body.as_bytes());
        for (name, value) in &self.headers {
            if name.eq_ignore_ascii_case("content-type") {
                // There is one, and the last counts.
                reply.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
            }
            reply = reply.header(name.clone(), value.render(cx, ""));
        }
        reply
    }
}

impl Plugin for ApiBreaker {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let Some(counts) = self.counts.get(self.key(cx), self.clock.millis()) else { return Flow::Next };
        let now = self.clock.seconds();
        if counts.opened == 0 || now >= counts.known_until || counts.opened + self.length(counts.failures) < now {
            return Flow::Next;
        }
        Flow::reply(self.answer(cx))
    }

    fn log(&self, cx: &mut Context) {
        let Some(status) = cx.attempts.last().map(|attempt| attempt.status) else { return };
        let (failed, fine) = (
            self.config.unhealthy.http_statuses.contains(&status),
            self.config.healthy.http_statuses.contains(&status),
        );
        if !failed && !fine {
            return;
        }
        let (key, now, seconds) = (self.key(cx), self.clock.millis(), self.clock.seconds());
        if !failed && self.counts.get(key, now).is_none() {
            return;
        }
        let counted = self.counts.update(key, now, |entry| {
            let counts = &mut entry.value;
            if failed {
                counts.failures += 1;
                counts.successes = 0;
                if counts.failures % self.config.unhealthy.failures.max(1) == 0 {
                    counts.opened = seconds;
                    counts.known_until = seconds.saturating_add(self.config.max_breaker_sec);
                }
                entry.end = now + FOREVER;
            } else if entry.end != 0 {
                counts.successes += 1;
                if counts.successes >= self.config.healthy.successes {
                    entry.end = 0;
                }
            }
        });
        debug_assert!(counted.is_ok(), "no entry is pinned");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Attempt, Definition, Scope, define};
    use std::time::Duration;

    const DEFINITION: Definition = define::<ApiBreaker>();

    fn error(mut config: Value) -> String {
        check(DEFINITION, Scope::Route, &mut config).unwrap_err().0
    }

    fn get(path: &str) -> Context {
        Context::for_tests("GET", path)
    }

    /// One request; the upstream, where it is asked, answers with this status.
    fn send(plugin: &Harness, path: &str, status: u16) -> u16 {
        let mut cx = get(path);
        let reply = plugin.request(&mut cx);
        let result = match reply {
            Some(reply) => reply.status,
            None => {
                let address = ([127, 0, 0, 1], 1980).into();
                let (connect_time, header_time, response_time) = (None, None, Duration::ZERO);
                cx.attempts.push(Attempt { address, status, connect_time, header_time, response_time });
                status
            }
        };
        plugin.log(&mut cx);
        result
    }

    fn statuses(plugin: &Harness, statuses: &[u16]) -> Vec<u16> {
        statuses.iter().map(|status| send(plugin, "/a", *status)).collect()
    }

    #[test]
    fn schema() {
        let mut config = json!({"break_response_code": 502, "healthy": {}});
        check(DEFINITION, Scope::Route, &mut config).unwrap();
        assert_eq!(config["healthy"], json!({"http_statuses": [200], "successes": 3}));
        assert_eq!(config["unhealthy"], json!({"http_statuses": [500], "failures": 3}));
        assert_eq!(config["max_breaker_sec"], 300);
        assert_eq!(error(json!({})), "property \"break_response_code\" is required");
        let message = error(json!({"break_response_code": 199}));
        assert_eq!(message, "property \"break_response_code\" validation failed: expected 199 to be at least 200");
        let message = error(json!({"break_response_code": 200, "max_breaker_sec": 2}));
        assert_eq!(message, "property \"max_breaker_sec\" validation failed: expected 2 to be at least 3");
        let message = error(json!({"break_response_code": 200, "unhealthy": {"http_statuses": [500, 500]}}));
        assert_eq!(
            message,
            "property \"unhealthy\" validation failed: property \"http_statuses\" validation failed: \
             expected unique items but items 1 and 2 are equal"
        );
        let message = error(json!({"break_response_code": 200, "break_response_headers": [{"a": "b"}]}));
        assert!(message.ends_with("is required"), "{message}");
    }

    #[test]
    fn failures_open_it_longer_each_time() {
        let plugin = Harness::new(DEFINITION, json!({"break_response_code": 599, "max_breaker_sec": 3})).unwrap();
        assert_eq!(statuses(&plugin, &[500, 503, 500, 500, 200]), [500, 503, 500, 500, 599]);
        assert_eq!(send(&plugin, "/b", 200), 200, "another path is another count");
        plugin.env.clock.advance(Duration::from_secs(2));
        assert_eq!(send(&plugin, "/a", 200), 599, "to the end of the second");
        plugin.env.clock.advance(Duration::from_secs(1));
        assert_eq!(statuses(&plugin, &[500, 500, 500, 200]), [500, 500, 500, 599]);
        plugin.env.clock.advance(Duration::from_secs(3));
        assert_eq!(send(&plugin, "/a", 200), 200, "no longer than max_breaker_sec");
    }

    #[test]
    fn successes_close_it_and_failures_between_them_do_not_count_less() {
        let plugin = Harness::new(DEFINITION, json!({"break_response_code": 599})).unwrap();
        assert_eq!(statuses(&plugin, &[500, 500, 200, 200, 500]), [500, 500, 200, 200, 500]);
        assert_eq!(send(&plugin, "/a", 200), 599);
        plugin.env.clock.advance(Duration::from_secs(3));
        assert_eq!(statuses(&plugin, &[200, 200, 200, 500, 500, 200]), [200, 200, 200, 500, 500, 200]);
    }

    #[test]
    fn the_answer_has_headers_where_it_has_a_body() {
        let config = |more: Value| {
            let mut config = json!({"break_response_code": 502, "unhealthy": {"failures": 1}, "break_response_headers": [
                {"key": "Content-Type", "value": "text/plain"}, {"key": "Content-Type", "value": "application/json"},
                {"key": "X-Host", "value": "$host"}]});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config
        };
        let plugin = Harness::new(DEFINITION, config(json!({"break_response_body": "{}"}))).unwrap();
        send(&plugin, "/a", 500);
        let reply = plugin.request(&mut get("/a")).unwrap();
        let host = get("/a").request.host().as_bytes().to_vec();
        let wanted = Reply::text(502, "{}").header("Content-Type", "application/json").header("X-Host", host);
        assert_eq!(reply, wanted);
        let plain = Harness::new(DEFINITION, config(json!({}))).unwrap();
        send(&plain, "/a", 500);
        assert_eq!(plain.request(&mut get("/a")), Some(Reply::status(502)));
    }
}
