//! HTTP to registries. The surprise: neither redirects nor proxies of the environment are followed, as APISIX's client follows
//! none; and an answer is read to its end or to a limit, never without one.
use crate::Settings;
use crate::registry::Unusable;
use serde_json::Value;
use sluice_net::tls::{ClientTls, ClientTlsConfig};
use std::time::Duration;

/// Largest answer, and largest event of a watch.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// An answer, read to its end.
pub(crate) struct Answer {
    pub status: u16,
    /// `X-Consul-Index`.
    pub index: Option<u64>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body of a 200 as JSON.
    pub fn json(&self) -> Result<Value, String> {
        if self.status != 200 {
            return Err(format!("status = {}", self.status));
        }
        serde_json::from_slice(&self.body).map_err(|error| format!("no JSON: {error}"))
    }
}

/// A client for one kind of registry; connections are kept.
#[derive(Clone)]
pub(crate) struct Client(reqwest::Client);

impl Client {
    /// `verify`: certificates of `https` are checked.
    pub fn new(settings: &Settings, connect: Duration, verify: bool) -> Result<Client, Unusable> {
        let unusable = |error: &dyn std::fmt::Display| Unusable(error.to_string());
        let tls = ClientTlsConfig {
            verify,
            ca_pem: settings.trusted_certificates.clone(),
            alpn: vec![b"http/1.1".to_vec()],
            ..ClientTlsConfig::default()
        };
        let tls = ClientTls::new(&tls).map_err(|error| unusable(&error))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured((**tls.config()).clone())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(connect)
            .build()
            .map_err(|error| unusable(&error))?;
        Ok(Client(client))
    }

    pub fn get(&self, url: &str) -> reqwest::RequestBuilder {
        self.0.get(url).header("Accept", "application/json")
    }

    pub fn post(&self, url: &str) -> reqwest::RequestBuilder {
        self.0.post(url).header("Accept", "application/json")
    }

    /// Sends and reads the whole answer, both within `limit`.
    pub async fn send(&self, request: reqwest::RequestBuilder, limit: Duration) -> Result<Answer, String> {
        let all = async {
            let mut response = request.send().await.map_err(|error| cause(&error))?;
            let status = response.status().as_u16();
            let index = response.headers().get("X-Consul-Index");
            let index = index.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
            let mut body = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(|error| cause(&error))? {
                if body.len() + piece.len() > MAX_BODY {
                    return Err(format!("the answer has more than {MAX_BODY} bytes"));
                }
                body.extend_from_slice(&piece);
            }
            Ok(Answer { status, index, body })
        };
        tokio::time::timeout(limit, all).await.unwrap_or_else(|_| Err("timeout".to_owned()))
    }

    /// Sends and hands over the body line by line as it comes; `None` ends it in order. `silence` is how long nothing may come.
    pub async fn lines(&self, request: reqwest::RequestBuilder, silence: Duration) -> Result<Lines, String> {
        let response = tokio::time::timeout(silence, request.send()).await;
        let response = response.map_err(|_| "timeout".to_owned())?.map_err(|error| cause(&error))?;
        match response.status().as_u16() {
            200 => Ok(Lines { response, silence, read: Vec::new(), searched: 0 }),
            410 => Err(GONE.to_owned()),
            status => Err(format!("status = {status}")),
        }
    }
}

/// What a watch says that begins too far back.
pub(crate) const GONE: &str = "410 Gone";

/// A body as it comes.
pub(crate) struct Lines {
    response: reqwest::Response,
    silence: Duration,
    read: Vec<u8>,
    /// So far into `read` there is no line end.
    searched: usize,
}

impl Lines {
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(at) = self.read.iter().skip(self.searched).position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(self.searched + at + 1);
                self.searched = 0;
                return Ok(Some(std::mem::replace(&mut self.read, rest)));
            }
            self.searched = self.read.len();
            let piece = tokio::time::timeout(self.silence, self.response.chunk()).await;
            match piece.map_err(|_| "timeout".to_owned())?.map_err(|error| cause(&error))? {
                Some(piece) if self.read.len() + piece.len() > MAX_BODY => {
                    return Err(format!("an event has more than {MAX_BODY} bytes"));
                }
                Some(piece) => self.read.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
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

/// `http://user:password@host` without what stands before the `@`, and that (apisix/discovery/nacos/client.lua
/// `build_base_uri`, apisix/discovery/eureka/init.lua `build_endpoints`). The prefix is added, a `/` ends it.
pub(crate) fn base_url(host: &str, prefix: Option<&str>) -> (String, Option<(String, String)>) {
    let (scheme, rest) = host.split_once("://").unwrap_or(("http", host));
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (login.split_once(':').map(|(user, secret)| (user.to_owned(), secret.to_owned())), rest),
        None => (None, rest),
    };
    let mut url = format!("{scheme}://{rest}{}", prefix.unwrap_or_default());
    if !url.ends_with('/') {
        url.push('/');
    }
    (url, login)
}

/// Text for a query.
pub(crate) fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A text for logs without what stands before an `@`.
pub(crate) fn without_login(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_taken_out_of_urls() {
        let login = Some(("u".to_owned(), "p@x".to_owned()));
        assert_eq!(base_url("http://u:p@x@127.0.0.1:1", Some("/eureka")), ("http://127.0.0.1:1/eureka/".into(), login));
        assert_eq!(base_url("https://a.test", None), ("https://a.test/".into(), None));
        assert_eq!(without_login("http://u:p@a.test:1/x"), "http://a.test:1/x");
        assert_eq!(encoded("a b@"), "a%20b%40");
    }
}
