//! May an answer be stored, and for how long is it fresh (RFC 9111 sections 3 and 4.2)?
//!
//! The surprise: there are three sets of rules. `Ttl::Fixed` is APISIX's memory strategy without `cache_control`: a time from
//! the configuration, whatever the answer says of its age. `Ttl::Upstream` is nginx's: the answer's own words, else a default.
//! `Ttl::Rfc` is RFC 9111 in full.
use crate::control::ResponseControl;
use crate::fields::{self, Field};
use crate::stored::Freshness;

/// Where freshness comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// Seconds, for every answer.
    Fixed(u64),
    /// Seconds where the answer says nothing (nginx's `proxy_cache_valid`).
    Upstream(u64),
    /// As RFC 9111 says.
    Rfc,
}

/// What a cache has been told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub ttl: Ttl,
    /// Answers with `Set-Cookie` are stored.
    pub set_cookie: bool,
    /// The key tells users apart, so that answers to requests with `Authorization` need no permission to be stored.
    pub keyed_by_user: bool,
    /// Seconds, where the answer does not say: use while it is fetched anew, and use where nothing better can be had.
    pub stale_while_revalidate: u64,
    pub stale_if_error: Option<u64>,
}

/// What an exchange told, for [`judge`].
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    pub status: u16,
    pub fields: &'a [Field],
    /// The request had `Authorization`.
    pub authorized: bool,
    /// Milliseconds since the epoch.
    pub requested: u64,
    pub received: u64,
}

