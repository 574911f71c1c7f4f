//! Tests of `cors`.
use super::*;
use serde_json::{Value, json};
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Definition, Scope, define};
use std::sync::Arc;

const PLUGIN: Definition = define::<Cors>().metadata::<Metadata>();

fn error(scope: Scope, mut config: Value) -> String {
    check(PLUGIN, scope, &mut config).unwrap_err().0
}

/// The response's fields for a GET from `origin`, the upstream's fields included.
fn fields_with(env: Env, config: Value, origin: Option<&str>, upstream: &[(&str, &str)]) -> Vec<(String, String)> {
    let plugin = Harness::with_env(PLUGIN, config, env).unwrap();
    let mut cx = Context::for_tests("GET", "/hello");
    if let Some(origin) = origin {
        cx.request.headers.append("Origin", origin);
        cx.request.headers.append("Access-Control-Request-Headers", "req-header1,req-header2");
    }
    assert_eq!(plugin.request(&mut cx), None);
    // A later plugin may change the field (proxy-rewrite); what counts is what the client sent.
    cx.request.headers.set("Origin", "http://changed.example");
    for (name, value) in upstream {
        cx.response.headers.append(name, value);
    }
    plugin.response(&mut cx, &[]);
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    cx.response.headers.iter().map(|(n, v)| (text(n), text(v))).collect()
}

fn fields(config: Value, origin: Option<&str>) -> Vec<(String, String)> {
    fields_with(Env::for_tests(), config, origin, &[])
}

fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
}

#[test]
fn configurations_are_checked() {
    let mut config = json!({});
    check(PLUGIN, Scope::Route, &mut config).unwrap();
    let defaults = json!({"allow_origins": "*", "allow_methods": "*", "allow_headers": "*", "max_age": 5, "allow_credential": false});
    assert_eq!(config, defaults);
    assert_eq!(
        error(Scope::Route, json!({"max_age": "600"})),
        "property \"max_age\" validation failed: wrong type: expected integer, got string"
    );
    let strict =
        json!({"allow_origins": "http://a.com", "allow_methods": "", "allow_headers": "", "allow_credential": true});
    check(PLUGIN, Scope::Route, &mut strict.clone()).unwrap();
    for option in ["allow_origins", "allow_methods", "allow_headers", "expose_headers", "timing_allow_origins"] {
        let mut config = strict.clone();
        config[option] = "*".into();
        let wanted = "you can not set '*' for other option when 'allow_credential' is true";
        assert_eq!(error(Scope::Route, config), wanted, "{option}");
    }
    for wrong in ["", "*a", "http://", "http://a.com,*", "http://a.com,"] {
        for option in ["allow_origins", "timing_allow_origins"] {
            let message = error(Scope::Route, json!({option: wrong}));
            assert!(message.contains("failed to match pattern"), "{message}");
        }
        let message = error(Scope::Metadata, json!({"allow_origins": {"key": wrong}}));
        assert!(message.contains("failed to match pattern"), "{message}");
    }
    for option in ["allow_origins_by_regex", "timing_allow_origins_by_regex"] {
        assert_eq!(error(Scope::Route, json!({option: ["a("]})), "pcre_compile() failed: missing ) in \"a(\"");
        assert!(error(Scope::Route, json!({option: []})).contains("expect array to have at least 1 items"));
    }
}

#[test]
fn defaults_allow_all_but_credentials() {
    let wanted = owned(&[
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", "*"),
        ("Access-Control-Max-Age", "5"),
        ("Access-Control-Allow-Headers", "*"),
    ]);
    assert_eq!(fields(json!({}), None), wanted);
    assert_eq!(fields(json!({}), Some("http://x.com")), wanted);
}

