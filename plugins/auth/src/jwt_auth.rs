//! Lets a request in when it carries a JSON Web Token (RFC 7519) that a consumer's key has signed.
//!
//! The token names the consumer by a claim (`key`, or `key_claim_name`) and comes in a header, in the query or in a
//! cookie. Use it where another service issues tokens. The algorithm is the one configured on the consumer, never the
//! one that a token asks for. `exp` and `nbf` are checked where a token has them; `claims_to_verify` makes them
//! obligatory. With `store_in_ctx` the claims are kept as JSON in the variable `jwt_auth_payload`.
//!
//! Differences from APISIX: RSA keys of less than 1024 bits (2048 for RS384 and PS algorithms) and EC keys on another
//! curve than the algorithm's are refused; a PS signature's salt is as long as its hash (RFC 7518, 3.5); EdDSA means
//! Ed25519. A cookie header that held nothing but the hidden token is removed and not left empty.
pub(crate) mod key;
pub(crate) mod token;

use crate::argument::{self, Argument};
use crate::basic_auth;
use crate::challenge::{Challenge, Refusal};
use crate::credential;
use key::{Algorithm, Key, KeyError};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_http::Request;
use sluice_plugin::consumer::Identity;
use sluice_plugin::definition::DefineAuth;
use sluice_plugin::{BuildError, Clock, Consumers, Context, Define, Env, Flow, Info, Phases, Plugin, schema_of};
use std::borrow::Cow;
use std::sync::Arc;
use token::{Claim, Token};

const NAME: &str = "jwt-auth";

/// On a route, service or global rule.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Header that carries the token, with or without `Bearer ` before it.
    #[serde(default = "authorization")]
    pub header: String,
    /// Query argument that carries the token where the header is missing.
    #[serde(default = "jwt")]
    pub query: String,
    /// Cookie that carries the token where both are missing.
    #[serde(default = "jwt")]
    pub cookie: String,
    /// Keep the token from the upstream.
    #[serde(default)]
    pub hide_credentials: bool,
    /// Claim that names the consumer by its `key`.
    #[serde(default = "key_claim")]
    #[schemars(length(min = 1))]
    pub key_claim_name: String,
    /// Keep the claims in the variable `jwt_auth_payload`.
    #[serde(default)]
    pub store_in_ctx: bool,
    /// Realm named by the `WWW-Authenticate` field of a 401.
    #[serde(default = "jwt")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[ -!#-[\]-~]+$"))]
    pub realm: String,
    /// Consumer as which requests without a valid token pass.
    #[schemars(length(min = 1))]
    pub anonymous_consumer: Option<String>,
    /// Claims that a token must have.
    #[schemars(extend("uniqueItems" = true))]
    pub claims_to_verify: Option<Vec<Claim>>,
}

fn authorization() -> String {
    "authorization".into()
}
fn jwt() -> String {
    "jwt".into()
}
fn key_claim() -> String {
    "key".into()
}

/// On a consumer or credential, as it is stored.
#[derive(Deserialize, JsonSchema)]
struct Stored {
    /// What the claim says that names this consumer; unique among all consumers.
    #[schemars(length(min = 1))]
    #[serde(deserialize_with = "credential::resolved")]
    key: String,
    /// The shared secret of HS algorithms.
    #[schemars(length(min = 1))]
    #[serde(default, deserialize_with = "credential::resolved_option")]
    secret: Option<String>,
    /// The algorithm of this consumer's tokens.
    #[serde(default)]
    algorithm: Algorithm,
    /// Lifetime of issued tokens in seconds; nothing is issued, so it has no effect.
    #[serde(default = "day")]
    #[schemars(range(min = 1))]
    #[allow(dead_code, reason = "part of the schema")]
    exp: u64,
    /// The secret is stored in base64.
    #[serde(default)]
    base64_secret: bool,
    /// Seconds by which clocks may differ when `exp` and `nbf` are checked.
    #[serde(default)]
    lifetime_grace_period: u64,
    #[schemars(skip)]
    #[serde(default, deserialize_with = "credential::resolved_option")]
    public_key: Option<String>,
}

