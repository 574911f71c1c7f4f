//! Plugins of a resource to chain entries.
use super::{Compiler, Work};
use serde_json::{Map, Value};
use sluice_expr::Expr;
use sluice_model::Kind;
use sluice_plugin::{
    Chain, ChainEntry, ChainSource, Context, Env, Flow, Info, NamedPlugin, Phase, Phases, Plugin, Reply,
};
use std::sync::Arc;

/// Stands for a plugin that cannot be built because the text of a reference stands where its secret should.
struct Withheld;

impl Plugin for Withheld {
    fn rewrite<'a>(&'a self, _: &'a mut Context) -> Flow<'a> {
        Flow::reply(Reply::status(503))
    }
}

fn stops_requests(phases: Phases) -> bool {
    phases.has(Phase::Rewrite) || phases.has(Phase::Access)
}

/// Whether a reference was not resolved.
fn holds_reference(config: &Value) -> bool {
    match config {
        Value::String(text) => sluice_model::secret::is_reference(text),
        Value::Array(items) => items.iter().any(holds_reference),
        Value::Object(fields) => fields.values().any(holds_reference),
        _ => false,
    }
}

impl Compiler {
    /// Builds the plugins of a resource. One that cannot be built is reported and left out.
    pub(super) fn entries(
        &self,
        plugins: &Map<String, Value>,
        source: ChainSource,
        kind: Kind,
        id: &Arc<str>,
        work: &mut Work,
    ) -> Vec<ChainEntry> {
        let env = self.env.for_resource(&format!("{}/{id}", kind.dir()), self.snapshot.revision + 1);
        let mut entries = Vec::with_capacity(plugins.len());
        for (name, config) in plugins {
            match self.entry(name, config, source, &env) {
                Ok(Some(mut entry)) => {
                    entry.config = Arc::new(self.secrets.shown(kind, id, config));
                    entries.push(entry);
                }
                Ok(None) => {}
                Err(message) => work.problem(kind, id, &format!("/plugins/{name}"), message),
            }
        }
        entries
    }

