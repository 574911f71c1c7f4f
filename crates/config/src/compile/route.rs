//! Routes: merged with their plugin config and service (route over plugin config over service), put into the router.
use super::upstream::{missing_certificate, timeouts};
use super::{Compiler, Work};
use crate::snapshot::{CompiledRoute, RouteTrouble, RouteUpstream};
use foldhash::HashSet;
use serde::Deserialize;
use serde_json::Value;
use sluice_expr::Expr;
use sluice_model::{Kind, Route, Service};
use sluice_plugin::{Chain, ChainEntry, ChainSource, Info, Phases, Plugin, RouteInfo, RouteObjects};
use sluice_router::{MethodSet, Predicate, RemoteAddr, RouteSpec, Router};
use std::sync::Arc;

/// What a stored route matches, for the router's analysis. `service`: the one it names, if it is there.
pub fn predicates(id: &str, route: &Value, service: Option<&Value>) -> Result<RouteSpec<()>, String> {
    let route = Route::deserialize(route).map_err(|error| error.to_string())?;
    let hosts = match service.map(Service::deserialize) {
        Some(Ok(service)) if route.hosts.is_empty() => service.hosts,
        _ => route.hosts.clone(),
    };
    let filter = route.filter_func.is_some().then(|| Arc::new(Unknown) as Arc<dyn Predicate>);
    Ok(RouteSpec { filter, ..conditions(&id.into(), &route, &hosts)? })
}

/// Stands for a function of which nothing is known but that it is there.
#[derive(Debug)]
struct Unknown;

impl Predicate for Unknown {
    fn holds(&self, _lookup: &dyn sluice_router::Lookup) -> bool {
        false
    }
    fn reads_body(&self) -> bool {
        false
    }
}

/// All but `filter_func`.
fn conditions(id: &Arc<str>, route: &Route, hosts: &[String]) -> Result<RouteSpec<()>, String> {
    let addresses = route.remote_addrs.iter().map(|address| address.parse::<RemoteAddr>());
    Ok(RouteSpec {
        id: id.clone(),
        uris: route.uris.iter().map(|uri| uri.as_str().into()).collect(),
        hosts: hosts.iter().map(|host| host.as_str().into()).collect(),
        methods: MethodSet::of(route.methods.iter().map(String::as_str)).map_err(|m| format!("unknown method {m}"))?,
        remote_addrs: addresses.collect::<Result<_, _>>()?,
        vars: route.vars.as_ref().map(Expr::compile).transpose().map_err(|error| error.0)?.map(Arc::new),
        filter: None,
        priority: route.priority,
        handle: (),
    })
}

/// Kinds and ids.
pub(super) type References = Box<[(Kind, Arc<str>)]>;

impl Compiler {
    /// Compiles the routes that changed, and those that refer to something that did.
    pub(super) fn compile_routes(
        &mut self,
        work: &mut Work,
        kinds: &HashSet<Kind>,
        router: Router<Arc<CompiledRoute>>,
    ) -> Router<Arc<CompiledRoute>> {
        let mut deletes: Vec<Arc<str>> = Vec::new();
        for id in work.deleted_of(Kind::Route) {
            self.forget(&id);
            deletes.push(id);
        }
        let all = kinds.contains(&Kind::PluginMetadata);
        let mut seen: HashSet<Arc<str>> = HashSet::default();
        let mut specs = Vec::with_capacity(work.routes.len());
        for object in std::mem::take(&mut work.routes) {
            let id = object.id.clone();
            let Some(body) = self.checked(object, work) else { continue };
            seen.insert(id.clone());
            self.compile_body(id, body, work, &mut specs, &mut deletes);
        }
        let mut affected: Vec<Arc<str>> = if all {
            self.references.keys().cloned().collect()
        } else {
            let touched = self.touched(work, kinds);
            touched.iter().filter_map(|key| self.dependents.get(key)).flatten().cloned().collect()
        };
        affected.sort();
        for id in affected {
            if !seen.insert(id.clone()) {
                continue;
            }
            // A text that was refused leaves the route's last good form as it is.
            let Some(body) = self.accepted_one(Kind::Route, &id) else { continue };
            work.compiled.insert((Kind::Route, id.clone()));
            self.compile_body(id, body, work, &mut specs, &mut deletes);
        }
        if specs.is_empty() && deletes.is_empty() {
            return router;
        }
        let deletes: Vec<&str> = deletes.iter().map(|id| id.as_ref()).collect();
        let (router, errors) =
            if router.is_empty() { Router::build(self.settings.mode, specs) } else { router.update(specs, &deletes) };
        for error in errors {
            work.problem(Kind::Route, &error.id, "", error.reason);
        }
        router
    }