fn day() -> u64 {
    86400
}

/// On a consumer or credential, its key prepared.
#[derive(Deserialize)]
#[serde(from = "Stored")]
pub struct ConsumerConfig {
    name: String,
    algorithm: Algorithm,
    grace: u64,
    key: Result<Key, KeyError>,
}

impl From<Stored> for ConsumerConfig {
    fn from(stored: Stored) -> ConsumerConfig {
        let secret = match (&stored.secret, stored.base64_secret) {
            (Some(text), true) => basic_auth::decode(text.as_bytes()).map(Cow::Owned).ok_or(KeyError::Base64).map(Some),
            (secret, _) => Ok(secret.as_deref().map(|text| Cow::Borrowed(text.as_bytes()))),
        };
        let key = secret.and_then(|secret| Key::new(stored.algorithm, secret.as_deref(), stored.public_key.as_deref()));
        ConsumerConfig { name: stored.key, algorithm: stored.algorithm, grace: stored.lifetime_grace_period, key }
    }
}

impl JsonSchema for ConsumerConfig {
    fn schema_name() -> Cow<'static, str> {
        Stored::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Stored::json_schema(generator)
    }
}

/// The plugin (apisix/plugins/jwt-auth.lua).
pub struct JwtAuth {
    config: Config,
    claims: Vec<Claim>,
    challenge: Challenge,
    clock: Clock,
}

impl Define for JwtAuth {
    const INFO: Info = Info::new(NAME, 2510, Phases::REWRITE).auth().secrets(&["secret"]);
    type Config = Config;

    fn build(mut config: Config, env: &Env) -> Result<JwtAuth, BuildError> {
        let challenge = Challenge::new(NAME, "Bearer", &config.realm, config.anonymous_consumer.take());
        let claims = config.claims_to_verify.take().unwrap_or_default();
        Ok(JwtAuth { config, claims, challenge, clock: env.clock.clone() })
    }
}

impl DefineAuth for JwtAuth {
    type ConsumerConfig = ConsumerConfig;

    fn consumer_schema() -> Value {
        let mut schema = schema_of::<ConsumerConfig>();
        schema["encrypt_fields"] = json!(["secret"]);
        schema["dependencies"] = json!({"algorithm": {"oneOf": [
            {"properties": {"algorithm": {"enum": ["HS256", "HS384", "HS512"], "default": "HS256"}}},
            {"properties": {
                "public_key": {"type": "string", "minLength": 1},
                "algorithm": {"enum": ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"]}},
             "required": ["public_key"]},
        ]}});
        schema
    }

    fn check_consumer(config: &mut Value) -> Result<(), BuildError> {
        let text = |field: &str| config.get(field).and_then(Value::as_str);
        let shared = text("algorithm").is_none_or(|name| name.starts_with("HS"));
        let secret = text("secret");
        if shared && secret.is_none() {
            return Err(BuildError::new("property \"secret\" is required when using HS based algorithms"));
        }
        let encoded =
            secret.filter(|text| config["base64_secret"] == true && !sluice_model::secret::is_reference(text));
        if encoded.is_some_and(|text| basic_auth::decode(text.as_bytes()).is_none()) {
            return Err(BuildError::new("base64_secret required but the secret is not in base64 format"));
        }
        if !shared && text("public_key").is_none() {
            return Err(BuildError::new("missing valid public key"));
        }
        Ok(())
    }

    fn consumer_key(config: &ConsumerConfig) -> String {
        config.name.clone()
    }
}

/// Where a request carries its token.
#[derive(Clone, Copy)]
enum Source {
    Header,
    Query,
    Cookie,
}

impl Plugin for JwtAuth {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let Some((source, token)) = self.token(&cx.request) else {
            return self.challenge.fallback(cx, &Refusal::plain("Missing JWT token in request"));
        };
        let found = self.authenticate(&token, &cx.consumers);
        drop(token);
        let flow = match found {
            Ok((identity, payload)) => {
                identity.attach_to(&mut cx.request, &mut cx.consumer, NAME);
                if self.config.store_in_ctx {
                    cx.set_variable("jwt_auth_payload", payload.to_string());
                }
                Flow::Next
            }
            Err(refusal) => self.challenge.fallback(cx, &refusal),
        };
        if self.config.hide_credentials && matches!(flow, Flow::Next) {
            self.hide(source, cx);
        }
        flow
    }
}

impl JwtAuth {
    fn token<'a>(&self, request: &'a Request) -> Option<(Source, Cow<'a, [u8]>)> {
        if let Some(field) = request.headers.get(&self.config.header) {
            let token = field.strip_prefix(b"Bearer ").or_else(|| field.strip_prefix(b"bearer ")).unwrap_or(field);
            return Some((Source::Header, Cow::Borrowed(token)));
        }
        match argument::find(request.query(), &self.config.query) {
            Argument::Value(token) => Some((Source::Query, token)),
            Argument::Unusable => Some((Source::Query, Cow::Borrowed(b""))),
            Argument::Missing => Some((Source::Cookie, Cow::Borrowed(request.cookie(&self.config.cookie)?))),
        }
    }

