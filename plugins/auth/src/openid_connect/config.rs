//! The plugin's settings, and what its schema cannot say of them (apisix/plugins/openid-connect.lua, `check_schema`).
use crate::jwt_auth::key::from_pem;
use crate::provider::assertion::{Kind, kind};
use crate::session;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use sluice_model::Schema;
use sluice_model::secret::is_reference;
use sluice_plugin::BuildError;

/// On a route, service or global rule; the schema beside this file has the defaults.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    pub client_id: String,
    pub client_secret: Option<String>,
    pub discovery: String,
    pub scope: String,
    pub ssl_verify: bool,
    pub timeout: u64,
    pub introspection_endpoint: Option<String>,
    pub introspection_endpoint_auth_method: String,
    pub token_endpoint_auth_method: String,
    pub bearer_only: bool,
    pub session: Option<SessionConfig>,
    pub realm: String,
    pub claim_validator: Option<ClaimValidator>,
    pub logout_path: String,
    pub redirect_uri: Option<String>,
    pub post_logout_redirect_uri: Option<String>,
    pub unauth_action: UnauthAction,
    pub public_key: Option<String>,
    pub use_jwks: bool,
    pub token_signing_alg_values_expected: Option<String>,
    pub use_pkce: bool,
    pub par: Option<Par>,
    pub dpop: Option<Value>,
    pub set_access_token_header: bool,
    pub access_token_in_authorization_header: bool,
    pub set_id_token_header: bool,
    pub set_raw_id_token_header: bool,
    pub set_userinfo_header: bool,
    pub set_refresh_token_header: bool,
    pub proxy_opts: Option<ProxyOpts>,
    pub authorization_params: Option<Map<String, Value>>,
    pub client_rsa_private_key: Option<String>,
    pub client_rsa_private_key_id: Option<String>,
    pub client_jwt_assertion_expires_in: i64,
    pub client_jwt_assertion_alg: Option<String>,
    pub client_jwt_assertion_audience: Option<String>,
    pub renew_access_token_on_expiry: bool,
    pub access_token_expires_in: Option<i64>,
    pub refresh_session_interval: Option<i64>,
    pub iat_slack: i64,
    pub accept_none_alg: bool,
    pub accept_unsupported_alg: bool,
    pub access_token_expires_leeway: i64,
    pub force_reauthorize: bool,
    pub use_nonce: bool,
    pub revoke_tokens_on_logout: bool,
    pub jwk_expires_in: i64,
    pub jwt_verification_cache_ignore: bool,
    pub cache_segment: Option<String>,
    pub introspection_interval: i64,
    pub introspection_expiry_claim: Option<String>,
    pub introspection_addon_headers: Option<Vec<String>>,
    pub required_scopes: Option<Vec<String>>,
    pub claim_schema: Option<Value>,
    /// Names of lua-resty-openidc that the schema lets pass.
    #[serde(flatten)]
    #[schemars(skip)]
    pub others: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnauthAction {
    Auth,
    Deny,
    Pass,
}

