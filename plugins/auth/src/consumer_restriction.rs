//! Lets only some consumers use a route, or only some routes and services be used by a consumer.
//!
//! `type` says what is compared with the lists: the consumer's name or group (on a route, after an auth plugin), or the
//! route's or service's id (on a consumer). A listed `whitelist` value passes whatever `allowed_by_methods` says; the
//! `blacklist` is looked at first. `allowed_by_methods` restricts the named users only.
//!
//! Differences from APISIX: a user in `allowed_by_methods` without `methods` is refused; APISIX fails with 500.
use foldhash::{HashMap, HashMapExt, HashSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply, schema_of};

/// On a route, service, consumer, consumer group or global rule.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// What the lists hold.
    #[serde(default, rename = "type")]
    pub kind: Kind,
    /// Values that are refused.
    #[schemars(length(min = 1))]
    pub blacklist: Option<Vec<String>>,
    /// The only values that pass.
    #[schemars(length(min = 1))]
    pub whitelist: Option<Vec<String>>,
    /// Methods that each named user may use; the first entry of a user counts.
    pub allowed_by_methods: Option<Vec<Allowed>>,
    /// Status of a refusal.
    #[serde(default = "forbidden")]
    #[schemars(range(min = 200))]
    pub rejected_code: u64,
    /// Message of a refusal instead of `The TYPE is forbidden.`
    pub rejected_msg: Option<String>,
}

fn forbidden() -> u64 {
    403
}

/// What is compared with the lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[default]
    ConsumerName,
    ServiceId,
    RouteId,
    ConsumerGroupId,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::ConsumerName => "consumer_name",
            Kind::ServiceId => "service_id",
            Kind::RouteId => "route_id",
            Kind::ConsumerGroupId => "consumer_group_id",
        }
    }

    fn value(self, cx: &Context) -> Option<&str> {
        let consumer = cx.consumer.as_ref().map(|found| &found.consumer);
        match self {
            Kind::ConsumerName => consumer.map(|consumer| consumer.username.as_ref()),
            Kind::ConsumerGroupId => consumer.and_then(|consumer| consumer.group_id.as_deref()),
            Kind::RouteId => cx.route.as_ref().map(|route| route.route_id.as_ref()),
            Kind::ServiceId => cx.route.as_ref().and_then(|route| route.service_id.as_deref()),
        }
    }
}

/// The methods of one user.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Allowed {
    /// Compared as the lists are.
    pub user: Option<String>,
    /// HTTP methods.
    #[schemars(length(min = 1))]
    pub methods: Option<Vec<Method>>,
}

/// The methods that APISIX's schemas know (apisix/schema_def.lua).
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
    Patch,
    Head,
    Options,
    Connect,
    Trace,
    Purge,
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Patch => "PATCH",
            Method::Head => "HEAD",
            Method::Options => "OPTIONS",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
            Method::Purge => "PURGE",
        }
    }
}

/// The plugin (apisix/plugins/consumer-restriction.lua).
#[derive(Debug)]
pub struct ConsumerRestriction {
    kind: Kind,
    refused: HashSet<Box<str>>,
    /// Empty where everybody passes.
    passing: HashSet<Box<str>>,
    methods: HashMap<Box<str>, Vec<&'static str>>,
    status: u16,
    message: String,
}

impl Define for ConsumerRestriction {
    const INFO: Info = Info::new("consumer-restriction", 2400, Phases::ACCESS);
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        schema["anyOf"] =
            json!([{"required": ["blacklist"]}, {"required": ["whitelist"]}, {"required": ["allowed_by_methods"]}]);
        schema
    }

    fn build(config: Config, _env: &Env) -> Result<ConsumerRestriction, BuildError> {
        let set =
            |list: Option<Vec<String>>| list.unwrap_or_default().into_iter().map(String::into_boxed_str).collect();
        let mut methods = HashMap::new();
        for allowed in config.allowed_by_methods.unwrap_or_default() {
            if let Some(user) = allowed.user {
                let names = || allowed.methods.unwrap_or_default().into_iter().map(Method::as_str).collect();
                methods.entry(user.into_boxed_str()).or_insert_with(names);
            }
        }
        Ok(ConsumerRestriction {
            kind: config.kind,
            refused: set(config.blacklist),
            passing: set(config.whitelist),
            methods,
            status: u16::try_from(config.rejected_code).unwrap_or(u16::MAX).min(999),
            message: config.rejected_msg.unwrap_or_else(|| format!("The {} is forbidden.", config.kind.as_str())),
        })
    }
}

impl Plugin for ConsumerRestriction {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let Some(value) = self.kind.value(cx) else {
            let kind = self.kind.as_str();
            return Flow::reply(Reply::message(
                401,
                &format!("The request is rejected, please check the {kind} for this request"),
            ));
        };
        match self.allows(value, cx.request.method_text()) {
            true => Flow::Next,
            false => Flow::reply(Reply::message(self.status, &self.message)),
        }
    }
}

impl ConsumerRestriction {
    fn allows(&self, value: &str, method: &str) -> bool {
        if self.refused.contains(value) {
            return false;
        }
        if !self.passing.is_empty() {
            // Who is listed is not asked for the method; who is not listed does not pass.
            return self.passing.contains(value);
        }
        self.methods.get(value).is_none_or(|methods| methods.contains(&method))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::schema_is;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Consumer, ConsumerMatch, Definition, RouteInfo, Scope, define};
    use std::sync::Arc;

