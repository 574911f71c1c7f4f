//! A server that issues tokens, as the plugins see it: its metadata and keys (kept, fetched once for all who want them), its
//! endpoints, and how the gateway tells it who it is.
//!
//! The surprise: where the provider does not answer, metadata and keys that were fetched before serve on for a day, and it is asked
//! again after a second at the earliest; who is logged in stays so while the provider is away.
pub mod assertion;
pub mod flight;
pub mod keys;
pub mod verify;

use assertion::SigningKey;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use keys::{Document, KeySet, Keys};
use serde_json::{Map, Value};
use sluice_plugin::{Clock, Env, HttpClient, HttpError, HttpOptions, HttpRequest, HttpResponse};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Seconds that metadata is kept.
const DOCUMENT: u64 = 3600;
/// Bytes of the largest answer that is read.
const ANSWER: usize = 256 << 10;
/// Bytes of a token whose claims are kept: what caches hold must stay bounded.
pub const KEPT: usize = 16 << 10;

/// What went wrong with the provider, in words that may be told a client. What is more went into the log.
pub type Trouble = String;

/// What is said where it does not answer.
pub const UNAVAILABLE: &str = "the identity provider is unavailable";

/// Where a provider is and how to speak with it.
pub struct Settings {
    /// The plugin's name: before all keys of what is shared.
    pub plugin: &'static str,
    /// Address of the metadata (OpenID Connect Discovery 1.0, 4; RFC 8414).
    pub discovery: Option<String>,
    /// Address of the keys, where it is not in the metadata.
    pub jwks_uri: Option<String>,
    pub options: HttpOptions,
    pub timeout: Duration,
    /// Seconds that keys are kept.
    pub keys_live: u64,
}

pub struct Provider {
    settings: Settings,
    client: HttpClient,
    clock: Clock,
    document: Arc<Document>,
    keys: Arc<KeySet>,
}

