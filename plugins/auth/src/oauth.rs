//! Lets a request in when its OAuth 2.0 access token allows it: by scopes, by roles, by any claim.
//!
//! A JWT is verified by `public_key` or by the keys that the authorization server publishes (`discovery`, `jwks_uri`); any other token
//! is looked up there (`introspection`, RFC 7662). Where the token is missing or not good the answer is 401, where it does not
//! allow enough 403, with a challenge that says what is missing (RFC 6750, 3); 503 where the server cannot be asked. `headers` tells
//! the upstream claims; a client cannot send those fields itself. Use it for APIs; to log people in, use `openid-connect`.
//!
//! It is Sluice's own, so there is nothing to differ from.
mod claims;
mod config;

use crate::argument::{self, Argument};
use crate::authority;
use crate::digest;
use crate::provider::flight::{Answers, Flights, Key};
use crate::provider::keys::{self, Named};
use crate::provider::verify::{Claims, Rules, names};
use crate::provider::{self, Client, Method, Provider};
use claims::Path;
use config::{AuthMethod, Config, Match};
use serde_json::Value;
use sluice_model::secret::is_reference;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Outcome, Phases, Plugin, Reply};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "oauth";
/// Answers about tokens that are kept (`plugin_attr.oauth.cache_entries`).
const CACHE_ENTRIES: u64 = 10_000;
/// Seconds that a verified token is not verified again, at most.
const VERIFIED: u64 = 300;

struct Caches {
    known: Answers<Claims>,
    asking: Flights<Result<Claims, Refusal>>,
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq)]
enum Refusal {
    /// It is not good: what the client is told.
    Invalid(String),
    /// Nobody knows.
    Unavailable,
}

/// The plugin.
pub struct OAuth {
    config: Config,
    provider: Provider,
    keys: Option<Vec<Named>>,
    client: Client,
    method: Method,
    caches: Arc<Caches>,
    algorithms: Vec<&'static str>,
    scope_claims: Vec<Path>,
    role_claims: Vec<Path>,
    wanted: Vec<(Path, Vec<Value>)>,
    told: Vec<(String, Path)>,
    /// What decides about a token beside the token: part of its key in the cache.
    rules: String,
}

impl Define for OAuth {
    const INFO: Info = Info::new(NAME, 2598, Phases::REWRITE).secrets(&["introspection.client_secret"]);
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        config.check()
    }

    fn build(config: Config, env: &Env) -> Result<OAuth, BuildError> {
        let keys = match &config.public_key {
            None => None,
            Some(pem) => match keys::of_pem(pem) {
                none if none.is_empty() => return Err(BuildError::new("oauth: public_key is no PEM of a public key")),
                keys => Some(keys),
            },
        };
        for (field, address) in [("discovery", &config.discovery), ("jwks_uri", &config.jwks_uri)] {
            if let Some(address) = address {
                authority::warn_insecure(NAME, field, address, config.ssl_verify);
            }
        }
        let settings = provider::Settings {
            plugin: NAME,
            discovery: config.discovery.clone(),
            jwks_uri: config.jwks_uri.clone(),
            options: authority::options(config.ssl_verify, true, 60_000, 32),
            timeout: Duration::from_millis(config.timeout),
            keys_live: config.keys_ttl,
        };
        let entries = env.attribute(NAME).get("cache_entries").and_then(Value::as_u64).unwrap_or(CACHE_ENTRIES);
        let caches = env.shared.get_or_insert(&format!("{NAME} caches"), || Caches {
            known: Answers::new(usize::try_from(entries).unwrap_or(usize::MAX)),
            asking: Flights::default(),
        });
        let (mut client, mut method) = (Client::default(), Method::Basic);
        if let Some(introspection) = &config.introspection {
            if introspection.client_secret.as_deref().is_some_and(is_reference) {
                return Err(BuildError::new(
                    "oauth: introspection.client_secret refers to a secret that cannot be resolved",
                ));
            }
            client.id = introspection.client_id.clone();
            client.secret = introspection.client_secret.clone();
            if introspection.auth_method == AuthMethod::Post {
                method = Method::Post;
            }
        }
        let paths = |all: &[String]| all.iter().map(|text| Path::new(text)).collect();
        let rules = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {} {}",
            config.discovery,
            config.jwks_uri,
            config.public_key,
            config.issuers,
            config.audiences,
            config.algorithms,
            config.introspection.as_ref().map(|i| (&i.endpoint, &i.client_id)),
            config.clock_skew,
            config.ssl_verify
        );
        Ok(OAuth {
            provider: Provider::new(settings, env),
            keys,
            client,
            method,
            caches,
            algorithms: config.algorithms.iter().map(|a| a.as_str()).collect(),
            scope_claims: paths(&config.scope_claims),
            role_claims: paths(&config.role_claims),
            wanted: config.claims.iter().map(|(path, values)| (Path::new(path), values.clone())).collect(),
            told: config.headers.iter().map(|(name, path)| (name.clone(), Path::new(path))).collect(),
            rules,
            config,
        })
    }
}

