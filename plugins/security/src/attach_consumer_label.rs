//! `attach-consumer-label` tells the upstream labels of the consumer in header fields.
//!
//! Use it where the upstream decides by department, plan and the like. The fields are removed from the client's request
//! where there is no consumer or no such label, so clients cannot forge them. Read in
//! apisix/plugins/attach-consumer-label.lua.
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin};
use std::collections::BTreeMap;

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Field names, and for each the label as `$name`.
    #[schemars(schema_with = "labels_by_field")]
    headers: BTreeMap<String, String>,
}

fn labels_by_field(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let label = serde_json::json!({"type": "string", "pattern": "^\\$.*"});
    schemars::json_schema!({"type": "object", "additionalProperties": label, "minProperties": 1})
}

pub struct AttachConsumerLabel {
    /// Field and label.
    headers: Vec<(String, String)>,
}

impl Define for AttachConsumerLabel {
    const INFO: Info = Info::new("attach-consumer-label", 2399, Phases::BEFORE_PROXY);
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let label = |value: String| value.strip_prefix('$').map(str::to_string).unwrap_or(value);
        Ok(AttachConsumerLabel { headers: config.headers.into_iter().map(|(field, v)| (field, label(v))).collect() })
    }
}

impl Plugin for AttachConsumerLabel {
    fn before_proxy<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let labels = cx.consumer.as_ref().map(|found| &found.consumer.labels);
        for (field, label) in &self.headers {
            match labels.and_then(|labels| labels.get(label)) {
                Some(Value::String(value)) => cx.request.headers.set(field, value),
                Some(other) => cx.request.headers.set(field, other.to_string()),
                None => drop(cx.request.headers.remove(field)),
            }
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Consumer, ConsumerMatch, Definition, Phase, Scope, define};
    use std::sync::Arc;

    const PLUGIN: Definition = define::<AttachConsumerLabel>();

    #[test]
    fn configurations_are_checked() {
        let error = |mut config: Value| check(PLUGIN, Scope::Route, &mut config).unwrap_err().0;
        assert_eq!(error(json!({})), "property \"headers\" is required");
        let message = error(json!({"headers": {}}));
        assert_eq!(message, "property \"headers\" validation failed: expect object to have at least 1 properties");
        let message = error(json!({"headers": {"X-Company": "company"}}));
        assert!(message.contains("failed to match pattern"), "{message}");
    }

    fn forwarded(labels: Option<Value>) -> Vec<(String, String)> {
        let plugin = Harness::new(PLUGIN, json!({"headers": {"X-Company": "$company", "X-Role": "$role"}})).unwrap();
        let mut cx = Context::for_tests("GET", "/");
        cx.request.headers.append("x-company", "forged");
        cx.request.headers.append("X-Role", "forged");
        cx.consumer = labels.map(|labels| {
            let labels = labels.as_object().unwrap().clone();
            let consumer = Arc::new(Consumer { username: "anna".into(), labels, ..Consumer::default() });
            ConsumerMatch { consumer, credential_id: None, plugin: "key-auth" }
        });
        assert_eq!(plugin.phase(Phase::BeforeProxy, &mut cx), None);
        let text = |b: &[u8]| String::from_utf8_lossy(b).to_ascii_lowercase();
        cx.request.headers.iter().skip(1).map(|(n, v)| (text(n), text(v))).collect()
    }

    #[test]
    fn labels_become_fields_and_forged_ones_go() {
        assert_eq!(forwarded(None), []);
        assert_eq!(forwarded(Some(json!({}))), []);
        assert_eq!(forwarded(Some(json!({"company": "api7"}))), [("x-company".into(), "api7".into())]);
        let both = [("x-company".to_string(), "api7".to_string()), ("x-role".to_string(), "admin".to_string())];
        assert_eq!(forwarded(Some(json!({"company": "api7", "role": "admin", "other": "x"}))), both);
    }
}