/// Statuses that may be kept on a guess (RFC 9110 section 15.1).
fn is_heuristic(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Longest freshness that is guessed: a day, in milliseconds.
const MAX_GUESS: u64 = 86_400_000;

/// The freshness of an answer to be stored, or why it must not be. An answer that is stale from the start is stored only where
/// the upstream can be asked whether it still holds.
///
/// # Errors
/// The reason, for people.
pub fn judge(rules: &Rules, exchange: &Exchange<'_>) -> Result<Freshness, &'static str> {
    let own = exchange.fields;
    let control = effective_control(rules, own);
    let understood = control.must_understand && is_heuristic(exchange.status);
    if control.no_store && !understood {
        return Err("the answer's Cache-Control says no-store");
    }
    if control.private {
        return Err("the answer's Cache-Control says private");
    }
    let rfc = rules.ttl == Ttl::Rfc;
    if control.no_cache && !rfc {
        return Err("the answer's Cache-Control says no-cache");
    }
    if !rules.set_cookie && fields::get(own, "set-cookie").is_some_and(|value| !value.is_empty()) {
        return Err("the answer has Set-Cookie, and cache_set_cookie is off");
    }
    if rfc && exchange.authorized && !rules.keyed_by_user {
        let allowed = control.public || control.s_maxage.is_some() || control.must_revalidate;
        if !allowed {
            return Err("the request has Authorization, and the answer does not allow that it is shared");
        }
    }
    let lifetime = match rules.ttl {
        Ttl::Fixed(seconds) => seconds.saturating_mul(1000),
        Ttl::Upstream(default) => match accel_expires(own, exchange.received) {
            Some(lifetime) => lifetime,
            None => explicit(&control, own, exchange.received).unwrap_or(default.saturating_mul(1000)),
        },
        Ttl::Rfc => explicit(&control, own, exchange.received).or_else(|| guess(exchange, &control)).unwrap_or(0),
    };
    let initial_age = match rules.ttl {
        Ttl::Rfc => initial_age(exchange),
        _ => 0,
    };
    let says_stale = rfc || control.present;
    let freshness = Freshness {
        received: exchange.received,
        initial_age,
        lifetime,
        stale_while_revalidate: control
            .stale_while_revalidate
            .filter(|_| says_stale)
            .unwrap_or(rules.stale_while_revalidate),
        stale_if_error: control.stale_if_error.filter(|_| says_stale).or(rules.stale_if_error),
        ask_always: control.no_cache,
        never_stale: rfc && control.forbids_stale(),
    };
    let useless = freshness.ask_always || !freshness.is_fresh(exchange.received);
    let validator = fields::get(own, "etag").is_some() || fields::get(own, "last-modified").is_some();
    let stale_use = freshness.stale_while_revalidate > 0 || freshness.stale_if_error.is_some_and(|s| s > 0);
    if useless && (!rfc || !validator && !stale_use) {
        return Err("it would be stale at once, and the upstream cannot be asked whether it still holds");
    }
    Ok(freshness)
}

/// `Cache-Control`, or what is meant for caches like this one alone (RFC 9213: `CDN-Cache-Control`).
fn effective_control(rules: &Rules, own: &[Field]) -> ResponseControl {
    if rules.ttl == Ttl::Rfc {
        let targeted: Vec<&[u8]> = fields::all(own, "cdn-cache-control").collect();
        let valid = targeted.iter().all(|line| crate::targeted::is_valid(line));
        let control = ResponseControl::parse(targeted.into_iter());
        if valid && control.present {
            return control;
        }
    }
    ResponseControl::parse(fields::all(own, "cache-control"))
}

/// Whether a targeted field stands in for `Cache-Control` and `Expires`.
fn is_targeted(own: &[Field]) -> bool {
    let mut lines = fields::all(own, "cdn-cache-control").peekable();
    lines.peek().is_some() && lines.all(crate::targeted::is_valid)
}

/// `X-Accel-Expires`, milliseconds: seconds, or `@` and a time (nginx, ngx_http_upstream_process_accel_expires).
fn accel_expires(own: &[Field], now: u64) -> Option<u64> {
    let text = std::str::from_utf8(fields::get(own, "x-accel-expires")?).ok()?.trim();
    match text.strip_prefix('@') {
        Some(time) => Some((time.parse::<u64>().ok()?.saturating_mul(1000)).saturating_sub(now)),
        None => Some(text.parse::<u64>().ok()?.saturating_mul(1000)),
    }
}

/// Milliseconds of freshness that the answer names.
fn explicit(control: &ResponseControl, own: &[Field], received: u64) -> Option<u64> {
    if let Some(seconds) = control.s_maxage.or(control.max_age) {
        return Some(seconds.saturating_mul(1000));
    }
    if is_targeted(own) && control.present && fields::get(own, "cache-control").is_none() {
        // A targeted field that names no time leaves the guess, but not what was meant for others.
        return None;
    }
    let mut expires = fields::all(own, "expires").peekable();
    expires.peek()?;
    let values: Vec<Option<u64>> = expires.map(fields::date).collect();
    // Several that differ, or one that is no date: stale already.
    let Some(Some(at)) = values.first().copied() else { return Some(0) };
    if values.iter().any(|v| *v != Some(at)) {
        return Some(0);
    }
    Some(at.saturating_sub(date_of(own).unwrap_or(received)))
}

fn date_of(own: &[Field]) -> Option<u64> {
    fields::get(own, "date").and_then(fields::date)
}

/// A tenth of the time since the last change (RFC 9111 section 4.2.2).
fn guess(exchange: &Exchange<'_>, control: &ResponseControl) -> Option<u64> {
    if !is_heuristic(exchange.status) && !control.public {
        return None;
    }
    let changed = fields::date(fields::get(exchange.fields, "last-modified")?)?;
    let date = date_of(exchange.fields).unwrap_or(exchange.received);
    Some((date.saturating_sub(changed) / 10).min(MAX_GUESS))
}

/// RFC 9111 section 4.2.3.
fn initial_age(exchange: &Exchange<'_>) -> u64 {
    let date = date_of(exchange.fields);
    let apparent = date.map_or(0, |date| exchange.received.saturating_sub(date));
    let said = fields::get(exchange.fields, "age").map_or(0, age_value);
    let delay = exchange.received.saturating_sub(exchange.requested);
    // Clocks that differ by less than a second say nothing: dates have no finer steps.
    let apparent = if apparent < 1000 { 0 } else { apparent };
    apparent.max(said.saturating_mul(1000).saturating_add(delay))
}

/// The first member of `Age`, in seconds; what is no number is 0.
fn age_value(value: &[u8]) -> u64 {
    let first = value.split(|b| *b == b',').next().unwrap_or_default().trim_ascii();
    let text = std::str::from_utf8(first).unwrap_or_default();
    crate::control::delta(text)
}

#[cfg(test)]
mod tests;
