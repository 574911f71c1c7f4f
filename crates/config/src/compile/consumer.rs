//! Consumers, their credentials and groups. The surprise: a consumer is compiled with all of its credentials, whichever of
//! them changed; nobody else is.
use super::{Compiler, Work};
use crate::snapshot::{ConsumerPlugins, Snapshot};
use foldhash::HashMap;
use serde_json::{Map, Value};
use sluice_model::{Credential, Kind};
use sluice_plugin::consumer::Identity;
use sluice_plugin::{ChainEntry, ChainSource, Consumer, Consumers};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the compiler keeps of consumers.
#[derive(Default)]
pub(super) struct Users {
    by_name: HashMap<Arc<str>, User>,
    /// The name in a stored consumer, by id.
    names: HashMap<Arc<str>, Arc<str>>,
    /// Users who have plugins of their own or a group.
    bringing: usize,
}

/// A consumer's name and what is stored under it.
#[derive(Default)]
struct User {
    /// Stored consumers of this name, their last good form by id: one, unless a file names it twice.
    consumers: std::collections::BTreeMap<Arc<str>, Arc<Value>>,
    /// Ids of its credentials.
    credentials: BTreeSet<Arc<str>>,
    /// Its keys in the index, by plugin.
    keys: Vec<(&'static str, Arc<str>)>,
    brings: bool,
}

/// The user of a credential.
fn user_of(id: &str) -> Option<Arc<str>> {
    Credential::split_id(id).map(|(username, _)| username.into())
}

impl Compiler {
    /// Consumers that changed, or whose credentials did, and groups.
    pub(super) fn compile_consumers(&mut self, work: &mut Work, all: bool, next: &mut Snapshot) {
        self.compile_groups(work, all, next);
        let affected = self.affected_users(work, all);
        if affected.is_empty() {
            return;
        }
        let mut consumers = (*next.consumers).clone();
        for username in affected {
            let Some(mut user) = self.users.by_name.remove(&username) else { continue };
            for (plugin, key) in user.keys.drain(..) {
                consumers.remove_key(plugin, &key, &username);
            }
            consumers.remove(&username);
            next.consumer_plugins.remove(&username);
            self.users.bringing -= usize::from(std::mem::take(&mut user.brings));
            self.compile_user(&username, &mut user, &mut consumers, next, work);
            self.users.bringing += usize::from(user.brings);
            if !user.consumers.is_empty() || !user.credentials.is_empty() {
                self.users.by_name.insert(username, user);
            }
        }
        next.consumers = Arc::new(consumers);
        next.consumers_bring_plugins = self.users.bringing > 0;
    }

    fn compile_groups(&mut self, work: &mut Work, all: bool, next: &mut Snapshot) {
        for id in work.deleted_of(Kind::ConsumerGroup) {
            next.consumer_groups.remove(&id);
        }
        let changed = if all { self.accepted(Kind::ConsumerGroup) } else { work.changed_of(Kind::ConsumerGroup) };
        for (id, body) in changed {
            work.compiled.insert((Kind::ConsumerGroup, id.clone()));
            let plugins = body["plugins"].as_object();
            let entries = self.own_entries(plugins, ChainSource::ConsumerGroup, Kind::ConsumerGroup, &id, work);
            next.consumer_groups.insert(id, Arc::new(entries));
        }
    }

    /// Takes note of what changed; says whom it concerns.
    fn affected_users(&mut self, work: &mut Work, all: bool) -> BTreeSet<Arc<str>> {
        let mut affected = BTreeSet::new();
        for id in work.deleted_of(Kind::Consumer) {
            affected.extend(self.users.forget(&id));
        }
        for id in work.deleted_of(Kind::Credential) {
            if let Some(username) = user_of(&id) {
                if let Some(user) = self.users.by_name.get_mut(&username) {
                    user.credentials.remove(&id);
                }
                affected.insert(username);
            }
        }
        for (id, body) in work.changed_of(Kind::Consumer) {
            affected.extend(self.users.forget(&id));
            let username: Arc<str> = body["username"].as_str().unwrap_or_default().into();
            self.users.names.insert(id.clone(), username.clone());
            self.users.by_name.entry(username.clone()).or_default().consumers.insert(id, Arc::new(body));
            affected.insert(username);
        }
        for (id, _) in work.changed_of(Kind::Credential) {
            let Some(username) = user_of(&id) else {
                work.problem(Kind::Credential, &id, "/id", "a credential's id is <username>/credentials/<id>");
                continue;
            };
            self.users.by_name.entry(username.clone()).or_default().credentials.insert(id);
            affected.insert(username);
        }
        if all {
            affected.extend(self.users.by_name.keys().cloned());
        }
        affected
    }

