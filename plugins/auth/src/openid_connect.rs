//! Lets a request in when it carries an access token of an OpenID Connect provider.
//!
//! The token is a JWT that `public_key` verifies, or (`use_jwks`) a key that the provider publishes; otherwise the provider is asked
//! about it (RFC 7662). `required_scopes`, issuer and audience are checked, and the upstream gets `X-Access-Token` and
//! `X-Userinfo`. A client can send none of the fields that the plugin sets.
//!
//! Differences from APISIX: only `bearer_only: true` is there; the login of browsers (authorization code flow, sessions, logout,
//! `unauth_action`), `claim_schema`, `proxy_opts`, `accept_none_alg`, `dpop` and client authentication by JWT are refused when written, with
//! the reason. A token has an algorithm of its key, never HS; a token without `exp` is taken, as there. The provider is asked
//! about every token, there is no cache of its answers; its keys are fetched again after `jwk_expires_in`, and for
//! an unknown key at most every ten seconds. The words of `error_description` are our own.
mod keys;

use crate::authority;
use crate::jwt_auth::key::Algorithm;
use crate::jwt_auth::token::{self, Token};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use keys::{Document, KeySet, Keys};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_plugin::{
    BuildError, Clock, Context, Define, Env, Flow, HttpClient, HttpRequest, Info, Outcome, Phases, Plugin, Reply,
};
use std::time::Duration;

const NAME: &str = "openid-connect";
/// What the plugin sets, and so no client may send.
const OURS: [&str; 5] = ["X-Access-Token", "X-Userinfo", "X-ID-Token", "X-Refresh-Token", "X-Raw-ID-Token"];

/// On a route, service or global rule: what this plugin reads of its schema.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    pub client_id: String,
    pub client_secret: Option<String>,
    pub discovery: String,
    pub bearer_only: bool,
    pub session: Option<Value>,
    pub realm: String,
    pub timeout: u64,
    pub ssl_verify: bool,
    pub public_key: Option<String>,
    pub use_jwks: bool,
    pub jwk_expires_in: i64,
    pub iat_slack: i64,
    pub token_signing_alg_values_expected: Option<String>,
    pub accept_none_alg: bool,
    pub introspection_endpoint: Option<String>,
    pub introspection_endpoint_auth_method: String,
    pub introspection_addon_headers: Option<Vec<String>>,
    pub required_scopes: Option<Vec<String>>,
    pub claim_validator: Option<ClaimValidator>,
    pub claim_schema: Option<Value>,
    pub proxy_opts: Option<Value>,
    pub set_access_token_header: bool,
    pub access_token_in_authorization_header: bool,
    pub set_userinfo_header: bool,
    pub token_endpoint_auth_method: String,
    pub use_pkce: bool,
    pub dpop: Option<Value>,
}

/// What issuer and audience must be.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct ClaimValidator {
    pub issuer: Option<Issuer>,
    pub audience: Option<Audience>,
}
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub struct Issuer {
    pub valid_issuers: Option<Vec<String>>,
}
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Audience {
    pub claim: String,
    pub required: bool,
    pub match_with_client_id: bool,
}

/// The plugin (apisix/plugins/openid-connect.lua).
pub struct OpenidConnect {
    config: Config,
    keys: Option<Vec<keys::Named>>,
    document: std::sync::Arc<Document>,
    key_set: std::sync::Arc<KeySet>,
    client: HttpClient,
    timeout: Duration,
    clock: Clock,
}

impl Define for OpenidConnect {
    const INFO: Info = Info::new(NAME, 2599, Phases::REWRITE).version(0.2).refuses().secrets(&[
        "client_secret",
        "client_rsa_private_key",
        "dpop.private_key",
        "session.secret",
        "session.redis.password",
    ]);
    type Config = Config;

    fn schema() -> Value {
        serde_json::from_str(include_str!("openid_connect/schema.json")).unwrap_or_default()
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        if !config.bearer_only && config.session.is_none() {
            return Err(BuildError::new("property \"session.secret\" is required when \"bearer_only\" is false"));
        }
        let optional = match config.bearer_only {
            true => {
                config.public_key.is_some()
                    || config.use_jwks
                    || config.introspection_endpoint_auth_method == "private_key_jwt"
            }
            false => config.token_endpoint_auth_method == "private_key_jwt" || config.use_pkce,
        };
        match optional || config.client_secret.is_some() {
            true => Ok(()),
            false => Err(BuildError::new("property \"client_secret\" is required")),
        }
    }

