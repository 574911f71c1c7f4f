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
use sluice_engine_cache::control::RequestControl;
use sluice_engine_cache::flight::{Landed, Role};
use sluice_engine_cache::judge::{Rules, Ttl};
use sluice_engine_cache::reuse::{Reuse, reuse};
use sluice_engine_cache::zone::Found;
use sluice_engine_cache::{Status, Zone, Zones};
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
    key: Vec<KeyPart>,
    bypass: Vec<KeyPart>,
    no_cache: Vec<KeyPart>,
    methods: Vec<Method>,
    statuses: Vec<u16>,
    hide: bool,
    /// `cache_control`: RFC 9111 in full.
    rfc: bool,
    /// nginx's own cache in APISIX.
    disk: bool,
    rules: Rules,
    isolation: bool,
    lock: Option<Duration>,
    max_body: u64,
}

/// The plugin; nothing where no zone is open, as in a command that only checks.
pub struct ProxyCache(Option<Arc<Cache>>);

/// What `header_filter` has to tell.
struct Told {
    status: Status,
    hide: bool,
}

impl Define for ProxyCache {
    const INFO: Info = Info::new("proxy-cache", 1085, Phases::ACCESS.and(Phases::HEADER_FILTER)).version(0.2).refuses();
    type Config = Config;

    fn schema() -> serde_json::Value {
        config::schema()
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        match config.cache_key.iter().find(|part| *part == "$request_method") {
            Some(part) => Err(BuildError::new(format!("cache_key variable {part} unsupported"))),
            None => Ok(()),
        }
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let Some(zones) = env.part::<Zones>() else { return Ok(ProxyCache(None)) };
        config.check_zone(&zones)?;
        let Some(zone) = zones.get(&config.cache_zone) else { return Ok(ProxyCache(None)) };
        let disk = zone.strategy == "disk";
        let ttl = match (config.cache_control, disk) {
            (true, _) => Ttl::Rfc,
            (false, true) => Ttl::Upstream(zones.default_ttl),
            (false, false) => Ttl::Fixed(config.cache_ttl),
        };
        let keyed_by_user = key::names_user(&config.cache_key);
        let parts = |list: &[String]| list.iter().map(|part| KeyPart::parse(part)).collect::<Vec<_>>();
        let lock = Duration::try_from_secs_f64(config.cache_lock_timeout).map_err(BuildError::new)?;
        Ok(ProxyCache(Some(Arc::new(Cache {
            zone: zone.clone(),
            clock: env.clock.clone(),
            control: env.control.clone(),
            key: parts(&config.cache_key),
            bypass: parts(&config.cache_bypass),
            no_cache: parts(&config.no_cache),
            methods: config.cache_method.iter().map(|m| Method::from_token(m.as_bytes())).collect(),
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
            isolation: config.consumer_isolation && !keyed_by_user,
            lock: config.cache_lock.then_some(lock),
            max_body: config.max_resp_body_size,
        }))))
    }
}

impl Plugin for ProxyCache {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        match &self.0 {
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
}

impl Cache {
    fn access<'a>(self: &'a Arc<Self>, cx: &'a mut Context) -> Flow<'a> {
        let key = self.key(cx, None);
        let method = cx.request.method;
        if method == Method::Purge {
            return Flow::wait(async move {
                let removed = self.zone.store.remove(&key).await;
                let status = match removed {
                    Ok(true) => 200,
                    Ok(false) => 404,
                    Err(_) => 503,
                };
                Outcome::Reply(Box::new(Reply::status(status)))
            });
        }
        if !self.methods.contains(&method) {
            // nginx knows no other word for it; APISIX's own cache calls everything a miss.
            self.tell(cx, if self.disk { Status::Bypass } else { Status::Miss }, self.disk);
            if self.rfc {
                invalidate::watch(self, cx, key);
            }
            return Flow::Next;
        }
        let control = match self.rfc {
            true => RequestControl::parse(cx.request.headers.get_all("cache-control")),
            false => RequestControl::default(),
        };
        let bypass = key::is_true(&self.bypass, cx);
        if bypass || control.no_store || control.no_cache {
            self.tell(cx, Status::Bypass, self.disk);
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
                    Reuse::Fresh => return reply(self.reply(cx, &stored, Status::Hit, now)),
                    Reuse::Allowed => return reply(self.reply(cx, &stored, Status::Stale, now)),
                    Reuse::WhileRevalidating => {
                        let Some(ticket) = self.zone.flights.try_lead(&key) else {
                            return reply(self.reply(cx, &stored, Status::Updating, now));
                        };
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
        // A part of what is not stored is the upstream's business.
        if !asks_for_part(cx) {
            self.fetch(cx, key, found, ticket, control, status);
        }
        Outcome::Next
    }

    /// Remembers what `header_filter` is to say, and counts it.
    fn tell(&self, cx: &mut Context, status: Status, cached: bool) {
        self.zone.counts.count(status);
        cx.insert(Told { status, hide: self.hide && cached });
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
