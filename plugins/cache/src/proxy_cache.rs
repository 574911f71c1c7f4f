//! `proxy-cache` keeps upstreams' answers and gives them to later requests: in memory, on disk, in Redis or in Memcached.
//!
//! Use it for answers that many clients get and that may be a little old. Its zones stand in config.yaml, `apisix.proxy_cache.zones`.
//! With `cache_control` on, the rules of RFC 9111 hold: freshness as the answer says, validation, `Vary`, directives of requests.
//!
//! Beyond APISIX: `cache_strategy` `redis` and `memcached`; one fetch for concurrent misses; stale answers while a new one is
//! fetched, or where none can be had; conditional and range requests answered from what is stored; purging by tag and prefix.
//! Different from APISIX: a `HEAD` that is cached asks the upstream for the whole with `GET`; the answer is stored as the upstream
//! gave it, before other plugins' response phases, which run for every client.
mod config;
mod invalidate;
mod keeper;
mod key;
mod serve;
#[cfg(test)]
mod tests;

use config::Config;
use key::KeyPart;
use serde_json::{Value, json};
use sluice_engine_cache::control::RequestControl;
use sluice_engine_cache::flight::{Landed, Role};
use sluice_engine_cache::judge::{Rules, Ttl};
use sluice_engine_cache::reuse::{Reuse, reuse};
use sluice_engine_cache::zone::Found;
use sluice_engine_cache::{Freshness, Status, Zone, Zones};
use sluice_http::{Known, Method};
use sluice_plugin::{Background, BuildError, Clock, Context, Define, Env, Flow, Info, Outcome, Phases, Plugin, Reply};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What a cache does; shared with the answers that it takes in.
struct Cache {
    zone: Arc<Zone>,
    clock: Clock,
    control: Option<tokio::runtime::Handle>,
    terms: Arc<Terms>,
    statuses: Vec<u16>,
    hide: bool,
    /// `cache_control`: RFC 9111 in full.
    rfc: bool,
    /// nginx's own cache in APISIX.
    disk: bool,
    rules: Rules,
    lock: Option<Duration>,
    max_body: u64,
}

/// What of a request decides which answers are for it.
struct Terms {
    zone: String,
    strategy: String,
    key: Vec<KeyPart>,
    bypass: Vec<KeyPart>,
    no_cache: Vec<KeyPart>,
    methods: Vec<Method>,
    isolation: bool,
}

/// The plugin; without a cache where no zone is open, as in a command that only checks.
pub struct ProxyCache {
    cache: Option<Arc<Cache>>,
    terms: Arc<Terms>,
}

/// What `header_filter` has to tell.
struct Told {
    status: Status,
    hide: bool,
}

impl Define for ProxyCache {
    const INFO: Info = Info::new("proxy-cache", 1085, Phases::ACCESS.and(Phases::HEADER_FILTER)).version(0.2).refuses();
    type Config = Config;

    fn schema() -> Value {
        config::schema()
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        match config.cache_key.iter().find(|part| *part == "$request_method") {
            Some(part) => Err(BuildError::new(format!("cache_key variable {part} unsupported"))),
            None => Ok(()),
        }
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let keyed_by_user = key::names_user(&config.cache_key);
        let parts = |list: &[String]| list.iter().map(|part| KeyPart::parse(part)).collect::<Vec<_>>();
        let terms = Arc::new(Terms {
            zone: config.cache_zone.clone(),
            strategy: config.cache_strategy.clone(),
            key: parts(&config.cache_key),
            bypass: parts(&config.cache_bypass),
            no_cache: parts(&config.no_cache),
            methods: config.cache_method.iter().map(|m| Method::from_token(m.as_bytes())).collect(),
            isolation: config.consumer_isolation && !keyed_by_user,
        });
        let Some(zones) = env.part::<Zones>() else { return Ok(ProxyCache { cache: None, terms }) };
        config.check_zone(&zones)?;
        let Some(zone) = zones.get(&config.cache_zone) else { return Ok(ProxyCache { cache: None, terms }) };
        let disk = zone.strategy == "disk";
        let ttl = match (config.cache_control, disk) {
            (true, _) => Ttl::Rfc,
            (false, true) => Ttl::Upstream(zones.default_ttl),
            (false, false) => Ttl::Fixed(config.cache_ttl),
        };
        let lock = Duration::try_from_secs_f64(config.cache_lock_timeout).map_err(BuildError::new)?;
        let cache = Cache {
            zone: zone.clone(),
            clock: env.clock.clone(),
            control: env.control.clone(),
            terms: terms.clone(),
            statuses: config.cache_http_status,
            hide: config.hide_cache_headers,
            rfc: config.cache_control,
            disk,
            rules: Rules {
                ttl,
                set_cookie: config.cache_set_cookie,
                keyed_by_user,
                stale_while_revalidate: config.stale_while_revalidate,
                stale_if_error: (config.stale_if_error > 0).then_some(config.stale_if_error),
            },
            lock: config.cache_lock.then_some(lock),
            max_body: config.max_resp_body_size,
        };
        Ok(ProxyCache { cache: Some(Arc::new(cache)), terms })
    }
}

