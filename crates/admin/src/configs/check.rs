//! The check of a whole configuration. The surprise: references are not followed, as objects arrive together, and what is
//! stored already does not matter.
use super::{SECTIONS, kind_of, version_key};
use crate::admin::Admin;
use crate::parsers::{GatewayParsers, KnownPlugins};
use serde_json::{Map, Value, json};
use sluice_model::validate::validate_declared;
use sluice_model::{Checks, KeyOwner, Kind, References};
use std::collections::HashSet;

/// One thing that is wrong.
pub(super) struct Finding {
    section: &'static str,
    /// Index, and id or username, of the item.
    item: Option<(usize, Value)>,
    message: String,
    /// What is appended where all findings are told.
    detail: String,
}

impl Finding {
    pub fn shown(&self) -> Value {
        let mut shown = Map::new();
        shown.insert("resource_type".into(), self.section.into());
        if let Some((index, id)) = &self.item {
            shown.insert("resource_id".into(), id.clone());
            shown.insert("index".into(), json!(index));
        }
        shown.insert("error".into(), format!("{}{}", self.message, self.detail).into());
        Value::Object(shown)
    }

    pub fn first_message(self) -> String {
        self.message
    }
}

/// Everything that is wrong, in the order of sections and items.
pub(super) fn all(admin: &Admin, config: &Map<String, Value>) -> Vec<Finding> {
    let registry = admin.gateway.registry();
    let parsers = GatewayParsers { gateway: admin.gateway.as_ref(), protocols: &admin.settings.protocols };
    let checks = Checks { plugins: &KnownPlugins(&registry), references: &Together, parsers: &parsers };
    let mut findings = Vec::new();
    for section in SECTIONS {
        let key = version_key(section);
        if let Some(version) = config.get(&key).filter(|version| !version.is_number() && !version.is_null()) {
            let message = format!("{key} must be a number");
            let detail = format!(", got {}", lua_type(version));
            findings.push(Finding { section, item: None, message, detail });
        }
        let items = match config.get(section) {
            None | Some(Value::Null | Value::Object(_)) => continue,
            Some(Value::Array(items)) => items,
            Some(_) => {
                let message = format!("{section} must be an array");
                findings.push(Finding { section, item: None, message, detail: String::new() });
                continue;
            }
        };
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let id = item.get("id").or_else(|| item.get("username")).cloned();
            let mut found = |message: String| {
                let item = Some((index, id.clone().unwrap_or_else(|| "".into())));
                findings.push(Finding { section, item, message, detail: String::new() });
            };
            if let Some(Err(message)) = kind_of(section).map(|kind| one(kind, item, &checks)) {
                found(message);
            }
            if let Some(message) = duplicate(section, item, &mut seen) {
                found(message);
            }
        }
    }
    findings
}

fn one(kind: Kind, item: &Value, checks: &Checks<'_>) -> Result<(), String> {
    let mut copy = item.clone();
    if let Some(fields) = copy.as_object_mut()
        && let Some(index) = fields.shift_remove("modifiedIndex")
        && index.as_i64().is_none()
    {
        let got = lua_type(&index);
        return Err(format!(
            "invalid configuration: property \"modifiedIndex\" validation failed: wrong type: expected integer, got {got}"
        ));
    }
    validate_declared(kind, &mut copy, checks).map_err(|invalid| invalid.message)
}

fn duplicate(section: &str, item: &Value, seen: &mut HashSet<String>) -> Option<String> {
    let (what, id) = match (section, item.get("id")) {
        ("consumers", Some(id)) => ("credential id", id),
        ("consumers", None) => ("username", item.get("username")?),
        (_, id) => ("id", id?),
    };
    let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    let known = !seen.insert(id.clone());
    known.then(|| format!("found duplicate {what} {id} in {section}"))
}

pub(super) fn lua_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "userdata",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) | Value::Object(_) => "table",
    }
}

/// Objects that arrive together refer to each other.
struct Together;

impl References for Together {
    fn exists(&self, _kind: Kind, _id: &str) -> bool {
        true
    }
    fn get(&self, _kind: Kind, _id: &str) -> Option<Value> {
        None
    }
    fn global_rule_with(&self, _plugin: &str, _except: Option<&str>) -> Option<String> {
        None
    }
    fn key_owner(&self, _plugin: &str, _field: &str, _value: &str) -> Option<KeyOwner> {
        None
    }
}