    fn authenticate<'a>(&self, token: &[u8], consumers: &'a Consumers) -> Result<(&'a Arc<Identity>, Value), Refusal> {
        let failed =
            |reason: String| Refusal::because("failed to verify jwt", format!("failed to verify jwt: {reason}"));
        let token = Token::parse(token)
            .map_err(|e| Refusal::because("JWT token invalid", format!("JWT token invalid: {e}")))?;
        let name = match token.payload.get(&self.config.key_claim_name) {
            None | Some(Value::Bool(false)) => return Err(Refusal::plain("missing user key in JWT token")),
            Some(name) => name.as_str(),
        };
        let identity = name.and_then(|name| consumers.find(NAME, name));
        let config = identity.and_then(|identity| identity.config::<ConsumerConfig>());
        let (Some(identity), Some(config)) = (identity, config) else {
            return Err(Refusal::because("Invalid user key in JWT token", "failed to find consumer: invalid user key"));
        };
        if token.algorithm != config.algorithm.as_str() {
            return Err(failed(format!("algorithm mismatch, expected {}", config.algorithm.as_str())));
        }
        let key = config.key.as_ref().map_err(|e| failed(format!("consumer {}: {e}", identity.consumer.username)))?;
        if !token.signature().is_some_and(|signature| key.verify(token.signed, &signature)) {
            return Err(failed("signature mismatch".into()));
        }
        token::check_claims(&self.claims, &token.payload, self.clock.seconds(), config.grace)
            .map_err(|e| failed(e.to_string()))?;
        Ok((identity, token.payload))
    }

    fn hide(&self, source: Source, cx: &mut Context) {
        match source {
            Source::Header => {
                cx.request.headers.remove(&self.config.header);
            }
            Source::Query => argument::hide(cx, &self.config.query),
            Source::Cookie => hide_cookie(&mut cx.request, &self.config.cookie),
        }
    }
}

/// Takes a cookie out of the request; the others stay as they are.
pub(crate) fn hide_cookie(request: &mut Request, name: &str) {
    let mut kept: Vec<u8> = Vec::new();
    for line in request.headers.get_all("cookie") {
        for pair in line.split(|b| *b == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()) {
            if sluice_http::target::cookie(pair, name.as_bytes()).is_none() {
                if !kept.is_empty() {
                    kept.extend_from_slice(b"; ");
                }
                kept.extend_from_slice(pair);
            }
        }
    }
    match kept.is_empty() {
        true => {
            request.headers.remove("Cookie");
        }
        false => request.headers.set("Cookie", kept),
    }
}

#[cfg(test)]
mod tests;