impl Plugin for ProxyCache {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        match &self.cache {
            // Another protocol is spoken on what follows.
            Some(cache) if !cx.request.upgrade => cache.access(cx),
            _ => Flow::Next,
        }
    }

    fn header_filter(&self, cx: &mut Context) {
        let Some(told) = cx.get::<Told>() else { return };
        let (status, hide) = (told.status, told.hide);
        cx.response.headers.set("Apisix-Cache-Status", status.as_str());
        if hide {
            cx.response.headers.remove("cache-control");
            cx.response.headers.remove("expires");
        }
    }

    fn explain(&self, cx: &Context) -> Option<Value> {
        Some(self.terms.explain(cx))
    }
}

impl Cache {
    fn access<'a>(self: &'a Arc<Self>, cx: &'a mut Context) -> Flow<'a> {
        let key = self.terms.key(cx, None);
        let method = cx.request.method;
        if method == Method::Purge {
            return Flow::wait(async move {
                let removed = self.zone.store.remove(&key).await;
                let status = match removed {
                    Ok(true) => 200,
                    Ok(false) => 404,
                    Err(_) => 503,
                };
                self.note(cx, "PURGE", || {
                    format!("{status}: what was stored under the key is removed where it is 200")
                });
                Outcome::Reply(Box::new(Reply::status(status)))
            });
        }
        if !self.terms.methods.contains(&method) {
            // nginx knows no other word for it; APISIX's own cache calls everything a miss.
            let status = if self.disk { Status::Bypass } else { Status::Miss };
            self.tell(cx, status, self.disk);
            self.note(cx, status.as_str(), || "the method is none of cache_method".into());
            if self.rfc {
                invalidate::watch(self, cx, key);
            }
            return Flow::Next;
        }
        let control = match self.rfc {
            true => RequestControl::parse(cx.request.headers.get_all("cache-control")),
            false => RequestControl::default(),
        };
        let bypass = key::is_true(&self.terms.bypass, cx);
        if bypass || control.no_store || control.no_cache {
            self.tell(cx, Status::Bypass, self.disk);
            let why = match (bypass, control.no_store) {
                (true, _) => "cache_bypass is neither empty nor 0",
                (false, true) => "the request's Cache-Control says no-store",
                (false, false) => "the request's Cache-Control says no-cache",
            };
            self.note(cx, Status::Bypass.as_str(), || why.into());
            // What comes is newer than what is stored: nginx keeps it, and so does RFC 9111.
            if (bypass && self.disk || control.no_cache) && !control.no_store && !asks_for_part(cx) {
                self.fetch(cx, key, Found::default(), None, control, Status::Bypass);
            }
            return Flow::Next;
        }
        match self.zone.find(&key, |name| lines(cx, name)) {
            Ok(found) => {
                let now = self.clock.millis();
                if let Some(stored) = &found.stored
                    && reuse(&stored.freshness, self.rfc.then_some(&control), now) == Reuse::Fresh
                {
                    self.note(cx, Status::Hit.as_str(), || fresh(&stored.freshness, now));
                    return Flow::reply(self.reply(cx, &stored.clone(), Status::Hit, now));
                }
                Flow::wait(self.slow(cx, key, Some(found), control))
            }
            Err(_) => Flow::wait(self.slow(cx, key, None, control)),
        }
    }