/// Where a token was found.
enum Source {
    Header,
    Query,
    Cookie,
}

impl Plugin for OAuth {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        for (name, _) in &self.told {
            cx.request.headers.remove(name);
        }
        let (token, source) = match self.token(cx) {
            Ok(Some(found)) => found,
            Ok(None) if self.config.allow_anonymous => return Flow::Next,
            Ok(None) => return Flow::reply(self.challenge(401, "", "no access token in the request")),
            Err(reason) => return Flow::reply(self.challenge(400, "invalid_request", reason)),
        };
        self.hide(cx, &source);
        let key = digest::of(&[self.rules.as_bytes(), token.as_bytes()]);
        if let Some(claims) = self.caches.known.get(&key, self.provider.clock().seconds()) {
            return self.admit(cx, &claims).map_or_else(Flow::reply, |()| Flow::Next);
        }
        Flow::wait(async move {
            let outcome = match self.caches.asking.join(key, self.learn(&token, key)).await {
                Ok(claims) => self.admit(cx, &claims).err(),
                Err(Refusal::Invalid(reason)) => Some(self.challenge(401, "invalid_token", &reason)),
                Err(Refusal::Unavailable) => {
                    Some(Reply::message(503, "the authorization server cannot be asked").header("Retry-After", "1"))
                }
            };
            outcome.map_or(Outcome::Next, |reply| Outcome::Reply(Box::new(reply)))
        })
    }
}

