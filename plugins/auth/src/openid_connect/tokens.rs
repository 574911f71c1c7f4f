//! What the token endpoint gives, the checks of an ID token, and the renewal of tokens.
use super::OpenidConnect;
use super::config::Config;
use super::login::Login;
use crate::digest;
use crate::provider::verify::{Rules, names};
use crate::provider::{Form, KEPT, Method, OpenForm, object};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Seconds that renewed tokens are kept for the requests that still come with the old ones.
const RENEWED: u64 = 60;

/// An answer of the token endpoint (OpenID Connect Core 1.0, 3.1.3.3).
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    pub access_token: Option<String>,
    pub refresh_token: Option<String>,
    pub id_token: Option<String>,
    /// Second at which the access token is to be renewed.
    pub expires: u64,
}

impl Tokens {
    fn new(answer: &Map<String, Value>, asked: u64, plugin: &OpenidConnect) -> Tokens {
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
        let lives = answer.get("expires_in").and_then(|v| v.as_f64().or_else(|| v.as_str()?.parse().ok()));
        let lives = lives.map_or(plugin.config.access_token_expires_in.unwrap_or(3600), |lives| lives as i64);
        let lives = lives.saturating_sub(1).saturating_sub(plugin.config.access_token_expires_leeway);
        Tokens {
            access_token: text("access_token"),
            refresh_token: text("refresh_token"),
            id_token: text("id_token"),
            expires: asked.saturating_add_signed(lives),
        }
    }

    fn bytes(&self) -> usize {
        [&self.access_token, &self.refresh_token, &self.id_token].into_iter().flatten().map(String::len).sum()
    }

    /// Into a session. What the answer does not have stays as it was.
    pub fn store(&self, login: &mut Login, config: &Config) {
        if config.keeps("access_token") {
            login.access_token = self.access_token.clone();
            login.expires = self.expires;
            if self.refresh_token.is_some() {
                login.refresh_token = self.refresh_token.clone();
            }
        }
        if self.id_token.is_some() && (config.keeps("id_token") || config.keeps("enc_id_token")) {
            login.id_token = self.id_token.clone();
        }
    }
}

impl OpenidConnect {
    /// Asks the token endpoint.
    pub async fn ask_for_tokens(&self, form: Form) -> Result<Tokens, String> {
        let document = self.provider.document().await?;
        let endpoint = document.get("token_endpoint").and_then(Value::as_str).ok_or("no endpoint URI for token")?;
        let asked = self.provider.clock().seconds();
        let method = self.token_method(&document);
        let form = form.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let answer = self.post_proved(endpoint, form, method).await?;
        Ok(Tokens::new(&answer, asked, self))
    }

    /// Posts a form with a proof of possession where one is configured; again, where the answer names a nonce for it.
    pub async fn post_proved(
        &self,
        endpoint: &str,
        form: OpenForm,
        method: &Method,
    ) -> Result<Map<String, Value>, String> {
        let mut again = self.proofs.is_some();
        loop {
            let now = self.provider.clock().seconds();
            let proof = self.proofs.as_ref().and_then(|proofs| proofs.proof("POST", endpoint, None, now));
            let added = proof.into_iter().map(|proof| ("DPoP".to_owned(), proof.into_bytes())).collect();
            let answer = self.provider.post_open(endpoint, form.clone(), &self.client, method, added).await?;
            let wanted = self.proofs.as_ref().is_some_and(|proofs| proofs.learn(&answer));
            if !(wanted && again) {
                return object(endpoint, &answer);
            }
            again = false;
        }
    }

