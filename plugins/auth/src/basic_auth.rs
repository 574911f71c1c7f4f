//! Lets a request in when its `Authorization: Basic` field carries a consumer's user name and password (RFC 7617).
//!
//! Use it for people with a browser or for old clients, over TLS. White space around and in what the client sends is
//! forgiven as in APISIX.
//!
//! Differences from APISIX: a password may contain `:` and white space. APISIX compares only what stands before the
//! second colon, so that such passwords cannot be used and anything appended to a password after a colon passes.
use crate::challenge::{Challenge, Refusal};
use crate::credential;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_plugin::consumer::Identity;
use sluice_plugin::definition::DefineAuth;
use sluice_plugin::{BuildError, Consumers, Context, Define, Env, Flow, Info, Phases, Plugin, schema_of};
use std::sync::Arc;

const NAME: &str = "basic-auth";
const INVALID: &str = "Invalid authorization in request";
const UNKNOWN: &str = "Invalid user authorization";

/// On a route, service or global rule.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Keep the `Authorization` field from the upstream.
    #[serde(default)]
    pub hide_credentials: bool,
    /// Realm named by the `WWW-Authenticate` field of a 401.
    #[serde(default = "realm")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[ -!#-[\]-~]+$"))]
    pub realm: String,
    /// Consumer as which requests without valid credentials pass.
    #[schemars(length(min = 1))]
    pub anonymous_consumer: Option<String>,
}

fn realm() -> String {
    "basic".into()
}

/// On a consumer or credential.
#[derive(Deserialize, JsonSchema)]
pub struct ConsumerConfig {
    /// The user name, unique among all consumers.
    #[serde(deserialize_with = "credential::resolved")]
    pub username: String,
    /// The password.
    #[serde(deserialize_with = "credential::resolved")]
    pub password: String,
}

/// The plugin (apisix/plugins/basic-auth.lua).
#[derive(Debug)]
pub struct BasicAuth {
    hide_credentials: bool,
    challenge: Challenge,
}

impl Define for BasicAuth {
    const INFO: Info = Info::new(NAME, 2520, Phases::REWRITE).auth().secrets(&["password"]);
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        schema["title"] = json!("work with route or service object");
        schema
    }
    fn build(config: Config, _env: &Env) -> Result<BasicAuth, BuildError> {
        let challenge = Challenge::new(NAME, "Basic", &config.realm, config.anonymous_consumer);
        Ok(BasicAuth { hide_credentials: config.hide_credentials, challenge })
    }
}

impl DefineAuth for BasicAuth {
    type ConsumerConfig = ConsumerConfig;

    fn consumer_schema() -> Value {
        let mut schema = schema_of::<ConsumerConfig>();
        schema["title"] = json!("work with consumer object");
        schema["encrypt_fields"] = json!(["password"]);
        schema
    }
    fn consumer_key(config: &ConsumerConfig) -> String {
        config.username.clone()
    }
}

impl Plugin for BasicAuth {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let found = match cx.request.headers.get("Authorization") {
            None => Err(Refusal::plain("Missing authorization in request")),
            Some(field) => authenticate(field, &cx.consumers),
        };
        let flow = match found {
            Ok(identity) => {
                identity.attach_to(&mut cx.request, &mut cx.consumer, NAME);
                Flow::Next
            }
            Err(refusal) => self.challenge.fallback(cx, &refusal),
        };
        if self.hide_credentials && matches!(flow, Flow::Next) {
            cx.request.headers.remove("Authorization");
        }
        flow
    }
}

fn authenticate<'a>(field: &[u8], consumers: &'a Consumers) -> Result<&'a Arc<Identity>, Refusal> {
    // The reasons name no part of the field: a log is no place for passwords.
    let invalid = |reason: &str| Refusal::because(INVALID, reason);
    let encoded = credentials(field).ok_or_else(|| invalid("Invalid authorization header format"))?;
    let decoded = decode(encoded).and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.ok_or_else(|| invalid("Failed to decode authentication header"))?;
    let (username, password) =
        decoded.split_once(':').ok_or_else(|| invalid("Split authorization err: invalid decoded data"))?;
    let identity = consumers.find(NAME, username).or_else(|| consumers.find(NAME, &without_space(username)));
    let config = identity.and_then(|identity| identity.config::<ConsumerConfig>());
    let (Some(identity), Some(config)) = (identity, config) else {
        return Err(Refusal::because(UNKNOWN, "failed to find user: invalid user"));
    };
    let is_password = |text: &str| verify_slices_are_equal(text.as_bytes(), config.password.as_bytes()).is_ok();
    if is_password(password) || is_password(&without_space(password)) {
        Ok(identity)
    } else {
        Err(Refusal::plain(UNKNOWN))
    }
}

/// What follows the word `basic`, in any case, and one white space character.
fn credentials(field: &[u8]) -> Option<&[u8]> {
    let at = field.windows(5).position(|word| word.eq_ignore_ascii_case(b"basic"))?;
    let (space, rest) = field.get(at + 5..)?.split_first()?;
    (space.is_ascii_whitespace() && !rest.is_empty()).then_some(rest)
}

