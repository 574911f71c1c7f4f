//! What has to be written and deleted so that a server has what the files say. The surprise: the order of the changes is
//! part of the plan: what others refer to is written first and deleted last, so that it may be applied one by one.
use crate::normal::{complete, normal, without_timestamps};
use crate::object::{Key, Object};
use crate::secrets;
use serde::Serialize;
use serde_json::Value;
use sluice_config::problem::ConfigError;
use sluice_model::Kind;
use sluice_plugin::Registry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    Update,
    Delete,
}

/// One value that differs. Secrets show as a mask.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    /// `upstream.nodes.127.0.0.1:80.weight`
    pub path: String,
    /// None: not there before.
    pub from: Option<Value>,
    /// None: not there afterwards.
    pub to: Option<Value>,
}

#[derive(Clone, Debug)]
pub struct Change {
    pub action: Action,
    pub key: Key,
    pub name: Option<String>,
    /// `file:line:column` of what is written.
    pub place: Option<String>,
    /// What an update changes.
    pub fields: Vec<Field>,
    /// What is written; None for a deletion.
    pub body: Option<Value>,
}

#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In the order in which they may be applied.
    pub changes: Vec<Change>,
    pub unchanged: usize,
}

/// Why there is no plan: all reasons at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct PlanError(pub Vec<ConfigError>);

/// How a plan is made.
pub struct Rules<'a> {
    pub registry: &'a Registry,
    /// Whether what is not in the files is deleted.
    pub delete: bool,
    /// Kinds the server does not take, and what it says of them.
    pub unsupported: &'a [(Kind, String)],
}

impl Plan {
    /// Compares what is wanted with what is there; both hold selected objects only.
    pub fn new(wanted: &[Object], current: &[Object], rules: &Rules<'_>) -> Result<Plan, PlanError> {
        let known: HashMap<&Key, &Object> = current.iter().map(|object| (&object.key, object)).collect();
        let mut plan = Plan::default();
        let mut errors = Vec::new();
        let mut kept: HashMap<&Key, ()> = HashMap::with_capacity(wanted.len());
        for object in wanted {
            kept.insert(&object.key, ());
            if let Some((_, why)) = rules.unsupported.iter().find(|(kind, _)| *kind == object.key.kind) {
                errors.push(error(object, "", format!("the server does not take {}: {why}", object.key.kind.dir())));
                continue;
            }
            match change(object, known.get(&object.key).copied(), rules.registry) {
                Ok(Some(change)) => plan.changes.push(change),
                Ok(None) => plan.unchanged += 1,
                Err(masked) => errors.extend(masked),
            }
        }
        if !errors.is_empty() {
            return Err(PlanError(errors));
        }
        if rules.delete {
            let gone = current.iter().filter(|object| !kept.contains_key(&object.key));
            plan.changes.extend(gone.map(|object| Change {
                action: Action::Delete,
                key: object.key.clone(),
                name: object.name().map(str::to_owned),
                place: None,
                fields: Vec::new(),
                body: None,
            }));
        }
        plan.order(&known);
        Ok(plan)
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|change| change.action == action).count()
    }

    /// Writes by kind, then deletions the other way; before all that the deletions without which a write is refused.
    fn order(&mut self, known: &HashMap<&Key, &Object>) {
        let superior =
            |change: &Change| change.body.as_ref().is_some_and(|body| !body["protocol"]["superior_id"].is_null());
        let (mut deletions, mut writes): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.changes).into_iter().partition(|change| change.action == Action::Delete);
        writes.sort_by(|a, b| (a.key.rank(), superior(a), &a.key.id).cmp(&(b.key.rank(), superior(b), &b.key.id)));
        deletions.sort_by(|a, b| {
            let depends = |change: &Change| {
                known.get(&change.key).is_some_and(|object| !object.value["protocol"]["superior_id"].is_null())
            };
            (b.key.rank(), depends(b), &b.key.id).cmp(&(a.key.rank(), depends(a), &a.key.id))
        });
        let taken: BTreeMap<String, ()> = writes
            .iter()
            .flat_map(|change| unique_values(&change.key, change.body.as_ref()))
            .map(|v| (v, ()))
            .collect();
        let (first, last): (Vec<_>, Vec<_>) = deletions.into_iter().partition(|change| {
            let value = known.get(&change.key).map(|object| &object.value);
            unique_values(&change.key, value).iter().any(|value| taken.contains_key(value))
        });
        self.changes = first;
        self.changes.extend(writes);
        self.changes.extend(last);
    }
}

