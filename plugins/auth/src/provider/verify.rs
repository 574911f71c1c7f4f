//! Verifying tokens by keys that are configured or that the provider publishes. A key of the provider is fetched again where a token
//! names one that is not known, a few times in half a minute at most, so that keys can be rotated and tokens cannot drive the provider.
use super::{Keys, Provider, keys};
use crate::jwt_auth::key::{Algorithm, Key};
use crate::jwt_auth::token::{self, Token};
use serde_json::{Map, Value};
use std::sync::Arc;

/// What a token must be.
#[derive(Default)]
pub struct Rules<'a> {
    /// Accepted algorithms; all that there are if none is named.
    pub algorithms: &'a [&'a str],
    /// Keys instead of the provider's.
    pub keys: Option<&'a Keys>,
    /// Verifies `HS…` tokens; they are refused without it.
    pub secret: Option<&'a [u8]>,
    /// Unsigned tokens are accepted.
    pub unsigned: bool,
    /// So are tokens with an algorithm that nobody here knows.
    pub unknown: bool,
    /// Seconds that clocks may differ.
    pub slack: u64,
}

pub type Claims = Arc<Map<String, Value>>;

/// Whether it can be said without asking the provider.
enum Known {
    Verified,
    Refused,
    /// No key of that name.
    No,
}

const FAILED: &str = "jwt signature verification failed";

fn verdict(keys: &Keys, token: &Token<'_>, algorithm: Algorithm, signature: &[u8]) -> Known {
    let id = token.key_id.as_deref();
    let fits = |k: &&keys::Named| k.algorithm == algorithm && (id.is_none() || k.id.is_none() || k.id.as_deref() == id);
    let mut fitting = keys.iter().filter(fits).peekable();
    let named = fitting.peek().is_some() && id.is_some_and(|id| keys.iter().any(|k| k.id.as_deref() == Some(id)));
    match fitting.any(|k| k.key.verify(token.signed, signature)) {
        true => Known::Verified,
        false if named => Known::Refused,
        // Keys without names may have been replaced.
        false => Known::No,
    }
}

impl Provider {
    /// The claims of a good token.
    pub async fn verify(&self, text: &str, rules: &Rules<'_>) -> Result<Map<String, Value>, String> {
        let token = Token::parse(text.as_bytes()).map_err(|e| format!("invalid jwt: {}", printable(&e.to_string())))?;
        let name = token.algorithm.as_str();
        if name == "none" {
            return match rules.unsigned && token.signature().is_some_and(|s| s.is_empty()) {
                true => self.claims(token, rules.slack),
                false => Err("token uses \"none\" alg but accept_none_alg is not enabled".into()),
            };
        }
        if !rules.algorithms.is_empty() && !rules.algorithms.contains(&name) {
            return Err(format!("token is signed by unexpected algorithm \"{}\"", printable(name)));
        }
        let signature = token.signature().ok_or("invalid jwt")?;
        let mac = [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512].into_iter().find(|a| a.as_str() == name);
        let public = Algorithm::PUBLIC.into_iter().find(|a| a.as_str() == name);
        let verified = match (mac, public) {
            (Some(mac), _) => match rules.secret {
                Some(secret) => Key::new(mac, Some(secret), None).is_ok_and(|key| key.verify(token.signed, &signature)),
                None => return Err(format!("{FAILED}: the token is signed by a secret")),
            },
            (None, Some(algorithm)) => match rules.keys {
                Some(keys) => matches!(verdict(keys, &token, algorithm, &signature), Known::Verified),
                None => self.verify_by_set(&token, algorithm, &signature).await?,
            },
            (None, None) if rules.unknown => {
                tracing::warn!("ignored signature of a token as algorithm '{}' is not supported", printable(name));
                true
            }
            (None, None) => {
                return Err(format!("token is signed using algorithm \"{}\" which is not supported", printable(name)));
            }
        };
        match verified {
            true => self.claims(token, rules.slack),
            false => Err(FAILED.into()),
        }
    }

    async fn verify_by_set(&self, token: &Token<'_>, algorithm: Algorithm, signature: &[u8]) -> Result<bool, String> {
        let now = self.clock.seconds();
        let known = self.keys.get(now, self.settings.keys_live);
        let verdict = |keys: &Keys| verdict(keys, token, algorithm, signature);
        if let Some(keys) = &known {
            match verdict(keys) {
                Known::Verified => return Ok(true),
                Known::Refused => return Ok(false),
                Known::No if !self.keys.may_refresh(now) => return Ok(false),
                Known::No => {}
            }
        }
        Ok(matches!(verdict(&self.fetch_keys().await?), Known::Verified))
    }

    fn claims(&self, token: Token<'_>, slack: u64) -> Result<Map<String, Value>, String> {
        token::check_claims(&[], &token.payload, self.clock.seconds(), slack).map_err(|e| format!("{FAILED}: {e}"))?;
        match token.payload {
            Value::Object(claims) => Ok(claims),
            _ => Err("invalid jwt".into()),
        }
    }
}

/// What clients sent, fit for a header's quoted value and a log.
fn printable(text: &str) -> String {
    text.chars().map(|c| if (' '..='~').contains(&c) && c != '"' && c != '\\' { c } else { '?' }).take(100).collect()
}

/// Whether a claim names what is wanted, as a text or in a list.
pub fn names(claim: Option<&Value>, wanted: &str) -> bool {
    match claim {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(wanted)),
        _ => false,
    }
}
