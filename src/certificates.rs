//! Certificates of a snapshot into the TLS listeners, when they changed, and what there is to tell of them. The surprise: only
//! what changed is looked at.
use crate::stapling::Stapler;
use serde_json::{Value, json};
use sluice_config::settings::apisix::Ssl;
use sluice_config::{Problem, Snapshot};
use sluice_model::Kind;
use sluice_model::secret::is_reference;
use sluice_net::tls::{CertConfig, CertError, PemError, ServerTls, certificate_facts};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The certificates that clients see.
pub struct Certificates {
    tls: Arc<ServerTls>,
    /// Fetches OCSP answers; none where nothing is served.
    stapler: Option<Stapler>,
    /// ssl objects that cannot be served as they are.
    broken: Mutex<BTreeMap<Arc<str>, CertError>>,
}

fn problem(error: &CertError) -> Problem {
    Problem {
        kind: Kind::Ssl,
        id: error.id.clone(),
        path: String::new(),
        message: error.cause.to_string(),
        kept: error.kept,
        nearest: None,
    }
}

/// What is wrong with the certificates of a configuration that is not in force. Those whose secrets are not fetched yet are
/// passed over.
pub fn check(settings: &Ssl, snapshot: &Snapshot) -> Result<Vec<Problem>, PemError> {
    let is_whole = |config: &CertConfig| {
        let ca = config.client.iter().map(|client| &client.ca_pem);
        !config.certs.iter().flat_map(|(cert, key)| [cert, key]).chain(ca).any(|text| is_reference(text))
    };
    let all = snapshot.certificates.iter().map(|(_, config)| config.clone());
    let all: Vec<_> = all.filter(|config| is_whole(config)).collect();
    Ok(crate::listen::server_tls(settings)?.replace(&all).iter().map(problem).collect())
}

impl Certificates {
    pub fn new(tls: Arc<ServerTls>, stapler: Option<Stapler>) -> Certificates {
        Certificates { tls, stapler, broken: Mutex::default() }
    }

    /// Puts a snapshot's certificates into force; what is wrong with one is logged and leaves the others alone.
    pub fn install(&self, before: &Snapshot, now: &Snapshot) {
        let (old, new) = (&before.certificates, &now.certificates);
        let differs = |id: &str| match (old.get(id), new.get(id)) {
            (Some(old), Some(new)) => !Arc::ptr_eq(old, new),
            _ => true,
        };
        let mut changed: Vec<_> =
            new.perhaps_changed(old).filter(|(id, _)| differs(id)).map(|(_, c)| c.clone()).collect();
        let gone: Vec<Arc<str>> =
            old.perhaps_changed(new).map(|(id, _)| id).filter(|id| !new.contains_key(id)).cloned().collect();
        if changed.is_empty() && gone.is_empty() {
            return;
        }
        changed.sort_by(|a, b| a.id.cmp(&b.id));
        let errors = self.tls.update(&changed, &gone);
        let staples =
            |snapshot: &Snapshot, id: &Arc<str>| snapshot.certificates.get(id).is_some_and(|c| c.stapling.is_some());
        let touched = changed.iter().map(|c| &c.id).chain(&gone).any(|id| staples(before, id) || staples(now, id));
        if let Some(stapler) = self.stapler.as_ref().filter(|_| touched) {
            stapler.follow(new.iter().flat_map(|(_, config)| config.staples()));
        }
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        changed.iter().map(|c| &c.id).chain(&gone).for_each(|id| drop(broken.remove(id)));
        for error in errors {
            tracing::error!(ssl = %error.id, %error, "certificate is not used");
            broken.insert(error.id.clone(), error);
        }
    }

    /// What cannot be served, as problems of the configuration.
    pub fn problems(&self) -> Vec<Problem> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).values().map(problem).collect()
    }

    /// How many OCSP answers are stapled, and how many are wanted.
    pub fn stapled(&self) -> (usize, usize) {
        self.stapler.as_ref().map_or((0, 0), Stapler::counts)
    }

    /// All certificates of ssl objects: `{id, type, snis, certificates: [{subject, issuer, key, not_before, not_after, …}], …}`, the
    /// next to end first. Reads all of them: not for a request's path.
    pub fn reports(&self, snapshot: &Snapshot) -> Vec<Value> {
        let server = snapshot.certificates.iter().map(|(id, config)| self.report(id, "server", config));
        let client = snapshot.client_certificates.iter().map(|(id, config)| self.report(id, "client", config));
        let mut all: Vec<(i64, Value)> = server.chain(client).collect();
        all.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one["id"].as_str().cmp(&other["id"].as_str())));
        all.into_iter().map(|(_, report)| report).collect()
    }

    fn report(&self, id: &str, purpose: &str, config: &CertConfig) -> (i64, Value) {
        let mut ends = i64::MAX;
        let staples: Vec<_> = config.staples().collect();
        let chain = |(place, (pem, _)): (usize, &(String, String))| {
            let Some(facts) = certificate_facts(pem) else { return json!({"error": "it cannot be read"}) };
            ends = ends.min(facts.not_after);
            let mut about = json!({
                "subject": facts.subject, "issuer": facts.issuer, "key": facts.key,
                "not_before": facts.not_before, "not_after": facts.not_after,
            });
            if let (Some(key), Some(stapler)) = (staples.get(place), &self.stapler) {
                about["ocsp"] = stapler.report(key);
            }
            about
        };
        let certificates: Vec<Value> = config.certs.iter().enumerate().map(chain).collect();
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = json!({
            "id": id, "type": purpose, "snis": config.snis, "asks_for_certificate": config.client.is_some(), "certificates": certificates,
        });
        if let Some(error) = broken.get(id) {
            report["error"] = error.cause.to_string().into();
        }
        (ends, report)
    }
}
