//! Stream routes: merged with their service, put into the router of connections.
//!
//! The surprise: their order is that of the source (the first that fits takes a connection), so it is remembered apart from
//! the resources themselves.
use super::chain::not_enabled;
use super::{Compiler, Typed, Work};
use crate::snapshot::{CompiledStreamRoute, RouteUpstream, StreamPluginEntry};
use foldhash::{HashMap, HashSet};
use serde_json::Value;
use sluice_model::{Kind, StreamRoute};
use sluice_plugin::{Env, Scope};
use sluice_router::{StreamConditions, StreamRouter, stream_address};
use std::cmp::Reverse;
use std::sync::Arc;

type Router = StreamRouter<Arc<CompiledStreamRoute>>;

/// What the compiler keeps of stream routes.
#[derive(Default)]
pub(super) struct StreamRoutes {
    /// Ids in the order of the source.
    order: Vec<Arc<str>>,
    reordered: bool,
    routes: Typed<StreamRoute>,
    compiled: HashMap<Arc<str>, Arc<CompiledStreamRoute>>,
    /// Stream routes by what they refer to.
    dependents: HashMap<(Kind, Arc<str>), HashSet<Arc<str>>>,
}

impl StreamRoutes {
    /// The order alone is a change: the first match wins.
    pub(super) fn is_reordered(&self) -> bool {
        self.reordered
    }

    /// Remembers what a stream route refers to, in place of what its last form did.
    fn refer(&mut self, id: &Arc<str>, route: Option<&StreamRoute>) {
        let references = |route: &StreamRoute| {
            let all = [(Kind::Upstream, &route.upstream_id), (Kind::Service, &route.service_id)];
            all.into_iter().filter_map(|(kind, id)| Some((kind, Arc::<str>::from(id.as_deref()?)))).collect::<Vec<_>>()
        };
        for key in self.routes.get(id).map(|old| references(old)).unwrap_or_default() {
            if let Some(all) = self.dependents.get_mut(&key) {
                all.remove(id);
                if all.is_empty() {
                    self.dependents.remove(&key);
                }
            }
        }
        for key in route.map(references).unwrap_or_default() {
            self.dependents.entry(key).or_default().insert(id.clone());
        }
    }

    /// Takes over the order of a whole state of the source.
    pub(super) fn arrange(&mut self, order: Vec<Arc<str>>) {
        self.reordered = order != self.order;
        self.order = order;
    }
}

impl Compiler {
    /// Compiles the stream routes that changed, and those that refer to something that did.
    pub(super) fn compile_stream_routes(
        &mut self,
        work: &mut Work,
        kinds: &HashSet<Kind>,
        old: &Arc<Router>,
    ) -> Arc<Router> {
        let mut changed = std::mem::take(&mut self.streams.reordered);
        for id in work.deleted_of(Kind::StreamRoute) {
            self.streams.refer(&id, None);
            changed |= self.streams.routes.remove(&id).is_some();
            if let Some(RouteUpstream::Found(upstream)) = self.streams.compiled.remove(&id).map(|r| r.upstream.clone())
                && upstream.key.strip_prefix("stream_routes/") == Some(&*id)
            {
                self.end_checks(&upstream);
            }
            self.streams.order.retain(|known| *known != id);
        }
        let mut affected: HashSet<Arc<str>> = self.touched_streams(work, kinds);
        for (id, body) in work.changed_of(Kind::StreamRoute) {
            match serde_json::from_value::<StreamRoute>(body) {
                Ok(route) => {
                    self.streams.refer(&id, Some(&route));
                    self.streams.routes.insert(id.clone(), Arc::new(route));
                    if !self.streams.order.contains(&id) {
                        self.streams.order.push(id.clone());
                    }
                    affected.insert(id);
                }
                Err(e) => work.problem(Kind::StreamRoute, &id, "", e.to_string()),
            }
        }
        for id in &affected {
            let Some(route) = self.streams.routes.get(id).cloned() else { continue };
            work.compiled.insert((Kind::StreamRoute, id.clone()));
            match self.compile_stream_route(id, &route, work) {
                Ok(compiled) => {
                    self.streams.compiled.insert(id.clone(), Arc::new(compiled));
                    changed = true;
                }
                Err(message) => work.problem(Kind::StreamRoute, id, "", message),
            }
        }
        if changed { Arc::new(self.stream_router()) } else { old.clone() }
    }

    /// Stream routes whose service or upstream changed.
    fn touched_streams(&self, work: &Work, kinds: &HashSet<Kind>) -> HashSet<Arc<str>> {
        if self.streams.routes.is_empty() {
            return HashSet::default();
        }
        let keys = self.touched(work, kinds);
        keys.iter().filter_map(|key| self.streams.dependents.get(key)).flatten().cloned().collect()
    }

