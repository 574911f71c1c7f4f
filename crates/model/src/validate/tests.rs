//! Tests of the checks beyond the schemas, by their exact texts.

use super::*;
use serde_json::json;

struct World;

impl Plugins for World {
    fn check(&self, _: &str, scope: PluginScope, conf: &mut Value) -> Result<(), String> {
        if conf.get("bad").is_some() {
            return Err(format!("bad {scope:?}"));
        }
        conf["seen"] = json!(true);
        Ok(())
    }

    fn exists(&self, name: &str, _: PluginScope) -> bool {
        ["key-auth", "cors"].contains(&name)
    }

    fn is_auth(&self, name: &str) -> bool {
        name == "key-auth"
    }
}

impl References for World {
    fn exists(&self, kind: Kind, id: &str) -> bool {
        self.get(kind, id).is_some()
    }

    fn get(&self, kind: Kind, id: &str) -> Option<Value> {
        match (kind, id) {
            (Kind::Upstream, "1") => Some(json!({})),
            (Kind::Ssl, "1") => Some(json!({"type": "server"})),
            (Kind::StreamRoute, "1") => Some(json!({"protocol": {"name": "redis"}})),
            _ => None,
        }
    }

    fn global_rule_with(&self, plugin: &str, except: Option<&str>) -> Option<String> {
        (plugin == "cors" && except != Some("9")).then(|| String::from("9"))
    }

    fn key_owner(&self, _: &str, _: &str, value: &str) -> Option<KeyOwner> {
        (value == "taken").then(|| KeyOwner { consumer: String::from("jack"), credential: Some(String::from("c1")) })
    }
}

impl Parsers for World {
    fn vars(&self, expression: &Value) -> Result<(), String> {
        if expression == &json!(["bad"]) { Err(String::from("rule should be wrapped inside brackets")) } else { Ok(()) }
    }

    fn certificate(&self, pem: &str) -> Result<(), String> {
        if pem.starts_with('c') { Ok(()) } else { Err(String::from("no certificate")) }
    }

    fn private_key(&self, pem: &str) -> Result<(), String> {
        if pem.starts_with("---k") { Ok(()) } else { Err(String::from("no key")) }
    }

    fn proto(&self, _: &str) -> Result<(), String> {
        Err(String::from("syntax error"))
    }
}

const CHECKS: Checks<'static> = Checks { plugins: &World, references: &World, parsers: &World };

fn answer(result: Checked) -> String {
    result.map_or_else(|invalid| invalid.message, |()| String::from("ok"))
}

fn put(kind: Kind, id: &str, mut body: Value) -> String {
    answer(validate(Write::PUT, kind, Some(id), &mut body, &CHECKS))
}

#[test]
fn a_fallback_is_checked_as_an_upstream_without_a_breaker() {
    let with = |fallback: Value| json!({"nodes": {}, "circuit_breaker": {"max_failures": 1, "fallback": fallback}});
    let place = "invalid configuration: circuit_breaker.fallback: ";
    for (fallback, words) in [
        (json!("1"), String::from("ok")),
        (json!(1), String::from("ok")),
        (json!("standby"), String::from("failed to fetch upstream info by upstream id [standby], response code: 404")),
        (json!({"nodes": {"b.com:80": 1}, "concurrency_limit": {"limit": 3}}), String::from("ok")),
        (
            json!({"nodes": {}, "circuit_breaker": {"max_failures": 1}}),
            format!("{place}additional properties forbidden, found circuit_breaker"),
        ),
        (
            json!({"nodes": {}, "pass_host": "rewrite"}),
            String::from("`upstream_host` can't be empty when `pass_host` is `rewrite`"),
        ),
    ] {
        assert_eq!(put(Kind::Upstream, "1", with(fallback.clone())), words, "{fallback}");
        let route = json!({"uri": "/", "upstream": with(fallback)});
        assert_eq!(put(Kind::Route, "1", route), words);
    }
    let limit = |limit: Value| put(Kind::Upstream, "1", json!({"nodes": {}, "concurrency_limit": limit}));
    assert_eq!(limit(json!({})), "concurrency_limit: `limit` is required unless `type` is `gradient`");
    assert_eq!(limit(json!({"type": "gradient"})), "ok");
}