    /// The claims of a good ID token (OpenID Connect Core 1.0, 3.1.3.7).
    pub async fn check_id_token(&self, text: &str, nonce: Option<&str>) -> Result<Map<String, Value>, String> {
        let document = self.provider.document().await?;
        let listed = document.get("id_token_signing_alg_values_supported").and_then(Value::as_array);
        let mut algorithms: Vec<&str> = listed.into_iter().flatten().filter_map(Value::as_str).collect();
        if self.config.accept_none_alg {
            algorithms.push("none");
        }
        let slack = self.config.iat_slack.max(0) as u64;
        let rules = Rules {
            algorithms: if listed.is_some() { &algorithms } else { &[] },
            keys: self.keys.as_deref(),
            secret: self.config.client_secret.as_deref().map(str::as_bytes),
            unsigned: self.config.accept_none_alg,
            unknown: self.config.accept_unsupported_alg,
            slack,
        };
        let claims = self.provider.verify(text, &rules).await?;
        let invalid = |reason: &str| {
            tracing::error!("{reason}");
            "id_token validation failed".to_owned()
        };
        if claims.get("iss") != document.get("issuer") || !claims.contains_key("iss") {
            return Err(invalid("issuer in id_token is not equal to the issuer from the discovery document"));
        }
        if !claims.get("sub").is_some_and(Value::is_string) {
            return Err(invalid("no \"sub\" claim found in id_token"));
        }
        if let Some(nonce) = nonce {
            let told = claims.get("nonce").and_then(Value::as_str).unwrap_or_default();
            if !digest::same(told.as_bytes(), nonce.as_bytes()) {
                return Err(invalid("nonce in id_token is not equal to the nonce that was sent in the request"));
            }
        }
        let now = self.provider.clock().seconds();
        let Some(issued) = claims.get("iat").and_then(Value::as_f64) else {
            return Err(invalid("no \"iat\" claim found in id_token"));
        };
        if issued > now.saturating_add(slack) as f64 {
            return Err(invalid("id_token not yet valid"));
        }
        if !claims.get("exp").is_some_and(Value::is_number) {
            return Err(invalid("no \"exp\" claim found in id_token"));
        }
        let audience = claims.get("aud");
        if !names(audience, &self.config.client_id) {
            return Err(invalid("token audience does not match the client id"));
        }
        Ok(claims)
    }

    /// Renews the access token of a session (RFC 6749, 6). Requests that come with the same refresh token get the same answer: a
    /// provider that rotates refresh tokens takes each one once.
    pub async fn renew(&self, login: &Login) -> Result<Arc<Tokens>, String> {
        let refresh = login.refresh_token.as_deref().ok_or("token expired and no refresh token available")?;
        let key = digest::of(&[b"renew", self.config.client_id.as_bytes(), refresh.as_bytes()]);
        let now = self.provider.clock().seconds();
        if let Some(tokens) = self.caches.renewed.get(&key, now) {
            return Ok(tokens);
        }
        let ask = async {
            // Whoever asked before may have put it there just now.
            if let Some(tokens) = self.caches.renewed.get(&key, now) {
                return Ok(tokens);
            }
            let form = vec![
                ("grant_type", "refresh_token".to_owned()),
                ("refresh_token", refresh.to_owned()),
                ("scope", self.config.scope.clone()),
            ];
            let tokens = self.ask_for_tokens(form).await?;
            if tokens.access_token.is_none() {
                return Err("the token endpoint gave no access token".into());
            }
            if let Some(id_token) = &tokens.id_token {
                self.check_renewed(id_token, login).await?;
            }
            let tokens = Arc::new(tokens);
            if tokens.bytes() <= 2 * KEPT {
                self.caches.renewed.put(key, now, now.saturating_add(RENEWED), tokens.clone());
            }
            Ok(tokens)
        };
        self.caches.renewing.join(key, ask).await
    }

    /// A renewed ID token speaks of the same person (OpenID Connect Core 1.0, 12.2).
    async fn check_renewed(&self, id_token: &str, login: &Login) -> Result<(), String> {
        let claims = self.check_id_token(id_token, None).await.inspect_err(|_| {
            tracing::error!("invalid id token, discarding tokens returned while refreshing");
        })?;
        match login.claims() {
            Some(Value::Object(old)) if old.get("sub") != claims.get("sub") => {
                Err("the renewed id token is for another subject".into())
            }
            _ => Ok(()),
        }
    }
}
