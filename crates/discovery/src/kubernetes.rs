//! `kubernetes`: the endpoints, or endpoint slices, of one cluster or several (apisix/discovery/kubernetes).
//!
//! The surprise: everything that the selectors let through is listed and then watched, whether an upstream names it or not, as
//! APISIX does; a watch that breaks is followed by a new list, and until that is whole what was known holds.
mod access;
mod endpoints;
mod informer;
#[cfg(test)]
mod tests;

use crate::Settings;
use crate::catalog::{Catalog, Nodes, node_json};
use crate::client::Client;
use crate::registry::{Registry, Report, Unusable, masked};
use access::Access;
use endpoints::Known;
use fancy_regex::Regex;
use informer::Informer;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_upstream::{DiscoverError, Following, ServiceQuery};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// apisix/discovery/kubernetes/informer_factory.lua `set_timeouts`.
const CONNECT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Deserialize)]
struct Conf {
    id: Option<String>,
    service: access::Service,
    client: access::Credentials,
    #[serde(default)]
    namespace_selector: NamespaceSelector,
    label_selector: Option<String>,
    default_weight: u32,
    watch_endpoint_slices: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct NamespaceSelector {
    equal: Option<String>,
    not_equal: Option<String>,
    #[serde(rename = "match")]
    matches: Option<Vec<String>>,
    not_match: Option<Vec<String>>,
}

/// Which namespaces are looked at, beyond what the API server selects.
#[derive(Debug)]
enum Namespaces {
    All,
    /// The whole name matches one of these.
    Matching(Vec<Regex>),
    NotMatching(Vec<Regex>),
}

impl Namespaces {
    fn read(selector: &NamespaceSelector) -> Result<Namespaces, Unusable> {
        let compile = |patterns: &Vec<String>| -> Result<Vec<Regex>, Unusable> {
            let whole = |pattern: &String| Regex::new(&format!(r"\A(?:{pattern})\z"));
            let all = patterns.iter().map(whole).collect::<Result<_, _>>();
            all.map_err(|error| Unusable(format!("namespace_selector: {error}")))
        };
        Ok(match (&selector.matches, &selector.not_match) {
            (Some(patterns), _) => Namespaces::Matching(compile(patterns)?),
            (None, Some(patterns)) => Namespaces::NotMatching(compile(patterns)?),
            (None, None) => Namespaces::All,
        })
    }

    fn includes(&self, namespace: &str) -> bool {
        let any = |patterns: &[Regex]| patterns.iter().any(|pattern| pattern.is_match(namespace).unwrap_or(false));
        match self {
            Namespaces::All => true,
            Namespaces::Matching(patterns) => any(patterns),
            Namespaces::NotMatching(patterns) => !any(patterns),
        }
    }
}

/// One cluster, as far as it is known.
struct Cluster {
    catalog: Arc<Catalog>,
    known: Mutex<Known>,
    /// A list was read to its end.
    ready: AtomicBool,
}

impl Cluster {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what is known into the catalog, and those who follow learn of it.
    fn publish(&self) {
        let services = self.known().services();
        self.catalog.replace(0, services);
    }

    /// The same for one object's service.
    fn publish_one(&self, service: &str) {
        for (key, nodes) in self.known().of(service) {
            match nodes {
                Some(nodes) => self.catalog.set(&key, nodes),
                None => self.catalog.remove(&key),
            }
        }
    }