    /// What changed that routes may refer to.
    pub(super) fn touched(&self, work: &Work, kinds: &HashSet<Kind>) -> Vec<(Kind, Arc<str>)> {
        let referred = [Kind::Service, Kind::PluginConfig, Kind::Upstream, Kind::Ssl];
        if !referred.iter().any(|k| kinds.contains(k)) {
            return Vec::new();
        }
        let changed = work.changed.iter().map(|(k, id, _)| (*k, id.clone()));
        let mut keys: Vec<_> =
            changed.chain(work.deleted.iter().cloned()).filter(|(k, _)| referred.contains(k)).collect();
        // An upstream reaches routes through services, too.
        let services: Vec<_> = keys
            .iter()
            .filter(|(kind, _)| *kind == Kind::Upstream)
            .filter_map(|(_, id)| self.services_by_upstream.get(id))
            .flatten()
            .map(|id| (Kind::Service, id.clone()))
            .collect();
        keys.extend(services);
        keys
    }

    fn compile_body(
        &mut self,
        id: Arc<str>,
        body: Value,
        work: &mut Work,
        specs: &mut Vec<RouteSpec<Arc<CompiledRoute>>>,
        deletes: &mut Vec<Arc<str>>,
    ) {
        let route = match serde_json::from_value::<Route>(body) {
            Ok(route) => route,
            Err(e) => return work.problem(Kind::Route, &id, "", e.to_string()),
        };
        self.remember(&id, &route);
        if !route.enabled {
            self.end_route_checks(&id);
            self.compiled.remove(&id);
            self.body_readers.remove(&id);
            deletes.push(id);
            return;
        }
        match self.compile_route(&id, &route, work) {
            Ok(spec) => specs.push(spec),
            Err(message) => work.problem(Kind::Route, &id, "", message),
        }
    }

    /// What a route refers to; texts are shared with the other routes that refer to the same.
    fn references_of(&self, route: &Route) -> References {
        let reference = |kind, id: Option<&String>| {
            let key = (kind, Arc::<str>::from(id?.as_str()));
            Some(self.dependents.get_key_value(&key).map_or(key, |(known, _)| known.clone()))
        };
        let tls = route.upstream.as_ref().and_then(|upstream| upstream.tls.as_ref());
        let all = [
            reference(Kind::Service, route.service_id.as_ref()),
            reference(Kind::PluginConfig, route.plugin_config_id.as_ref()),
            reference(Kind::Upstream, route.upstream_id.as_ref()),
            reference(Kind::Ssl, tls.and_then(|tls| tls.client_cert_id.as_ref())),
        ];
        all.into_iter().flatten().collect()
    }

    fn remember(&mut self, id: &Arc<str>, route: &Route) {
        self.forget_references(id);
        let references = self.references_of(route);
        for key in &references {
            self.dependents.entry(key.clone()).or_default().insert(id.clone());
        }
        self.references.insert(id.clone(), references);
    }

    fn forget_references(&mut self, id: &Arc<str>) {
        for key in self.references.remove(id).into_iter().flatten() {
            if let Some(set) = self.dependents.get_mut(&key) {
                set.remove(id);
                if set.is_empty() {
                    self.dependents.remove(&key);
                }
            }
        }
    }

    fn forget(&mut self, id: &Arc<str>) {
        self.forget_references(id);
        self.end_route_checks(id);
        self.compiled.remove(id);
        self.body_readers.remove(id);
    }

