//! ssl objects: certificates that clients see, and those that upstreams are shown.
use super::{Certificates, Compiler, Ssls, Work};
use foldhash::{HashMap, HashMapExt};
use sluice_expr::Regex;
use sluice_model::Kind;
use sluice_net::tls::{CertConfig, ClientAuth, Protocols};
use std::sync::Arc;

impl Compiler {
    /// All server certificates. An unchanged object yields an equal [`CertConfig`], so that its sessions live on.
    pub(super) fn compile_certificates(&mut self, work: &mut Work) -> Certificates {
        let (mut certificates, mut skip) = (Vec::new(), HashMap::new());
        for (id, ssl) in self.ssls.clone().iter() {
            if ssl.is_client || !ssl.enabled {
                continue;
            }
            let patterns = ssl.client.as_ref().map(|c| c.skip_mtls_uri_regex.as_slice()).unwrap_or_default();
            let mut compiled = Vec::new();
            for pattern in patterns {
                match Regex::new(pattern, "jo") {
                    Ok(regex) => compiled.push(regex),
                    Err(e) => work.problem(Kind::Ssl, id, "/client/skip_mtls_uri_regex", e.0),
                }
            }
            let versions = &ssl.ssl_protocols;
            let has = |name: &str| versions.is_empty() || versions.iter().any(|v| v == name);
            let config = Arc::new(CertConfig {
                id: id.clone(),
                snis: ssl.snis.clone(),
                certs: ssl.pairs.clone(),
                client: ssl.client.as_ref().map(|client| ClientAuth {
                    ca_pem: client.ca.clone(),
                    depth: u8::try_from(client.depth).unwrap_or(u8::MAX),
                    lenient: !compiled.is_empty(),
                }),
                protocols: Protocols { tls12: has("TLSv1.2"), tls13: has("TLSv1.3") },
            });
            if !compiled.is_empty() {
                skip.insert(id.clone(), compiled);
            }
            let known = self.snapshot.certificates.iter().find(|c| ***c == *config);
            certificates.push(known.cloned().unwrap_or(config));
        }
        (certificates, skip)
    }

    /// All ssl objects that are valid, by id: costs the reading of each, hence kept as `ssls`.
    pub(super) fn stored_ssls(&self) -> Ssls {
        let read = |(id, body)| serde_json::from_value(body).ok().map(|ssl| (id, ssl));
        Arc::new(self.accepted(Kind::Ssl).into_iter().filter_map(read).collect())
    }
}

/// APISIX's words are "failed to parse cert: …"; the prefix is the model's.
pub(super) fn check_certificate(pem: &str) -> Result<(), String> {
    sluice_net::tls::check_certificate(pem)
}

/// As [`check_certificate`], for keys.
pub(super) fn check_private_key(pem: &str) -> Result<(), String> {
    sluice_net::tls::check_private_key(pem)
}
