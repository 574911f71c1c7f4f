//! Consumers, their credentials and groups.
use super::{Compiler, Work};
use crate::snapshot::ConsumerPlugins;
use foldhash::{HashMap, HashMapExt};
use serde_json::{Map, Value};
use sluice_model::{Credential, Kind};
use sluice_plugin::consumer::Identity;
use sluice_plugin::{ChainEntry, ChainSource, Consumer, Consumers};
use std::sync::Arc;

impl Compiler {
    /// All consumers anew: the indexes by key, and the plugins that each brings.
    pub(super) fn compile_consumers(&mut self, work: &mut Work) -> (Consumers, HashMap<Arc<str>, ConsumerPlugins>) {
        let mut groups: HashMap<Arc<str>, Vec<ChainEntry>> = HashMap::new();
        for (id, body) in self.accepted(Kind::ConsumerGroup) {
            let entries = self.own_entries(
                body["plugins"].as_object(),
                ChainSource::ConsumerGroup,
                Kind::ConsumerGroup,
                &id,
                work,
            );
            groups.insert(id, entries);
        }
        let mut consumers = Consumers::default();
        let mut plugins = HashMap::new();
        for (id, body) in self.accepted(Kind::Consumer) {
            let typed: sluice_model::Consumer = match serde_json::from_value(body.clone()) {
                Ok(typed) => typed,
                Err(e) => {
                    work.problem(Kind::Consumer, &id, "", e.to_string());
                    continue;
                }
            };
            let username: Arc<str> = typed.username.as_str().into();
            let group_id: Option<Arc<str>> = typed.group_id.as_deref().map(Into::into);
            let consumer = Arc::new(Consumer {
                username: username.clone(),
                group_id: group_id.clone(),
                labels: typed.labels.clone(),
                raw: body.clone(),
            });
            consumers.add(consumer.clone());
            self.index(&mut consumers, &consumer, None, &typed.plugins, Kind::Consumer, &id, work);
            let entries = self.own_entries(Some(&typed.plugins), ChainSource::Consumer, Kind::Consumer, &id, work);
            let group = group_id.map(|g| groups.get(&g).cloned().ok_or(()));
            plugins.insert(username, ConsumerPlugins { entries, group });
        }
        for (id, body) in self.accepted(Kind::Credential) {
            let Some((username, credential)) = Credential::split_id(&id) else {
                work.problem(Kind::Credential, &id, "/id", "a credential's id is <username>/credentials/<id>");
                continue;
            };
            let Some(consumer) = consumers.by_name(username).cloned() else {
                work.problem(Kind::Credential, &id, "/id", format!("consumer {username} does not exist"));
                continue;
            };
            let none = Map::new();
            let auth = body["plugins"].as_object().unwrap_or(&none);
            let credential: Arc<str> = credential.into();
            self.index(&mut consumers, &consumer, Some(&credential), auth, Kind::Credential, &id, work);
        }
        (consumers, plugins)
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
        consumer: &Arc<Consumer>,
        credential: Option<&Arc<str>>,
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
                    let identity = Identity::new(consumer.clone(), credential.cloned(), parsed, config.clone());
                    consumers.add_key(definition.info.name, &key, Arc::new(identity));
                }
                Err(e) => work.problem(kind, id, &format!("/plugins/{name}"), e.0),
            }
        }
    }
}