#[test]
fn listed_origins() {
    let config = json!({
        "allow_origins": "http://sub.domain.com,http://sub2.domain.com", "allow_methods": "GET,POST",
        "allow_headers": "headr1,headr2", "expose_headers": "ex-headr1,ex-headr2", "max_age": 50, "allow_credential": true
    });
    let wanted = owned(&[
        ("Vary", "Via"),
        ("Vary", "Origin"),
        ("Access-Control-Allow-Origin", "http://sub2.domain.com"),
        ("Access-Control-Allow-Methods", "GET,POST"),
        ("Access-Control-Max-Age", "50"),
        ("Access-Control-Expose-Headers", "ex-headr1,ex-headr2"),
        ("Access-Control-Allow-Headers", "headr1,headr2"),
        ("Access-Control-Allow-Credentials", "true"),
    ]);
    let upstream = [("Vary", "Via")];
    assert_eq!(fields_with(Env::for_tests(), config.clone(), Some("http://sub2.domain.com"), &upstream), wanted);
    for other in [Some("http://sub3.domain.com"), Some("http://sub.domain.com,http://sub2.domain.com"), None] {
        assert_eq!(fields(config.clone(), other), owned(&[("Vary", "Origin")]), "{other:?}");
    }
    let one = json!({"allow_origins": "http://sub.domain.com"});
    assert_eq!(
        value(&fields(one.clone(), Some("http://sub.domain.com")), "Access-Control-Allow-Origin"),
        Some("http://sub.domain.com")
    );
    assert_eq!(fields(one, Some("http://sub.domain.com.evil")), owned(&[("Vary", "Origin")]));
}

#[test]
fn the_force_wildcard_echoes() {
    let config = json!({"allow_origins": "**", "allow_methods": "**", "allow_headers": "**", "expose_headers": "*"});
    let got = fields(config.clone(), Some("https://sub.domain.com"));
    assert_eq!(value(&got, "Access-Control-Allow-Origin"), Some("https://sub.domain.com"));
    assert_eq!(value(&got, "Vary"), Some("Origin"));
    assert_eq!(
        value(&got, "Access-Control-Allow-Methods"),
        Some("GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE")
    );
    assert_eq!(value(&got, "Access-Control-Allow-Headers"), Some("req-header1,req-header2"));
    assert_eq!(value(&got, "Access-Control-Expose-Headers"), Some("*"));
    let upstream = [("Access-Control-Allow-Headers", "upstream's")];
    let got = fields_with(Env::for_tests(), config, None, &upstream);
    assert_eq!(value(&got, "Access-Control-Allow-Origin"), Some("*"));
    assert_eq!(value(&got, "Access-Control-Allow-Headers"), None);
}

#[test]
fn upstream_fields_are_overwritten() {
    let config = json!({"allow_origins": "**", "expose_headers": "expose-h"});
    let upstream = [
        ("access-control-allow-origin", "http://other"),
        ("Access-Control-Expose-Headers", "e"),
        ("Access-Control-Max-Age", "10"),
    ];
    let got = fields_with(Env::for_tests(), config, Some("https://sub.domain.com"), &upstream);
    assert_eq!(got.iter().filter(|(n, _)| n.eq_ignore_ascii_case("access-control-allow-origin")).count(), 1);
    assert_eq!(value(&got, "access-control-allow-origin"), Some("https://sub.domain.com"));
    assert_eq!(value(&got, "Access-Control-Expose-Headers"), Some("expose-h"));
    assert_eq!(value(&got, "Access-Control-Max-Age"), Some("5"));
}

#[test]
fn patterns_stand_instead_of_allow_origins() {
    let config = json!({"allow_origins": "http://sub.domain.com", "allow_origins_by_regex": [".*\\.test.com$", ".*\\.example.org$"]});
    for allowed in ["http://a.test.com", "http://foo.example.org"] {
        assert_eq!(value(&fields(config.clone(), Some(allowed)), "Access-Control-Allow-Origin"), Some(allowed));
    }
    for refused in [Some("http://a.test2.com"), Some("http://sub.domain.com"), None] {
        assert_eq!(fields(config.clone(), refused), owned(&[("Vary", "Origin")]), "{refused:?}");
    }
    let default = json!({"allow_origins_by_regex": [".*\\.domain.com$"]});
    assert_eq!(fields(default.clone(), Some("http://sub.test.com")), []);
    assert_eq!(value(&fields(default, Some("http://sub.domain.com")), "Vary"), None);
}

