//! Objects of a server as one document in the shape of apisix.yaml. The surprise: fields are sorted, because APISIX answers
//! them in another order each time, and a file in a repository should change only when the configuration does.
use crate::normal::without_timestamps;
use crate::object::{Object, WRITE_ORDER};
use crate::secrets;
use serde_json::{Map, Value};
use sluice_model::Kind;
use sluice_plugin::Registry;

/// Fields that stand first, since people look for them.
const FIRST: [&str; 18] = [
    "id",
    "username",
    "name",
    "desc",
    "labels",
    "priority",
    "uri",
    "uris",
    "host",
    "hosts",
    "methods",
    "vars",
    "service_id",
    "upstream_id",
    "plugin_config_id",
    "group_id",
    "type",
    "scheme",
];

/// What a dump holds besides the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form {
    /// `create_time`, `update_time`
    pub timestamps: bool,
    /// Secrets as they are instead of masks.
    pub secrets: bool,
}

/// `{routes: […], …}`; kinds without objects are left out.
pub fn document(objects: &[Object], form: Form, registry: &Registry) -> Value {
    let mut out = Map::new();
    for kind in WRITE_ORDER {
        // Credentials stand among consumers, behind their own.
        if kind.parent().is_some() {
            continue;
        }
        let of_kind = |object: &&Object| object.key.kind == kind || object.key.kind.parent() == Some(kind);
        let mut all: Vec<&Object> = objects.iter().filter(of_kind).collect();
        all.sort_by(|a, b| a.key.id.cmp(&b.key.id));
        if !all.is_empty() {
            let items: Vec<Value> = all.into_iter().map(|object| item(object, form, registry)).collect();
            out.insert(kind.dir().to_owned(), items.into());
        }
    }
    Value::Object(out)
}

fn item(object: &Object, form: Form, registry: &Registry) -> Value {
    let mut value = if form.timestamps { object.value.clone() } else { without_timestamps(&object.value) };
    if !form.secrets {
        secrets::mask(&object.key, &mut value, registry);
    }
    let mut sorted = sorted(value);
    if let Value::Object(fields) = &mut sorted
        && object.key.kind != Kind::Consumer
    {
        fields.shift_insert(0, "id".into(), Value::String(object.key.id.clone()));
    }
    sorted
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut fields: Vec<(String, Value)> = map.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            let rank = |name: &str| FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len());
            fields.sort_by(|(a, _), (b, _)| (rank(a), a).cmp(&(rank(b), b)));
            Value::Object(fields.into_iter().collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Key;
    use serde_json::json;

    #[test]
    fn a_dump_is_stable_and_has_no_secrets() {
        let object = |kind, id: &str, value| Object { key: Key::new(kind, id), value, place: None };
        let objects = [
            object(Kind::Route, "b", json!({"uri": "/", "name": "n", "create_time": 1})),
            object(Kind::Route, "a", json!({"plugins": {"z": {}, "y": {}}, "uri": "/"})),
            object(Kind::Credential, "anna/credentials/1", json!({"plugins": {"x": {"password": "p"}}})),
            object(Kind::Consumer, "anna", json!({"username": "anna"})),
        ];
        let registry = Registry::new(&[]).unwrap();
        let text = document(&objects, Form::default(), &registry).to_string();
        assert_eq!(
            text,
            r#"{"consumers":[{"username":"anna"},{"id":"anna/credentials/1","plugins":{"x":{"password":"********"}}}],"routes":[{"id":"a","uri":"/","plugins":{"y":{},"z":{}}},{"id":"b","name":"n","uri":"/"}]}"#
        );
        let whole = document(&objects, Form { timestamps: true, secrets: true }, &registry).to_string();
        assert!(whole.contains(r#""password":"p""#) && whole.contains(r#""create_time":1"#));
    }
}
