//! Resources as they were meant: encrypted fields decrypted, references replaced by their values; and which resources are
//! to be compiled again when a value arrives or changes.
//!
//! The surprise: references count only where APISIX looks for them (configurations of plugins, ssl objects, certificates of
//! upstreams) and in settings of secret managers, where `$env://` alone does. Elsewhere the text is just text.
use super::{Applied, Compiler, Object, Problem, Work};
use foldhash::{HashMap, HashSet};
use serde_json::Value;
use sluice_model::Kind;
use sluice_model::validate::PluginScope;
use sluice_plugin::{Registry, Scope};
use sluice_secret::{
    Found, Keyring, Resolution, SecretFields, SecretStore, StoreSettings, environment, resolve, reveal,
};
use std::sync::Arc;

type Key = (Kind, Arc<str>);
/// A reference and what took its place.
type Used = (Arc<str>, Option<Value>);

/// What the compiler keeps of secrets.
pub(super) struct Secrets {
    pub store: Arc<SecretStore>,
    pub keyring: Arc<Keyring>,
    /// `$secret://` references and the resources that hold them.
    users: HashMap<Arc<str>, HashSet<Key>>,
    /// All references of a resource, `$env://` too, and what took their places.
    used: HashMap<Key, Vec<Used>>,
    /// A reference may be without users.
    loose: bool,
}

impl Default for Secrets {
    fn default() -> Secrets {
        Secrets {
            store: SecretStore::new(StoreSettings::default()),
            keyring: Arc::default(),
            users: HashMap::default(),
            used: HashMap::default(),
            loose: false,
        }
    }
}

/// The fields that a registry's plugins want encrypted at rest.
pub struct PluginSecrets<'a>(pub &'a Registry);

impl SecretFields for PluginSecrets<'_> {
    fn secret_fields(&self, plugin: &str, scope: PluginScope) -> Option<&[String]> {
        let scope = match scope {
            PluginScope::Route => Scope::Route,
            PluginScope::Consumer => Scope::Consumer,
            PluginScope::Metadata => Scope::Metadata,
            PluginScope::Stream => Scope::Stream,
        };
        self.0.secret_fields(plugin, scope)
    }
}

impl Secrets {
    /// Which references a resource holds now; what is not to be had is logged (apisix/secret.lua `retrieve_refs`).
    pub(super) fn remember(&mut self, kind: Kind, id: &Arc<str>, resolution: &Resolution) {
        for unresolved in &resolution.unresolved {
            if let Some(why) = &unresolved.why {
                let (reference, field) = (&unresolved.reference, &unresolved.field);
                tracing::error!(
                    "failed to resolve secret reference: {reference}, field: {field}, err: {why} ({}/{id})",
                    kind.dir()
                );
            }
        }
        self.forget(kind, id);
        if resolution.used.is_empty() {
            return;
        }
        for (reference, _) in resolution.used.iter().filter(|(reference, _)| environment(reference).is_none()) {
            self.users.entry(reference.clone()).or_default().insert((kind, id.clone()));
        }
        self.used.insert((kind, id.clone()), resolution.used.clone());
    }

    pub(super) fn forget(&mut self, kind: Kind, id: &Arc<str>) {
        if self.used.is_empty() {
            return;
        }
        for (reference, _) in self.used.remove(&(kind, id.clone())).into_iter().flatten() {
            if let Some(users) = self.users.get_mut(&reference) {
                users.remove(&(kind, id.clone()));
                if users.is_empty() {
                    self.users.remove(&reference);
                    self.loose = true;
                }
            }
        }
    }

    /// Lets the store forget what nobody uses any more.
    pub(super) fn clean_up(&mut self) {
        if std::mem::take(&mut self.loose) {
            self.store.retain(|reference| self.users.contains_key(reference));
        }
    }

    /// Takes the values of references out of messages.
    pub(super) fn redact(&self, problems: &mut [Problem]) {
        if self.used.is_empty() {
            return;
        }
        for problem in problems {
            let Some(used) = self.used.get(&(problem.kind, problem.id.clone())) else { continue };
            let resolution = Resolution { used: used.clone(), ..Resolution::default() };
            problem.message = resolution.redact(&problem.message);
        }
    }

    /// A plugin's configuration as it may be shown: references where their values took effect.
    pub(super) fn shown(&self, kind: Kind, id: &Arc<str>, config: &Value) -> Value {
        let mut config = config.clone();
        if !self.used.is_empty()
            && let Some(used) = self.used.get(&(kind, id.clone()))
        {
            show_references(&mut config, used);
        }
        config
    }
}

fn show_references(value: &mut Value, used: &[(Arc<str>, Option<Value>)]) {
    if let Some((reference, _)) = used.iter().find(|(_, known)| known.as_ref() == Some(value)) {
        *value = Value::String(reference.to_string());
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| show_references(item, used)),
        Value::Object(fields) => fields.values_mut().for_each(|field| show_references(field, used)),
        _ => {}
    }
}

impl Compiler {
    /// Makes a stored body what was meant by it.
    pub(super) fn plain(&self, kind: Kind, id: &str, body: &mut Value) -> Resolution {
        reveal(kind, id, body, &self.secrets.keyring, &PluginSecrets(&self.registry));
        let mut found = Resolution::default();
        let any = |text: &str| self.secrets.store.get(text);
        let variables =
            |text: &str| environment(text).map(|v| v.map_or_else(|e| Found::Missing(e.into()), Found::Value));
        match kind {
            Kind::Secret => resolve(body, &variables, &mut found),
            Kind::Ssl | Kind::PluginMetadata => resolve(body, &any, &mut found),
            Kind::Upstream => within(body.get_mut("tls"), &any, &mut found),
            Kind::Proto => {}
            _ => {
                within(body.get_mut("plugins"), &any, &mut found);
                within(body.pointer_mut("/upstream/tls"), &any, &mut found);
            }
        }
        found
    }

    /// Tells the store of the secret managers, where they changed.
    pub(super) fn configure_secrets(&self, work: &Work) {
        let changed = work.changed.iter().map(|(kind, ..)| kind).chain(work.deleted.iter().map(|(kind, _)| kind));
        if changed.into_iter().any(|kind| *kind == Kind::Secret) {
            let all = self.accepted(Kind::Secret).into_iter().map(|(id, body)| (id, Arc::new(body)));
            self.secrets.store.configure(all.collect());
        }
    }

    /// The store of secrets, for who waits for its news.
    pub fn secrets(&self) -> &Arc<SecretStore> {
        &self.secrets.store
    }

    /// Compiles the resources that hold these references again: their values changed ([`SecretStore::changed`]).
    pub fn recompile(&mut self, references: &[Arc<str>]) -> Applied {
        let mut keys: Vec<Key> =
            references.iter().filter_map(|r| self.secrets.users.get(r)).flatten().cloned().collect();
        keys.sort();
        keys.dedup();
        let mut work = Work::default();
        for (kind, id) in keys {
            if let Some(body) = self.object(kind, &id).cloned() {
                self.accept(Object { kind, id, body }, &mut work);
            }
        }
        if work.is_empty() {
            return work.applied(self.snapshot.clone());
        }
        self.compile(work)
    }
}

fn within(part: Option<&mut Value>, lookup: &dyn Fn(&str) -> Option<Found>, found: &mut Resolution) {
    if let Some(part) = part {
        resolve(part, lookup, found);
    }
}

#[cfg(test)]
mod tests;