#[test]
fn texts_of_the_admin_api() {
    let (cert, key) = ("c".repeat(128), format!("---{}", "k".repeat(64)));
    let chash = |more: Value| {
        let mut body = json!({"nodes": {}, "type": "chash"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (kind, id, body, words) in [
        (Kind::Route, "1", json!({"uri": "/", "plugins": {"cors": {}}, "upstream_id": 1}), "ok"),
        (Kind::Route, "1", json!({"id": 2, "uri": "/", "plugins": {}}), "wrong route id"),
        (Kind::Route, "1", json!({"host": "a", "hosts": ["b"]}), "only one of host or hosts is allowed"),
        (
            Kind::Route,
            "1",
            json!({"uri": "/", "plugins": {}, "create_time": 1}),
            "the property is forbidden:  create_time",
        ),
        (
            Kind::Route,
            "1",
            json!({"uri": "/", "upstream": {"nodes": {}, "update_time": 1}}),
            "the property is forbidden:  upstream.update_time",
        ),
        (
            Kind::Route,
            "1",
            json!({"uri": 1, "plugins": {}}),
            "invalid configuration: property \"uri\" validation failed: wrong type: expected string, got number",
        ),
        (
            Kind::Route,
            "1",
            json!({"uri": "/", "upstream_id": "x"}),
            "failed to fetch upstream info by upstream id [x], response code: 404",
        ),
        (
            Kind::Route,
            "1",
            json!({"uri": "/", "service_id": 5}),
            "failed to fetch service info by service id [5], response code: 404",
        ),
        (
            Kind::Route,
            "1",
            json!({"uri": "/", "plugins": {}, "plugin_config_id": 5}),
            "failed to fetch plugin config info by plugin config id [5], response code: 404",
        ),
        (Kind::Route, "1", json!({"uri": "/", "plugins": {"nosuch": {}}}), "unknown plugin [nosuch]"),
        (
            Kind::Route,
            "1",
            json!({"uri": "/", "plugins": {"cors": "x"}}),
            "invalid plugin conf \"x\" for plugin [cors]",
        ),
        (
            Kind::Route,
            "1",
            json!({"uri": "/", "plugins": {"cors": {"bad": 1}}}),
            "failed to check the configuration of plugin cors err: bad Route",
        ),
        (Kind::Route, "1", json!({"uri": "/", "plugins": {"cors": {"bad": 1, "_meta": {"disable": true}}}}), "ok"),
        (
            Kind::Route,
            "1",
            json!({"uri": "/", "plugins": {}, "vars": ["bad"]}),
            "failed to validate the 'vars' expression: rule should be wrapped inside brackets",
        ),
        (
            Kind::Upstream,
            "1",
            json!({"nodes": [{"host": "::1", "weight": 1}]}),
            "invalid configuration: IPv6 address must be enclosed with '[' and ']'",
        ),
        (Kind::Upstream, "1", json!({"nodes": {"a:0": 1}}), "invalid port 0"),
        (
            Kind::Upstream,
            "1",
            json!({"nodes": {}, "pass_host": "rewrite"}),
            "`upstream_host` can't be empty when `pass_host` is `rewrite`",
        ),
        (
            Kind::Upstream,
            "1",
            json!({"nodes": {}, "tls": {"client_cert_id": 1}}),
            "failed to fetch ssl info by ssl id [1], wrong ssl type",
        ),
        (Kind::Upstream, "1", chash(json!({})), "missing key"),
        (Kind::Upstream, "1", chash(json!({"hash_on": "consumer"})), "ok"),
        (Kind::Upstream, "1", chash(json!({"key": "arg_a"})), "ok"),
        (Kind::Upstream, "1", chash(json!({"hash_on": "client_ip"})), "ok"),
        (Kind::Upstream, "1", chash(json!({"hash_on": "uri"})), "ok"),
        (Kind::Upstream, "1", chash(json!({"hash_on": "query_arg"})), "missing key"),
        (Kind::Upstream, "1", chash(json!({"hash_on": "query_arg", "key": "user"})), "ok"),
        (
            Kind::Upstream,
            "1",
            chash(json!({"key": "arg_a", "slow_start": {"window": 10}})),
            "slow_start has no effect with type chash: use roundrobin, least_conn, random, p2c or adaptive",
        ),
        (
            Kind::Upstream,
            "1",
            json!({"nodes": {}, "load_report": {}}),
            "load_report needs type adaptive, but type is roundrobin",
        ),
        (Kind::Upstream, "1", json!({"nodes": {}, "type": "adaptive", "load_report": {"header": "x-load"}}), "ok"),
        (
            Kind::Upstream,
            "1",
            json!({"nodes": {}, "sticky": {"same_site": "none"}}),
            "sticky: same_site none needs secure: browsers drop such a cookie otherwise",
        ),
        (
            Kind::Upstream,
            "1",
            json!({"nodes": {}, "sticky": {"cookie": "a", "name": "b"}}),
            "sticky: cookie and name are the same setting, give one of them",
        ),
        (
            Kind::Upstream,
            "1",
            json!({"nodes": {}, "slow_start": {}}),
            "invalid configuration: property \"slow_start\" validation failed: property \"window\" is required",
        ),
        (Kind::Upstream, "1", json!({"nodes": {}, "zone_preference": {}, "slow_start": {"window": 0.5}}), "ok"),
        (
            Kind::Upstream,
            "1",
            chash(json!({"key": "a b", "hash_on": "header"})),
            "invalid configuration: failed to match pattern \"^[a-zA-Z0-9-_]+$\" with \"a b\"",
        ),
        (Kind::Consumer, "rose", json!({"username": "jack"}), "wrong username"),
        (
            Kind::Consumer,
            "rose",
            json!({"username": "rose", "plugins": {"key-auth": {"bad": 1}}}),
            "invalid plugins configuration: failed to check the configuration of plugin key-auth err: bad Consumer",
        ),
        (
            Kind::Consumer,
            "rose",
            json!({"username": "rose", "plugins": {"key-auth": {"key": "taken"}}}),
            "duplicate key of plugin key-auth found with credential: c1 of consumer: jack",
        ),
        (Kind::Consumer, "jack", json!({"username": "jack", "plugins": {"key-auth": {"key": "taken"}}}), "ok"),
        (
            Kind::Credential,
            "2",
            json!({"plugins": {"cors": {}}}),
            "only supports auth type plugins in consumer credential",
        ),
        (
            Kind::GlobalRule,
            "1",
            json!({"plugins": {"cors": {}}}),
            "plugin 'cors' already exists in global rule with id '9'",
        ),
        (Kind::GlobalRule, "9", json!({"plugins": {"cors": {}}}), "ok"),
        (Kind::PluginMetadata, "nosuch", json!({}), "invalid plugin name"),
        (Kind::PluginMetadata, "cors", json!({"bad": 1}), "invalid configuration: bad Metadata"),
        (Kind::Ssl, "1", json!({"sni": "a", "cert": cert, "key": key}), "ok"),
        (
            Kind::Ssl,
            "1",
            json!({"sni": "a", "cert": key.repeat(2), "key": key}),
            "failed to parse cert: no certificate",
        ),
        (Kind::Ssl, "1", json!({"sni": "a", "cert": cert, "key": "-".repeat(128)}), "failed to parse key: no key"),
        (Kind::Ssl, "1", json!({"sni": "a", "cert": cert, "key": cert}), "failed to decrypt previous encrypted key"),
        (
            Kind::Ssl,
            "1",
            json!({"sni": "a", "cert": cert, "key": key, "certs": [cert]}),
            "mismatched number of certs and keys",
        ),
        (
            Kind::Ssl,
            "1",
            json!({"sni": "a", "cert": cert, "key": key, "certs": [cert], "keys": [cert]}),
            "failed to handle cert-key pair[1]: failed to decrypt previous encrypted key",
        ),
        (Kind::Proto, "1", json!({"content": "x"}), "invalid content: syntax error"),
        (Kind::Secret, "nosuch/1", json!({}), "invalid secret manager: nosuch"),
        (
            Kind::Secret,
            "aws/1",
            json!({"access_key_id": "a"}),
            "invalid configuration: property \"secret_access_key\" is required",
        ),
        (
            Kind::StreamRoute,
            "1",
            json!({"protocol": {"name": "redis", "superior_id": 1}}),
            "stream route can not set itself as superior_id",
        ),
        (
            Kind::StreamRoute,
            "2",
            json!({"protocol": {"name": "dubbo", "superior_id": 1}}),
            "protocol mismatch: subordinate protocol [dubbo] does not match superior protocol [redis]",
        ),
        (Kind::StreamRoute, "2", json!({"protocol": {"name": "dubbo"}}), "unknown protocol [dubbo]"),
        (
            Kind::StreamRoute,
            "2",
            json!({"plugins": {"cors": {"bad": 1}}}),
            "failed to check the configuration of stream plugin [cors]: bad Stream",
        ),
    ] {
        assert_eq!(put(kind, id, body.clone()), words, "{kind:?} {body}");
    }
}

#[test]
fn ids_and_paths() {
    let mut body = json!({"id": 1, "uri": "/", "plugins": {"cors": {}}});
    assert_eq!(answer(validate(Write::Post, Kind::Route, None, &mut body, &CHECKS)), "wrong route id, do not need it");
    assert_eq!(answer(validate(Write::PUT, Kind::Route, None, &mut body, &CHECKS)), "ok");
    assert_eq!((&body["plugins"]["cors"]["seen"], &body["priority"]), (&json!(true), &json!(0)));
    let mut body = json!({"plugins": {}});
    assert_eq!(answer(validate(Write::PUT, Kind::PluginConfig, None, &mut body, &CHECKS)), "missing plugin config id");
    assert_eq!(answer(validate(Write::PUT, Kind::PluginConfig, Some("p"), &mut body, &CHECKS)), "ok");
    assert_eq!(body["id"], "p");
    let mut body = json!({"uri": "/", "upstream": {"nodes": {"a": 1}, "retries": -1}, "create_time": 1});
    let invalid = validate(Write::Patch, Kind::Route, Some("1"), &mut body, &CHECKS).unwrap_err();
    assert_eq!(invalid.path, "/upstream/retries");
    let mut body = json!({"plugins": {"key-auth": {"key": "taken"}}});
    let write = Write::Put { parent: Some("jack") };
    assert_eq!(answer(validate(write, Kind::Credential, Some("c1"), &mut body, &CHECKS)), "ok");
    assert_ne!(answer(validate(write, Kind::Credential, Some("c2"), &mut body, &CHECKS)), "ok");
}

#[test]
fn files_are_checked_without_references() {
    let check = |kind, skip, mut body: Value| {
        let words = answer(validate_standalone(kind, skip, &mut body, &CHECKS));
        (words, body)
    };
    assert_eq!(check(Kind::Route, false, json!({"uri": "/", "upstream_id": "x"})).0, "ok");
    assert_eq!(check(Kind::Route, false, json!({"uri": "/", "plugins": {"x": {}}})).0, "unknown plugin [x]");
    assert_eq!(check(Kind::Route, true, json!({"uri": "/", "plugins": {"x": {}}})).0, "ok");
    assert_eq!(check(Kind::Consumer, false, json!({})).0, "property \"username\" is required");
    assert_eq!(check(Kind::Consumer, false, json!({"id": "jack/credentials/1"})).0, "ok");
    assert_eq!(check(Kind::Secret, false, json!({"id": "vault"})).0, "no secret id");
    let (words, body) = check(Kind::Upstream, false, json!({"nodes": [{"host": "::1", "port": 80, "weight": 1}]}));
    assert_eq!((words.as_str(), &body["nodes"][0]["host"]), ("ok", &json!("[::1]")));
    let mut body = json!({"uri": "/", "upstream_id": "x"});
    assert_eq!(answer(validate_declared(Kind::Route, &mut body, &CHECKS)), "ok");
    assert_eq!(answer(validate_declared(Kind::Secret, &mut json!({"id": "a"}), &CHECKS)), "invalid secret id: a");
}

#[test]
fn a_plugins_field_of_certificates_needs_the_plugin() {
    let checks = Checks { plugins: &World, references: &World, parsers: &World };
    let (cert, key) = ("c".repeat(128), format!("---k{}", "k".repeat(128)));
    let body = json!({"id": "1", "sni": "a.test", "cert": cert, "key": key, "ocsp_stapling": {}});
    let refused = validate_standalone(Kind::Ssl, false, &mut body.clone(), &checks).unwrap_err();
    assert_eq!(refused.message, "additional properties forbidden, found ocsp_stapling");
    // In a store that other gateways share it is passed over.
    validate_standalone(Kind::Ssl, true, &mut body.clone(), &checks).unwrap();
}
