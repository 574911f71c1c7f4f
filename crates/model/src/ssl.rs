//! A certificate as it runs. Surprise: the pairs `sni`/`snis` and `cert`+`certs` are one list each; SNIs are lower-cased
//! and lose a final dot (apisix/ssl/router/radixtree_sni.lua).

use crate::{id, lenient};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Deserialise it from a body that its schema has checked; unknown fields are ignored.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(from = "Raw")]
pub struct Ssl {
    pub id: String,
    pub desc: Option<String>,
    pub labels: Map<String, Value>,
    /// Whether it is presented to upstreams instead of clients.
    pub is_client: bool,
    pub snis: Vec<String>,
    /// Certificate chains and their keys, PEM or secret references; the first pair is the main one.
    pub pairs: Vec<(String, String)>,
    pub client: Option<Client>,
    /// Whether `status` is 1.
    pub enabled: bool,
    /// Empty: those of the listener.
    pub ssl_protocols: Vec<String>,
    pub ocsp_stapling: Option<OcspStapling>,
}

impl std::fmt::Debug for Ssl {
    /// Keys are not printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssl").field("id", &self.id).field("snis", &self.snis).finish_non_exhaustive()
    }
}

/// How clients are verified.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Client {
    pub ca: String,
    #[serde(default = "one")]
    pub depth: u64,
    /// Requests whose URI matches one of these need no certificate.
    #[serde(default, deserialize_with = "lenient::list")]
    pub skip_mtls_uri_regex: Vec<String>,
}

/// What the plugin `ocsp-stapling` does for a certificate (apisix/plugins/ocsp-stapling.lua).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct OcspStapling {
    pub enabled: bool,
    /// The responder's answer is stapled whatever it says.
    pub skip_verify: bool,
    /// Seconds after which a newer answer is asked for.
    pub cache_ttl: u64,
}

impl Default for OcspStapling {
    fn default() -> OcspStapling {
        OcspStapling { enabled: false, skip_verify: false, cache_ttl: 3600 }
    }
}

fn one() -> u64 {
    1
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    #[serde(deserialize_with = "id::required")]
    id: String,
    desc: Option<String>,
    #[serde(deserialize_with = "lenient::map")]
    labels: Map<String, Value>,
    #[serde(rename = "type")]
    purpose: Option<String>,
    sni: Option<String>,
    #[serde(deserialize_with = "lenient::list")]
    snis: Vec<String>,
    cert: String,
    key: String,
    #[serde(deserialize_with = "lenient::list")]
    certs: Vec<String>,
    #[serde(deserialize_with = "lenient::list")]
    keys: Vec<String>,
    client: Option<Client>,
    status: Option<i64>,
    #[serde(deserialize_with = "lenient::list")]
    ssl_protocols: Vec<String>,
    ocsp_stapling: Option<OcspStapling>,
}

impl From<Raw> for Ssl {
    fn from(raw: Raw) -> Ssl {
        let snis = raw.sni.into_iter().chain(raw.snis);
        Ssl {
            id: raw.id,
            desc: raw.desc,
            labels: raw.labels,
            is_client: raw.purpose.as_deref() == Some("client"),
            snis: snis.map(|sni| sni.strip_suffix('.').unwrap_or(&sni).to_ascii_lowercase()).collect(),
            pairs: std::iter::once((raw.cert, raw.key)).chain(raw.certs.into_iter().zip(raw.keys)).collect(),
            client: raw.client,
            enabled: raw.status.unwrap_or(1) == 1,
            ssl_protocols: raw.ssl_protocols,
            ocsp_stapling: raw.ocsp_stapling,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_pairs_are_merged() {
        let ssl: Ssl = serde_json::from_value(json!({
            "id": 1, "snis": ["A.com.", "*.b.com"], "cert": "c1", "key": "k1", "certs": ["c2"], "keys": ["k2"],
            "client": {"ca": "ca"}
        }))
        .unwrap();
        assert_eq!(ssl.snis, ["a.com", "*.b.com"]);
        assert_eq!(ssl.pairs, [("c1".into(), "k1".into()), ("c2".into(), "k2".into())]);
        assert_eq!(ssl.client.as_ref().map(|client| client.depth), Some(1));
        assert!(ssl.enabled && !ssl.is_client);
        assert!(!format!("{ssl:?}").contains("k1"));
    }
}
