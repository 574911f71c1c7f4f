//! What is probably not meant about routes that are written: they can never match, or others can no more. The surprise: a
//! route is looked at beside those in force; of several that are written together each is looked at alone.
use crate::admin::Admin;
use crate::changes::Difference;
use serde_json::Value;
use sluice_model::{Kind, id};
use sluice_store::{Key, State};

/// Warnings that are told.
const TOLD: usize = 100;

/// Of every route that was put.
pub(crate) fn of_changes(admin: &Admin, after: &State, changes: &[Difference]) -> Vec<String> {
    let written = changes.iter().filter(|change| change.after.is_some());
    let routes = written.filter_map(|change| change.key.resource()).filter(|(kind, _)| *kind == Kind::Route);
    routes.flat_map(|(_, id)| of_route(admin, after, id)).take(TOLD).collect()
}

pub(crate) fn of_route(admin: &Admin, state: &State, id: &str) -> Vec<String> {
    let Some(snapshot) = admin.gateway.snapshot() else { return Vec::new() };
    let Some(entry) = state.get(&Key::of(Kind::Route, id)) else { return Vec::new() };
    let mut route = entry.body.value();
    if route["status"] == 0 {
        return Vec::new();
    }
    // Predicates are plain in the store, but the model wants the body as it is in force.
    let registry = admin.gateway.registry();
    crate::encryption::reveal(admin, Kind::Route, id, &mut route);
    let Some(route) = sluice_config::accepted(&registry, Kind::Route, id, route) else { return Vec::new() };
    let service = id::field(&route, "service_id").and_then(|service| state.get(&Key::of(Kind::Service, &service)));
    let service: Option<Value> = service.map(|entry| entry.body.value());
    let examined = sluice_config::predicates(id, &route, service.as_ref())
        .and_then(|spec| snapshot.router.examine(spec).map_err(|error| error.to_string()));
    match examined {
        Ok(findings) => findings.iter().take(TOLD).map(ToString::to_string).collect(),
        Err(reason) => vec![reason],
    }
}
