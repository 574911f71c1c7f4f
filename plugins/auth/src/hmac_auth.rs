//! Lets a request in when its `Authorization: Signature` field is a consumer's HMAC over parts of the request.
//!
//! The secret itself never travels, and a signed request cannot be changed or, beyond `clock_skew`, repeated
//! (draft-cavage-http-signatures, in APISIX's form: the signed text starts with the key's id). The signed text is
//! `keyId`, then one line for each name in `headers` (`@request-target` is method and target), each with a line end.
//! Use it between programs. With `validate_request_body` the `Digest` field must be that of the body, which is then
//! read into memory.
//!
//! Differences from APISIX: with `validate_request_body` the body is read before the signature is looked at, at most
//! as much as the gateway buffers for any plugin.
mod signature;

use crate::challenge::{self, Challenge};
use crate::credential;
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use signature::Signature;
use sluice_plugin::consumer::Identity;
use sluice_plugin::definition::DefineAuth;
use sluice_plugin::{BuildError, Clock, Context, Define, Env, Flow, Info, Phases, Plugin, Reply, schema_of};
use std::sync::Arc;

const NAME: &str = "hmac-auth";

/// On a route, service or global rule.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Algorithms that requests may use.
    #[serde(default = "all_algorithms")]
    #[schemars(length(min = 1))]
    pub allowed_algorithms: Vec<Algorithm>,
    /// Seconds by which the `Date` field may differ from the gateway's clock.
    #[serde(default = "skew")]
    #[schemars(range(min = 1))]
    pub clock_skew: u64,
    /// Fields that every request must sign.
    #[serde(default = "date")]
    #[schemars(inner(length(min = 1, max = 50)))]
    pub signed_headers: Vec<String>,
    /// Compare the `Digest` field with the body.
    #[serde(default)]
    pub validate_request_body: bool,
    /// Bodies of more bytes are refused with 413 where they are validated.
    #[serde(default = "body_size")]
    #[schemars(range(min = 1))]
    pub max_req_body_size: u64,
    /// Keep the `Authorization` field from the upstream.
    #[serde(default)]
    pub hide_credentials: bool,
    /// Realm named by the `WWW-Authenticate` field of a 401.
    #[serde(default = "realm")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[ -!#-[\]-~]+$"))]
    pub realm: String,
    /// Consumer as which requests without a valid signature pass.
    #[schemars(length(min = 1))]
    pub anonymous_consumer: Option<String>,
}

fn all_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512]
}
fn skew() -> u64 {
    300
}
fn date() -> Vec<String> {
    vec!["date".into()]
}
fn body_size() -> u64 {
    64 * 1024 * 1024
}
fn realm() -> String {
    "hmac".into()
}

/// A keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Algorithm {
    #[serde(rename = "hmac-sha1")]
    Sha1,
    #[serde(rename = "hmac-sha256")]
    Sha256,
    #[serde(rename = "hmac-sha512")]
    Sha512,
}

impl Algorithm {
    fn from_name(name: &str) -> Option<Algorithm> {
        match name {
            "hmac-sha1" => Some(Algorithm::Sha1),
            "hmac-sha256" => Some(Algorithm::Sha256),
            "hmac-sha512" => Some(Algorithm::Sha512),
            _ => None,
        }
    }
    fn keyed(self) -> hmac::Algorithm {
        match self {
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

/// On a consumer or credential.
#[derive(Deserialize, JsonSchema)]
pub struct ConsumerConfig {
    /// Name of the key, unique among all consumers.
    #[schemars(length(min = 1, max = 256))]
    #[serde(deserialize_with = "credential::resolved")]
    pub key_id: String,
    /// The secret that requests are signed with.
    #[schemars(length(min = 1, max = 256))]
    #[serde(deserialize_with = "credential::resolved")]
    pub secret_key: String,
}

/// The plugin (apisix/plugins/hmac-auth.lua).
pub struct HmacAuth {
    config: Config,
    challenge: Challenge,
    clock: Clock,
}

/// Why a request is not let in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("missing Authorization header")]
    NoAuthorization,
    #[error("Authorization header does not start with 'Signature'")]
    NoSignature,
    #[error("keyId or signature missing")]
    Incomplete,
    #[error("algorithm missing")]
    NoAlgorithm,
    #[error("Invalid key_id")]
    UnknownKey,
    #[error("Invalid algorithm")]
    Algorithm,
    #[error("Date header missing. failed to validate clock skew")]
    NoDate,
    #[error("Invalid GMT format time")]
    Date,
    #[error("Clock skew exceeded")]
    Skew,
    #[error("expected header \"{0}\" missing in signing")]
    Unsigned(String),
    #[error("Invalid signature")]
    Signature,
    #[error("Invalid digest")]
    Digest,
    #[error("request size {0} is greater than the maximum size {1} allowed")]
    TooLarge(u64, u64),
}

impl Refusal {
    /// What the client may know: only what it did not send at all.
    fn told(&self) -> challenge::Refusal {
        let message = match self {
            Refusal::NoAuthorization => "client request can't be validated: missing Authorization header",
            Refusal::NoSignature => {
                "client request can't be validated: Authorization header does not start with 'Signature'"
            }
            _ => "client request can't be validated",
        };
        challenge::Refusal::because(message, format!("client request can't be validated: {self}"))
    }
}

impl Define for HmacAuth {
    const INFO: Info = Info::new(NAME, 2530, Phases::REWRITE).auth().request_body().secrets(&["secret_key"]);
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        schema["title"] = json!("work with route or service object");
        schema
    }
    fn build(mut config: Config, env: &Env) -> Result<HmacAuth, BuildError> {
        let challenge = Challenge::new(NAME, "hmac", &config.realm, config.anonymous_consumer.take());
        Ok(HmacAuth { config, challenge, clock: env.clock.clone() })
    }
}

impl DefineAuth for HmacAuth {
    type ConsumerConfig = ConsumerConfig;