    fn compile_user(
        &self,
        username: &Arc<str>,
        user: &mut User,
        consumers: &mut Consumers,
        next: &mut Snapshot,
        work: &mut Work,
    ) {
        for (id, body) in user.consumers.clone() {
            work.compiled.insert((Kind::Consumer, id.clone()));
            let typed: sluice_model::Consumer = match serde_json::from_value((*body).clone()) {
                Ok(typed) => typed,
                Err(e) => {
                    work.problem(Kind::Consumer, &id, "", e.to_string());
                    continue;
                }
            };
            let group: Option<Arc<str>> = typed.group_id.as_deref().map(Into::into);
            let consumer = Arc::new(Consumer {
                username: username.clone(),
                group_id: group.clone(),
                labels: typed.labels.clone(),
                raw: (*body).clone(),
            });
            consumers.add(consumer.clone());
            self.index(consumers, user, &consumer, None, &typed.plugins, Kind::Consumer, &id, work);
            let entries = self.own_entries(Some(&typed.plugins), ChainSource::Consumer, Kind::Consumer, &id, work);
            user.brings = !entries.is_empty() || group.is_some();
            next.consumer_plugins.insert(username.clone(), Arc::new(ConsumerPlugins { entries, group }));
        }
        for id in user.credentials.clone() {
            work.compiled.insert((Kind::Credential, id.clone()));
            let Some(consumer) = consumers.by_name(username).cloned() else {
                work.problem(Kind::Credential, &id, "/id", format!("consumer {username} does not exist"));
                continue;
            };
            let Some(body) = self.accepted_one(Kind::Credential, &id) else { continue };
            let none = Map::new();
            let auth = body["plugins"].as_object().unwrap_or(&none);
            let credential = Credential::split_id(&id).map(|(_, own)| Arc::from(own));
            self.index(consumers, user, &consumer, credential, auth, Kind::Credential, &id, work);
        }
    }

    /// Plugins but auth plugins: those only say how a consumer is recognised.
    fn own_entries(
        &self,
        plugins: Option<&Map<String, Value>>,
        source: ChainSource,
        kind: Kind,
        id: &Arc<str>,
        work: &mut Work,
    ) -> Vec<ChainEntry> {
        let auth = |name: &str| self.registry.get(name).is_some_and(|d| d.consumer.is_some());
        let own = plugins.map(|p| p.iter().filter(|(n, _)| !auth(n)).map(|(n, c)| (n.clone(), c.clone())).collect());
        self.entries(&own.unwrap_or_default(), source, kind, id, work)
    }

    #[allow(clippy::too_many_arguments, reason = "one call site each for consumers and credentials")]
    fn index(
        &self,
        consumers: &mut Consumers,
        user: &mut User,
        consumer: &Arc<Consumer>,
        credential: Option<Arc<str>>,
        plugins: &Map<String, Value>,
        kind: Kind,
        id: &Arc<str>,
        work: &mut Work,
    ) {
        for (name, config) in plugins {
            let Some((definition, auth)) = self.registry.get(name).and_then(|d| d.consumer.map(|c| (d, c))) else {
                continue;
            };
            match (auth.parse)(config) {
                Ok((key, parsed)) => {
                    let identity = Identity::new(consumer.clone(), credential.clone(), parsed, config.clone());
                    consumers.add_key(definition.info.name, &key, Arc::new(identity));
                    user.keys.push((definition.info.name, (*key).into()));
                }
                Err(e) => work.problem(kind, id, &format!("/plugins/{name}"), e.0),
            }
        }
    }
}

impl Users {
    /// Forgets a stored consumer; says whose it was.
    fn forget(&mut self, id: &str) -> Option<Arc<str>> {
        let username = self.names.remove(id)?;
        if let Some(user) = self.by_name.get_mut(&username) {
            user.consumers.remove(id);
        }
        Some(username)
    }
}