    fn listed(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// As APISIX's dump has them: `namespace/name`, and nodes by port as JSON in a text.
    fn dump(&self) -> Option<Vec<Value>> {
        if !self.ready.load(Ordering::Acquire) {
            return None;
        }
        let mut by_service: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        for (service, ports) in self.known().by_port() {
            let nodes = |nodes: &Nodes| Value::Array(nodes.iter().map(node_json).collect());
            let ports = ports.iter().map(|(port, list)| (port.clone(), nodes(list)));
            by_service.entry(service).or_default().extend(ports);
        }
        let entry = |(name, ports): (String, Map<String, Value>)| json!({"name": name, "value": Value::Object(ports).to_string()});
        Some(by_service.into_iter().map(entry).collect())
    }
}

struct Kubernetes {
    /// By id; one without an id where `kubernetes` is one mapping.
    clusters: Vec<(Option<String>, Arc<Cluster>)>,
    conf: Value,
}

pub(crate) fn start(value: &Value, settings: &Settings) -> Result<Arc<dyn Registry>, Unusable> {
    let list = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    let mut clusters = Vec::new();
    for conf in list {
        let conf = Conf::deserialize(conf).map_err(|error| Unusable(error.to_string()))?;
        let id = conf.id.clone();
        let name = id.as_deref().map_or_else(|| "kubernetes".to_owned(), |id| format!("kubernetes/{id}"));
        let cluster = Arc::new(Cluster {
            catalog: Catalog::new(&name),
            known: Mutex::new(Known::new(conf.watch_endpoint_slices, conf.default_weight)),
            ready: AtomicBool::new(false),
        });
        let namespaces = Namespaces::read(&conf.namespace_selector)?;
        if let Some(control) = &settings.control {
            let access = Access::read(&conf.service, &conf.client)?;
            let client = Client::new(settings, CONNECT, conf.service.ssl_verify.unwrap_or(false))?;
            let informer = Informer::new(conf, access, client, namespaces, cluster.clone());
            control.spawn(informer.run());
        }
        clusters.push((id, cluster));
    }
    Ok(Arc::new(Kubernetes { clusters, conf: masked(value) }))
}

impl Kubernetes {
    /// `namespace/name:port`, with several clusters `id/namespace/name:port`.
    fn find(&self, name: &str) -> Result<(&Arc<Cluster>, Arc<str>), DiscoverError> {
        let wrong = || DiscoverError::Name(format!("get unexpected upstream service_name: {name}"));
        let (service, _port) = name.rsplit_once(':').ok_or_else(wrong)?;
        if let [(None, cluster)] = self.clusters.as_slice() {
            return Ok((cluster, name.into()));
        }
        let (path, _) = service.rsplit_once('/').ok_or_else(wrong)?;
        let (id, _) = path.rsplit_once('/').ok_or_else(wrong)?;
        let own = self.clusters.iter().find(|(own, _)| own.as_deref() == Some(id));
        let (_, cluster) = own.ok_or_else(|| DiscoverError::Name(format!("id not exist: {name}")))?;
        let inner = name.get(id.len() + 1..).ok_or_else(wrong)?;
        Ok((cluster, inner.into()))
    }
}

impl Registry for Kubernetes {
    fn key(&self, query: &ServiceQuery) -> Result<Arc<str>, DiscoverError> {
        self.find(&query.name).map(|(_, key)| key)
    }
    fn follow(&self, query: &ServiceQuery) -> Result<Following, DiscoverError> {
        let (cluster, key) = self.find(&query.name)?;
        Ok(cluster.catalog.follow(&key).0)
    }
    fn dump(&self) -> Option<Value> {
        let of = |(id, cluster): &(Option<String>, Arc<Cluster>)| {
            let endpoints = cluster.dump()?;
            Some(match id {
                Some(id) => json!({"id": id, "endpoints": endpoints}),
                None => json!({"endpoints": endpoints}),
            })
        };
        let endpoints: Vec<Value> = self.clusters.iter().filter_map(of).collect();
        Some(json!({"config": self.conf, "endpoints": endpoints}))
    }
    fn ready(&self) -> Result<(), String> {
        let all = self.clusters.iter().all(|(_, cluster)| cluster.ready.load(Ordering::Acquire));
        if all { Ok(()) } else { Err("kubernetes discovery not ready".to_owned()) }
    }
    fn reports(&self) -> Vec<Report> {
        self.clusters.iter().map(|(_, cluster)| cluster.catalog.report()).collect()
    }
}