/// What only one object may have: a plugin among global rules, a key among consumers and credentials.
fn unique_values(key: &Key, value: Option<&Value>) -> Vec<String> {
    let plugins = value.and_then(|value| value["plugins"].as_object()).into_iter().flatten();
    match key.kind {
        Kind::GlobalRule => plugins.map(|(name, _)| format!("global {name}")).collect(),
        Kind::Consumer | Kind::Credential => plugins
            .flat_map(|(name, config)| {
                let identifying = ["key", "username", "key_id", "user_dn", "access_key"];
                identifying.into_iter().filter_map(move |field| Some(format!("{name} {}", config[field].as_str()?)))
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn error(object: &Object, pointer: &str, message: String) -> ConfigError {
    match &object.place {
        Some(place) => place.error(&object.value, pointer, message),
        None => ConfigError::of_file(&Arc::from(object.key.path()), message),
    }
}

fn change(wanted: &Object, current: Option<&Object>, registry: &Registry) -> Result<Option<Change>, Vec<ConfigError>> {
    let mut body = without_timestamps(&wanted.value);
    let left = secrets::unmask(&mut body, current.map(|object| &object.value));
    let make = |action, fields, body| {
        Some(Change {
            action,
            key: wanted.key.clone(),
            name: wanted.name().map(str::to_owned),
            place: wanted.place.as_ref().map(ToString::to_string),
            fields,
            body: Some(body),
        })
    };
    let refuse = |why: &str| left.iter().map(|pointer| error(wanted, pointer, why.to_owned())).collect::<Vec<_>>();
    let check = |body: &Value| {
        let mut copy = body.clone();
        complete(&wanted.key, &mut copy, registry).map_err(|e| vec![error(wanted, &e.path, e.message)])
    };
    let Some(current) = current else {
        if !left.is_empty() {
            return Err(refuse("masked, and the server has no such object to take the secret from"));
        }
        check(&body)?;
        return Ok(make(Action::Create, Vec::new(), body));
    };
    let (ours, theirs) = comparable(&wanted.key, &body, &current.value, registry);
    if ours == theirs {
        return Ok(None);
    }
    if !left.is_empty() {
        return Err(refuse("masked, and the server does not tell the secret; an update needs it"));
    }
    check(&body)?;
    let mut secret = secrets::pointers(&wanted.key, &theirs, registry);
    secret.extend(secrets::pointers(&wanted.key, &ours, registry));
    let mut fields = Vec::new();
    differences(&theirs, &ours, String::new(), String::new(), &secret, &mut fields);
    Ok(make(Action::Update, fields, body))
}

/// Both sides in the form in which they are compared. Private keys that the server hides, or shows encrypted, cannot be
/// compared and are left out on both sides.
fn comparable(key: &Key, ours: &Value, theirs: &Value, registry: &Registry) -> (Value, Value) {
    let (mut ours, mut theirs) = (ours.clone(), theirs.clone());
    match key.kind {
        Kind::Ssl => {
            for (field, cert) in [("key", "cert"), ("keys", "certs")] {
                let hidden = hidden(theirs.get(field));
                for side in [&mut ours, &mut theirs].into_iter().filter(|_| hidden) {
                    stand_in(side, field, cert);
                }
            }
        }
        Kind::Upstream => hide_client_key(&mut ours, &mut theirs, "/tls"),
        Kind::Route | Kind::Service => hide_client_key(&mut ours, &mut theirs, "/upstream/tls"),
        _ => {}
    }
    (normal(key, &ours, registry), normal(key, &theirs, registry))
}

/// Whether a private key is not there, or there in a form that cannot be compared.
fn hidden(value: Option<&Value>) -> bool {
    match value {
        Some(Value::String(text)) => !text.contains("-----BEGIN") && !sluice_model::secret::is_reference(text),
        Some(Value::Array(texts)) => texts.iter().any(|text| hidden(Some(text))),
        _ => true,
    }
}

/// Puts something that passes for a private key where one is hidden, so that the object can be completed.
fn stand_in(value: &mut Value, field: &str, cert: &str) {
    let hidden = Value::String(format!("---{}", secrets::MASK.repeat(16)));
    let filled = match value.get(cert) {
        Some(Value::Array(certs)) => vec![hidden; certs.len()].into(),
        Some(_) => hidden,
        None => return,
    };
    if let Value::Object(fields) = value {
        fields.insert(field.to_owned(), filled);
    }
}

fn hide_client_key(ours: &mut Value, theirs: &mut Value, tls: &str) {
    let known = theirs.pointer(&format!("{tls}/client_key"));
    if !known.is_some_and(|known| hidden(Some(known))) {
        return;
    }
    for side in [ours, theirs] {
        if let Some(tls) = side.pointer_mut(tls).filter(|tls| tls.get("client_key").is_some()) {
            stand_in(tls, "client_key", "client_cert");
        }
    }
}

fn differences(from: &Value, to: &Value, pointer: String, path: String, secret: &[String], out: &mut Vec<Field>) {
    let escape = |name: &str| name.replace('~', "~0").replace('/', "~1");
    match (from, to) {
        _ if from == to => {}
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
            for name in names {
                let below = (format!("{pointer}/{}", escape(name)), sluice_config::position::join(&path, name));
                difference(a.get(name), b.get(name), below, secret, out);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for index in 0..a.len().max(b.len()) {
                let below = (format!("{pointer}/{index}"), format!("{path}[{index}]"));
                difference(a.get(index), b.get(index), below, secret, out);
            }
        }
        _ => difference(Some(from), Some(to), (pointer, path), secret, out),
    }
}

fn difference(
    from: Option<&Value>,
    to: Option<&Value>,
    (pointer, path): (String, String),
    secret: &[String],
    out: &mut Vec<Field>,
) {
    match (from, to) {
        (Some(from @ Value::Object(_)), Some(to @ Value::Object(_)))
        | (Some(from @ Value::Array(_)), Some(to @ Value::Array(_))) => {
            differences(from, to, pointer, path, secret, out);
        }
        (from, to) if from == to => {}
        (from, to) => {
            let shown = |value: Option<&Value>| value.map(|value| masked(value, &pointer, secret));
            out.push(Field { path, from: shown(from), to: shown(to) });
        }
    }
}

fn masked(value: &Value, pointer: &str, secret: &[String]) -> Value {
    let mut value = value.clone();
    for below in secret.iter().filter_map(|secret| secret.strip_prefix(pointer)) {
        if let Some(place) = value.pointer_mut(below) {
            *place = secrets::MASK.into();
        }
    }
    value
}

#[cfg(test)]
mod tests;
