//! The configuration that was declared last, and what changes in the store with the next. It lives as long as the process,
//! as in APISIX.
use super::{SECTIONS, kind_of, version_key};
use serde_json::{Map, Value};
use sluice_model::{Body, id};
use sluice_store::key::PLUGINS;
use sluice_store::{Expect, Key, Op, State};
use std::collections::BTreeMap;

/// What was declared, with its versions and metadata; nothing before the first time.
#[derive(Default)]
pub(crate) struct Declared {
    config: Map<String, Value>,
    /// The `modifiedIndex` of what is in force, where it was given.
    indexes: BTreeMap<Key, Value>,
}

impl Declared {
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    pub fn set(&mut self, name: &str, value: Value) {
        self.config.insert(name.to_owned(), value);
    }

    /// As `GET` answers it.
    pub fn shown(&self) -> Map<String, Value> {
        if !self.config.is_empty() {
            return self.config.clone();
        }
        SECTIONS.iter().map(|section| (version_key(section), 0.into())).collect()
    }

    /// What `body` makes of it; an error where a version went back.
    pub fn next(&self, mut body: Map<String, Value>) -> Result<Declared, String> {
        let mut config = Map::new();
        for section in SECTIONS {
            let key = version_key(section);
            let old = self.config.get(&key).cloned().unwrap_or_else(|| 0.into());
            let given = body.shift_remove(&key).filter(Value::is_number);
            let new = match given {
                Some(new) if number(&new) < number(&old) => {
                    return Err(format!("{key} must be greater than or equal to ({old})"));
                }
                Some(new) => new,
                None => old.as_i64().map_or_else(|| (number(&old) + 1.0).into(), |old| old.saturating_add(1).into()),
            };
            let items = if number(&new) == number(&old) {
                self.config.get(section).cloned()
            } else {
                body.shift_remove(section).filter(|items| items.as_array().is_some_and(|items| !items.is_empty()))
            };
            config.insert(key, new);
            if let Some(items) = items {
                config.insert(section.to_owned(), items);
            }
        }
        Ok(Declared { config, indexes: BTreeMap::new() })
    }

    /// The writes that lead from what `before` put into the store to this.
    pub fn ops(&mut self, before: &Declared, state: &State) -> Vec<Op> {
        let mut wanted: BTreeMap<Key, Body> = BTreeMap::new();
        for section in SECTIONS {
            let items = self.config.get(section).and_then(Value::as_array);
            if section == PLUGINS {
                if let Some(items) = items {
                    wanted.insert(Key::raw(PLUGINS), Value::from(items.clone()).into());
                }
                continue;
            }
            for (index, item) in items.into_iter().flatten().enumerate() {
                let Some((key, body, modified)) = entry(section, index, item) else { continue };
                // The first of a kind with this index is what stays in force.
                let kept = modified.as_ref().is_some_and(|own| before.indexes.get(&key) == Some(own));
                match state.get(&key).filter(|_| kept) {
                    Some(old) => wanted.insert(key.clone(), old.body.clone()),
                    None => wanted.insert(key.clone(), body),
                };
                if let Some(modified) = modified {
                    self.indexes.insert(key, modified);
                }
            }
        }
        let gone = state.entries.keys().filter(|key| !wanted.contains_key(*key));
        let mut ops: Vec<Op> = gone.map(|key| Op::Delete { key: key.clone(), expect: Expect::Any }).collect();
        let changed = wanted.into_iter().filter(|(key, body)| state.get(key).is_none_or(|old| old.body != *body));
        ops.extend(changed.map(|(key, body)| Op::Put { key, body, expect: Expect::Any, ttl: None }));
        ops
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// Key, body and `modifiedIndex` of an item (apisix/core/config_yaml.lua `sync_data`).
fn entry(section: &str, index: usize, item: &Value) -> Option<(Key, Body, Option<Value>)> {
    let kind = kind_of(section)?;
    let mut fields = item.as_object()?.clone();
    let own = id::field(item, "id").or_else(|| id::field(item, "username"));
    let own = own.unwrap_or_else(|| format!("arr_{}", index + 1));
    let modified = fields.shift_remove("modifiedIndex");
    fields.insert("id".into(), own.as_str().into());
    Some((Key::of(kind, &own), Body::of(&Value::Object(fields)), modified))
}