fn without_space(text: &str) -> String {
    text.split_ascii_whitespace().collect()
}

/// Base64 as nginx reads it (ngx_decode_base64): padding may be missing, and what follows it is ignored.
pub(crate) fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const ENGINE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);
    let text = encoded.split(|b| *b == b'=').next()?;
    ENGINE.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{consumers, context, denied, schema_is};
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Definition, Scope, define};

    fn definition() -> Definition {
        define::<BasicAuth>().auth::<BasicAuth>()
    }

    fn cx(authorization: Option<&str>) -> Context {
        let list = [
            ("anna", None, json!({"username": "anna", "password": "s3cret"})),
            ("bert", Some("desk"), json!({"username": "bert", "password": "a: b"})),
        ];
        let headers: Vec<_> = authorization.map(|value| ("Authorization", value)).into_iter().collect();
        context("GET", "/", &headers, Arc::new(consumers(&definition(), &list)))
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(text))
    }

    #[test]
    fn schemas_are_those_of_apisix() {
        schema_is(
            BasicAuth::schema(),
            json!({"type": "object", "title": "work with route or service object", "properties": {
            "hide_credentials": {"type": "boolean", "default": false},
            "realm": {"type": "string", "default": "basic", "minLength": 1, "maxLength": 128, "pattern": r"^[ -!#-[\]-~]+$"},
            "anonymous_consumer": {"type": "string", "minLength": 1}}}),
        );
        schema_is(
            BasicAuth::consumer_schema(),
            json!({"type": "object", "title": "work with consumer object",
            "properties": {"username": {"type": "string"}, "password": {"type": "string"}},
            "required": ["username", "password"], "encrypt_fields": ["password"]}),
        );
    }

    #[test]
    fn a_consumer_needs_name_and_password() {
        let error = |mut config| check(definition(), Scope::Consumer, &mut config).unwrap_err().0;
        assert_eq!(
            error(json!({"username": 1, "password": "x"})),
            "property \"username\" validation failed: wrong type: expected string, got number"
        );
        assert_eq!(error(json!({"username": "anna"})), "property \"password\" is required");
    }

    #[test]
    fn credentials_are_compared() {
        let plugin = Harness::new(definition(), json!({})).unwrap();
        let anna = basic("anna:s3cret");
        for (authorization, user) in [
            (anna.clone(), "anna"),
            (anna.replace("Basic", "bAsIc"), "anna"),
            (anna.trim_end_matches('=').to_string(), "anna"),
            (basic("an na: s3cret "), "anna"),
            (basic("bert:a: b"), "bert"),
        ] {
            let mut request = cx(Some(&authorization));
            assert_eq!(plugin.request(&mut request), None, "{authorization}");
            assert_eq!(request.request.headers.get_str("X-Consumer-Username"), Some(user));
            assert!(request.request.headers.contains("Authorization"));
        }
        for (authorization, message) in [
            (None, "Missing authorization in request"),
            (Some("Bearer x".to_string()), INVALID),
            (Some("Basic".to_string()), INVALID),
            (Some("Basic ~~~".to_string()), INVALID),
            (Some(basic("anna")), INVALID),
            (Some(basic("anna:wrong")), UNKNOWN),
            (Some(basic("anna:")), UNKNOWN),
            (Some(basic("anna:s3cret:more")), UNKNOWN),
            (Some(basic("nobody:s3cret")), UNKNOWN),
        ] {
            let reply = plugin.request(&mut cx(authorization.as_deref())).unwrap();
            assert_eq!(reply, denied("Basic realm=\"basic\"", message), "{authorization:?}");
        }
    }

    #[test]
    fn hidden_credentials_and_anonymous_consumers() {
        let plugin =
            Harness::new(definition(), json!({"hide_credentials": true, "anonymous_consumer": "anna", "realm": "x"}))
                .unwrap();
        for (authorization, user, credential) in
            [(basic("bert:a: b"), "bert", Some("desk")), (basic("bert:no"), "anna", None)]
        {
            let mut request = cx(Some(&authorization));
            assert_eq!(plugin.request(&mut request), None);
            assert!(!request.request.headers.contains("Authorization"));
            assert_eq!(request.request.headers.get_str("X-Consumer-Username"), Some(user));
            assert_eq!(request.request.headers.get_str("X-Credential-Identifier"), credential);
        }
        let plugin = Harness::new(definition(), json!({"anonymous_consumer": "nobody", "realm": "x"})).unwrap();
        assert_eq!(plugin.request(&mut cx(None)), Some(denied("Basic realm=\"x\"", UNKNOWN)));
    }

    proptest! {
        #[test]
        fn any_field_is_survived(field in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = [b"Basic ".as_slice(), &field].concat();
            prop_assert_eq!(credentials(&text).is_some(), !field.is_empty());
            prop_assert_eq!(decode(BASE64_STANDARD.encode(&field).as_bytes()), Some(field));
        }
    }
}