    fn stream_router(&self) -> Router {
        let routes = self.streams.order.iter().filter_map(|id| {
            let (route, compiled) = (self.streams.routes.get(id)?, self.streams.compiled.get(id)?);
            // A subordinate route is for messages inside a protocol; no connection begins with it.
            if route.protocol.as_ref().is_some_and(|protocol| protocol.get("superior_id").is_some()) {
                return None;
            }
            let conditions = StreamConditions {
                remote_addr: route.remote_addr.as_deref().and_then(stream_address),
                server_addr: route.server_addr.as_deref().and_then(stream_address),
                server_port: route.server_port,
                sni: route.sni.as_deref().map(Into::into),
            };
            Some((conditions, compiled.clone()))
        });
        StreamRouter::build(routes)
    }

    fn compile_stream_route(
        &self,
        id: &Arc<str>,
        route: &StreamRoute,
        work: &mut Work,
    ) -> Result<CompiledStreamRoute, String> {
        let env = self.env.for_resource(&format!("stream_routes/{id}"), self.snapshot.revision + 1);
        let service = route.service_id.as_deref().and_then(|s| self.services.get(s));
        let mut plugins = Vec::new();
        for (name, config) in &route.plugins {
            plugins.extend(self.stream_plugin(name, config, &env)?);
        }
        // Of a service's plugins those that the route does not name and that know stream routes (apisix/plugin.lua
        // `merge_service_stream_route`, `stream_filter`); they were checked as plugins of HTTP routes.
        for (name, config) in service.iter().flat_map(|service| &service.plugins) {
            if route.plugins.contains_key(name) || self.registry.get_stream(name).is_none() {
                continue;
            }
            let mut config = config.clone();
            let built = self.registry.check(name, Scope::Stream, &mut config).map_err(|e| e.0);
            match built.and_then(|()| self.stream_plugin(name, &config, &env)) {
                Ok(entry) => plugins.extend(entry),
                Err(message) => {
                    let id = route.service_id.as_deref().unwrap_or_default().into();
                    work.problem(Kind::Service, &id, &format!("/plugins/{name}"), message);
                }
            }
        }
        plugins.sort_by_key(|entry| Reverse(entry.priority));
        Ok(CompiledStreamRoute {
            id: id.clone(),
            name: route.name.as_deref().map(Into::into),
            plugins,
            missing_service: route.upstream_id.is_none() && route.service_id.is_some() && service.is_none(),
            upstream: self.stream_upstream(id, route, work)?,
        })
    }

    /// `None` where the plugin is disabled.
    fn stream_plugin(&self, name: &str, config: &Value, env: &Env) -> Result<Option<StreamPluginEntry>, String> {
        if config.pointer("/_meta/disable").and_then(Value::as_bool) == Some(true) {
            return Ok(None);
        }
        let Some(definition) = self.registry.get_stream(name) else {
            let known = self.registry.stream_names().contains(&name);
            return not_enabled(name, known, &env.resource_key).map(|()| None);
        };
        let plugin = (definition.build)(config, env).map_err(|e| e.0)?;
        Ok(Some(StreamPluginEntry { name: definition.name, priority: definition.priority, plugin }))
    }

    /// The route's `upstream_id`, its `upstream`, then the service's `upstream` and `upstream_id` (apisix/init.lua
    /// `stream_preread_phase`).
    fn stream_upstream(&self, id: &Arc<str>, route: &StreamRoute, work: &mut Work) -> Result<RouteUpstream, String> {
        let by_id = |id: &str| self.upstreams.get(id).cloned().map_or(RouteUpstream::Missing, RouteUpstream::Found);
        if let Some(id) = &route.upstream_id {
            return Ok(by_id(id));
        }
        if let Some(typed) = &route.upstream {
            let key = format!("stream_routes/{id}");
            let previous = self.streams.compiled.get(id).and_then(|old| match &old.upstream {
                RouteUpstream::Found(upstream) if *upstream.key == *key => Some(upstream.clone()),
                _ => None,
            });
            let upstream = self.compile_inline(&key, typed, previous.as_deref(), work);
            return upstream.map(RouteUpstream::Found).map_err(|m| format!("upstream: {m}"));
        }
        let Some(service_id) = route.service_id.as_deref() else { return Ok(RouteUpstream::None) };
        if let Some(upstream) = self.service_upstreams.get(service_id) {
            return Ok(RouteUpstream::Found(upstream.clone()));
        }
        let of_service = self.services.get(service_id).and_then(|service| service.upstream_id.as_deref());
        Ok(of_service.map_or(RouteUpstream::None, by_id))
    }
}

#[cfg(test)]
mod tests;
