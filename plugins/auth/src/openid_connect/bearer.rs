//! Requests that bring an access token of their own.
use super::{OpenidConnect, config};
use crate::authority;
use crate::digest;
use crate::provider::flight::Key;
use crate::provider::verify::{Claims, Rules, names};
use crate::provider::{KEPT, Method};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use sluice_plugin::{Context, Flow, Outcome, Reply};
use std::sync::Arc;

/// The token of `Authorization`, or else of `X-Access-Token`.
pub fn token(cx: &Context, given: Option<String>) -> Result<Option<String>, Reply> {
    let Some(field) = cx.request.headers.get("Authorization") else { return Ok(given) };
    match std::str::from_utf8(field).unwrap_or_default().split_once(' ') {
        None => {
            tracing::error!("OIDC introspection failed: Invalid Authorization header format.");
            Err(Reply::status(400))
        }
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim().to_owned())),
        Some(_) => Ok(None),
    }
}

/// Whether all of these are among the words.
pub fn has_scopes(required: &[String], granted: &str) -> bool {
    required.iter().all(|scope| granted.split_ascii_whitespace().any(|g| g == scope))
}

impl OpenidConnect {
    pub fn admit_bearer<'a>(&'a self, cx: &'a mut Context, token: String) -> Flow<'a> {
        let key = self.token_key(&token);
        let now = self.provider.clock().seconds();
        let cache = match self.config.verifies() {
            true if self.config.jwt_verification_cache_ignore => None,
            true => self.caches.verified.get(&key, now),
            false => self.caches.introspected.get(&key, now),
        };
        if let Some(claims) = cache {
            return self.admit(cx, &token, &claims).map_or_else(Flow::reply, |()| Flow::Next);
        }
        let added: Vec<(String, Vec<u8>)> = self
            .config
            .introspection_addon_headers
            .iter()
            .flatten()
            .filter_map(|name| {
                Some((name.clone(), cx.request.headers.get(name).filter(|_| !authority::frames(name))?.to_vec()))
            })
            .collect();
        Flow::wait(async move {
            let found = match self.config.verifies() {
                true => self.verify_bearer(&token, key).await,
                // What is sent beside the token may change the answer, so those are asked each for itself.
                false if added.is_empty() => {
                    self.caches.asking.join(key, self.introspect(&token, key, Vec::new())).await
                }
                false => self.introspect(&token, key, added).await,
            };
            let outcome = match found {
                Ok(claims) => self.admit(cx, &token, &claims).err(),
                Err(reason) => {
                    tracing::error!("OIDC introspection failed: {reason}");
                    Some(self.challenge(Some(&reason)))
                }
            };
            outcome.map_or(Outcome::Next, |reply| Outcome::Reply(Box::new(reply)))
        })
    }

    fn token_key(&self, token: &str) -> Key {
        let endpoint = self.config.introspection_endpoint.as_deref().unwrap_or_default();
        let parts = [&self.verification, endpoint, &self.config.client_id, token];
        digest::of(&parts.map(str::as_bytes))
    }

    async fn verify_bearer(&self, text: &str, key: Key) -> Result<Claims, String> {
        let valid = self.config.claim_validator.as_ref().and_then(|v| v.issuer.as_ref()?.valid_issuers.as_deref());
        let discovered = match valid {
            Some(_) => None,
            None => Some(self.provider.metadata("issuer").await.map_err(|_| "issuer validation unavailable")?),
        };
        let expected = self.config.token_signing_alg_values_expected.as_deref();
        let rules = Rules {
            algorithms: expected.as_slice(),
            keys: self.keys.as_deref(),
            slack: self.config.iat_slack.max(0) as u64,
            ..Rules::default()
        };
        let claims = self.provider.verify(text, &rules).await?;
        let issuer = claims.get("iss").and_then(Value::as_str);
        let issued = match valid {
            Some(valid) => issuer.is_some_and(|issuer| valid.iter().any(|v| v == issuer)),
            None => issuer.is_some() && issuer == discovered.as_deref(),
        };
        if !issued {
            return Err("jwt signature verification failed: Claim 'iss' is not accepted".into());
        }
        let now = self.provider.clock().seconds();
        let until = claims.get("exp").and_then(Value::as_f64).map_or(now.saturating_add(120), |exp| exp as u64);
        let claims = Arc::new(claims);
        if until > now && text.len() <= KEPT && !self.config.jwt_verification_cache_ignore {
            self.caches.verified.put(key, now, until, claims.clone());
        }
        Ok(claims)
    }

