//! Stored resources as they are in force: checked, with defaults. The surprise: nothing of that is kept, as it would take
//! several times the memory of the text; who looks has it made, outside the compiler's lock.
use super::{Bridge, Compiler};
use serde_json::{Map, Value};
use sluice_model::validate::{Checks, Invalid, validate_standalone};
use sluice_model::{Body, Kind};
use sluice_plugin::{Registry, Scripts};
use sluice_upstream::Upstream;
use std::sync::Arc;

impl Compiler {
    /// The stored forms of a kind, by id.
    pub fn bodies(&self, kind: Kind) -> Vec<(Arc<str>, Body)> {
        let all = self.objects.get(&kind).into_iter().flatten();
        let mut all: Vec<_> = all.map(|(id, body)| (id.clone(), body.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// The upstream that stands in a service.
    pub fn service_upstream(&self, id: &str) -> Option<&Arc<Upstream>> {
        self.service_upstreams.get(id)
    }
}

/// A resource with its id and its defaults; None where it is not accepted.
pub fn accepted(registry: &Registry, kind: Kind, id: &str, mut value: Value) -> Option<Value> {
    check(registry, None, true, kind, id, &mut value).ok().map(|()| value)
}

/// Checks a resource and completes it.
pub(super) fn check(
    registry: &Registry,
    scripts: Option<&dyn Scripts>,
    skip_disabled_plugins: bool,
    kind: Kind,
    id: &str,
    body: &mut Value,
) -> Result<(), Invalid> {
    if let Value::Object(fields) = body {
        if kind == Kind::Secret {
            // The body's own is without the manager (apisix/core/config_etcd.lua takes it from the key, too).
            fields.insert("id".into(), id.into());
        } else {
            fields.entry("id").or_insert_with(|| id.into());
        }
        // `key-auth:` without a value is a plugin with nothing but defaults.
        for config in fields.get_mut("plugins").and_then(Value::as_object_mut).into_iter().flat_map(|p| p.values_mut())
        {
            if config.is_null() {
                *config = Value::Object(Map::new());
            }
        }
    }
    let bridge = Bridge { registry, scripts };
    validate_standalone(
        kind,
        skip_disabled_plugins,
        body,
        &Checks { plugins: &bridge, references: &bridge, parsers: &bridge },
    )
}
