//! Logs people in at an OpenID Connect provider, and lets programs in that carry an access token of it.
//!
//! A browser without a session is sent to the provider (authorization code flow, with `use_pkce` and `use_nonce` if wanted) and comes
//! back to `redirect_uri`; what the provider tells of the person stands in a session, in an encrypted cookie or in Redis. A
//! program sends its token in `Authorization`: a JWT that `public_key` or (`use_jwks`) the provider's keys verify, or one that the
//! provider is asked about (`introspection_endpoint`). The upstream gets `X-Access-Token`, `X-Userinfo`, `X-ID-Token` and, where
//! asked for, `X-Refresh-Token` and `X-Raw-ID-Token`; a client can send none of them itself.
//!
//! Differences from APISIX: sessions have a form of their own, so people log in once more when a gateway takes APISIX's place; a
//! session is good for its provider alone. Tokens that several requests want renewed at once are renewed once. `accept_none_alg` is
//! for ID tokens only. The provider's metadata is kept for an hour, and on while it is away. A client
//! without a secret names itself in the body. Where the provider does not list the configured way to identify at its token endpoint,
//! one that it lists is taken.
mod bearer;
mod callback;
mod config;
mod dpop;
mod login;
mod logout;
mod tokens;

use crate::authority;
use crate::provider::assertion::SigningKey;
use crate::provider::flight::{Answers, Flights};
use crate::provider::verify::Claims;
use crate::provider::{self, Client, Method, Provider, keys};
use crate::session::{self, Sessions};
use config::Config;
use dpop::Proofs;
use serde_json::Value;
use sluice_model::Schema;
use sluice_model::secret::is_reference;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, HttpProxy, Info, Phases, Plugin, Reply};
use std::sync::Arc;
use std::time::Duration;
use tokens::Tokens;

const NAME: &str = "openid-connect";
/// What the plugin sets, and so no client may send.
const OURS: [&str; 5] = ["X-Access-Token", "X-Userinfo", "X-ID-Token", "X-Refresh-Token", "X-Raw-ID-Token"];
/// Answers about tokens that are kept (`plugin_attr.openid-connect.cache_entries`).
const CACHE_ENTRIES: u64 = 10_000;

/// What routes with the same provider and segment share.
struct Caches {
    introspected: Answers<Claims>,
    verified: Answers<Claims>,
    asking: Flights<Result<Claims, String>>,
    renewed: Answers<Arc<Tokens>>,
    renewing: Flights<Result<Arc<Tokens>, String>>,
}

