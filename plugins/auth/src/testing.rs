//! What the unit tests of this family share: consumers as the configuration compiler would index them.
use serde_json::Value;
use sluice_plugin::consumer::Identity;
use sluice_plugin::{Consumer, Consumers, Context, Definition, Reply, Scope};
use std::sync::Arc;

/// Consumers `(username, credential id, configuration)` of one plugin.
pub fn consumers(definition: &Definition, list: &[(&str, Option<&str>, Value)]) -> Consumers {
    let mut all = Consumers::default();
    add(&mut all, definition, list);
    all
}

/// Adds the identities of one more plugin.
pub fn add(all: &mut Consumers, definition: &Definition, list: &[(&str, Option<&str>, Value)]) {
    for (username, credential, config) in list {
        let mut config = config.clone();
        sluice_plugin::testing::check(*definition, Scope::Consumer, &mut config).unwrap();
        let consumer = Arc::new(Consumer { username: (*username).into(), ..Consumer::default() });
        let (key, parsed) = (definition.consumer.unwrap().parse)(&config).unwrap();
        all.add(consumer.clone());
        let identity = Identity::new(consumer, credential.map(Into::into), parsed, config);
        all.add_key(definition.info.name, &key, Arc::new(identity));
    }
}

/// A request before these consumers.
pub fn context(method: &str, target: &str, headers: &[(&str, &str)], consumers: Arc<Consumers>) -> Context {
    let mut cx = bare(method, target, headers);
    cx.consumers = consumers;
    cx
}

/// A request where no consumer exists.
pub fn bare(method: &str, target: &str, headers: &[(&str, &str)]) -> Context {
    let mut cx = Context::for_tests(method, target);
    cx.request.assemble(method, target, "localhost", headers);
    cx
}

/// The refusal of an auth plugin.
pub fn denied(challenge: &str, message: &str) -> Reply {
    Reply::message(401, message).header("WWW-Authenticate", challenge.as_bytes())
}

/// Compares schemas apart from descriptions.
pub fn schema_is(mut schema: Value, expected: Value) {
    strip(&mut schema);
    assert_eq!(schema, expected);
}

fn strip(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("description").is_some_and(Value::is_string) {
                fields.remove("description");
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
