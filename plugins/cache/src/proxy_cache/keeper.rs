//! Fetching: what the upstream is asked, and what becomes of its answer.
//!
//! The surprise: a client's own conditions are not passed on. The upstream is asked for the whole, or whether what is stored still
//! holds; the client's conditions are answered here, from what came.
use super::{Cache, Told, content_length, key, lines};
use bytes::Bytes;
use serde_json::json;
use sluice_engine_cache::conditional::{Conditions, Part, part};
use sluice_engine_cache::control::{RequestControl, ResponseControl};
use sluice_engine_cache::fields::{self, Field};
use sluice_engine_cache::flight::{Landed, Ticket};
use sluice_engine_cache::judge::{Exchange, judge};
use sluice_engine_cache::store::{Done, Fill};
use sluice_engine_cache::stored::{self, Record};
use sluice_engine_cache::vary::{self, Vary};
use sluice_engine_cache::zone::Found;
use sluice_engine_cache::{Body, Freshness, Status, Stored, reuse};
use sluice_http::Method;
use sluice_plugin::{Answer, AnswerTap, Context, Reply};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Seconds for which an answer that can be asked about is kept after it has become stale.
const KEEP_STALE: u64 = 86_400;
/// Bodies up to here are collected even where the store takes pieces.
const SMALL: u64 = 64 * 1024;
/// Bytes that may be collected at a time by one zone.
const FILLING: u64 = 256 << 20;

/// The client's own conditions.
#[derive(Default)]
struct Asked {
    if_none_match: Option<Vec<u8>>,
    if_modified_since: Option<Vec<u8>>,
}

/// Watches the answer to a fetch.
struct Keeper {
    cache: Arc<Cache>,
    key: Vec<u8>,
    found: Found,
    ticket: Option<Ticket>,
    control: RequestControl,
    asked: Asked,
    authorized: bool,
    /// Milliseconds since the epoch.
    requested: u64,
    /// The upstream was asked whether what is stored still holds.
    asking: bool,
    background: bool,
    status: Status,
    taking: Option<Taking>,
}

/// A body that is being taken in.
struct Taking {
    cache: Arc<Cache>,
    stored: Stored,
    /// Where it goes.
    key: Vec<u8>,
    vary: Option<Arc<Vary>>,
    body: Vec<u8>,
    fill: Option<Box<dyn Fill>>,
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.cache.zone.counts.filling.fetch_sub(self.body.len() as u64, Ordering::Relaxed);
    }
}

impl Cache {
    /// Prepares a request for its upstream and watches for the answer.
    pub(super) fn fetch(
        self: &Arc<Self>,
        cx: &mut Context,
        key: Vec<u8>,
        found: Found,
        ticket: Option<Ticket>,
        control: RequestControl,
        status: Status,
    ) {
        let mut keeper = self.keeper(cx, key, found, ticket, control, status);
        if cx.request.method == Method::Head {
            cx.set_method("GET");
        }
        keeper.take_conditions(cx);
        cx.answer_tap = Some(Box::new(keeper));
    }

    /// The same beside an answer that the client gets now.
    pub(super) fn refresh(
        self: &Arc<Self>,
        cx: &mut Context,
        key: Vec<u8>,
        found: Found,
        ticket: Ticket,
    ) -> Box<dyn AnswerTap> {
        let mut keeper = self.keeper(cx, key, found, Some(ticket), RequestControl::default(), Status::Expired);
        keeper.background = true;
        if cx.request.method == Method::Head {
            cx.set_method("GET");
        }
        for name in ["if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "range", "if-range"] {
            cx.request.headers.remove(name);
        }
        keeper.ask(cx);
        Box::new(keeper)
    }

    fn keeper(
        self: &Arc<Self>,
        cx: &Context,
        key: Vec<u8>,
        found: Found,
        ticket: Option<Ticket>,
        control: RequestControl,
        status: Status,
    ) -> Keeper {
        Keeper {
            cache: self.clone(),
            key,
            found,
            ticket,
            control,
            asked: Asked::default(),
            // A consumer that the gateway knows has answers of his own.
            authorized: cx.request.headers.contains("authorization")
                && !(self.terms.isolation && cx.consumer.is_some()),
            requested: self.clock.millis(),
            asking: false,
            background: false,
            status,
            taking: None,
        }
    }
}

