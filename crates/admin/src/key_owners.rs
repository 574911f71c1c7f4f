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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_model::Body;
    use sluice_store::Entry;
    use std::time::Instant;

    fn put(state: &mut State, id: &str, key: &str) {
        state.revision += 1;
        let key_path = Key::of(Kind::Consumer, id);
        let body = Body::of(&json!({"username": id, "plugins": {"key-auth": {"key": key}}}));
        let modified = state.revision;
        state.entries.insert(key_path.clone(), Entry { key: key_path, body, created: 1, modified, expires: None });
    }

    fn owner(owners: &KeyOwners, key: &str) -> Option<String> {
        owners.find("key-auth", "key", key).map(|owner| owner.consumer)
    }

    #[test]
    fn changes_and_deletions_are_followed() {
        let (mut state, mut owners) = (State::default(), KeyOwners::default());
        let plain = |_: Kind, _: &mut Value| {};
        put(&mut state, "a", "1");
        put(&mut state, "b", "2");
        owners.follow(&state, &plain);
        assert_eq!((owner(&owners, "1"), owner(&owners, "2")), (Some("a".into()), Some("b".into())));
        put(&mut state, "a", "3");
        owners.follow(&state, &plain);
        assert_eq!((owner(&owners, "1"), owner(&owners, "3")), (None, Some("a".into())));
        state.entries.remove(&Key::of(Kind::Consumer, "b"));
        state.revision += 1;
        owners.follow(&state, &plain);
        assert_eq!(owner(&owners, "2"), None);
    }

    #[test]
    fn one_more_of_ten_thousand_does_not_read_the_others_again() {
        let (mut state, mut owners) = (State::default(), KeyOwners::default());
        for i in 0..10_000 {
            put(&mut state, &format!("c{i}"), &format!("k{i}"));
        }
        let read = std::cell::Cell::new(0);
        let count = |_: Kind, _: &mut Value| read.set(read.get() + 1);
        owners.follow(&state, &count);
        assert_eq!(read.replace(0), 10_000);
        put(&mut state, "new", "new");
        let begin = Instant::now();
        owners.follow(&state, &count);
        let took = begin.elapsed();
        assert_eq!((read.get(), owner(&owners, "new")), (1, Some("new".into())));
        // Unoptimised and on a busy machine; optimised it is about a millisecond.
        assert!(took.as_millis() < 500, "{took:?}");
    }
}
