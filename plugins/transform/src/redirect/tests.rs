//! Tests of `redirect`.
use super::*;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Connection, Scope, TlsInfo, define};
use std::rc::Rc;

fn error(mut config: Value) -> String {
    check(define::<Redirect>(), Scope::Route, &mut config).expect_err("should be refused").0
}

fn answer(env: Env, config: Value, cx: &mut Context) -> Option<(u16, String)> {
    let harness = Harness::with_env(define::<Redirect>(), config, env).expect("a good configuration");
    let reply = harness.request(cx)?;
    let [(name, value)] = reply.headers.as_slice() else { panic!("one field expected: {:?}", reply.headers) };
    assert_eq!((name.as_ref(), &reply.body), ("Location", &sluice_plugin::reply::ReplyBody::Default));
    Some((reply.status, String::from_utf8_lossy(value).into_owned()))
}

fn redirected(config: Value, client: &str) -> Option<(u16, String)> {
    answer(Env::for_tests(), config, &mut Context::for_tests("GET", client))
}

fn to(status: u16, location: &str) -> Option<(u16, String)> {
    Some((status, location.to_string()))
}

#[test]
fn what_is_refused() {
    assert_eq!(
        error(json!({"http_to_https": true, "uri": "/hello"})),
        "value should match only one schema, but matches both schemas 1 and 3"
    );
    assert_eq!(
        error(json!({"http_to_https": true, "append_query_string": true})),
        "only one of `http_to_https` and `append_query_string` can be configured."
    );
    assert!(error(json!({"regex_uri": ["(", "/"]})).starts_with("invalid regex_uri ((, /), err:"));
    assert!(error(json!({"regex_uri": ["/a", "$x"]})).contains("failed to compile the replacement template"));
    assert!(error(json!({"append_query_string": true})).starts_with("value should match only one schema"));
    assert_eq!(
        error(json!({"uri": "/a", "ret_code": 199})),
        r#"property "ret_code" validation failed: expected 199 to be at least 200"#
    );
    let mut old = json!({"http_to_https": true, "append_query_string": false});
    check(define::<Redirect>(), Scope::Route, &mut old).unwrap();
    assert_eq!((&old["ret_code"], &old["encode_uri"]), (&json!(302), &json!(false)));
}

#[test]
fn uri_holds_variables() {
    for (uri, expected) in [
        ("/test/add", "/test/add"),
        ("$uri/test/a${arg_name}c", "/hello/test/ajsonc"),
        ("/foo$$uri", "/foo$/hello"),
        ("\\$uri/foo$uri\\$uri/bar", "\\$uri/foo/hello\\$uri/bar"),
        ("$uri/$bad_var/bar", "/hello//bar"),
        ("https://$host.x$request_uri", "https://localhost.x/hello?name=json"),
        ("/a\\b${}$", "/ab${}$"),
        ("/é$uri", "/é/hello"),
    ] {
        assert_eq!(redirected(json!({"uri": uri, "ret_code": 301}), "/hello?name=json"), to(301, expected), "{uri}");
    }
}

#[test]
fn regex_uri_redirects_only_what_matches() {
    let config = json!({"regex_uri": ["^/test/(.*)", "http://test.com/${1}"], "ret_code": 301});
    assert_eq!(redirected(config.clone(), "/test/1"), to(301, "http://test.com/1"));
    assert_eq!(redirected(config, "/hello"), None);
}

#[test]
fn encoding_and_query() {
    let encode = |uri: &str| json!({"uri": uri, "encode_uri": true});
    assert_eq!(redirected(encode("$uri"), "/with%20space"), to(302, "/with%20space"));
    assert_eq!(redirected(encode("$uri?a=é b"), "/x"), to(302, "/x?a=é b"));
    assert_eq!(redirected(json!({"uri": "$uri"}), "/a%0d%0ab%20c"), to(302, "/a%0D%0Ab c"));
    let append = |uri: &str| json!({"uri": uri, "append_query_string": true});
    assert_eq!(redirected(append("$uri"), "/hello?name=json"), to(302, "/hello?name=json"));
    assert_eq!(redirected(append("$uri"), "/hello"), to(302, "/hello"));
    let config = json!({"regex_uri": ["^/test/(.*)", "http://t/${1}?q=a"], "append_query_string": true});
    assert_eq!(redirected(config, "/test/hello?o=b"), to(302, "http://t/hello?q=a&o=b"));
}

fn ports(attribute: Value, https: &[u16]) -> Env {
    Env::for_tests().with_attributes(json!({"redirect": attribute})).with_https_ports(https)
}

#[test]
fn http_goes_to_https() {
    let config = json!({"http_to_https": true, "ret_code": 307});
    let location = |env: Env| answer(env, config.clone(), &mut Context::for_tests("GET", "/hello?a=1"));
    assert_eq!(location(Env::for_tests()), to(301, "https://localhost/hello?a=1"));
    assert_eq!(location(ports(json!({"https_port": 8443}), &[9443])), to(301, "https://localhost:8443/hello?a=1"));
    assert_eq!(location(ports(json!({"https_port": 443}), &[9443])), to(301, "https://localhost/hello?a=1"));
    assert_eq!(location(ports(json!({"https_port": 70000}), &[])), to(301, "https://localhost/hello?a=1"));
    assert_eq!(location(ports(Value::Null, &[9443])), to(301, "https://localhost:9443/hello?a=1"));
    assert_eq!(location(ports(Value::Null, &[443])), to(301, "https://localhost/hello?a=1"));
    let several: Vec<_> = (0..50).filter_map(|_| location(ports(Value::Null, &[6443, 7443]))).map(|(_, l)| l).collect();
    assert!(
        several.iter().all(|l| l.starts_with("https://localhost:6443/") || l.starts_with("https://localhost:7443/"))
    );
    assert!(several.iter().any(|l| l != &several[0]));
    for (method, status) in [("HEAD", 301), ("POST", 308), ("DELETE", 308)] {
        let got = answer(Env::for_tests(), config.clone(), &mut Context::for_tests(method, "/hello"));
        assert_eq!(got, to(status, "https://localhost/hello"));
    }
}

#[test]
fn https_stays() {
    let config = json!({"http_to_https": true});
    let mut cx = Context::for_tests("GET", "/");
    cx.request.headers.append("X-Forwarded-Proto", "https");
    assert_eq!(answer(Env::for_tests(), config.clone(), &mut cx), None);
    let mut cx = Context::for_tests("GET", "/");
    let (peer, local) = (cx.connection.peer, cx.connection.local);
    cx.connection = Rc::new(Connection::new(peer, local, Some(TlsInfo::default())));
    assert_eq!(answer(Env::for_tests(), config.clone(), &mut cx), None);
    cx.request.headers.append("X-Forwarded-Proto", "any");
    assert_eq!(answer(Env::for_tests(), config, &mut cx), to(301, "https://localhost/"));
    assert_eq!(redirected(json!({"http_to_https": false}), "/"), None);
}