impl Keeper {
    /// The client's conditions are kept here; the upstream gets ours.
    fn take_conditions(&mut self, cx: &mut Context) {
        let headers = &mut cx.request.headers;
        self.asked = Asked {
            if_none_match: headers.joined("if-none-match").map(std::borrow::Cow::into_owned),
            if_modified_since: headers.get("if-modified-since").map(<[u8]>::to_vec),
        };
        headers.remove("if-none-match");
        headers.remove("if-modified-since");
        self.ask(cx);
    }

    /// Asks whether what is stored still holds.
    fn ask(&mut self, cx: &mut Context) {
        let Some(stored) = self.found.stored.as_ref().filter(|stored| stored.has_validator()) else { return };
        if let Some(etag) = stored.etag() {
            cx.request.headers.append("If-None-Match", etag);
        }
        if let Some(modified) = stored.last_modified() {
            cx.request.headers.append("If-Modified-Since", modified);
        }
        self.asking = true;
    }

    fn land(&mut self, landed: Landed) {
        if let Some(ticket) = self.ticket.take() {
            ticket.land(landed);
        }
    }

    fn part(&self, stored: &Stored, cx: &Context) -> Part {
        let conditions = Conditions {
            if_none_match: self.asked.if_none_match.as_deref(),
            if_modified_since: self.asked.if_modified_since.as_deref(),
            ..Conditions::default()
        };
        part(stored, &conditions, !cx.client_sent_head())
    }

