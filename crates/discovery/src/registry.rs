//! What every kind of registry offers to the gateway.
use serde_json::Value;
use sluice_upstream::{DiscoverError, Following, ServiceQuery};
use std::sync::Arc;

/// A registry's settings that cannot be used; says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// How a registry does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// `consul`, or `kubernetes/first` of one of several clusters.
    pub name: Arc<str>,
    /// It answered when it was last asked; also while it was never asked.
    pub reachable: bool,
    /// Services that it told of.
    pub services: usize,
    /// Services that upstreams follow.
    pub followed: usize,
    /// Changes of services' nodes since the start.
    pub changes: u64,
    /// Failed attempts to ask it, since the start.
    pub failures: u64,
}

/// A kind of registry, running.
pub trait Registry: Send + Sync + 'static {
    /// The name that a service has inside the registry; an error where the query's name has not the form for it.
    fn key(&self, query: &ServiceQuery) -> Result<Arc<str>, DiscoverError>;
    /// See [`sluice_upstream::Discover::follow`].
    fn follow(&self, query: &ServiceQuery) -> Result<Following, DiscoverError>;
    /// What the Control API shows at `/v1/discovery/<kind>/dump`; `None`: there is no such page.
    fn dump(&self) -> Option<Value>;
    /// What it shows at `/v1/discovery/<kind>/show_dump_file`; `None`: there is no such page. An error is answered with 503.
    fn dump_file(&self) -> Option<Result<String, String>> {
        None
    }
    /// See [`crate::Registries::ready`].
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
    fn reports(&self) -> Vec<Report>;
}

/// A registry's settings as they may be shown: without tokens, and without what stands before the `@` of a host.
pub(crate) fn masked(conf: &Value) -> Value {
    match conf {
        Value::Object(map) => {
            let show = |(key, value): (&String, &Value)| {
                let secret = key == "token" && value.as_str().is_some_and(|text| !text.is_empty());
                (key.clone(), if secret { "***".into() } else { masked(value) })
            };
            Value::Object(map.iter().map(show).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(masked).collect()),
        Value::String(text) if text.contains('@') => crate::client::without_login(text).into(),
        other => other.clone(),
    }
}