/// The plugin (apisix/plugins/openid-connect.lua; lua-resty-openidc).
pub struct OpenidConnect {
    config: Config,
    provider: Provider,
    client: Client,
    keys: Option<Vec<keys::Named>>,
    methods: Vec<(&'static str, Method)>,
    caches: Arc<Caches>,
    sessions: Option<Sessions>,
    claim_schema: Option<Schema>,
    proofs: Option<Proofs>,
    /// What decides about a token, beside the token: part of its key in the cache.
    verification: String,
}

impl Define for OpenidConnect {
    const INFO: Info = Info::new(NAME, 2599, Phases::REWRITE).version(0.2).secrets(&[
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

    fn rephrase(config: &Value, _message: &str) -> Option<String> {
        config::before_schema(config)
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        config.check()
    }

    fn build(config: Config, env: &Env) -> Result<OpenidConnect, BuildError> {
        for (field, value) in [
            ("client_secret", &config.client_secret),
            ("client_rsa_private_key", &config.client_rsa_private_key),
            ("public_key", &config.public_key),
        ] {
            if value.as_deref().is_some_and(is_reference) {
                return Err(BuildError(format!("openid-connect: {field} refers to a secret that cannot be resolved")));
            }
        }
        let keys = config.public_key.as_deref().map(keys::of_pem);
        if keys.as_ref().is_some_and(Vec::is_empty) {
            tracing::warn!("openid-connect: no algorithm takes a key as that of public_key, all tokens are refused");
        }
        warn_insecure(&config);
        let provider = Provider::new(provider_settings(&config), env);
        let entries = env.attribute(NAME).get("cache_entries").and_then(Value::as_u64).unwrap_or(CACHE_ENTRIES);
        let entries = usize::try_from(entries).unwrap_or(usize::MAX);
        let segment = config.cache_segment.as_deref().unwrap_or("DEFAULT");
        let caches = env.shared.get_or_insert(&format!("{NAME} caches {segment} {}", config.discovery), || Caches {
            introspected: Answers::new(entries),
            verified: Answers::new(entries),
            asking: Flights::default(),
            renewed: Answers::new(entries),
            renewing: Flights::default(),
        });
        let sessions = sessions(&config, env)?;
        let claim_schema = match &config.claim_schema {
            Some(schema) => Some(Schema::new(schema.clone()).map_err(BuildError::new)?),
            None => None,
        };
        let client = Client {
            id: config.client_id.clone(),
            secret: config.client_secret.clone(),
            assertion_life: config.client_jwt_assertion_expires_in.max(1) as u64,
            assertion_audience: config.client_jwt_assertion_audience.clone(),
        };
        let issuers = config.claim_validator.as_ref().and_then(|v| v.issuer.as_ref()?.valid_issuers.as_ref());
        let verification = format!(
            "{:?} {:?} {issuers:?} {} {}",
            config.public_key, config.token_signing_alg_values_expected, config.ssl_verify, config.iat_slack
        );
        let methods = methods(&config);
        let proofs = config.dpop.as_ref().map(Proofs::new).transpose()?.flatten();
        Ok(OpenidConnect {
            provider,
            client,
            keys,
            methods,
            caches,
            sessions,
            claim_schema,
            proofs,
            verification,
            config,
        })
    }
}

fn warn_insecure(config: &Config) {
    for name in config.others.keys().filter(|name| !name.starts_with('_') && *name != "session_contents") {
        tracing::warn!("openid-connect: {name} has no effect");
    }
    authority::warn_insecure(NAME, "discovery", &config.discovery, config.ssl_verify);
    let proxy = config.proxy_opts.as_ref();
    for (field, address) in [
        ("introspection_endpoint", config.introspection_endpoint.as_deref()),
        ("redirect_uri", config.redirect_uri.as_deref().filter(|uri| !uri.starts_with('/'))),
        ("post_logout_redirect_uri", config.post_logout_redirect_uri.as_deref()),
        ("par.endpoint", config.par.as_ref().and_then(|par| par.endpoint.as_deref())),
        ("proxy_opts.http_proxy", proxy.and_then(|p| p.http_proxy.as_deref())),
        ("proxy_opts.https_proxy", proxy.and_then(|p| p.https_proxy.as_deref())),
    ] {
        if let Some(address) = address {
            authority::warn_insecure(NAME, field, address, true);
        }
    }
}

fn provider_settings(config: &Config) -> provider::Settings {
    let proxy = config.proxy_opts.clone().map(|proxy| HttpProxy {
        http: proxy.http_proxy,
        https: proxy.https_proxy,
        http_authorization: proxy.http_proxy_authorization,
        https_authorization: proxy.https_proxy_authorization,
        except: proxy.no_proxy,
    });
    let mut options = authority::options(config.ssl_verify, true, 60000, 32);
    options.proxy = proxy;
    // APISIX takes whole thousands for milliseconds
    let timeout = match config.timeout {
        millis if millis >= 1000 && millis % 1000 == 0 => Duration::from_millis(millis),
        seconds => Duration::from_secs(seconds),
    };
    provider::Settings {
        plugin: NAME,
        discovery: Some(config.discovery.clone()),
        jwks_uri: None,
        options,
        timeout,
        keys_live: config.jwk_expires_in.max(0) as u64,
    }
}

fn sessions(config: &Config, env: &Env) -> Result<Option<Sessions>, BuildError> {
    let Some(session) = config.session.as_ref().filter(|_| !config.bearer_only) else { return Ok(None) };
    let mut settings = session.settings.clone();
    let old = session.cookie.as_ref().and_then(|cookie| cookie.lifetime);
    if let Some(seconds) = session.absolute_timeout.or(old) {
        settings.absolute_timeout = seconds;
    }
    if session.absolute_timeout.is_none() && old.is_some() {
        tracing::warn!("session.cookie.lifetime is deprecated; use session.absolute_timeout instead");
    }
    if session::is_too_weak(&settings.secret) {
        return Err(BuildError::new("openid-connect: session.secret refers to a secret that cannot be resolved"));
    }
    Sessions::new(settings, &config.discovery, env).map(Some)
}

/// The ways to identify that this configuration has what is needed for.
fn methods(config: &Config) -> Vec<(&'static str, Method)> {
    let mut all = vec![("client_secret_basic", Method::Basic), ("client_secret_post", Method::Post)];
    let algorithm = config.client_jwt_assertion_alg.as_deref();
    let symmetric = algorithm.is_some_and(|a| a.starts_with("HS"));
    if let Some(key) = config.client_rsa_private_key.as_deref().filter(|_| !symmetric) {
        let id = config.client_rsa_private_key_id.clone();
        match SigningKey::new(algorithm.unwrap_or("RS256"), key, id) {
            Ok(key) => all.push(("private_key_jwt", Method::Jwt(Arc::new(key)))),
            // It may stand there unused.
            Err(reason) => tracing::warn!("openid-connect: client_rsa_private_key {reason}"),
        }
    }
    if let Some(secret) = config.client_secret.as_deref().filter(|_| algorithm.is_none() || symmetric)
        && let Ok(key) = SigningKey::new(algorithm.unwrap_or("HS256"), secret, None)
    {
        all.push(("client_secret_jwt", Method::Jwt(Arc::new(key))));
    }
    all
}

impl OpenidConnect {
    fn method(&self, name: &str) -> Option<&Method> {
        self.methods.iter().find(|(known, _)| *known == name).map(|(_, method)| method)
    }

    /// For the token endpoint: as configured, unless the provider lists others only.
    fn token_method(&self, document: &Value) -> &Method {
        let configured = self.method(&self.config.token_endpoint_auth_method);
        let listed = document.get("token_endpoint_auth_methods_supported").and_then(Value::as_array);
        let Some(listed) = listed else { return configured.unwrap_or(&Method::Basic) };
        let is_listed = listed.iter().any(|one| one == self.config.token_endpoint_auth_method.as_str());
        match configured {
            Some(method) if is_listed => method,
            // A public client has nothing but its name.
            Some(method) if self.config.client_secret.is_none() => method,
            _ => {
                let first = listed.iter().filter_map(Value::as_str).find_map(|name| self.method(name));
                first.or(configured).unwrap_or(&Method::Basic)
            }
        }
    }

    /// Whether these claims are as `claim_schema` wants them.
    fn check_claims(&self, mut claims: Value) -> Result<(), Reply> {
        let Some(schema) = &self.claim_schema else { return Ok(()) };
        schema.check(&mut claims).map_err(|violation| {
            tracing::error!("OIDC claim validation failed: {violation}");
            self.challenge(Some(&violation.message))
        })
    }

    fn challenge(&self, reason: Option<&str>) -> Reply {
        let realm = &self.config.realm;
        let value = match reason {
            None => format!("Bearer realm=\"{realm}\""),
            Some(reason) => {
                format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{reason}\"")
            }
        };
        let value: String = value.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        Reply::status(401).header("WWW-Authenticate", value)
    }
}

impl Plugin for OpenidConnect {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let given = cx.request.headers.get_str("X-Access-Token").map(str::to_owned);
        for name in OURS {
            cx.request.headers.remove(name);
        }
        if self.config.takes_bearer() {
            match bearer::token(cx, given) {
                Err(reply) => return Flow::reply(reply),
                Ok(Some(token)) => return self.admit_bearer(cx, token),
                Ok(None) => {}
            }
        }
        match &self.sessions {
            Some(sessions) => self.authenticate(sessions, cx),
            None => Flow::reply(self.challenge(None)),
        }
    }
}

#[cfg(test)]
mod tests;