    /// The upstream says that what is stored holds.
    fn confirmed(&mut self, cx: &mut Context, stored: &Arc<Stored>, own: &[Field], now: u64) -> Answer {
        // What the 304 says stands for what was said before.
        let with = own.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("set-cookie"));
        let mut with: Vec<Field> = with.cloned().collect();
        if fields::get(&with, "date").is_none() {
            with.push(("Date".into(), http_date(now).into()));
        }
        let updated = stored.updated(&with, stored.freshness);
        let mut merged: Vec<Field> = updated.fields.to_vec();
        merged.extend(own.iter().filter(|(name, _)| name.eq_ignore_ascii_case("age")).cloned());
        let freshness = self.freshness(stored.status, &merged, now).unwrap_or_else(|_| Freshness {
            received: now,
            initial_age: 0,
            lifetime: 0,
            ..stored.freshness
        });
        let fields = updated.fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("age")).cloned().collect();
        let updated = Arc::new(Stored { freshness, fields, ..updated });
        let key = self.found.variant.clone().unwrap_or_else(|| self.key.clone());
        let done = self.done();
        self.cache.zone.store.put(&key, Record::Answer(updated.clone()), freshness.useful(now, KEEP_STALE), done);
        if self.background {
            return Answer::Keep;
        }
        let part = self.part(&updated, cx);
        let status = Status::Revalidated;
        self.cache.note(cx, status.as_str(), || "the upstream says that what is stored still holds".into());
        Answer::Replace(Box::new(self.cache.part(cx, &updated, part, status, now)))
    }

    fn freshness(&self, status: u16, own: &[Field], now: u64) -> Result<Freshness, &'static str> {
        let exchange =
            Exchange { status, fields: own, authorized: self.authorized, requested: self.requested, received: now };
        judge(&self.cache.rules, &exchange)
    }

    /// Tells those who wait, when the store has it.
    fn done(&mut self) -> Done {
        let (ticket, cache) = (self.ticket.take(), self.cache.clone());
        Box::new(move |result| {
            if result.is_err() {
                cache.zone.counts.not_stored.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(ticket) = ticket {
                ticket.land(if result.is_ok() { Landed::Stored } else { Landed::Passed });
            }
        })
    }

    /// Whether what is stored may be used instead of an error.
    fn stands_in(&self, now: u64) -> Option<Arc<Stored>> {
        // An old error is no better than a new one.
        let stored = self.found.stored.as_ref().filter(|stored| stored.status < 500)?;
        let control = self.cache.rfc.then_some(&self.control);
        let default = self.cache.rules.stale_if_error.unwrap_or(0);
        reuse::on_error(&stored.freshness, control, default, now).then(|| stored.clone())
    }

    /// Begins to take an answer in, or why it is not to be stored.
    fn take(&mut self, cx: &Context, own: Vec<Field>, now: u64) -> Result<Taking, &'static str> {
        let cache = &self.cache;
        let status = cx.response.status;
        if !cache.statuses.contains(&status) || status == 206 || status == 304 {
            return Err("the status is none of cache_http_status");
        }
        if key::is_true(&cache.terms.no_cache, cx) {
            return Err("no_cache is neither empty nor 0");
        }
        // A stream has no end for which others could wait.
        if fields::get(&own, "content-type").is_some_and(is_stream) {
            return Err("the answer is a stream without an end");
        }
        let freshness = self.freshness(status, &own, now)?;
        let names = vary::names(fields::all(&own, "vary")).ok_or("the answer's Vary is *")?;
        let length = content_length(cx);
        let streams = length.is_none_or(|length| length > SMALL);
        let store = &cache.zone.store;
        let limit = if cache.disk { store.max_record() } else { cache.max_body.min(store.max_record()) };
        if length.is_some_and(|length| length >= limit) {
            cache.zone.counts.not_stored.fetch_add(1, Ordering::Relaxed);
            return Err("the answer is longer than the zone or max_resp_body_size takes");
        }
        let tags = stored::tags(&own);
        let withheld = ResponseControl::parse(fields::all(&own, "cache-control")).withheld;
        let mut kept: Vec<Field> = own;
        kept.retain(|(name, _)| {
            !name.eq_ignore_ascii_case("age") && !withheld.iter().any(|own| own.eq_ignore_ascii_case(name))
        });
        if fields::get(&kept, "date").is_none() {
            kept.push(("Date".into(), http_date(now).into()));
        }
        let stored = Stored { status, freshness, fields: kept.into(), body: Body::Whole(Bytes::new()), tags };
        let (key, vary) = if names.is_empty() {
            (self.key.clone(), None)
        } else {
            let same = self.found.vary.clone().filter(|vary| vary.names == names);
            // The time is part of it, as Memcached's bans need one.
            let fresh = || Arc::new(Vary { names, generation: now << 20 | u64::from(rand::random::<u32>() >> 12) });
            let vary = same.unwrap_or_else(fresh);
            let key = vary.key(&self.key, |name| lines(cx, name));
            (key.ok_or("what the answer's Vary names is too long")?, Some(vary))
        };
        let fill = if streams { store.begin(&key, &stored) } else { None };
        Ok(Taking { cache: cache.clone(), stored, key, vary, body: Vec::new(), fill })
    }
}

impl AnswerTap for Keeper {
    fn head(&mut self, cx: &mut Context) -> Answer {
        let now = self.cache.clock.millis();
        let status = cx.response.status;
        let own = end_to_end(cx);
        if self.asking
            && status == 304
            && let Some(stored) = self.found.stored.clone()
        {
            return self.confirmed(cx, &stored, &own, now);
        }
        if matches!(status, 500 | 502 | 503 | 504)
            && let Some(stored) = self.stands_in(now)
        {
            self.land(Landed::Passed);
            if self.background {
                return Answer::Keep;
            }
            self.cache.note(cx, Status::Stale.as_str(), || format!("the upstream answers {status}: stale_if_error"));
            let part = self.part(&stored, cx);
            return Answer::Replace(Box::new(self.cache.part(cx, &stored, part, Status::Stale, now)));
        }
        let taking = match self.take(cx, own, now) {
            Ok(taking) => taking,
            Err(why) => {
                cx.note(|| json!({"cache_store": {"stored": false, "why": why}}));
                self.land(Landed::Passed);
                return if self.background { Answer::Keep } else { Answer::Pass };
            }
        };
        let seconds = taking.stored.freshness.left(now) / 1000;
        cx.note(|| json!({"cache_store": {"stored": true, "fresh_seconds": seconds}}));
        if !self.background && self.part(&taking.stored, cx) == Part::NotModified {
            cx.response.set_status(304);
            cx.response.headers.remove("content-length");
        }
        self.taking = Some(taking);
        if self.background { Answer::Keep } else { Answer::Watch }
    }