    fn compile_route(
        &mut self,
        id: &Arc<str>,
        route: &Route,
        work: &mut Work,
    ) -> Result<RouteSpec<Arc<CompiledRoute>>, String> {
        let scripts = self.env.scripts().cloned();
        let owner = format!("routes/{id}");
        let filter = match (&route.filter_func, &scripts) {
            (None, _) => None,
            (Some(source), Some(scripts)) => Some(scripts.predicate(&owner, source)),
            (Some(_), None) => return Err("filter_func: there is no Lua here, the route is left out".into()),
        };
        // A script stands in for the plugins (apisix/init.lua).
        let script = match (&route.script, &scripts) {
            (None, _) if route.script_id.is_none() => None,
            (Some(source), Some(scripts)) => Some(script_entry(scripts.route_script(&owner, source), source)),
            // One that returns nothing has no phases and does nothing (apisix/script.lua).
            (Some(source), None) if !source.contains("return") => Some(Vec::new()),
            _ => return Err("script: it cannot be run, the route is left out".into()),
        };
        let service = route.service_id.as_deref().and_then(|s| self.services.get(s).cloned());
        let trouble = if route.service_id.is_some() && service.is_none() {
            Some(RouteTrouble::MissingService)
        } else if route.plugin_config_id.as_deref().is_some_and(|p| !self.plugin_configs.contains_key(p)) {
            Some(RouteTrouble::MissingPluginConfig)
        } else {
            None
        };
        let entries = match script {
            Some(script) => script,
            None => self.merged_entries(id, route, work),
        };
        let chain = match entries.is_empty() {
            true => self.snapshot.empty_chain.clone(),
            false => Arc::new(Chain::new(entries.clone())),
        };
        let hosts = match &service {
            Some(service) if route.hosts.is_empty() => &service.hosts,
            _ => &route.hosts,
        };
        let spec = conditions(id, route, hosts)?;
        // last of what may fail: from here on the new nodes are those whose health is checked
        let upstream = self.route_upstream(id, route, work)?;
        let arcs = |list: &[String]| list.iter().map(|s| Arc::<str>::from(s.as_str())).collect();
        let info = RouteInfo {
            route_id: id.clone(),
            route_name: route.name.as_deref().map(Into::into),
            service_id: route.service_id.as_deref().map(Into::into),
            service_name: service.as_ref().and_then(|s| s.name.as_deref()).map(Into::into),
            labels: route.labels.clone(),
            uris: arcs(&route.uris),
            hosts: hosts.iter().map(|h| Arc::<str>::from(h.to_ascii_lowercase())).collect(),
            objects: entries.iter().any(|e| e.info.objects).then(|| Arc::new(self.objects_of(id, route))),
        };
        let enable_websocket =
            route.enable_websocket.or(service.as_ref().and_then(|s| s.enable_websocket)).unwrap_or(false);
        let compiled = Arc::new(CompiledRoute {
            info: Arc::new(info),
            chain,
            entries,
            upstream,
            timeouts: route.timeout.as_ref().map(timeouts),
            enable_websocket,
            trouble,
        });
        let reads_body = spec.vars.as_ref().is_some_and(|v| v.needs_request_body());
        if reads_body || filter.as_ref().is_some_and(|f| f.reads_body()) {
            self.body_readers.insert(id.clone());
        } else {
            self.body_readers.remove(id);
        }
        self.compiled.insert(id.clone(), compiled.clone());
        Ok(RouteSpec { filter, ..spec.with_handle(compiled) })
    }

    /// What plugins see of the stored route. Its plugins are those that run: those of its plugin config and service stand below
    /// its own (apisix/plugin.lua `merge_service_route`).
    fn objects_of(&self, id: &Arc<str>, route: &Route) -> RouteObjects {
        let stored = |kind, id: &str| {
            let mut body = self.accepted_one(kind, id)?;
            body.as_object_mut()?.remove("upstream");
            Some(body)
        };
        let mut seen = stored(Kind::Route, id).unwrap_or_default();
        let service = route.service_id.as_deref().and_then(|service| stored(Kind::Service, service));
        let shared = route.plugin_config_id.as_deref().and_then(|shared| stored(Kind::PluginConfig, shared));
        for below in [&shared, &service].into_iter().flatten() {
            let Some(plugins) = below["plugins"].as_object() else { continue };
            let Some(seen) = seen.as_object_mut() else { continue };
            let own = seen.entry("plugins").or_insert_with(|| Value::Object(serde_json::Map::new()));
            let Some(own) = own.as_object_mut() else { continue };
            for (name, config) in plugins {
                own.entry(name.clone()).or_insert_with(|| config.clone());
            }
        }
        RouteObjects { route: seen, service }
    }

