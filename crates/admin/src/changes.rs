//! Differences between stored states, as answers show them: by key, with what was there before and after. The surprise:
//! secrets are masked in both, and which fields changed is told from the real values.
use crate::admin::Admin;
use serde_json::{Map, Value};
use sluice_config::PluginSecrets;
use sluice_model::Body;
use sluice_store::{Key, State};

/// One object that differs.
pub(crate) struct Difference {
    pub key: Key,
    pub before: Option<Body>,
    pub after: Option<Body>,
}

/// Everything that differs, by key.
pub(crate) fn between(before: &State, after: &State) -> Vec<Difference> {
    let mut all = Vec::new();
    for (key, old) in &before.entries {
        let new = after.get(key).map(|entry| entry.body.clone());
        if new.as_ref() != Some(&old.body) {
            all.push(Difference { key: key.clone(), before: Some(old.body.clone()), after: new });
        }
    }
    let created = after.entries.iter().filter(|(key, _)| before.get(key).is_none());
    all.extend(created.map(|(key, new)| Difference { key: key.clone(), before: None, after: Some(new.body.clone()) }));
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

impl Difference {
    pub fn action(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "create",
            (Some(_), None) => "delete",
            (Some(_), Some(_)) => "update",
        }
    }

    /// `{key, action, before, after, changed}`.
    pub fn shown(&self, admin: &Admin) -> Value {
        let value = |body: &Option<Body>| body.as_ref().map(Body::value);
        let (before, after) = (value(&self.before), value(&self.after));
        let mut shown = Map::new();
        shown.insert("key".into(), self.key.as_str().into());
        shown.insert("action".into(), self.action().into());
        if let (Some(before), Some(after)) = (&before, &after) {
            let mut paths = Vec::new();
            differing("", before, after, &mut paths);
            shown.insert("changed".into(), paths.into());
        }
        for (name, value) in [("before", before), ("after", after)] {
            if let Some(value) = value {
                shown.insert(name.into(), self.masked(admin, value));
            }
        }
        Value::Object(shown)
    }

    fn masked(&self, admin: &Admin, mut value: Value) -> Value {
        if let Some((kind, id)) = self.key.resource() {
            let registry = admin.gateway.registry();
            sluice_secret::mask(kind, id, &mut value, &PluginSecrets(&registry));
        }
        value
    }
}

/// JSON pointers of what differs; lists are compared as a whole.
fn differing(at: &str, before: &Value, after: &Value, paths: &mut Vec<Value>) {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        if before != after {
            paths.push(at.into());
        }
        return;
    };
    let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    for name in names {
        let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        match (old.get(name), new.get(name)) {
            (Some(before), Some(after)) => differing(&at, before, after, paths),
            _ => paths.push(at.into()),
        }
    }
}