    fn build(config: Config, env: &Env) -> Result<OpenidConnect, BuildError> {
        let basic = ["client_secret_basic", "client_secret_post"];
        let asks = config.public_key.is_none() && !config.use_jwks;
        for (refused, what) in [
            (!config.bearer_only, "bearer_only: false (login of browsers)"),
            (config.claim_schema.is_some(), "claim_schema"),
            (config.proxy_opts.is_some(), "proxy_opts"),
            (config.accept_none_alg, "accept_none_alg"),
            (config.dpop.as_ref().is_some_and(|dpop| dpop["enabled"] == true), "dpop"),
            (
                asks && !basic.contains(&config.introspection_endpoint_auth_method.as_str()),
                "this introspection_endpoint_auth_method",
            ),
        ] {
            if refused {
                return Err(BuildError(format!("openid-connect: {what} is not supported")));
            }
        }
        let keys = match &config.public_key {
            None => None,
            Some(pem) => {
                let keys = keys::of_pem(pem);
                if keys.is_empty() {
                    return Err(BuildError::new("openid-connect: public_key is no PEM of a usable public key"));
                }
                Some(keys)
            }
        };
        authority::warn_insecure(NAME, "discovery", &config.discovery, config.ssl_verify);
        let client = env.http_client(&authority::options(config.ssl_verify, true, 60000, 32));
        // APISIX takes whole thousands for milliseconds
        let timeout = match config.timeout {
            millis if millis >= 1000 && millis % 1000 == 0 => Duration::from_millis(millis),
            seconds => Duration::from_secs(seconds),
        };
        let key = format!("{NAME} {} {}", config.ssl_verify, config.discovery);
        let document = env.shared.get_or_insert(&format!("{key} document"), Document::default);
        let key_set = env.shared.get_or_insert(&format!("{key} keys"), KeySet::default);
        Ok(OpenidConnect { config, keys, document, key_set, client, timeout, clock: env.clock.clone() })
    }
}

/// Why a token is not taken: `error_description`.
type Refused = String;

impl Plugin for OpenidConnect {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let given = cx.request.headers.get_str("X-Access-Token").map(str::to_owned);
        for name in OURS {
            cx.request.headers.remove(name);
        }
        let token = match cx.request.headers.get("Authorization").map(|v| std::str::from_utf8(v).unwrap_or_default()) {
            None => given,
            Some(field) => match field.split_once(' ') {
                None => return Flow::reply(Reply::status(400)),
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.to_owned()),
                Some(_) => None,
            },
        };
        let Some(token) = token else { return Flow::reply(self.challenge(None)) };
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
            let verified = match self.keys.is_some() || self.config.use_jwks {
                true => self.verify(&token).await,
                false => self.introspect(&token, added).await,
            };
            let outcome = match verified {
                Ok(claims) => self.admit(cx, &token, &claims).err(),
                Err(reason) => {
                    tracing::error!("OIDC introspection failed: {reason}");
                    Some(self.challenge(Some(&reason)))
                }
            };
            outcome.map_or(Outcome::Next, |reply| Outcome::Reply(Box::new(reply)))
        })
    }
}

