//! Service discovery: the registries of `discovery` in config.yaml, asked on control threads, and the nodes that they tell of.
//!
//! The surprise: nothing of this is on the way of a request, or of a change of the configuration. An upstream follows its
//! service ([`Discover::follow`]); its set of nodes takes in what is told. While a registry is away what it last told holds.

mod catalog;
mod client;
mod consul;
mod consul_kv;
mod dns;
mod dump;
mod eureka;
mod kubernetes;
mod nacos;
mod pause;
mod registry;
#[cfg(test)]
mod testing;

pub use registry::{Registry, Report};

use registry::Unusable;
use serde_json::{Map, Value};
use sluice_upstream::{Discover, DiscoverError, Following, ServiceQuery};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What registries need of the process.
#[derive(Clone)]
pub struct Settings {
    /// `discovery` of config.yaml: checked, defaults filled in.
    pub registries: Map<String, Value>,
    /// Where registries are asked; `None`: they never are, for a command that only looks.
    pub control: Option<Handle>,
    /// `apisix.enable_ipv6`.
    pub ipv6: bool,
    /// PEM of `apisix.ssl.ssl_trusted_certificate`; the system's where it is absent.
    pub trusted_certificates: Option<String>,
    /// Relative paths of dump files start here.
    pub prefix: PathBuf,
}

/// A kind of registry that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("discovery.{kind}: {reason}")]
pub struct SetupError {
    pub kind: String,
    pub reason: String,
}

/// All registries of the process.
pub struct Registries {
    all: BTreeMap<Arc<str>, Arc<dyn Registry>>,
}

impl Registries {
    /// Begins to ask the registries that have to be asked without anybody following.
    pub fn start(settings: &Settings) -> Result<Registries, SetupError> {
        let mut all: BTreeMap<Arc<str>, Arc<dyn Registry>> = BTreeMap::new();
        for (kind, conf) in &settings.registries {
            let built = build(kind, conf, settings);
            let registry = built.map_err(|reason| SetupError { kind: kind.clone(), reason: reason.0 })?;
            all.insert(kind.as_str().into(), registry);
        }
        Ok(Registries { all })
    }

    /// The registry of a kind (`consul`), if it is configured.
    pub fn get(&self, kind: &str) -> Option<&Arc<dyn Registry>> {
        self.all.get(kind)
    }

    /// Whether every registry that has to be read before requests are served has been (apisix/init.lua
    /// `discovery_ready_check`); the error says which has not.
    pub fn ready(&self) -> Result<(), String> {
        self.all.values().try_for_each(|registry| registry.ready())
    }

    /// How every registry does.
    pub fn reports(&self) -> Vec<Report> {
        self.all.values().flat_map(|registry| registry.reports()).collect()
    }

    fn of(&self, query: &ServiceQuery) -> Result<&Arc<dyn Registry>, DiscoverError> {
        self.get(&query.registry).ok_or_else(|| DiscoverError::Uninitialized(query.registry.clone()))
    }
}

fn build(kind: &str, conf: &Value, settings: &Settings) -> Result<Arc<dyn Registry>, Unusable> {
    match kind {
        "dns" => dns::start(conf, settings),
        "consul" => consul::start(conf, settings),
        "consul_kv" => consul_kv::start(conf, settings),
        "eureka" => eureka::start(conf, settings),
        "kubernetes" => kubernetes::start(conf, settings),
        "nacos" => nacos::start(conf, settings),
        other => Err(Unusable(format!("there is no registry of the kind {other}"))),
    }
}

impl Discover for Registries {
    fn check(&self, query: &ServiceQuery) -> Result<(), DiscoverError> {
        self.of(query)?.key(query).map(|_| ())
    }

    fn follow(&self, query: &ServiceQuery) -> Result<Following, DiscoverError> {
        self.of(query)?.follow(query)
    }
}