/// The session's settings, with the old name of its end.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct SessionConfig {
    #[serde(flatten)]
    pub settings: session::Settings,
    pub absolute_timeout: Option<u64>,
    pub cookie: Option<OldCookie>,
}
#[derive(Debug, Deserialize, JsonSchema)]
pub struct OldCookie {
    pub lifetime: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub struct Par {
    #[serde(default)]
    pub enabled: bool,
    pub endpoint: Option<String>,
    pub endpoint_auth_method: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ProxyOpts {
    pub http_proxy: Option<String>,
    pub https_proxy: Option<String>,
    pub http_proxy_authorization: Option<String>,
    pub https_proxy_authorization: Option<String>,
    pub no_proxy: Option<String>,
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

const RESERVED: [(&str, &str); 7] = [
    ("use_par", "par.enabled"),
    ("pushed_authorization_request_endpoint", "par.endpoint"),
    ("pushed_authorization_request_endpoint_auth_method", "par.endpoint_auth_method"),
    ("use_dpop", "dpop.enabled"),
    ("dpop_signing_alg", "dpop.signing_alg"),
    ("dpop_private_key", "dpop.private_key"),
    ("dpop_public_jwk", "dpop.public_jwk"),
];

/// Whether an error of JSON Schema is not to be named first: these are told before it.
pub fn before_schema(config: &Value) -> Option<String> {
    let truth = |name: &str| config.get(name).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
    let is = |name: &str, value: &str| config.get(name).and_then(Value::as_str) == Some(value);
    let bearer_only = truth("bearer_only");
    let optional = match bearer_only {
        true => truth("public_key") || truth("use_jwks") || is("introspection_endpoint_auth_method", "private_key_jwt"),
        false => is("token_endpoint_auth_method", "private_key_jwt") || truth("use_pkce"),
    };
    missing(!bearer_only && !truth("session"), !optional && !truth("client_secret"))
}

fn missing(session: bool, secret: bool) -> Option<String> {
    let needed = "property \"session.secret\" is required when \"bearer_only\" is false";
    let needed = session.then_some(needed).or_else(|| secret.then_some("property \"client_secret\" is required"));
    needed.map(str::to_owned)
}

impl Config {
    /// Whether requests are looked at for a token of their own.
    pub fn takes_bearer(&self) -> bool {
        self.bearer_only || self.introspection_endpoint.is_some() || self.public_key.is_some() || self.use_jwks
    }
    /// Whether tokens are verified here, and the provider is not asked.
    pub fn verifies(&self) -> bool {
        self.public_key.is_some() || self.use_jwks
    }

    /// Whether sessions keep this part of a login (`session_contents`, which the schema does not name and the suite knows): all
    /// parts, unless it names some. What other settings need is kept too.
    pub fn keeps(&self, part: &str) -> bool {
        let Some(contents) = self.others.get("session_contents").and_then(Value::as_object) else { return true };
        let needed = match part {
            "access_token" => self.required_scopes.is_some(),
            "enc_id_token" => self.set_raw_id_token_header,
            _ => false,
        };
        needed || contents.get(part).is_some_and(|kept| !matches!(kept, Value::Null | Value::Bool(false)))
    }

    pub fn check(&self) -> Result<(), BuildError> {
        let optional = match self.bearer_only {
            true => self.verifies() || self.introspection_endpoint_auth_method == "private_key_jwt",
            false => self.token_endpoint_auth_method == "private_key_jwt" || self.use_pkce,
        };
        let no_session = !self.bearer_only && self.session.is_none();
        if let Some(missing) = missing(no_session, !optional && self.client_secret.is_none()) {
            return Err(BuildError(missing));
        }
        if let Some(schema) = &self.claim_schema
            && let Err(e) = Schema::new(schema.clone())
        {
            return Err(BuildError(format!("check claim_schema failed: {}", e.to_string().replace('"', ""))));
        }
        if let Some((name, owner)) = RESERVED.into_iter().find(|(name, _)| self.others.contains_key(*name)) {
            return Err(BuildError(format!("property \"{name}\" is not allowed, use \"{owner}\" instead")));
        }
        if let Some(session) = &self.session {
            session.settings.check()?;
        }
        self.check_assertion()?;
        self.check_par()?;
        match &self.dpop {
            Some(dpop) => super::dpop::check(dpop),
            None => Ok(()),
        }
    }

    fn has(&self, credential: &str) -> bool {
        match credential {
            "client_rsa_private_key" => self.client_rsa_private_key.is_some(),
            _ => self.client_secret.is_some(),
        }
    }

    /// Which endpoints are asked, and how the gateway identifies itself there.
    fn reachable(&self) -> Vec<(&'static str, &str)> {
        let mut all = Vec::new();
        if !self.verifies() && (self.bearer_only || self.introspection_endpoint.is_some()) {
            all.push(("introspection_endpoint_auth_method", self.introspection_endpoint_auth_method.as_str()));
        }
        if !self.bearer_only {
            let method = self.token_endpoint_auth_method.as_str();
            if credential(method).is_none_or(|needed| self.has(needed)) {
                all.push(("token_endpoint_auth_method", method));
            }
            let par = self.par.as_ref().filter(|par| par.enabled);
            all.extend(par.and_then(|p| p.endpoint_auth_method.as_deref()).map(|m| ("par.endpoint_auth_method", m)));
        }
        all
    }

    fn check_assertion(&self) -> Result<(), BuildError> {
        let Some(algorithm) = self.client_jwt_assertion_alg.as_deref() else { return Ok(()) };
        let reachable = self.reachable();
        let by = |method: &str| reachable.iter().find(|(_, m)| *m == method).map(|(name, _)| *name);
        let (private, secret) = (by("private_key_jwt"), by("client_secret_jwt"));
        let symmetric = algorithm.starts_with("HS");
        let property = format!("property \"client_jwt_assertion_alg\" \"{algorithm}\"");
        match (private, secret) {
            (Some(private), Some(secret)) => Err(BuildError(format!(
                "property \"client_jwt_assertion_alg\" is a single algorithm, but \"{private}\" selects \
                 private_key_jwt and \"{secret}\" selects client_secret_jwt"
            ))),
            (Some(private), None) if symmetric => Err(BuildError(format!(
                "{property} is symmetric and cannot be used with the private_key_jwt selected by \"{private}\""
            ))),
            (None, Some(secret)) if !symmetric => Err(BuildError(format!(
                "{property} is asymmetric and cannot be used with the client_secret_jwt selected by \"{secret}\""
            ))),
            (Some(_), None) => self.check_key(algorithm, &property),
            _ => Ok(()),
        }
    }

    fn check_key(&self, algorithm: &str, property: &str) -> Result<(), BuildError> {
        let Some(key) = self.client_rsa_private_key.as_deref().filter(|key| !is_reference(key)) else { return Ok(()) };
        let expected = match algorithm {
            "ES256" => Kind::Ec("P-256"),
            "ES512" => Kind::Ec("P-521"),
            _ => Kind::Rsa,
        };
        match (expected, kind(key)) {
            (_, None) => Err(no_private_key("client_rsa_private_key", key)),
            (Kind::Rsa, Some(Kind::Ec(_))) => {
                Err(BuildError(format!("{property} requires an RSA \"client_rsa_private_key\"")))
            }
            (Kind::Ec(_), Some(Kind::Rsa)) => {
                Err(BuildError(format!("{property} requires an EC \"client_rsa_private_key\"")))
            }
            (Kind::Ec(curve), Some(Kind::Ec(got))) if curve != got => Err(BuildError(format!(
                "{property} requires a \"client_rsa_private_key\" on curve \"{curve}\", got \"{got}\""
            ))),
            _ => Ok(()),
        }
    }

    fn check_par(&self) -> Result<(), BuildError> {
        let Some(par) = self.par.as_ref().filter(|par| par.enabled && !self.bearer_only) else { return Ok(()) };
        let Some(method) = &par.endpoint_auth_method else { return Ok(()) };
        match credential(method).filter(|needed| !self.has(needed)) {
            Some(needed) => Err(BuildError(format!(
                "property \"par.endpoint_auth_method\" \"{method}\" requires \"{needed}\" when \"par.enabled\" is true"
            ))),
            None => Ok(()),
        }
    }
}

/// What a method of identification needs beside the client's id.
pub fn credential(method: &str) -> Option<&'static str> {
    match method {
        "private_key_jwt" => Some("client_rsa_private_key"),
        "client_secret_jwt" => Some("client_secret"),
        _ => None,
    }
}

/// Why no key could be made of a PEM text.
pub fn no_private_key(field: &str, pem: &str) -> BuildError {
    match from_pem(pem) {
        Some(_) => BuildError(format!("property \"{field}\" has no private key in it")),
        None => BuildError(format!("property \"{field}\" is not a valid key: no private key in PEM")),
    }
}
