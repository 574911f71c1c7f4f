//! ssl objects: certificates that clients see, and those that upstreams are shown.
use super::{Compiler, Work};
use crate::snapshot::Snapshot;
use sluice_expr::Regex;
use sluice_model::{Kind, Ssl};
use sluice_net::tls::{CertConfig, ClientAuth, Protocols, Stapling};
use sluice_parts::Parts;
use std::sync::Arc;
use std::time::Duration;

/// The least `ocsp_stapling.cache_ttl` that the schema allows.
const MIN_CACHE_TTL: u64 = 60;

/// ssl objects by id.
pub(super) type Ssls = Parts<Arc<Ssl>>;

impl Compiler {
    /// The ssl objects that changed. An equal [`CertConfig`] stays the same, so that its sessions live on.
    pub(super) fn compile_ssls(&mut self, work: &mut Work, next: &mut Snapshot) {
        let take_out = |next: &mut Snapshot, id: &str| {
            for name in next.certificates.remove(id).iter().flat_map(|old| &old.snis) {
                next.ssl_names.remove(name, id);
            }
            next.client_certificates.remove(id);
            next.skip_mtls.remove(id);
            if next.mutual.contains_key(id) {
                Arc::make_mut(&mut next.mutual).remove(id);
            }
        };
        for id in work.deleted_of(Kind::Ssl) {
            self.ssls.remove(&id);
            take_out(next, &id);
        }
        for (id, body) in work.changed_of(Kind::Ssl) {
            work.compiled.insert((Kind::Ssl, id.clone()));
            let ssl: Ssl = match serde_json::from_value(body) {
                Ok(ssl) => ssl,
                Err(e) => {
                    work.problem(Kind::Ssl, &id, "", e.to_string());
                    continue;
                }
            };
            let ssl = Arc::new(ssl);
            self.ssls.insert(id.clone(), ssl.clone());
            if ssl.is_client || !ssl.enabled {
                take_out(next, &id);
                if ssl.is_client {
                    let config = self.certificate(&id, &ssl, work).0;
                    next.client_certificates.insert(id, Arc::new(config));
                }
                continue;
            }
            let (config, skip) = self.certificate(&id, &ssl, work);
            let known = next.certificates.get(&id).filter(|known| ***known == config).cloned();
            let config = known.unwrap_or_else(|| Arc::new(config));
            take_out(next, &id);
            if !skip.is_empty() {
                next.skip_mtls.insert(id.clone(), Arc::new(skip));
            }
            if config.client.is_some() {
                Arc::make_mut(&mut next.mutual).insert(id.clone(), config.clone());
            }
            for name in &config.snis {
                next.ssl_names.add(name, &id, &config);
            }
            next.certificates.insert(id, config);
        }
    }

    fn certificate(&self, id: &Arc<str>, ssl: &Ssl, work: &mut Work) -> (CertConfig, Vec<Regex>) {
        let patterns = ssl.client.as_ref().map(|c| c.skip_mtls_uri_regex.as_slice()).unwrap_or_default();
        let mut skip = Vec::new();
        for pattern in patterns {
            match Regex::new(pattern, "jo") {
                Ok(regex) => skip.push(regex),
                Err(e) => work.problem(Kind::Ssl, id, "/client/skip_mtls_uri_regex", e.0),
            }
        }
        let versions = &ssl.ssl_protocols;
        let has = |name: &str| versions.iter().any(|v| v == name);
        let protocols = match versions.is_empty() {
            true => self.settings.protocols,
            false => Protocols { tls12: has("TLSv1.2"), tls13: has("TLSv1.3") },
        };
        // Without the plugin the field means nothing.
        let stapling = ssl.ocsp_stapling.filter(|o| o.enabled && self.registry.get("ocsp-stapling").is_some());
        let config = CertConfig {
            id: id.clone(),
            snis: ssl.snis.clone(),
            certs: ssl.pairs.clone(),
            client: ssl.client.as_ref().map(|client| ClientAuth {
                ca_pem: client.ca.clone(),
                depth: u8::try_from(client.depth).unwrap_or(u8::MAX),
                lenient: !skip.is_empty(),
            }),
            protocols,
            stapling: stapling.map(|o| Stapling {
                skip_verify: o.skip_verify,
                cache_ttl: Duration::from_secs(o.cache_ttl.max(MIN_CACHE_TTL)),
            }),
        };
        (config, skip)
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
