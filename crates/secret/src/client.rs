//! HTTP to secret managers, and the choice of the manager. The surprise: neither redirects nor proxies of the environment
//! are followed, as APISIX's client follows none.

use crate::reference::Reference;
use crate::store::StoreSettings;
use crate::{aws, file, gcp, vault};
use serde_json::Value;
use sluice_net::tls::{ClientTls, ClientTlsConfig};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

/// Why a secret could not be fetched, in APISIX's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

impl FetchError {
    pub(crate) fn new(message: impl Into<String>) -> FetchError {
        FetchError(message.into())
    }
}

/// An answer of a manager.
pub(crate) struct Answer {
    pub status: u16,
    pub body: String,
}

/// Clients and tokens that live as long as the store.
pub(crate) struct Client {
    settings: StoreSettings,
    checked: OnceLock<Result<reqwest::Client, String>>,
    unchecked: OnceLock<Result<reqwest::Client, String>>,
    pub(crate) tokens: Mutex<Vec<gcp::Token>>,
}

impl Client {
    pub(crate) fn new(settings: StoreSettings) -> Client {
        Client { settings, checked: OnceLock::new(), unchecked: OnceLock::new(), tokens: Mutex::default() }
    }

    /// Asks the manager named by a reference. `settings`: its `secrets` resource.
    pub(crate) async fn fetch(&self, reference: &Reference, settings: &Value) -> Result<Value, FetchError> {
        let manager = reference.source.split('/').next().unwrap_or_default();
        match manager {
            "vault" => vault::get(self, settings, &reference.key).await,
            "aws" => aws::get(self, settings, &reference.key, SystemTime::now()).await,
            "gcp" => gcp::get(self, settings, &reference.key, SystemTime::now()).await,
            "file" => file::get(settings, &reference.key, self.settings.response_bytes).await,
            other => Err(FetchError(format!("no secret manager: {other}"))),
        }
    }

    /// Made at first use: a machine without trusted certificates may still use managers without TLS.
    pub(crate) fn http(&self, verify: bool) -> Result<&reqwest::Client, FetchError> {
        let place = if verify { &self.checked } else { &self.unchecked };
        let made = place.get_or_init(|| {
            let tls = ClientTlsConfig {
                verify,
                ca_pem: self.settings.trusted_certificates.clone(),
                alpn: vec![b"http/1.1".to_vec()],
                ..ClientTlsConfig::default()
            };
            let tls = ClientTls::new(&tls).map_err(|e| e.to_string())?;
            reqwest::Client::builder()
                .tls_backend_preconfigured((**tls.config()).clone())
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .timeout(self.settings.timeout)
                .build()
                .map_err(|e| cause(&e))
        });
        made.as_ref().map_err(|e| FetchError(e.clone()))
    }

    /// Sends and reads the answer to its end, or to `response_bytes`.
    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, FetchError> {
        let failed = |e: reqwest::Error| FetchError(cause(&e));
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if body.len() + piece.len() > self.settings.response_bytes {
                return Err(FetchError(format!("the answer has more than {} bytes", self.settings.response_bytes)));
            }
            body.extend_from_slice(&piece);
        }
        let body = String::from_utf8(body).map_err(|_| FetchError::new("the answer is no text"))?;
        Ok(Answer { status, body })
    }

    /// The state of the OAuth tokens.
    pub(crate) fn tokens(&self) -> std::sync::MutexGuard<'_, Vec<gcp::Token>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last cause of a failure: reqwest's own text names the URL alone. The words of nginx where it has some.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timeout".to_owned();
    }
    let mut last: &dyn std::error::Error = error;
    while let Some(next) = last.source() {
        last = next;
    }
    match last.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        _ => last.to_string(),
    }
}

/// Refuses what is no secret's value.
pub(crate) fn present(value: Option<&Value>) -> Result<Value, FetchError> {
    value.filter(|v| !v.is_null()).cloned().ok_or_else(|| FetchError::new("no value"))
}