    /// All that does not end with a fresh answer from memory.
    async fn slow(
        self: &Arc<Self>,
        cx: &mut Context,
        key: Vec<u8>,
        found: Option<Found>,
        control: RequestControl,
    ) -> Outcome {
        let mut found = match found {
            Some(found) => found,
            None => self.zone.find_later(&key, |name| lines(cx, name)).await,
        };
        let begun = Instant::now();
        let (mut status, mut alone) = (Status::Miss, self.lock.is_none());
        let ticket = loop {
            if let Some(stored) = found.stored.clone() {
                let now = self.clock.millis();
                match reuse(&stored.freshness, self.rfc.then_some(&control), now) {
                    Reuse::Fresh => {
                        self.note(cx, Status::Hit.as_str(), || fresh(&stored.freshness, now));
                        return reply(self.reply(cx, &stored, Status::Hit, now));
                    }
                    Reuse::Allowed => {
                        self.note(cx, Status::Stale.as_str(), || {
                            let age = stale(&stored.freshness, now);
                            format!("{age}, which the request's max-stale allows")
                        });
                        return reply(self.reply(cx, &stored, Status::Stale, now));
                    }
                    Reuse::WhileRevalidating => {
                        let updating = || format!("{}, within stale_while_revalidate", stale(&stored.freshness, now));
                        let Some(ticket) = self.zone.flights.try_lead(&key) else {
                            self.note(cx, Status::Updating.as_str(), || {
                                format!("{}; another request asks the upstream", updating())
                            });
                            return reply(self.reply(cx, &stored, Status::Updating, now));
                        };
                        self.note(cx, Status::Stale.as_str(), || format!("{}; a new answer is fetched", updating()));
                        let answer = self.reply(cx, &stored, Status::Stale, now);
                        let keeper = self.refresh(cx, key, found, ticket);
                        cx.background = Some(Background::new(keeper));
                        return reply(answer);
                    }
                    Reuse::Expired => status = Status::Expired,
                    Reuse::TooOld => status = Status::Stale,
                }
            }
            if control.only_if_cached {
                self.tell(cx, status, true);
                self.note(cx, status.as_str(), || {
                    "the request wants nothing that is not stored (only-if-cached)".into()
                });
                return reply(Reply::status(504));
            }
            if alone || asks_for_part(cx) {
                break None;
            }
            match self.zone.flights.join(&key) {
                Role::Lead(ticket) => {
                    // Another's fetch may have ended between the look and here.
                    let again = self.zone.find_later(&key, |name| lines(cx, name)).await;
                    let is_new = match (&again.stored, &found.stored) {
                        (Some(new), Some(old)) => new.freshness.received != old.freshness.received,
                        (Some(_), None) => true,
                        _ => false,
                    };
                    found = again;
                    if !is_new {
                        break Some(ticket);
                    }
                    ticket.land(Landed::Stored);
                    alone = true;
                }
                Role::Alone => break None,
                Role::Wait(waiter) => {
                    self.zone.counts.waited.fetch_add(1, Ordering::Relaxed);
                    let left = self.lock.unwrap_or_default().saturating_sub(begun.elapsed());
                    match waiter.landed(left).await {
                        Some(Landed::Stored) => {
                            found = self.zone.find_later(&key, |name| lines(cx, name)).await;
                            alone = true;
                        }
                        Some(Landed::Lost) => {}
                        Some(Landed::Passed) | None => alone = true,
                    }
                }
            }
        };
        self.tell(cx, status, true);
        let part = asks_for_part(cx);
        self.note(cx, status.as_str(), || {
            let now = self.clock.millis();
            let mut why = match (status, &found.stored) {
                (Status::Expired, Some(stored)) => stale(&stored.freshness, now),
                (Status::Stale, Some(stored)) => {
                    format!("{}, but the request wants a newer answer", fresh(&stored.freshness, now))
                }
                _ => "nothing is stored under the key".into(),
            };
            if part {
                why.push_str("; a part is asked for, which is not stored");
            } else if alone && self.lock.is_some() {
                why.push_str("; another request's answer was waited for, in vain");
            }
            why
        });
        // A part of what is not stored is the upstream's business.
        if !part {
            self.fetch(cx, key, found, ticket, control, status);
        }
        Outcome::Next
    }

    /// Remembers what `header_filter` is to say, and counts it.
    fn tell(&self, cx: &mut Context, status: Status, cached: bool) {
        self.zone.counts.count(status);
        cx.insert(Told { status, hide: self.hide && cached });
    }

    /// Tells the record of an explained request what was decided, and why.
    #[inline]
    fn note(&self, cx: &mut Context, status: &str, why: impl FnOnce() -> String) {
        if cx.trace.is_some() && cx.record().is_some() {
            let mut note = self.terms.about(cx);
            note["status"] = status.into();
            note["why"] = why().into();
            cx.note(|| json!({"cache": note}));
        }
    }
}

impl Terms {
    /// The zone and the key.
    #[cold]
    fn about(&self, cx: &Context) -> Value {
        let (rule, key) = self.told_key(cx);
        json!({"zone": self.zone, "strategy": self.strategy, "key_rule": rule, "key": key})
    }

    /// Which answers would be looked for; where an identity is part of the key, without it.
    fn explain(&self, cx: &Context) -> Value {
        let mut about = self.about(cx);
        if !self.methods.contains(&cx.request.method) {
            about["bypassed"] = "the method is none of cache_method".into();
        } else if key::is_true(&self.bypass, cx) {
            about["bypassed"] = "cache_bypass is neither empty nor 0".into();
        }
        if key::is_true(&self.no_cache, cx) {
            about["not_stored"] = "no_cache is neither empty nor 0".into();
        }
        about
    }
}

fn fresh(freshness: &Freshness, now: u64) -> String {
    format!("stored {} s ago, fresh for {} s more", freshness.age(now) / 1000, freshness.left(now) / 1000)
}

fn stale(freshness: &Freshness, now: u64) -> String {
    match freshness.is_fresh(now) {
        true => "stored, but to be asked about each time".into(),
        false => format!("stored, and stale for {} s", freshness.staleness(now) / 1000),
    }
}

fn reply(reply: Reply) -> Outcome {
    Outcome::Reply(Box::new(reply))
}

/// All lines of a field of the request.
fn lines<'a>(cx: &'a Context, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let name = name.to_owned();
    cx.request.headers.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
}

/// Requests whose answer would be no whole one, or depends on what the upstream has.
fn asks_for_part(cx: &Context) -> bool {
    let headers = &cx.request.headers;
    headers.contains("range") || headers.contains("if-match") || headers.contains("if-unmodified-since")
}

/// `Content-Length` of the answer.
fn content_length(cx: &Context) -> Option<u64> {
    std::str::from_utf8(cx.response.headers.known(Known::ContentLength)?).ok()?.parse().ok()
}