impl OAuth {
    /// A client sends its token once (RFC 6750, 2).
    fn token(&self, cx: &Context) -> Result<Option<(String, Source)>, &'static str> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "the access token is no text");
        let mut found = Vec::new();
        if let Some(field) = cx.request.headers.get(&self.config.token_header) {
            let field = text(field)?;
            let own = !self.config.token_header.eq_ignore_ascii_case("authorization");
            match field.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                    found.push((token.trim().to_owned(), Source::Header));
                }
                None if own => found.push((field, Source::Header)),
                _ => {}
            }
        }
        if let Some(name) = &self.config.token_query {
            match argument::find(cx.request.query(), name) {
                Argument::Missing => {}
                Argument::Value(value) => found.push((text(&value)?, Source::Query)),
                Argument::Unusable => return Err("the access token stands more than once in the query"),
            }
        }
        if let Some(name) = &self.config.token_cookie
            && let Some(value) = cx.request.cookie(name)
            && found.is_empty()
        {
            found.push((text(value)?, Source::Cookie));
        }
        match found.len() {
            0 | 1 => Ok(found.pop().filter(|(token, _)| !token.is_empty())),
            _ => Err("the access token stands in several places"),
        }
    }

    fn hide(&self, cx: &mut Context, source: &Source) {
        match source {
            _ if !self.config.hide_token => {}
            Source::Header => drop(cx.request.headers.remove(&self.config.token_header)),
            Source::Query => argument::hide(cx, self.config.token_query.as_deref().unwrap_or_default()),
            Source::Cookie => {
                crate::jwt_auth::hide_cookie(&mut cx.request, self.config.token_cookie.as_deref().unwrap_or_default());
            }
        }
    }

    async fn learn(&self, token: &str, key: Key) -> Result<Claims, Refusal> {
        let verifies = self.keys.is_some() || self.config.discovery.is_some() || self.config.jwks_uri.is_some();
        let is_jwt = token.bytes().filter(|b| *b == b'.').count() == 2;
        let (claims, life): (Claims, u64) = match &self.config.introspection {
            Some(introspection) if !verifies || introspection.always || !is_jwt => {
                let (claims, small) = self.introspect(token).await?;
                (claims, if small { introspection.cache_ttl } else { 0 })
            }
            _ => (self.verify(token).await?, if token.len() <= provider::KEPT { VERIFIED } else { 0 }),
        };
        self.check_parties(&claims).await?;
        let now = self.provider.clock().seconds();
        let end = claims.get("exp").and_then(Value::as_f64).map_or(u64::MAX, |exp| exp as u64);
        let until = end.min(now.saturating_add(life));
        if until > now {
            self.caches.known.put(key, now, until, claims.clone());
        }
        Ok(claims)
    }

    async fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        let rules = Rules {
            algorithms: &self.algorithms,
            keys: self.keys.as_deref(),
            slack: self.config.clock_skew,
            ..Rules::default()
        };
        self.provider.verify(token, &rules).await.map(Arc::new).map_err(refusal)
    }

    async fn introspect(&self, token: &str) -> Result<(Claims, bool), Refusal> {
        let own = self.config.introspection.as_ref().and_then(|i| i.endpoint.clone());
        let endpoint = match own {
            Some(endpoint) => endpoint,
            None => self.provider.metadata("introspection_endpoint").await.map_err(|_| Refusal::Unavailable)?,
        };
        let form = vec![("token", token.to_owned()), ("token_type_hint", "access_token".to_owned())];
        let answer = self.provider.look_up(&endpoint, form, &self.client, &self.method, Vec::new()).await;
        let (claims, small) = answer.map_err(|_| Refusal::Unavailable)?;
        match claims.get("active") == Some(&Value::Bool(true)) {
            true => Ok((Arc::new(claims), small)),
            false => Err(Refusal::Invalid("the access token is not active".into())),
        }
    }

    /// Who issued the token, and for whom.
    async fn check_parties(&self, claims: &Claims) -> Result<(), Refusal> {
        let issuer = claims.get("iss").and_then(Value::as_str);
        let known = match (self.config.issuers.as_slice(), &self.config.discovery) {
            // The answer of an introspection may leave it out (RFC 7662, 2.2): the server itself has said that it is good.
            ([], _) if issuer.is_none() && claims.get("active").is_some() => true,
            ([], Some(_)) => issuer == Some(&self.provider.metadata("issuer").await.map_err(refusal)?),
            ([], None) => true,
            (issuers, _) => issuer.is_some_and(|issuer| issuers.iter().any(|i| i == issuer)),
        };
        if !known {
            return Err(Refusal::Invalid("the access token's issuer is not accepted".into()));
        }
        let audiences = &self.config.audiences;
        match audiences.is_empty() || audiences.iter().any(|audience| names(claims.get("aud"), audience)) {
            true => Ok(()),
            false => Err(Refusal::Invalid("the access token is for another audience".into())),
        }
    }

    fn admit(&self, cx: &mut Context, claims: &Claims) -> Result<(), Reply> {
        let enough = |needed: &[String], how: Match, held: &[Path]| {
            let has = |one: &String| held.iter().any(|path| path.holds(claims, one));
            needed.is_empty() || if how == Match::All { needed.iter().all(has) } else { needed.iter().any(has) }
        };
        if !enough(&self.config.scopes, self.config.scopes_match, &self.scope_claims) {
            return Err(self.challenge(403, "insufficient_scope", "the access token lacks a scope"));
        }
        if !enough(&self.config.roles, self.config.roles_match, &self.role_claims) {
            return Err(self.challenge(403, "insufficient_scope", "the access token lacks a role"));
        }
        if !self.wanted.iter().all(|(path, values)| values.iter().any(|value| path.is(claims, value))) {
            return Err(self.challenge(403, "insufficient_scope", "a claim of the access token is not as it must be"));
        }
        for (name, path) in &self.told {
            if let Some(value) = path.text(claims).filter(|value| authority::is_value(value.as_bytes())) {
                cx.request.headers.set(name, value);
            }
        }
        Ok(())
    }

    /// RFC 6750, 3. Without an error code the request simply had no token.
    fn challenge(&self, status: u16, error: &str, reason: &str) -> Reply {
        let mut value = format!("Bearer realm=\"{}\"", self.config.realm);
        if !error.is_empty() {
            value.push_str(&format!(", error=\"{error}\", error_description=\"{reason}\""));
        }
        if !self.config.scopes.is_empty() && status != 400 {
            value.push_str(&format!(", scope=\"{}\"", self.config.scopes.join(" ")));
        }
        Reply::message(status, reason).header("WWW-Authenticate", value)
    }
}

/// A provider that cannot be asked is no fault of the token.
fn refusal(reason: String) -> Refusal {
    match reason == provider::UNAVAILABLE || reason.starts_with("the identity provider") {
        true => Refusal::Unavailable,
        false => Refusal::Invalid(reason),
    }
}

#[cfg(test)]
mod tests;
