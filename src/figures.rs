//! The node's figures for `prometheus`: who owns what it shows. Those that APISIX does not have are in `own`.
pub mod own;

use sluice_discovery::{Registries, Report};
use sluice_net::Drain;
use sluice_plugins_observe::prometheus::{BreakerFigures, LimitFigures};
use sluice_plugins_observe::prometheus::{ConfigSource, Connections, NodeFigures, NodeHealth, StreamListener};
use sluice_proxy::{Figures, StreamFigures};
use sluice_store::{Condition, Source, Store};
use sluice_telemetry::metrics::Kind;
use sluice_upstream::NodeStates;
use std::sync::{Arc, PoisonError};

/// How the registries of `discovery` do; nothing where none is configured.
pub fn register_discovery(metrics: &sluice_telemetry::Registry, registries: &Arc<Registries>) -> anyhow::Result<()> {
    if registries.reports().is_empty() {
        return Ok(());
    }
    type Figure = (&'static str, &'static str, Kind, fn(&Report) -> f64);
    let figures: [Figure; 4] = [
        ("sluice_discovery_reachable", "Whether the registry answered when it was last asked", Kind::Gauge, |report| {
            f64::from(u8::from(report.reachable))
        }),
        ("sluice_discovery_services", "Services that the registry told of", Kind::Gauge, |report| {
            report.services as f64
        }),
        ("sluice_discovery_changes_total", "Changes of followed services' nodes", Kind::Counter, |report| {
            report.changes as f64
        }),
        ("sluice_discovery_failures_total", "Failed attempts to ask the registry", Kind::Counter, |report| {
            report.failures as f64
        }),
    ];
    for (name, help, kind, value) in figures {
        let registries = registries.clone();
        metrics.callback(name, help, &["registry"], kind, move |samples| {
            for report in registries.reports() {
                samples.push(&[&report.name], value(&report));
            }
        })?;
    }
    Ok(())
}

/// See the file's head.
pub struct Node {
    pub drain: Drain,
    pub figures: Figures,
    pub states: Arc<NodeStates>,
    /// Where the configuration comes from, unless it is a file.
    pub store: Option<Arc<dyn Store>>,
    pub streams: Vec<Arc<StreamFigures>>,
}

/// The resources whose newest revisions are shown (`etcd_modify_index` of apisix/plugins/prometheus/exporter.lua).
const INDEXED: [&str; 8] =
    ["routes", "services", "ssls", "consumers", "global_rules", "upstreams", "stream_routes", "protos"];

impl NodeFigures for Node {
    fn connections(&self) -> Connections {
        let active = self.drain.open() as u64;
        let accepted = self.drain.accepted();
        let writing = (self.figures.in_flight.value().max(0.0) as u64).min(active);
        // A head is read within the turn that found it: nothing is ever "reading" for longer.
        Connections { active, accepted, handled: accepted, reading: 0, writing, waiting: active - writing }
    }
    fn requests(&self) -> u64 {
        self.figures.requests.value()
    }
    fn config_source(&self) -> Option<ConfigSource> {
        self.store.as_deref().and_then(config_source)
    }
    /// As the Control API has it: upstreams that stand in plugins are left out (apisix/control/v1.lua).
    fn nodes(&self) -> Vec<NodeHealth> {
        let reports = self.states.health().into_iter().filter(|report| !report.name.contains('#'));
        let nodes = reports.flat_map(|report| {
            report.nodes.into_iter().map(move |node| NodeHealth {
                name: report.name.clone(),
                healthy: node.is_up(),
                ip: node.ip,
                port: node.port,
            })
        });
        nodes.collect()
    }
    fn stream_listeners(&self) -> Vec<StreamListener> {
        let listener = |figures: &Arc<StreamFigures>| {
            let totals = figures.totals();
            StreamListener {
                listen_addr: figures.listen_addr.to_string(),
                active: totals.active,
                from_client: totals.from_client,
                to_client: totals.to_client,
                from_upstream: totals.from_upstream,
                to_upstream: totals.to_upstream,
            }
        };
        self.streams.iter().map(listener).collect()
    }
    fn breakers(&self) -> Vec<BreakerFigures> {
        crate::breakers::figures(&self.states)
    }
    fn concurrency_limits(&self) -> Vec<LimitFigures> {
        crate::breakers::limit_figures(&self.states)
    }
}

/// A store on this machine is shown as etcd is: its revisions mean the same.
fn config_source(store: &dyn Store) -> Option<ConfigSource> {
    if store.source() == Source::Memory {
        return None;
    }
    let state = store.state().read().unwrap_or_else(PoisonError::into_inner);
    let newest = |dir: &str| state.below(&format!("{dir}/")).map(|entry| entry.modified).max().unwrap_or(0);
    let mut modify_indexes: Vec<_> = INDEXED.iter().map(|dir| ((*dir).to_owned(), newest(dir))).collect();
    let highest = modify_indexes.iter().map(|(_, index)| *index).max().unwrap_or(0);
    // The process follows the whole store at once: what it has seen is the store's revision as it knows it.
    let seen = [("max_modify_index", highest), ("prev_index", state.revision), ("x_etcd_index", state.revision)];
    modify_indexes.extend(seen.map(|(key, index)| (key.to_owned(), index)));
    Some(ConfigSource { reachable: store.condition() == Condition::Fresh, modify_indexes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::{Body, Kind};
    use sluice_store::{EmbeddedSettings, EmbeddedStore, Expect, Key, MemoryStore, Note, Op, Transaction};

    #[tokio::test]
    async fn revisions_of_a_store_are_shown_as_etcd_s() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("configuration.redb");
        let store = EmbeddedStore::open(&path, EmbeddedSettings::default()).expect("opens");
        for (kind, id) in [(Kind::Route, "1"), (Kind::Consumer, "jack"), (Kind::Upstream, "1")] {
            let body = Body::of(&serde_json::json!({"id": id}));
            let op = Op::Put { key: Key::of(kind, id), body, expect: Expect::Any, ttl: None };
            store.commit(Transaction { ops: vec![op], note: Note::default() }).await.expect("commits");
        }
        let source = config_source(&store).expect("a source");
        assert!(source.reachable);
        let of = |key: &str| source.modify_indexes.iter().find(|(name, _)| name == key).map(|(_, index)| *index);
        let newest = store.state().read().expect("state").revision;
        assert_eq!((of("upstreams"), of("max_modify_index")), (Some(newest), Some(newest)));
        assert_eq!((of("x_etcd_index"), of("prev_index")), (Some(newest), Some(newest)));
        assert!(of("routes") < of("consumers") && of("consumers") < of("upstreams") && of("ssls") == Some(0));
        assert_eq!(config_source(&MemoryStore::new()), None);
    }
}