    /// Route over plugin config over service, by plugin name.
    fn merged_entries(&self, id: &Arc<str>, route: &Route, work: &mut Work) -> Vec<ChainEntry> {
        let mut entries = self.entries(&route.plugins, ChainSource::Route, Kind::Route, id, work);
        let shared = [(Kind::PluginConfig, &route.plugin_config_id), (Kind::Service, &route.service_id)];
        for (kind, reference) in shared {
            let Some(reference) = reference.as_deref() else { continue };
            let Some(more) = self.shared_entries.get(&(kind, reference.into())) else { continue };
            for entry in more.iter() {
                // A plugin that the route disables stands in the way of the service's, too.
                let named = route.plugins.contains_key(entry.info.name)
                    || entries.iter().any(|e| e.info.name == entry.info.name);
                if !named {
                    entries.push(entry.clone());
                }
            }
        }
        entries
    }

    /// The route has no upstream of its own any more, whatever requests still use it.
    fn end_route_checks(&self, id: &str) {
        if let Some(RouteUpstream::Found(upstream)) = self.compiled.get(id).map(|route| &route.upstream)
            && upstream.key.strip_prefix("routes/") == Some(id)
        {
            self.end_checks(upstream);
        }
    }

    /// APISIX's order: the route's `upstream_id`, its `upstream`, then the service's likewise (apisix/init.lua
    /// `handle_upstream`, apisix/plugin.lua `merge_service_route`).
    fn route_upstream(&self, id: &Arc<str>, route: &Route, work: &mut Work) -> Result<RouteUpstream, String> {
        if route.upstream.is_none() || route.upstream_id.is_some() {
            self.end_route_checks(id);
        }
        let by_id = |id: &str| self.upstreams.get(id).cloned().map_or(RouteUpstream::Missing, RouteUpstream::Found);
        if let Some(id) = &route.upstream_id {
            return Ok(by_id(id));
        }
        if let Some(typed) = &route.upstream {
            if let Some(message) = missing_certificate(typed, &self.ssls) {
                self.end_route_checks(id);
                work.problem(Kind::Route, id, "/upstream/tls/client_cert_id", message);
                return Ok(RouteUpstream::Missing);
            }
            let previous = self.compiled.get(id).and_then(|old| match &old.upstream {
                RouteUpstream::Found(upstream) if upstream.key.starts_with("routes/") => Some(upstream.clone()),
                _ => None,
            });
            let upstream = self.compile_inline(&format!("routes/{id}"), typed, previous.as_deref(), work);
            return upstream.map(RouteUpstream::Found).map_err(|m| format!("upstream: {m}"));
        }
        let Some(service_id) = route.service_id.as_deref() else { return Ok(RouteUpstream::None) };
        if let Some(id) = self.services.get(service_id).and_then(|s| s.upstream_id.as_deref()) {
            return Ok(by_id(id));
        }
        if let Some(upstream) = self.service_upstreams.get(service_id) {
            return Ok(RouteUpstream::Found(upstream.clone()));
        }
        let has = self.services.get(service_id).is_some_and(|service| service.upstream.is_some());
        Ok(if has { RouteUpstream::Missing } else { RouteUpstream::None })
    }
}

/// A route's script as the one plugin of its chain.
fn script_entry(plugin: Arc<dyn Plugin>, source: &str) -> Vec<ChainEntry> {
    let info = Info::new("script", 0, Phases::ALL).request_body();
    let config = serde_json::json!({"script": source});
    vec![ChainEntry {
        info,
        priority: info.priority,
        plugin,
        filter: None,
        error_response: None,
        source: ChainSource::Route,
        config: Arc::new(config),
        filter_reads_body: false,
        overrides: false,
    }]
}
