//! HTTP to an Admin API, Sluice's or APISIX's. The surprise: neither redirects nor proxies of the environment are followed,
//! since the key would go with them.
use reqwest::Method;
use serde_json::Value;
use sluice_net::tls::{ClientTls, ClientTlsConfig};
use std::time::Duration;

/// Where the Admin API is and how to get in.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `http://127.0.0.1:9180`, with or without `/apisix/admin`.
    pub server: String,
    /// `X-API-KEY`.
    pub key: Option<String>,
    /// Trusted certificates in PEM; the system's when None.
    pub ca_pem: Option<String>,
    /// Our certificate chain and its key in PEM.
    pub client_cert: Option<(String, String)>,
    /// Whether the server's certificate is checked.
    pub verify: bool,
    /// Of one request, from connecting to the end of its answer.
    pub timeout: Duration,
    /// Largest answer in bytes.
    pub answer_bytes: usize,
}

impl Default for ClientSettings {
    fn default() -> ClientSettings {
        ClientSettings {
            server: "http://127.0.0.1:9180".into(),
            key: None,
            ca_pem: None,
            client_cert: None,
            verify: true,
            timeout: Duration::from_secs(60),
            answer_bytes: 1 << 30,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{0}")]
    Settings(String),
    #[error("{method} {url}: {cause}")]
    Failed { method: String, url: String, cause: String },
    #[error("{method} {url}: {status}: {message}")]
    Refused { method: String, url: String, status: u16, message: String },
}

/// An answer: its status, and its body as JSON (as a text where it is none).
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// `error_msg` or `message` of the body, or the body.
    pub fn message(&self) -> String {
        let told = ["error_msg", "message", "description"].into_iter().find_map(|field| self.body[field].as_str());
        match (told, &self.body) {
            (Some(text), _) => text.to_owned(),
            (None, Value::String(text)) => text.trim().to_owned(),
            (None, body) => body.to_string(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
    answer_bytes: usize,
}

impl Client {
    pub fn new(settings: &ClientSettings) -> Result<Client, ClientError> {
        let server = settings.server.trim_end_matches('/');
        if !(server.starts_with("http://") || server.starts_with("https://")) {
            return Err(ClientError::Settings(format!(
                "the server {server:?} does not begin with http:// or https://"
            )));
        }
        let base = if server.ends_with("/apisix/admin") { server.to_owned() } else { format!("{server}/apisix/admin") };
        let tls = ClientTlsConfig {
            verify: settings.verify,
            ca_pem: settings.ca_pem.clone(),
            client_cert: settings.client_cert.clone(),
            alpn: vec![b"http/1.1".to_vec()],
            ..ClientTlsConfig::default()
        };
        let tls = ClientTls::new(&tls).map_err(|error| ClientError::Settings(error.to_string()))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured((**tls.config()).clone())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(settings.timeout)
            .build()
            .map_err(|error| ClientError::Settings(cause(&error)))?;
        Ok(Client { http, base, key: settings.key.clone(), answer_bytes: settings.answer_bytes })
    }

    /// Sends; any status is an answer. `path` is below `/apisix/admin/`, its segments encoded ([`encode`]).
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Answer, ClientError> {
        let url = format!("{}/{path}", self.base);
        let name = method.to_string();
        let failed = |cause: String| ClientError::Failed { method: name.clone(), url: url.clone(), cause };
        let mut request = self.http.request(method, &url);
        if let Some(key) = &self.key {
            request = request.header("X-API-KEY", key);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let mut response = request.send().await.map_err(|error| failed(cause(&error)))?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(cause(&error)))? {
            if bytes.len() + chunk.len() > self.answer_bytes {
                return Err(failed(format!("the answer is larger than {} bytes", self.answer_bytes)));
            }
            bytes.extend_from_slice(&chunk);
        }
        let body = match serde_json::from_slice(&bytes) {
            Ok(body) => body,
            Err(_) => Value::String(String::from_utf8_lossy(&bytes).into_owned()),
        };
        Ok(Answer { status, body })
    }

    /// The error for an answer that was not wanted.
    pub fn refused(&self, method: &Method, path: &str, answer: &Answer) -> ClientError {
        ClientError::Refused {
            method: method.to_string(),
            url: format!("{}/{path}", self.base),
            status: answer.status,
            message: answer.message(),
        }
    }
}

/// The innermost reason, which reqwest keeps to itself.
fn cause(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = source.to_string();
        next = source.source();
    }
    text
}

/// Encodes each segment of a path.
pub fn encode(path: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
    utf8_percent_encode(path, SEGMENT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_found_where_servers_put_them() {
        let message = |body| Answer { status: 400, body }.message();
        assert_eq!(message(json!({"error_msg": "no"})), "no");
        assert_eq!(message(json!({"message": "Key not found"})), "Key not found");
        assert_eq!(message(json!("<html>\n")), "<html>");
    }

    #[test]
    fn a_server_is_an_address() {
        let error = Client::new(&ClientSettings { server: "localhost:9180".into(), ..ClientSettings::default() });
        assert!(error.unwrap_err().to_string().contains("does not begin with http"));
        let client =
            Client::new(&ClientSettings { server: "http://a/apisix/admin/".into(), ..ClientSettings::default() });
        assert_eq!(client.unwrap().base, "http://a/apisix/admin");
        assert_eq!(encode("consumers/a b/credentials/ü"), "consumers/a%20b/credentials/%C3%BC");
    }
}