/// Parameters of a form, in order.
pub type Form = Vec<(&'static str, String)>;
/// The same with names that a configuration gives.
pub type OpenForm = Vec<(String, String)>;

/// How the gateway tells an endpoint who it is (OpenID Connect Core 1.0, 9).
#[derive(Debug, Default)]
pub enum Method {
    #[default]
    Basic,
    Post,
    /// `private_key_jwt`, `client_secret_jwt`.
    Jwt(Arc<SigningKey>),
}

/// Who the gateway is to the provider.
#[derive(Debug, Default)]
pub struct Client {
    pub id: String,
    pub secret: Option<String>,
    /// Of assertions: seconds, and whom they are for if not for the endpoint.
    pub assertion_life: u64,
    pub assertion_audience: Option<String>,
}

impl Client {
    /// Adds what the endpoint wants to see. A client without a secret is a public one and only names itself (RFC 6749, 3.2.1).
    fn identify(
        &self,
        method: &Method,
        endpoint: &str,
        now: u64,
        form: &mut OpenForm,
    ) -> Result<Option<String>, Trouble> {
        match (method, &self.secret) {
            (Method::Jwt(key), _) => {
                let audience = self.assertion_audience.as_deref().unwrap_or(endpoint);
                let assertion = key.assertion(&self.id, audience, now, self.assertion_life);
                form.push(("client_id".into(), self.id.clone()));
                form.push((
                    "client_assertion_type".into(),
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".into(),
                ));
                form.push(("client_assertion".into(), assertion.ok_or("the client's assertion cannot be signed")?));
            }
            (Method::Basic, Some(secret)) => {
                let credentials = BASE64_STANDARD.encode(format!("{}:{}", escape(&self.id), escape(secret)));
                return Ok(Some(format!("Basic {credentials}")));
            }
            (_, secret) => {
                form.push(("client_id".into(), self.id.clone()));
                form.extend(secret.iter().map(|secret| ("client_secret".into(), secret.clone())));
            }
        }
        Ok(None)
    }
}

impl Provider {
    pub fn new(settings: Settings, env: &Env) -> Provider {
        let key =
            format!("{} {:?} {:?} {:?}", settings.plugin, settings.options, settings.discovery, settings.jwks_uri);
        Provider {
            client: env.http_client(&settings.options),
            clock: env.clock.clone(),
            document: env.shared.get_or_insert(&format!("{key} document"), Document::default),
            keys: env.shared.get_or_insert(&format!("{key} keys"), KeySet::default),
            settings,
        }
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Boxed: a future of the client is large.
    fn send(&self, request: HttpRequest) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + '_>> {
        Box::pin(self.client.send(request.max_response(ANSWER)))
    }

    async fn get(&self, url: &str) -> Result<Value, Trouble> {
        let request = HttpRequest::new("GET", url).timeout(self.settings.timeout);
        let answer = self.send(request).await;
        let parsed = answer.map_err(|e| e.to_string()).and_then(|answer| match answer.status {
            200 => serde_json::from_slice(&answer.body).map_err(|e| e.to_string()),
            status => Err(format!("status {status}")),
        });
        parsed.map_err(|reason| {
            tracing::error!("accessing discovery url ({url}) failed: {reason}");
            UNAVAILABLE.to_owned()
        })
    }

    /// The metadata.
    pub async fn document(&self) -> Result<Arc<Value>, Trouble> {
        if let Some(document) = self.document.get(self.clock.seconds(), DOCUMENT) {
            return Ok(document);
        }
        let Some(url) = &self.settings.discovery else { return Err("the identity provider has no metadata".into()) };
        self.document.fetch(&self.clock, async { self.get(url).await.map(Arc::new) }).await
    }

    /// A text of the metadata.
    pub async fn metadata(&self, field: &str) -> Result<String, Trouble> {
        let document = self.document().await?;
        let value = document.get(field).and_then(Value::as_str);
        value.map(str::to_owned).ok_or_else(|| format!("the identity provider names no {field}"))
    }

    async fn fetch_keys(&self) -> Result<Arc<Keys>, Trouble> {
        let url = match &self.settings.jwks_uri {
            Some(url) => url.clone(),
            None => self.metadata("jwks_uri").await?,
        };
        let ask = async { Ok(Arc::from(keys::of_set(&self.get(&url).await?))) };
        self.keys.fetch(&self.clock, ask).await
    }

    /// Posts a form.
    pub async fn post(
        &self,
        endpoint: &str,
        form: Form,
        client: &Client,
        method: &Method,
        added: Vec<(String, Vec<u8>)>,
    ) -> Result<HttpResponse, Trouble> {
        let form = form.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.post_open(endpoint, form, client, method, added).await
    }

    /// As [`Provider::post`], with names that a configuration gives.
    pub async fn post_open(
        &self,
        endpoint: &str,
        mut form: OpenForm,
        client: &Client,
        method: &Method,
        added: Vec<(String, Vec<u8>)>,
    ) -> Result<HttpResponse, Trouble> {
        let authorization = client.identify(method, endpoint, self.clock.seconds(), &mut form)?;
        let mut request = HttpRequest::new("POST", endpoint).timeout(self.settings.timeout);
        request.headers = added;
        request.headers.retain(|(n, _)| {
            let ours = authorization.is_some() && n.eq_ignore_ascii_case("authorization");
            !ours && !n.eq_ignore_ascii_case("content-type")
        });
        request = request.header("Content-Type", "application/x-www-form-urlencoded");
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        let body = encode(form.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        self.send(request.body(body)).await.map_err(|error| {
            tracing::error!("accessing endpoint ({endpoint}) failed: {error}");
            UNAVAILABLE.to_owned()
        })
    }

    /// Posts a form and reads the answer's object; beside it whether it is small enough to be kept.
    pub async fn look_up(
        &self,
        endpoint: &str,
        form: Form,
        client: &Client,
        method: &Method,
        added: Vec<(String, Vec<u8>)>,
    ) -> Result<(Map<String, Value>, bool), Trouble> {
        let answer = self.post(endpoint, form, client, method, added).await?;
        Ok((object(endpoint, &answer)?, answer.body.len() <= KEPT))
    }

    /// Who is logged in (OpenID Connect Core 1.0, 5.3).
    pub async fn userinfo(&self, url: &str, token: &str, proof: Option<String>) -> Result<HttpResponse, Trouble> {
        let scheme = if proof.is_some() { "DPoP" } else { "Bearer" };
        let request = HttpRequest::new("GET", url).timeout(self.settings.timeout);
        let mut request = request.header("Authorization", format!("{scheme} {token}"));
        if let Some(proof) = proof {
            request = request.header("DPoP", proof);
        }
        self.send(request).await.map_err(|error| format!("accessing ({url}) failed: {error}"))
    }
}

/// `application/x-www-form-urlencoded` (RFC 6749, appendix B), spaces as `%20`.
pub fn encode<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in parameters {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&escape(name));
        out.push('=');
        out.push_str(&escape(value));
    }
    out
}

pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            true => out.push(char::from(b)),
            false => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// An address with further parameters.
pub fn with_parameters<'a>(url: &str, parameters: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let query = encode(parameters);
    match url.contains('?') {
        _ if query.is_empty() => url.to_owned(),
        true => format!("{url}&{query}"),
        false => format!("{url}?{query}"),
    }
}

/// The object in an answer.
pub fn object(endpoint: &str, answer: &HttpResponse) -> Result<Map<String, Value>, Trouble> {
    if answer.status != 200 && answer.status != 201 {
        // The answer of an error names no secret (RFC 6749, 5.2); it may be long.
        let text: String = answer.text().escape_debug().take(300).collect();
        tracing::error!("endpoint ({endpoint}) answered with status {}: {text}", answer.status);
        return Err(format!("response indicates failure, status={}", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|_| "JSON decoding failed".to_owned())
}