#[test]
fn metadata_adds_origins() {
    let metadata = json!({"allow_origins": {"key_1": "https://domain.com", "key_2": "https://sub.domain.com,https://sub2.domain.com", "key_3": "*"}});
    let metadata = Arc::new([("cors".to_string(), metadata)].into_iter().collect());
    let allowed = |config: Value, origin: Option<&str>| {
        let env = Env::for_tests().with_metadata(Arc::clone(&metadata));
        value(&fields_with(env, config, origin, &[]), "Access-Control-Allow-Origin").map(str::to_string)
    };
    let both = json!({"allow_origins": "https://test.com", "allow_origins_by_metadata": ["key_1", "key_2", "unknown"]});
    for origin in ["https://domain.com", "https://sub.domain.com", "https://sub2.domain.com", "https://test.com"] {
        assert_eq!(allowed(both.clone(), Some(origin)).as_deref(), Some(origin));
    }
    assert_eq!(allowed(both.clone(), Some("http://foo.example.org")), None);
    assert_eq!(allowed(both, None), None);
    let all = json!({"allow_origins": "https://test.com", "allow_origins_by_metadata": ["key_3"]});
    assert_eq!(allowed(all, Some("http://foo.example.org")).as_deref(), Some("http://foo.example.org"));
    let star = json!({"allow_origins": "*", "allow_origins_by_metadata": ["key_1"]});
    assert_eq!(allowed(star.clone(), Some("http://foo.example.org")), None);
    assert_eq!(allowed(star, Some("https://domain.com")).as_deref(), Some("https://domain.com"));
}

#[test]
fn timings_have_origins_of_their_own() {
    let timing = |config: Value, origin| value(&fields(config, origin), "Timing-Allow-Origin").map(str::to_string);
    let one = json!({"timing_allow_origins": "http://sub.domain.com"});
    assert_eq!(timing(one.clone(), Some("http://sub.domain.com")).as_deref(), Some("http://sub.domain.com"));
    assert_eq!(timing(one.clone(), Some("http://other.domain.com")), None);
    assert_eq!(timing(one, None), None);
    let list = json!({"allow_origins": "http://one.com", "timing_allow_origins": "http://a.com,http://b.com"});
    assert_eq!(
        fields(list, Some("http://b.com")),
        owned(&[("Vary", "Origin"), ("Timing-Allow-Origin", "http://b.com")])
    );
    let regex = json!({"timing_allow_origins": "http://a.com", "timing_allow_origins_by_regex": ["^https?://.*\\.test\\.com$"]});
    assert_eq!(timing(regex.clone(), Some("http://x.test.com")).as_deref(), Some("http://x.test.com"));
    assert_eq!(timing(regex, Some("http://a.com")), None);
    assert_eq!(timing(json!({"timing_allow_origins": "*"}), None).as_deref(), Some("*"));
    assert_eq!(timing(json!({}), Some("http://a.com")), None);
}

#[test]
fn options_are_answered_by_the_gateway() {
    let plugin = Harness::new(PLUGIN, json!({"allow_origins": "**", "allow_headers": "**"})).unwrap();
    let mut cx = Context::for_tests("OPTIONS", "/hello");
    cx.request.headers.append("Origin", "http://a.com");
    cx.request.headers.append("Access-Control-Request-Headers", "X-A");
    assert_eq!(plugin.request(&mut cx), Some(Reply::status(200)));
    plugin.response(&mut cx, &[]);
    assert_eq!(cx.response.headers.get("Access-Control-Allow-Origin"), Some(&b"http://a.com"[..]));
    assert_eq!(cx.response.headers.get("Access-Control-Allow-Headers"), Some(&b"X-A"[..]));
}
