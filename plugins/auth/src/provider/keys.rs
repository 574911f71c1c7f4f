//! The provider's keys (RFC 7517) and metadata, kept over requests and reloads. A key set belongs to no algorithm until a key of
//! it says one, so each key is prepared for every algorithm of its type; none of them is HS.
use super::flight::Flights;
use crate::jwt_auth::key::{Algorithm, Key, from_pem};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;
use sluice_plugin::Clock;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A key prepared for one algorithm.
pub struct Named {
    pub id: Option<String>,
    pub algorithm: Algorithm,
    pub key: Key,
}

pub type Keys = [Named];

/// Keys of one provider that are looked at, at most.
const MAX_KEYS: usize = 64;
/// Fetches within [`WINDOW`] seconds that tokens with unknown keys can cause.
const FORCED: u32 = 3;
const WINDOW: u64 = 30;
/// What was fetched serves on for a day where the provider does not answer.
const STALE: u64 = 86_400;
/// Milliseconds in which a provider that did not answer is not asked again.
const PAUSE: u64 = 1000;

/// Something fetched, with the second at which it came.
pub struct Kept<T: ?Sized> {
    state: Mutex<State<T>>,
    flights: Flights<Result<Arc<T>, String>>,
}

struct State<T: ?Sized> {
    value: Option<(u64, Arc<T>)>,
    /// The last failure, and its millisecond.
    failure: Option<(u64, String)>,
    /// Begin of the window, and forced fetches in it.
    forced: (u64, u32),
}

impl<T: ?Sized> Default for Kept<T> {
    fn default() -> Self {
        Kept { state: Mutex::new(State { value: None, failure: None, forced: (0, 0) }), flights: Flights::default() }
    }
}

pub type Document = Kept<Value>;
pub type KeySet = Kept<Keys>;

impl<T: ?Sized> Kept<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept, if it is not older than `lifetime` seconds.
    pub fn get(&self, now: u64, lifetime: u64) -> Option<Arc<T>> {
        self.state().value.as_ref().filter(|(at, _)| now.saturating_sub(*at) < lifetime).map(|(_, value)| value.clone())
    }

    /// Whether it may be fetched again before its time.
    pub fn may_refresh(&self, now: u64) -> bool {
        let mut state = self.state();
        if now.saturating_sub(state.forced.0) >= WINDOW {
            state.forced = (now, 0);
        }
        state.forced.1 += 1;
        state.forced.1 <= FORCED
    }

    /// Fetches it, once for all who want it now. Where that fails, what was fetched before serves on.
    pub async fn fetch(
        &self,
        clock: &Clock,
        ask: impl Future<Output = Result<Arc<T>, String>>,
    ) -> Result<Arc<T>, String> {
        let now = clock.millis();
        let known = self.state().failure.clone().filter(|(at, _)| now.saturating_sub(*at) < PAUSE);
        let answer = match known {
            Some((_, reason)) => Err(reason),
            None => {
                let ask = async {
                    let answer = ask.await;
                    let mut state = self.state();
                    match &answer {
                        Ok(value) => (state.value, state.failure) = (Some((clock.seconds(), value.clone())), None),
                        Err(reason) => state.failure = Some((clock.millis(), reason.clone())),
                    }
                    answer
                };
                self.flights.join([0; 32], ask).await
            }
        };
        answer.or_else(|reason| self.get(now / 1000, STALE).ok_or(reason))
    }
}

fn prepared(id: Option<&str>, only: Option<&str>, bytes: &[u8]) -> Vec<Named> {
    let wanted = Algorithm::PUBLIC.into_iter().filter(|a| only.is_none_or(|only| only == a.as_str()));
    let named =
        |algorithm| Some(Named { id: id.map(str::to_owned), algorithm, key: Key::public(algorithm, bytes).ok()? });
    wanted.filter_map(named).collect()
}

/// The key of `public_key`.
pub fn of_pem(pem: &str) -> Vec<Named> {
    from_pem(pem).map(|der| prepared(None, None, &der)).unwrap_or_default()
}

/// The usable keys of a JWK set (RFC 7517, 5); those for encryption and of other types are passed over.
pub fn of_set(set: &Value) -> Vec<Named> {
    let all = set.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |key: &'_ Value, field: &str| key.get(field).and_then(Value::as_str).map(str::to_owned);
    let mut found = Vec::new();
    for key in all.iter().take(MAX_KEYS) {
        if text(key, "use").is_some_and(|u| u != "sig") {
            continue;
        }
        let field = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(key, name)?.trim_end_matches('=')).ok();
        let bytes = match text(key, "kty").as_deref() {
            Some("RSA") => field("n").zip(field("e")).map(|(n, e)| rsa(&n, &e)),
            Some("EC") => field("x").zip(field("y")).map(|(x, y)| [&[4u8][..], &x, &y].concat()),
            Some("OKP") => field("x"),
            _ => None,
        };
        if let Some(bytes) = bytes {
            found.extend(prepared(text(key, "kid").as_deref(), text(key, "alg").as_deref(), &bytes));
        }
    }
    found
}

/// RSAPublicKey (RFC 8017, A.1.1) in DER.
fn rsa(n: &[u8], e: &[u8]) -> Vec<u8> {
    let both = [integer(n), integer(e)].concat();
    element(0x30, &both)
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    let bytes = bytes.get(start..).unwrap_or_default();
    let sign: &[u8] = if bytes.first().is_none_or(|b| *b >= 0x80) { &[0] } else { &[] };
    element(2, &[sign, bytes].concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|b| *b == 0).collect();
    let mut out = vec![tag];
    if content.len() >= 0x80 {
        out.push(0x80 | length.len() as u8);
        out.extend(length);
    } else {
        out.push(content.len() as u8);
    }
    out.extend_from_slice(content);
    out
}