    /// Asks the provider (RFC 7662).
    async fn introspect(&self, token: &str, key: Key, added: Vec<(String, Vec<u8>)>) -> Result<Claims, String> {
        let endpoint = match &self.config.introspection_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self.provider.metadata("introspection_endpoint").await?,
        };
        let name = self.config.introspection_endpoint_auth_method.as_str();
        let method = self.method(name);
        if method.is_none() && config::credential(name).is_some() {
            return Err(format!("Can't use {name} without a key."));
        }
        let form = vec![("token", token.to_owned())];
        let method = method.unwrap_or(&Method::Post);
        let (claims, small) = self.provider.look_up(&endpoint, form, &self.client, method, added).await?;
        if claims.get("active") != Some(&Value::Bool(true)) {
            return Err("invalid token".into());
        }
        let now = self.provider.clock().seconds();
        let claim = self.config.introspection_expiry_claim.as_deref().unwrap_or("exp");
        let claims = Arc::new(claims);
        if let Some(value) = claims.get(claim).and_then(Value::as_f64) {
            let life = if claim == "exp" { value - now as f64 } else { value };
            let interval = self.config.introspection_interval as f64;
            let life = if interval > 0.0 { life.min(interval) } else { life };
            if life >= 1.0 && small {
                self.caches.introspected.put(key, now, now.saturating_add(life as u64), claims.clone());
            }
        }
        Ok(claims)
    }

    /// Scopes, audience and other claims; then what the upstream is told.
    fn admit(&self, cx: &mut Context, token: &str, claims: &Map<String, Value>) -> Result<(), Reply> {
        let denied = |message: String| {
            tracing::error!("OIDC introspection failed: {message}");
            Reply::text(403, json!({ "error": message }).to_string())
        };
        if let Some(required) = &self.config.required_scopes {
            let granted = claims.get("scope").and_then(Value::as_str).unwrap_or_default();
            if !has_scopes(required, granted) {
                return Err(denied(format!("required scopes {} not present", required.join(", "))));
            }
        }
        if let Some(audience) = self.config.claim_validator.as_ref().and_then(|v| v.audience.as_ref()) {
            let value = claims.get(&audience.claim).filter(|value| !value.is_null());
            if value.is_none() && (audience.required || audience.match_with_client_id) {
                return Err(denied("required audience claim not present".into()));
            }
            if audience.match_with_client_id && !names(value, &self.config.client_id) {
                return Err(denied("mismatched audience".into()));
            }
        }
        if self.claim_schema.is_some() {
            self.check_claims(Value::Object(claims.clone()))?;
        }
        self.tell_access_token(cx, token);
        if self.config.set_userinfo_header {
            let claims = serde_json::to_vec(claims).unwrap_or_default();
            cx.request.headers.set("X-Userinfo", BASE64_STANDARD.encode(claims));
        }
        Ok(())
    }

    /// A token that no header can carry is not told.
    pub fn tell_access_token(&self, cx: &mut Context, token: &str) {
        if self.config.set_access_token_header && authority::is_value(token.as_bytes()) {
            match self.config.access_token_in_authorization_header {
                true => cx.request.headers.set("Authorization", format!("Bearer {token}")),
                false => cx.request.headers.set("X-Access-Token", token),
            }
        }
    }
}
