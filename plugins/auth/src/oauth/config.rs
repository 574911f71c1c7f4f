//! The settings of `oauth`.
use crate::authority;
use crate::jwt_auth::key::Algorithm;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_plugin::BuildError;
use std::collections::BTreeMap;

/// On a route, service or global rule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address of the authorization server's metadata (RFC 8414, OpenID Connect Discovery).
    #[serde(default)]
    pub discovery: Option<String>,
    /// Address of its keys, where there is no metadata.
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// A public key in PEM that verifies tokens, instead of the server's.
    #[serde(default)]
    pub public_key: Option<String>,
    /// Accepted algorithms of tokens; all public-key ones if none is named.
    #[serde(default)]
    pub algorithms: Vec<Algorithm>,
    /// How to ask the server about tokens that are no JWT.
    #[serde(default)]
    pub introspection: Option<Introspection>,
    /// Accepted issuers; without, the one of the metadata.
    #[serde(default)]
    pub issuers: Vec<String>,
    /// Accepted audiences; without, any.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Scopes that a token must have.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Whether it must have all of them, or any.
    #[serde(default = "all")]
    pub scopes_match: Match,
    /// Claims that hold scopes: a text of words, or a list.
    #[serde(default = "scope_claims")]
    pub scope_claims: Vec<String>,
    /// Roles that a token must have.
    #[serde(default)]
    pub roles: Vec<String>,
    #[serde(default = "any")]
    pub roles_match: Match,
    /// Claims that hold roles; `.` leads into an object.
    #[serde(default = "role_claims")]
    pub role_claims: Vec<String>,
    /// Claims and the values that they may have.
    #[serde(default)]
    pub claims: BTreeMap<String, Vec<Value>>,
    /// Fields for the upstream and the claims that they tell.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Field that brings the token, after `Bearer`; a field of another name may have the token alone.
    #[serde(default = "authorization")]
    #[schemars(length(min = 1))]
    pub token_header: String,
    /// Argument of the query that may bring it.
    #[serde(default)]
    pub token_query: Option<String>,
    /// Cookie that may bring it, where nothing else does.
    #[serde(default)]
    pub token_cookie: Option<String>,
    /// The upstream does not get the token.
    #[serde(default)]
    pub hide_token: bool,
    /// Requests without a token pass.
    #[serde(default)]
    pub allow_anonymous: bool,
    #[serde(default = "realm")]
    #[schemars(regex(pattern = r#"^[^"\\]*$"#))]
    pub realm: String,
    /// Seconds that clocks may differ.
    #[serde(default = "clock_skew")]
    #[schemars(range(max = 3600))]
    pub clock_skew: u64,
    /// Seconds that keys are kept; a token with an unknown key fetches them earlier.
    #[serde(default = "keys_ttl")]
    #[schemars(range(min = 1))]
    pub keys_ttl: u64,
    /// Milliseconds for each question to the server.
    #[serde(default = "timeout")]
    #[schemars(range(min = 1, max = 60000))]
    pub timeout: u64,
    #[serde(default = "yes")]
    pub ssl_verify: bool,
}

/// RFC 7662.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Introspection {
    /// Address; without, the one of the metadata.
    #[serde(default)]
    pub endpoint: Option<String>,
    pub client_id: String,
    #[serde(default)]
    pub client_secret: Option<String>,
    #[serde(default)]
    pub auth_method: AuthMethod,
    /// Seconds that an answer is kept, at most as long as the token lives; 0: each request asks.
    #[serde(default = "cache_ttl")]
    pub cache_ttl: u64,
    /// JWTs are asked about too, and a revoked one stops at the end of `cache_ttl`.
    #[serde(default)]
    pub always: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum AuthMethod {
    #[default]
    #[serde(rename = "client_secret_basic")]
    Basic,
    #[serde(rename = "client_secret_post")]
    Post,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    All,
    Any,
}

fn all() -> Match {
    Match::All
}
fn any() -> Match {
    Match::Any
}
fn scope_claims() -> Vec<String> {
    ["scope", "scp"].map(str::to_owned).into()
}
fn role_claims() -> Vec<String> {
    ["roles", "realm_access.roles"].map(str::to_owned).into()
}
fn authorization() -> String {
    "Authorization".into()
}
fn realm() -> String {
    "api".into()
}
fn clock_skew() -> u64 {
    60
}
fn keys_ttl() -> u64 {
    3600
}
fn timeout() -> u64 {
    3000
}
fn cache_ttl() -> u64 {
    60
}
fn yes() -> bool {
    true
}

impl Config {
    pub fn check(&self) -> Result<(), BuildError> {
        let verifies = self.public_key.is_some() || self.discovery.is_some() || self.jwks_uri.is_some();
        if !verifies && self.introspection.is_none() {
            return Err(BuildError::new("one of discovery, jwks_uri, public_key and introspection is required"));
        }
        if let Some(introspection) = &self.introspection
            && introspection.endpoint.is_none()
            && self.discovery.is_none()
        {
            return Err(BuildError::new("introspection.endpoint is required where there is no discovery"));
        }
        if self.algorithms.iter().any(|a| a.as_str().starts_with("HS")) {
            return Err(BuildError::new("algorithms: HS256, HS384 and HS512 are not for tokens of others"));
        }
        if let Some(scope) = self.scopes.iter().find(|s| s.is_empty() || s.contains([' ', '"', '\\']) || !s.is_ascii())
        {
            return Err(BuildError(format!("scopes: \"{scope}\" is no scope")));
        }
        self.headers.keys().try_for_each(|name| authority::check_name("headers", name))?;
        if let Some(name) = self.headers.keys().find(|name| authority::frames(name)) {
            return Err(BuildError(format!("headers: \"{name}\" belongs to the connection")));
        }
        authority::check_name("token_header", &self.token_header)
    }
}
