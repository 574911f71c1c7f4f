//! All that is stored, at one revision.
use crate::key::Key;
use crate::store::{Batch, Event};
use sluice_model::{Body, Kind};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// A stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub body: Body,
    /// Revision that made it (etcd's `create_revision`).
    pub created: u64,
    /// Revision that wrote it last (etcd's `mod_revision`): what `If-Match` compares with.
    pub modified: u64,
    /// When it goes by itself (`?ttl=`).
    pub expires: Option<SystemTime>,
}

/// Every entry, sorted by key.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub revision: u64,
    pub entries: BTreeMap<Key, Entry>,
}

impl State {
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The entries whose keys begin with `prefix`, in the order of keys.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Entry> + 'a {
        let from: std::ops::Bound<&str> = std::ops::Bound::Included(prefix);
        self.entries
            .range::<str, _>((from, std::ops::Bound::Unbounded))
            .take_while(move |(key, _)| key.as_str().starts_with(prefix))
            .map(|(_, entry)| entry)
    }

    /// The resources of a kind. Of one that stands below another (credentials) those of every parent.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&str, &Entry)> {
        let dir = match kind {
            Kind::Credential => "consumers/",
            Kind::Route => "routes/",
            Kind::Service => "services/",
            Kind::Upstream => "upstreams/",
            Kind::Consumer => "consumers/",
            Kind::ConsumerGroup => "consumer_groups/",
            Kind::PluginConfig => "plugin_configs/",
            Kind::GlobalRule => "global_rules/",
            Kind::PluginMetadata => "plugin_metadata/",
            Kind::Ssl => "ssls/",
            Kind::Proto => "protos/",
            Kind::Secret => "secrets/",
            Kind::StreamRoute => "stream_routes/",
            Kind::GraphqlCostDecoration => "services/",
        };
        self.below(dir)
            .filter_map(move |entry| entry.key.resource().filter(|(own, _)| *own == kind).map(|(_, id)| (id, entry)))
    }

    /// Takes in what changed.
    pub fn advance(&mut self, batch: &Batch) {
        for event in &batch.events {
            match event {
                Event::Put(entry) => drop(self.entries.insert(entry.key.clone(), entry.clone())),
                Event::Delete(key) => drop(self.entries.remove(key)),
            }
        }
        self.revision = batch.revision;
    }
}