    fn consumer_schema() -> Value {
        let mut schema = schema_of::<ConsumerConfig>();
        schema["title"] = json!("work with consumer object");
        schema["encrypt_fields"] = json!(["secret_key"]);
        schema
    }
    fn consumer_key(config: &ConsumerConfig) -> String {
        config.key_id.clone()
    }
}

impl Plugin for HmacAuth {
    fn wants_request_body(&self, _cx: &Context) -> bool {
        self.config.validate_request_body
    }

    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let flow = match self.authenticate(cx) {
            Ok(identity) => {
                identity.attach_to(&mut cx.request, &mut cx.consumer, NAME);
                Flow::Next
            }
            Err(refusal @ Refusal::TooLarge(..)) => return Flow::reply(Reply::message(413, &refusal.to_string())),
            Err(refusal) => self.challenge.fallback(cx, &refusal.told()),
        };
        if self.config.hide_credentials && matches!(flow, Flow::Next) {
            cx.request.headers.remove("Authorization");
        }
        flow
    }
}

impl HmacAuth {
    fn authenticate(&self, cx: &Context) -> Result<Arc<Identity>, Refusal> {
        let headers = &cx.request.headers;
        let field = headers.get("Authorization").ok_or(Refusal::NoAuthorization)?;
        let fields = field.strip_prefix(b"Signature").ok_or(Refusal::NoSignature)?;
        let signature = Signature::parse(std::str::from_utf8(fields).map_err(|_| Refusal::Incomplete)?);
        let (Some(key_id), Some(mac)) = (signature.key_id, signature.signature) else {
            return Err(Refusal::Incomplete);
        };
        let algorithm = signature.algorithm.ok_or(Refusal::NoAlgorithm)?;
        let identity = cx.consumers.find(NAME, key_id).ok_or(Refusal::UnknownKey)?;
        let consumer = identity.config::<ConsumerConfig>().ok_or(Refusal::UnknownKey)?;
        let algorithm = Algorithm::from_name(algorithm).filter(|a| self.config.allowed_algorithms.contains(a));
        let algorithm = algorithm.ok_or(Refusal::Algorithm)?;

        let date = headers.get("Date").ok_or(Refusal::NoDate)?;
        let date = std::str::from_utf8(date).ok().and_then(signature::http_time).ok_or(Refusal::Date)?;
        if self.clock.seconds().abs_diff(date) > self.config.clock_skew {
            return Err(Refusal::Skew);
        }
        if let Some(missing) = self.config.signed_headers.iter().find(|name| !signature.signs(name)) {
            return Err(Refusal::Unsigned(missing.clone()));
        }
        let mac = crate::basic_auth::decode(mac.as_bytes()).ok_or(Refusal::Signature)?;
        let key = hmac::Key::new(algorithm.keyed(), consumer.secret_key.as_bytes());
        hmac::verify(&key, &signature.text(key_id, &cx.request), &mac).map_err(|_| Refusal::Signature)?;
        if self.config.validate_request_body {
            self.check_body(cx)?;
        }
        Ok(identity.clone())
    }

    fn check_body(&self, cx: &Context) -> Result<(), Refusal> {
        let expected = cx.request.headers.get("Digest").ok_or(Refusal::Digest)?;
        let body = cx.request_body.as_deref().unwrap_or_default();
        let (size, limit) = (body.len() as u64, self.config.max_req_body_size);
        if size > limit {
            return Err(Refusal::TooLarge(size, limit));
        }
        let digest = format!("SHA-256={}", BASE64_STANDARD.encode(digest::digest(&digest::SHA256, body)));
        if digest.as_bytes() == expected { Ok(()) } else { Err(Refusal::Digest) }
    }
}

#[cfg(test)]
mod tests;
