//! Lets a request in when it carries the API key of a consumer, in a header or in the query.
//!
//! The key stands on a consumer or on one of its credentials. Use it where clients are programs that keep a long random
//! key. The upstream learns who it was from `X-Consumer-Username` and `X-Credential-Identifier`; `hide_credentials`
//! keeps the key itself from it.
//!
//! Differences from APISIX: with `hide_credentials` the other arguments of the query keep their order and their
//! encoding.
use crate::argument::{self, Argument};
use crate::challenge::{Challenge, Refusal};
use crate::credential;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_plugin::definition::DefineAuth;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, schema_of};

const NAME: &str = "key-auth";

/// On a route, service or global rule.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Header that carries the key.
    #[serde(default = "apikey")]
    pub header: String,
    /// Query argument that carries the key where the header is missing.
    #[serde(default = "apikey")]
    pub query: String,
    /// Realm named by the `WWW-Authenticate` field of a 401.
    #[serde(default = "realm")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[ -!#-[\]-~]+$"))]
    pub realm: String,
    /// Keep the key from the upstream.
    #[serde(default)]
    pub hide_credentials: bool,
    /// Consumer as which requests without a valid key pass.
    #[schemars(length(min = 1))]
    pub anonymous_consumer: Option<String>,
}

fn apikey() -> String {
    "apikey".into()
}
fn realm() -> String {
    "key".into()
}

/// On a consumer or credential.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ConsumerConfig {
    /// The key, unique among all consumers.
    #[serde(deserialize_with = "credential::resolved")]
    pub key: String,
}

/// The plugin (apisix/plugins/key-auth.lua).
#[derive(Debug)]
pub struct KeyAuth {
    header: String,
    query: String,
    hide_credentials: bool,
    challenge: Challenge,
}

impl Define for KeyAuth {
    const INFO: Info = Info::new(NAME, 2500, Phases::REWRITE).auth().secrets(&["key"]);
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<KeyAuth, BuildError> {
        let challenge = Challenge::new(NAME, "apikey", &config.realm, config.anonymous_consumer);
        Ok(KeyAuth { header: config.header, query: config.query, hide_credentials: config.hide_credentials, challenge })
    }
}

impl DefineAuth for KeyAuth {
    type ConsumerConfig = ConsumerConfig;

    fn consumer_schema() -> Value {
        let mut schema = schema_of::<ConsumerConfig>();
        schema["encrypt_fields"] = serde_json::json!(["key"]);
        schema
    }
    fn consumer_key(config: &ConsumerConfig) -> String {
        config.key.clone()
    }
}

impl Plugin for KeyAuth {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let argument;
        let (key, from_header) = match cx.request.headers.get(&self.header) {
            Some(key) => (key, true),
            None => {
                argument = argument::find(cx.request.query(), &self.query);
                match &argument {
                    Argument::Value(key) => (key.as_ref(), false),
                    Argument::Missing => return self.refuse(cx, &Refusal::plain("Missing API key in request")),
                    Argument::Unusable => return self.refuse(cx, &unknown()),
                }
            }
        };
        // The index hashes with a random seed, so how long a look-up takes says nothing about other keys.
        let identity = std::str::from_utf8(key).ok().and_then(|key| cx.consumers.find(NAME, key));
        let Some(identity) = identity else {
            return self.refuse(cx, &unknown());
        };
        identity.attach_to(&mut cx.request, &mut cx.consumer, NAME);
        if self.hide_credentials {
            match from_header {
                true => {
                    cx.request.headers.remove(&self.header);
                }
                false => argument::hide(cx, &self.query),
            }
        }
        Flow::Next
    }
}

#[cold]
fn unknown() -> Refusal {
    Refusal::because("Invalid API key in request", "failed to find consumer: invalid api key")
}

impl KeyAuth {
    /// An invalid key must not reach the upstream either when the request passes as the anonymous consumer.
    #[cold]
    fn refuse<'a>(&self, cx: &mut Context, refusal: &Refusal) -> Flow<'a> {
        if self.hide_credentials && self.challenge.allows_anonymous() {
            cx.request.headers.remove(&self.header);
            argument::hide(cx, &self.query);
        }
        self.challenge.fallback(cx, refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bare, consumers, context, denied, schema_is};
    use serde_json::json;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Definition, Scope, define};
    use std::sync::Arc;

    fn definition() -> Definition {
        define::<KeyAuth>().auth::<KeyAuth>()
    }

    fn cx(target: &str, headers: &[(&str, &str)]) -> Context {
        let known = consumers(
            &definition(),
            &[("anna", None, json!({"key": "a-key"})), ("bert", Some("phone"), json!({"key": "b-key"}))],
        );
        context("GET", target, headers, Arc::new(known))
    }

