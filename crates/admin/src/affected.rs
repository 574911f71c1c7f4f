//! Which routes a change is felt on. The surprise: it is found in the texts, by who refers to what changed; a global rule or
//! a plugin's metadata is felt everywhere.
use crate::changes::Difference;
use serde_json::{Value, json};
use sluice_model::{Kind, id};
use sluice_store::State;
use std::collections::BTreeSet;

/// Ids that are listed; how many there are is always told.
const LISTED: usize = 100;

/// `{all, total, routes}`.
pub(crate) fn routes(before: &State, after: &State, changes: &[Difference]) -> Value {
    let mut referred: BTreeSet<(Kind, String)> = BTreeSet::new();
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut all = false;
    for (kind, id) in changes.iter().filter_map(|change| change.key.resource()) {
        match kind {
            Kind::Route => drop(found.insert(id.to_owned())),
            Kind::Service | Kind::Upstream | Kind::PluginConfig | Kind::Proto => {
                referred.insert((kind, id.to_owned()));
            }
            Kind::GlobalRule | Kind::PluginMetadata => all = true,
            _ => {}
        }
    }
    if !referred.is_empty() {
        // An upstream passes on what is felt on its fallback, a service what is felt on its upstream.
        for (kind, state) in [Kind::Upstream, Kind::Service].into_iter().flat_map(|k| [(k, before), (k, after)]) {
            let felt = state.of(kind).filter(|(_, entry)| refers(&entry.body.value(), &referred));
            let more: Vec<_> = felt.map(|(id, _)| (kind, id.to_owned())).collect();
            referred.extend(more);
        }
        for state in [before, after] {
            let felt = state.of(Kind::Route).filter(|(_, entry)| refers(&entry.body.value(), &referred));
            found.extend(felt.map(|(id, _)| id.to_owned()));
        }
    }
    let listed: Vec<&String> = found.iter().take(LISTED).collect();
    json!({"all": all, "total": found.len(), "routes": listed})
}

fn refers(body: &Value, referred: &BTreeSet<(Kind, String)>) -> bool {
    let names = |kind: Kind, own: Option<String>| own.is_some_and(|own| referred.contains(&(kind, own)));
    if names(Kind::Service, id::field(body, "service_id"))
        || names(Kind::Upstream, id::field(body, "upstream_id"))
        || names(Kind::PluginConfig, id::field(body, "plugin_config_id"))
        || [body, &body["upstream"]]
            .into_iter()
            .any(|own| names(Kind::Upstream, id::field(&own["circuit_breaker"], "fallback")))
    {
        return true;
    }
    let plugins = &body["plugins"];
    if names(Kind::Proto, id::field(&plugins["grpc-transcode"], "proto_id")) {
        return true;
    }
    let rules = plugins["traffic-split"]["rules"].as_array().into_iter().flatten();
    let targets = rules.flat_map(|rule| rule["weighted_upstreams"].as_array().into_iter().flatten());
    targets.into_iter().any(|target| names(Kind::Upstream, id::field(target, "upstream_id")))
}