    fn body(&mut self, payload: &[u8]) {
        let Some(taking) = &mut self.taking else { return };
        let counts = &self.cache.zone.counts;
        let goes_on = match &mut taking.fill {
            Some(fill) => fill.piece(payload),
            None => {
                let limit = self.cache.max_body.min(self.cache.zone.store.max_record());
                let length = (taking.body.len() + payload.len()) as u64;
                let filling = counts.filling.load(Ordering::Relaxed) + payload.len() as u64;
                let fits = length < limit && filling <= FILLING;
                if fits {
                    counts.filling.fetch_add(payload.len() as u64, Ordering::Relaxed);
                    taking.body.extend_from_slice(payload);
                }
                fits
            }
        };
        if !goes_on {
            counts.not_stored.fetch_add(1, Ordering::Relaxed);
            self.taking = None;
            self.land(Landed::Passed);
        }
    }

    fn end(mut self: Box<Self>) {
        let Some(mut taking) = self.taking.take() else { return };
        let (now, cache) = (self.cache.clock.millis(), self.cache.clone());
        let keep = taking.stored.freshness.useful(now, KEEP_STALE);
        let done = self.done();
        let (fill, key, vary) = (taking.fill.take(), std::mem::take(&mut taking.key), taking.vary.take());
        let mut stored = taking.stored.clone();
        if fill.is_none() {
            stored.body = Body::Whole(Bytes::copy_from_slice(&taking.body));
        }
        let known = cache.zone.strategy == "memory"
            && matches!((&vary, &self.found.vary), (Some(new), Some(old)) if Arc::ptr_eq(new, old));
        let put = {
            let cache = cache.clone();
            move || match fill {
                Some(fill) => fill.end(done),
                None => cache.zone.store.put(&key, Record::Answer(Arc::new(stored)), keep, done),
            }
        };
        match vary {
            Some(vary) if !known => {
                // The mark is there before its variants are.
                cache.zone.store.put(&self.key, Record::Vary(vary), keep.max(KEEP_STALE), Box::new(|_| {}));
                put();
            }
            _ => put(),
        }
    }

    fn failed(&mut self, cx: &mut Context, reply: Reply) -> Reply {
        let now = self.cache.clock.millis();
        match self.stands_in(now) {
            Some(stored) if reply.status >= 500 && !self.background => {
                self.land(Landed::Passed);
                let status = reply.status;
                self.cache.note(cx, Status::Stale.as_str(), || format!("no answer ({status}): stale_if_error"));
                let part = self.part(&stored, cx);
                self.cache.part(cx, &stored, part, Status::Stale, now)
            }
            _ => {
                let status = self.status;
                cx.insert(Told { status, hide: false });
                reply
            }
        }
    }
}

/// The answer's fields that are not for this hop alone.
fn end_to_end(cx: &Context) -> Vec<Field> {
    let headers = &cx.response.headers;
    let named: Vec<Vec<u8>> = headers
        .get_all("connection")
        .flat_map(|line| line.split(|b| *b == b',').map(|token| token.trim_ascii().to_vec()))
        .collect();
    let mut own = Vec::with_capacity(16);
    for (name, value) in headers.iter() {
        let Ok(text) = std::str::from_utf8(name) else { continue };
        if !fields::is_hop_by_hop(text) && !named.iter().any(|token| token.eq_ignore_ascii_case(name)) {
            own.push((text.into(), value.into()));
        }
    }
    own
}

fn is_stream(kind: &[u8]) -> bool {
    [&b"text/event-stream"[..], b"application/grpc"]
        .iter()
        .any(|own| kind.get(..own.len()).is_some_and(|k| k.eq_ignore_ascii_case(own)))
}

fn http_date(now: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(now);
    sluice_engine_cache::fields::write_date(time, &mut out);
    out
}