    #[test]
    fn schemas_are_those_of_apisix() {
        let realm = r"^[ -!#-[\]-~]+$";
        schema_is(
            KeyAuth::schema(),
            json!({"type": "object", "properties": {
            "header": {"type": "string", "default": "apikey"},
            "query": {"type": "string", "default": "apikey"},
            "realm": {"type": "string", "default": "key", "minLength": 1, "maxLength": 128, "pattern": realm},
            "hide_credentials": {"type": "boolean", "default": false},
            "anonymous_consumer": {"type": "string", "minLength": 1}}}),
        );
        schema_is(
            KeyAuth::consumer_schema(),
            json!({"type": "object", "properties": {"key": {"type": "string"}},
            "required": ["key"], "encrypt_fields": ["key"]}),
        );
    }

    #[test]
    fn configurations_are_checked_and_completed() {
        let mut config = json!({});
        check(definition(), Scope::Route, &mut config).unwrap();
        assert_eq!(config, json!({"header": "apikey", "query": "apikey", "realm": "key", "hide_credentials": false}));
        let error = |scope, mut config| check(definition(), scope, &mut config).unwrap_err().0;
        assert_eq!(error(Scope::Consumer, json!({})), "property \"key\" is required");
        assert_eq!(
            error(Scope::Consumer, json!({"key": 123})),
            "property \"key\" validation failed: wrong type: expected string, got number"
        );
        assert_eq!(
            error(Scope::Route, json!({"realm": "a\"b"})),
            "property \"realm\" validation failed: failed to match pattern \"^[ -!#-[\\\\]-~]+$\" with \"a\\\"b\""
        );
    }

    #[test]
    fn a_key_names_the_consumer() {
        let plugin = Harness::new(definition(), json!({})).unwrap();
        let mut request =
            cx("/", &[("Apikey", "a-key"), ("X-Credential-Identifier", "forged"), ("X-Consumer-Custom-ID", "forged")]);
        assert_eq!(plugin.request(&mut request), None);
        assert_eq!(request.consumer.as_ref().unwrap().consumer.username.as_ref(), "anna");
        assert_eq!(request.request.headers.get_str("X-Consumer-Username"), Some("anna"));
        assert_eq!(request.request.headers.get_str("X-Credential-Identifier"), None);
        assert_eq!(request.request.headers.get_str("X-Consumer-Custom-ID"), None);
        assert_eq!(request.request.headers.get_str("apikey"), Some("a-key"));

        let mut request = cx("/?apikey=b-key", &[]);
        assert_eq!(plugin.request(&mut request), None);
        assert_eq!(request.request.headers.get_str("X-Credential-Identifier"), Some("phone"));
        assert_eq!(request.upstream_target(), b"/?apikey=b-key");
    }

    #[test]
    fn without_a_valid_key_nothing_passes() {
        let plugin = Harness::new(definition(), json!({"realm": "shop", "header": "X-Key", "query": "k"})).unwrap();
        let missing = "Missing API key in request";
        let invalid = "Invalid API key in request";
        for (target, headers, message) in [
            ("/", vec![], missing),
            ("/?apikey=a-key", vec![("apikey", "a-key")], missing),
            ("/", vec![("x-key", "nobody")], invalid),
            ("/?k=a-key", vec![("x-key", "")], invalid),
            ("/?k", vec![], invalid),
            ("/?k=a-key&k=a-key", vec![], invalid),
        ] {
            let reply = plugin.request(&mut cx(target, &headers)).unwrap();
            assert_eq!(reply, denied("apikey realm=\"shop\"", message), "{target} {headers:?}");
        }
        let reply = plugin.request(&mut bare("GET", "/?k=a-key", &[])).unwrap();
        assert_eq!(reply, denied("apikey realm=\"shop\"", invalid));
    }

    #[test]
    fn a_hidden_key_does_not_reach_the_upstream() {
        let plugin =
            Harness::new(definition(), json!({"hide_credentials": true, "anonymous_consumer": "anna"})).unwrap();
        let mut request = cx("/p?a=1", &[("apikey", "b-key")]);
        assert_eq!(plugin.request(&mut request), None);
        assert!(!request.request.headers.contains("apikey"));
        let mut request = cx("/p?a=1&apikey=b-key&b=2", &[]);
        assert_eq!(plugin.request(&mut request), None);
        assert_eq!(request.upstream_target(), b"/p?a=1&b=2");
        assert_eq!(request.request.headers.get_str("X-Consumer-Username"), Some("bert"));

        let mut request = cx("/p?apikey=wrong", &[("apikey", "wrong")]);
        assert_eq!(plugin.request(&mut request), None);
        assert_eq!(request.request.headers.get_str("X-Consumer-Username"), Some("anna"));
        assert!(!request.request.headers.contains("apikey"));
        assert_eq!(request.upstream_target(), b"/p");
    }

    #[test]
    fn an_unknown_anonymous_consumer_refuses() {
        let plugin = Harness::new(definition(), json!({"anonymous_consumer": "nobody"})).unwrap();
        let reply = plugin.request(&mut cx("/", &[])).unwrap();
        assert_eq!(reply, denied("apikey realm=\"key\"", "Invalid user authorization"));
    }
}