impl OpenidConnect {
    fn challenge(&self, reason: Option<&str>) -> Reply {
        let realm = &self.config.realm;
        let value = match reason {
            None => format!("Bearer realm=\"{realm}\""),
            Some(reason) => {
                format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{reason}\"")
            }
        };
        Reply::status(401).header("WWW-Authenticate", value)
    }

    async fn fetch(&self, url: &str) -> Result<Value, Refused> {
        let request = HttpRequest::new("GET", url).timeout(self.timeout);
        let answer = self.client.send(request).await.map_err(|e| e.to_string());
        let parsed = answer.and_then(|answer| match answer.status {
            200 => serde_json::from_slice(&answer.body).map_err(|e| e.to_string()),
            status => Err(format!("status {status}")),
        });
        parsed.map_err(|reason| {
            tracing::error!("OIDC access discovery url failed: {url}: {reason}");
            "the identity provider is unavailable".to_owned()
        })
    }

    /// The provider's metadata (OpenID Connect Discovery 1.0, 4), fetched once an hour.
    async fn metadata(&self, field: &str) -> Result<String, Refused> {
        let now = self.clock.seconds();
        let known = self.document.get(now, 3600);
        let document = match known {
            Some(document) => document,
            None => self.document.put(now, self.fetch(&self.config.discovery).await?),
        };
        let value = document.get(field).and_then(Value::as_str);
        value.map(str::to_owned).ok_or_else(|| format!("the identity provider names no {field}"))
    }

    async fn verify(&self, text: &str) -> Result<Map<String, Value>, Refused> {
        let token = Token::parse(text.as_bytes()).map_err(|_| "invalid jwt".to_owned())?;
        let expected = self.config.token_signing_alg_values_expected.as_deref();
        let algorithm = Algorithm::PUBLIC.into_iter().find(|a| a.as_str() == token.algorithm);
        let algorithm = algorithm
            .filter(|a| expected.is_none_or(|expected| expected == a.as_str()))
            .ok_or_else(|| "the token is signed by an algorithm that is not accepted".to_owned())?;
        let signature = token.signature().ok_or_else(|| "invalid jwt".to_owned())?;
        let verifies = |keys: &Keys, id: Option<&str>| {
            let fits = |k: &&keys::Named| k.algorithm == algorithm && (id.is_none() || k.id.as_deref() == id);
            let mut fitting = keys.iter().filter(fits).peekable();
            fitting.peek().is_some().then(|| fitting.any(|k| k.key.verify(token.signed, &signature)))
        };
        let verified = match &self.keys {
            Some(keys) => verifies(keys, None),
            None => {
                let now = self.clock.seconds();
                let id = token.key_id.as_deref();
                let known = self.key_set.get(now, self.config.jwk_expires_in.max(0) as u64);
                match known.as_deref().and_then(|keys| verifies(keys, id)) {
                    Some(verified) => Some(verified),
                    None if known.is_some() && !self.key_set.may_refresh(now) => None,
                    None => {
                        let fetched = self.fetch(&self.metadata("jwks_uri").await?).await?;
                        verifies(&self.key_set.put(now, keys::of_set(&fetched)), id)
                    }
                }
            }
        };
        if verified != Some(true) {
            return Err("the token's signature was not verified".into());
        }
        let slack = self.config.iat_slack.max(0) as u64;
        token::check_claims(&[], &token.payload, self.clock.seconds(), slack)
            .map_err(|_| "the token is expired or not valid yet".to_owned())?;
        let Value::Object(claims) = token.payload else { return Err("invalid jwt".into()) };
        let issuer = claims.get("iss").and_then(Value::as_str);
        let valid = self.config.claim_validator.as_ref().and_then(|v| v.issuer.as_ref()?.valid_issuers.as_ref());
        let valid = match valid {
            Some(valid) => issuer.is_some_and(|issuer| valid.iter().any(|v| v == issuer)),
            None => issuer == Some(self.metadata("issuer").await?.as_str()),
        };
        if valid { Ok(claims) } else { Err("the token's issuer is not accepted".into()) }
    }

    /// Asks the provider (RFC 7662).
    async fn introspect(&self, token: &str, added: Vec<(String, Vec<u8>)>) -> Result<Map<String, Value>, Refused> {
        let endpoint = match &self.config.introspection_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => self.metadata("introspection_endpoint").await?,
        };
        let id = escape(&self.config.client_id);
        let secret = escape(self.config.client_secret.as_deref().unwrap_or_default());
        let mut body = format!("token={}", escape(token));
        let mut request = HttpRequest::new("POST", endpoint).timeout(self.timeout);
        request.headers = added;
        request
            .headers
            .retain(|(n, _)| !n.eq_ignore_ascii_case("content-type") && !n.eq_ignore_ascii_case("authorization"));
        request = request.header("Content-Type", "application/x-www-form-urlencoded");
        match self.config.introspection_endpoint_auth_method.as_str() {
            "client_secret_post" => body.push_str(&format!("&client_id={id}&client_secret={secret}")),
            _ => {
                let credentials = BASE64_STANDARD.encode(format!("{id}:{secret}"));
                request = request.header("Authorization", format!("Basic {credentials}"));
            }
        }
        let answer = self.client.send(request.body(body)).await.map_err(|error| {
            tracing::error!("OIDC introspection endpoint failed: {error}");
            "the identity provider is unavailable".to_owned()
        })?;
        let claims = serde_json::from_slice::<Map<String, Value>>(&answer.body);
        match claims {
            Ok(claims) if answer.status == 200 && claims.get("active") == Some(&Value::Bool(true)) => Ok(claims),
            _ => Err("invalid token".into()),
        }
    }

    /// Scopes and audience; then what the upstream is told.
    fn admit(&self, cx: &mut Context, token: &str, claims: &Map<String, Value>) -> Result<(), Reply> {
        let denied = |message: String| {
            tracing::error!("OIDC introspection failed: {message}");
            Reply::text(403, json!({ "error": message }).to_string())
        };
        if let Some(required) = &self.config.required_scopes {
            let granted = claims.get("scope").and_then(Value::as_str).unwrap_or_default();
            if !required.iter().all(|scope| granted.split_ascii_whitespace().any(|g| g == scope)) {
                return Err(denied(format!("required scopes {} not present", required.join(", "))));
            }
        }
        if let Some(audience) = self.config.claim_validator.as_ref().and_then(|v| v.audience.as_ref()) {
            let value = claims.get(&audience.claim).filter(|value| !value.is_null());
            if value.is_none() && (audience.required || audience.match_with_client_id) {
                return Err(denied("required audience claim not present".into()));
            }
            let ours = |value: &Value| value.as_str() == Some(self.config.client_id.as_str());
            let matches = value.is_some_and(|value| value.as_array().map_or(ours(value), |all| all.iter().any(ours)));
            if audience.match_with_client_id && !matches {
                return Err(denied("mismatched audience".into()));
            }
        }
        if self.config.set_access_token_header {
            match self.config.access_token_in_authorization_header {
                true => cx.request.headers.set("Authorization", format!("Bearer {token}")),
                false => cx.request.headers.set("X-Access-Token", token),
            }
        }
        if self.config.set_userinfo_header {
            let claims = Value::Object(claims.clone()).to_string();
            cx.request.headers.set("X-Userinfo", BASE64_STANDARD.encode(claims));
        }
        Ok(())
    }
}

/// `application/x-www-form-urlencoded` (RFC 6749, appendix B).
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            true => out.push(char::from(b)),
            false => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests;
