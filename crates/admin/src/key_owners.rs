//! Which consumer or credential has which key: an index over the stored consumers, so that a write need not read all of
//! them. The surprise: it follows the state by comparing revisions of entries, not by watching; what changed since the
//! last look is read anew, the rest is only walked over.
use serde_json::Value;
use sluice_model::{KeyOwner, Kind};
use sluice_store::{Key, State};
use std::collections::HashMap;

/// A plugin, its identifying field, and the value.
type Claim = (Box<str>, Box<str>, Box<str>);

#[derive(Default)]
pub struct KeyOwners {
    revision: u64,
    /// By entry: the revision that was read, and what it claims.
    entries: HashMap<Key, (u64, Vec<Claim>)>,
    owners: HashMap<Claim, Vec<Key>>,
}

impl KeyOwners {
    /// Takes in what changed. `reveal` turns a stored body into a plain one.
    pub fn follow(&mut self, state: &State, reveal: &dyn Fn(Kind, &mut Value)) {
        if self.revision == state.revision && state.revision != 0 {
            return;
        }
        let mut seen = 0;
        for entry in state.below("consumers/") {
            let Some((kind, _)) = entry.key.resource() else { continue };
            seen += 1;
            if self.entries.get(&entry.key).is_some_and(|(read, _)| *read == entry.modified) {
                continue;
            }
            self.forget(&entry.key);
            let mut body = entry.body.value();
            reveal(kind, &mut body);
            let claims = claims(&body);
            for claim in &claims {
                self.owners.entry(claim.clone()).or_default().push(entry.key.clone());
            }
            self.entries.insert(entry.key.clone(), (entry.modified, claims));
        }
        if seen != self.entries.len() {
            let gone: Vec<Key> = self.entries.keys().filter(|key| state.get(key).is_none()).cloned().collect();
            gone.iter().for_each(|key| self.forget(key));
        }
        self.revision = state.revision;
    }

    fn forget(&mut self, key: &Key) {
        let Some((_, claims)) = self.entries.remove(key) else { return };
        for claim in claims {
            if let Some(owners) = self.owners.get_mut(&claim) {
                owners.retain(|owner| owner != key);
                if owners.is_empty() {
                    self.owners.remove(&claim);
                }
            }
        }
    }

    /// Who has this value.
    pub fn find(&self, plugin: &str, field: &str, value: &str) -> Option<KeyOwner> {
        let owners = self.owners.get(&(plugin.into(), field.into(), value.into()))?;
        let (_, id) = owners.first()?.resource()?;
        Some(match id.split_once("/credentials/") {
            Some((consumer, credential)) => {
                KeyOwner { consumer: consumer.to_owned(), credential: Some(credential.to_owned()) }
            }
            None => KeyOwner { consumer: id.to_owned(), credential: None },
        })
    }
}

/// Every text that stands directly in a plugin's configuration may be asked for.
fn claims(body: &Value) -> Vec<Claim> {
    let plugins = body.get("plugins").and_then(Value::as_object).into_iter().flatten();
    let fields = plugins.flat_map(|(plugin, conf)| {
        let fields = conf.as_object().into_iter().flatten();
        fields.filter_map(move |(field, value)| {
            Some((plugin.as_str().into(), field.as_str().into(), value.as_str()?.into()))
        })
    });
    fields.filter(|(plugin, field, _): &Claim| sluice_model::validate::is_key_field(plugin, field)).collect()
}