    fn definition() -> Definition {
        define::<ConsumerRestriction>()
    }

    fn cx(method: &str, username: Option<&str>) -> Context {
        let mut cx = Context::for_tests(method, "/");
        cx.consumer = username.map(|name| {
            let consumer = Consumer { username: name.into(), group_id: Some("staff".into()), ..Consumer::default() };
            ConsumerMatch { consumer: Arc::new(consumer), credential_id: None, plugin: "key-auth" }
        });
        cx.route =
            Some(Arc::new(RouteInfo { route_id: "r1".into(), service_id: Some("s1".into()), ..RouteInfo::default() }));
        cx
    }

    fn send(config: Value, method: &str, username: Option<&str>) -> Option<Reply> {
        Harness::new(definition(), config).unwrap().request(&mut cx(method, username))
    }

    fn refused(message: &str) -> Option<Reply> {
        Some(Reply::message(403, message))
    }

    #[test]
    fn the_schema_is_that_of_apisix() {
        let list = json!({"type": "array", "minItems": 1, "items": {"type": "string"}});
        let methods = json!(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"]);
        schema_is(
            ConsumerRestriction::schema(),
            json!({"type": "object",
            "anyOf": [{"required": ["blacklist"]}, {"required": ["whitelist"]}, {"required": ["allowed_by_methods"]}],
            "properties": {
                "type": {"type": "string", "default": "consumer_name", "enum": ["consumer_name", "service_id", "route_id", "consumer_group_id"]},
                "blacklist": list, "whitelist": list,
                "allowed_by_methods": {"type": "array", "items": {"type": "object", "properties": {
                    "user": {"type": "string"},
                    "methods": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": methods}}}}},
                "rejected_code": {"type": "integer", "default": 403, "minimum": 200},
                "rejected_msg": {"type": "string"}}}),
        );
    }

    #[test]
    fn configurations_are_checked() {
        let error = |mut config: Value| check(definition(), Scope::Route, &mut config).unwrap_err().0;
        assert_eq!(
            error(json!({})),
            "object matches none of the required: [\"blacklist\"] or [\"whitelist\"] or [\"allowed_by_methods\"]"
        );
        assert_eq!(
            error(json!({"whitelist": []})),
            "property \"whitelist\" validation failed: expect array to have at least 1 items"
        );
        assert_eq!(
            error(json!({"blacklist": ["a"], "type": "x"})),
            "property \"type\" validation failed: matches none of the enum values"
        );
    }

    #[test]
    fn lists_restrict() {
        let forbidden = "The consumer_name is forbidden.";
        let black = json!({"blacklist": ["anna"]});
        let white = json!({"whitelist": ["anna", "bert"]});
        let both = json!({"blacklist": ["anna"], "whitelist": ["anna", "bert"]});
        for (config, username, expected) in [
            (&black, "anna", refused(forbidden)),
            (&black, "bert", None),
            (&white, "anna", None),
            (&white, "carl", refused(forbidden)),
            (&both, "anna", refused(forbidden)),
            (&both, "bert", None),
            (&both, "carl", refused(forbidden)),
        ] {
            assert_eq!(send(config.clone(), "GET", Some(username)), expected, "{config} {username}");
        }
    }

    #[test]
    fn methods_restrict_the_named_only() {
        let list = json!([{"user": "anna", "methods": ["GET", "PURGE"]}, {"user": "anna", "methods": ["POST"]}, {"user": "bert"}]);
        let methods = json!({"allowed_by_methods": list});
        let with_whitelist = json!({"allowed_by_methods": list, "whitelist": ["anna"]});
        let forbidden = || refused("The consumer_name is forbidden.");
        for (config, method, username, expected) in [
            (&methods, "GET", "anna", None),
            (&methods, "PURGE", "anna", None),
            (&methods, "POST", "anna", forbidden()),
            (&methods, "GET", "bert", forbidden()),
            (&methods, "POST", "carl", None),
            (&with_whitelist, "POST", "anna", None),
            (&with_whitelist, "GET", "carl", forbidden()),
        ] {
            assert_eq!(send(config.clone(), method, Some(username)), expected, "{config} {method} {username}");
        }
    }

    #[test]
    fn each_type_has_its_value() {
        for (kind, value) in [("consumer_group_id", "staff"), ("route_id", "r1"), ("service_id", "s1")] {
            assert_eq!(send(json!({"type": kind, "whitelist": [value]}), "GET", Some("anna")), None, "{kind}");
            let message = format!("The {kind} is forbidden.");
            assert_eq!(send(json!({"type": kind, "blacklist": [value]}), "GET", Some("anna")), refused(&message));
        }
        for kind in ["consumer_name", "consumer_group_id"] {
            let message = format!("The request is rejected, please check the {kind} for this request");
            let reply = send(json!({"type": kind, "blacklist": ["x"]}), "GET", None);
            assert_eq!(reply, Some(Reply::message(401, &message)));
        }
    }

    #[test]
    fn a_refusal_is_configurable() {
        let config = json!({"blacklist": ["anna"], "rejected_code": 451, "rejected_msg": "go away"});
        assert_eq!(send(config, "GET", Some("anna")), Some(Reply::message(451, "go away")));
    }
}