    fn entry(&self, name: &str, config: &Value, source: ChainSource, env: &Env) -> Result<Option<ChainEntry>, String> {
        let Some(definition) = self.registry.get(name) else {
            return not_enabled(name, self.registry.knows(name), &env.resource_key).map(|()| None);
        };
        let meta = &config["_meta"];
        if meta["disable"].as_bool() == Some(true) {
            return Ok(None);
        }
        let filter = match &meta["filter"] {
            Value::Null => None,
            filter => Some(Arc::new(Expr::compile(filter).map_err(|e| e.0)?)),
        };
        let (mut info, mut plugin) = match (definition.build)(config, env) {
            Ok(plugin) => (definition.info, plugin),
            // Left out, it would let pass what it is there to stop, for as long as its secret is not to be had.
            Err(error) if stops_requests(definition.info.phases) && holds_reference(config) => {
                let info = Info::new(definition.info.name, definition.info.priority, Phases::REWRITE);
                tracing::error!(
                    "plugin {name} of {} answers 503 until its secret is to be had: {error}",
                    env.resource_key
                );
                (info, Arc::new(Withheld) as Arc<dyn Plugin>)
            }
            Err(error) => return Err(error.0),
        };
        if let Some(source) = meta["pre_function"].as_str() {
            let scripts = env.scripts().ok_or("_meta.pre_function: there is no Lua here")?;
            plugin = scripts.pre_function(&env.resource_key, config, source, NamedPlugin { name: info.name, plugin });
            info.request_body = true;
        }
        Ok(Some(ChainEntry {
            info,
            priority: meta["priority"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(info.priority),
            filter_reads_body: filter.as_ref().is_some_and(|f| f.needs_request_body()),
            overrides: meta[if source == ChainSource::GlobalRule { "allow_override" } else { "override" }] == true,
            plugin,
            filter,
            error_response: match &meta["error_response"] {
                Value::Null => None,
                body => Some(Arc::new(body.clone())),
            },
            source,
            config: Arc::default(),
        }))
    }

    /// Builds the plugins of a checked body whose build may refuse what their schema allows, and drops them again
    /// (APISIX has such checks in `check_schema`: apisix/plugins/limit-count/init.lua).
    pub fn try_build(&self, kind: Kind, id: &str, body: &Value) -> Result<(), String> {
        let plugins = body.get("plugins").and_then(Value::as_object).into_iter().flatten();
        for (name, config) in plugins {
            let disabled = config["_meta"]["disable"].as_bool() == Some(true);
            let Some(definition) = self.registry.get(name).filter(|d| d.info.refuses && !disabled) else { continue };
            let env = self.env.for_resource(&format!("{}/{id}", kind.dir()), self.snapshot.revision + 1);
            (definition.build)(config, &env)
                .map_err(|e| format!("failed to check the configuration of plugin {name} err: {}", e.0))?;
        }
        Ok(())
    }

    /// Services and plugin configs that changed: their plugins are built once for all of their routes.
    pub(super) fn compile_shared(&mut self, work: &mut Work, kinds: &foldhash::HashSet<Kind>) {
        for kind in [Kind::Service, Kind::PluginConfig] {
            for id in work.deleted_of(kind) {
                self.shared_entries.remove(&(kind, id.clone()));
                if kind == Kind::PluginConfig {
                    self.plugin_configs.remove(&id);
                    continue;
                }
                self.services_of_upstream(&id, None);
                self.services.remove(&id);
                if let Some(upstream) = self.service_upstreams.remove(&id) {
                    self.end_checks(&upstream);
                }
            }
        }
        let all = kinds.contains(&Kind::PluginMetadata);
        if kinds.contains(&Kind::Ssl) {
            self.services_showing(work);
        }
        let services = if all { self.accepted(Kind::Service) } else { work.changed_of(Kind::Service) };
        for (id, body) in services {
            work.compiled.insert((Kind::Service, id.clone()));
            match serde_json::from_value::<sluice_model::Service>(body) {
                Ok(service) => {
                    let entries = self.entries(&service.plugins, ChainSource::Service, Kind::Service, &id, work);
                    self.shared_entries.insert((Kind::Service, id.clone()), Arc::new(entries));
                    self.compile_service_upstream(&id, &service, work);
                    self.services_of_upstream(&id, service.upstream_id.as_deref());
                    self.services.insert(id, Arc::new(service));
                }
                Err(e) => work.problem(Kind::Service, &id, "", e.to_string()),
            }
        }
        let configs = if all { self.accepted(Kind::PluginConfig) } else { work.changed_of(Kind::PluginConfig) };
        for (id, body) in configs {
            work.compiled.insert((Kind::PluginConfig, id.clone()));
            match serde_json::from_value::<sluice_model::PluginConfig>(body) {
                Ok(config) => {
                    let entries =
                        self.entries(&config.plugins, ChainSource::PluginConfig, Kind::PluginConfig, &id, work);
                    self.shared_entries.insert((Kind::PluginConfig, id.clone()), Arc::new(entries));
                    self.plugin_configs.insert(id, Arc::new(config));
                }
                Err(e) => work.problem(Kind::PluginConfig, &id, "", e.to_string()),
            }
        }
    }

    /// Services whose own upstream shows a client certificate that changed: they change with it.
    fn services_showing(&self, work: &mut Work) {
        let changed = work.changed.iter().map(|(kind, id, _)| (*kind, id));
        let ids = changed.chain(work.deleted.iter().map(|(kind, id)| (*kind, id)));
        let ssls: foldhash::HashSet<Arc<str>> =
            ids.filter(|(kind, _)| *kind == Kind::Ssl).map(|(_, id)| id.clone()).collect();
        let shows = |service: &sluice_model::Service| {
            let tls = service.upstream.as_ref().and_then(|upstream| upstream.tls.as_ref());
            tls.and_then(|tls| tls.client_cert_id.as_deref()).is_some_and(|id| ssls.contains(id))
        };
        let named = |id: &Arc<str>| work.changed.iter().any(|(kind, other, _)| *kind == Kind::Service && other == id);
        let mut showing: Vec<_> = self
            .services
            .iter()
            .filter(|(id, service)| shows(service) && !named(id))
            .map(|(id, _)| id.clone())
            .collect();
        showing.sort();
        for id in showing {
            if let Some(body) = self.accepted_one(Kind::Service, &id) {
                work.changed.push((Kind::Service, id, body));
            }
        }
    }

    /// Remembers which upstream a service names; called while its last form is still there.
    fn services_of_upstream(&mut self, id: &Arc<str>, upstream: Option<&str>) {
        let old = self.services.get(id).and_then(|service| service.upstream_id.as_deref());
        if let Some(old) = old
            && let Some(all) = self.services_by_upstream.get_mut(old)
        {
            all.remove(id);
            if all.is_empty() {
                self.services_by_upstream.remove(old);
            }
        }
        if let Some(upstream) = upstream {
            self.services_by_upstream.entry(upstream.into()).or_default().insert(id.clone());
        }
    }

    /// All global rules as one chain. A plugin that stands in several rules runs in none (apisix/plugin.lua
    /// `merge_global_rules`).
    pub(super) fn compile_global(&mut self, work: &mut Work) -> Chain {
        let mut entries: Vec<ChainEntry> = Vec::new();
        let mut twice = Vec::new();
        for (id, body) in self.accepted(Kind::GlobalRule) {
            work.compiled.insert((Kind::GlobalRule, id.clone()));
            let Some(plugins) = body["plugins"].as_object() else { continue };
            for entry in self.entries(plugins, ChainSource::GlobalRule, Kind::GlobalRule, &id, work) {
                if entries.iter().any(|e| e.info.name == entry.info.name) {
                    let message = "configured in several global rules: it runs in none of them";
                    work.problem(Kind::GlobalRule, &id, &format!("/plugins/{}", entry.info.name), message);
                    twice.push(entry.info.name);
                } else {
                    entries.push(entry);
                }
            }
        }
        entries.retain(|e| !twice.contains(&e.info.name));
        Chain::new(entries)
    }
}

/// A plugin that the lists of config.yaml switch off does not run, and takes nothing else with it (apisix/plugin.lua `check_schema`
/// with `skip_disabled_plugin`). One that nobody knows is a mistake, or is not there yet: its object must not serve without it.
pub(super) fn not_enabled(name: &str, known: bool, owner: &str) -> Result<(), String> {
    if !known {
        return Err(format!("unknown plugin [{name}]"));
    }
    tracing::warn!("plugin {name} of {owner} is not enabled in config.yaml; it does not run");
    Ok(())
}
