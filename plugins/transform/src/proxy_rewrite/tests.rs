//! Tests of `proxy_rewrite`.
use super::*;
use proptest::prelude::*;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};

fn error(config: Value) -> String {
    let mut config = config;
    check(define::<ProxyRewrite>(), Scope::Route, &mut config).expect_err("should be refused").0
}

fn rewritten(config: Value, cx: &mut Context) -> String {
    let harness = Harness::new(define::<ProxyRewrite>(), config).expect("a good configuration");
    assert_eq!(harness.request(cx), None);
    String::from_utf8_lossy(cx.upstream_target()).into_owned()
}

fn target(config: Value, client: &str) -> String {
    rewritten(config, &mut Context::for_tests("GET", client))
}

fn values(cx: &Context, name: &str) -> Vec<String> {
    cx.request.headers.get_all(name).map(|v| String::from_utf8_lossy(v).into_owned()).collect()
}

#[test]
fn what_is_refused() {
    assert_eq!(
        error(json!({"uri": "home"})),
        r#"property "uri" validation failed: failed to match pattern "^\\/.*" with "home""#
    );
    assert_eq!(
        error(json!({"method": "GET1"})),
        r#"property "method" validation failed: matches none of the enum values"#
    );
    let three = json!({"regex_uri": ["^/a", "/b", "^/c"]});
    assert_eq!(error(three), "The length of regex_uri should be an even number");
    assert!(error(json!({"regex_uri": ["[^/test/(.*)", "/$1"]})).starts_with("invalid regex_uri([^/test/(.*), /$1): "));
    let bad_group = error(json!({"regex_uri": ["^/test/(.*)", "/$`1"]}));
    assert!(bad_group.contains("invalid capturing variable name found"), "{bad_group}");
    assert_eq!(error(json!({"headers": {"X-Api:Version": "v2"}})), "invalid field character in header");
    assert_eq!(error(json!({"headers": {"X-Api-Version": "v2\r\n"}})), "invalid value character in header");
    assert_eq!(error(json!({"headers": {"": "v2"}})), "invalid field length in header");
    assert!(error(json!({"headers": {"add": {"a": []}}})).starts_with("property \"headers\" validation failed"));
}

#[test]
fn what_is_accepted() {
    for config in [
        json!({"host": "apisix.iresty.com:6443"}),
        json!({"regex_uri": ["$secret://vault/1/x", "/$`"]}),
        json!({"regex_uri": ["^/a", "$ENV://REPLACEMENT"]}),
        json!({"headers": {"add": {"a": ["1", 2]}, "set": {"b": 1.5}, "remove": ["c"]}}),
        json!({"headers": {"add": "a field of this name"}}),
    ] {
        let mut completed = config.clone();
        check(define::<ProxyRewrite>(), Scope::Route, &mut completed).unwrap();
        assert_eq!(completed["use_real_request_uri_unsafe"], false, "{config}");
    }
}

#[test]
fn uri_keeps_the_query() {
    for (uri, client, expected) in [
        ("/new", "/hello", "/new"),
        ("/new", "/hello?q=apisix&a=b%20c", "/new?q=apisix&a=b%20c"),
        ("/new?q=apisix", "/hello?a=iresty", "/new?q=apisix&a=iresty"),
        ("/new?q=apisix", "/hello?", "/new?q=apisix"),
        ("/$arg_new_uri", "/test?new_uri=hello", "/hello?new_uri=hello"),
        ("/$uri/remain", "/hello%3f0z=7%26a=c%20H%0D%0AHost:x", "//hello%253F0z=7&a=c%20H%0D%0AHost:x/remain"),
        ("/a b", "/", "/a%20b"),
        ("/x?u=$uri", "/a%20b%0Ac", "/x?u=/a%20b%0Ac"),
    ] {
        assert_eq!(target(json!({"uri": uri}), client), expected, "{uri} {client}");
    }
}

#[test]
fn without_a_new_path_the_normal_path_is_encoded() {
    let config = json!({"host": "test.com"});
    assert_eq!(
        target(config.clone(), "/hello%3f0z=700%26a=c%20HTTP/1.1%0D%0A"),
        "/hello%3F0z=700&a=c%20HTTP/1.1%0D%0A"
    );
    assert_eq!(target(config.clone(), "/print%5Furi?a=%5F"), "/print_uri?a=%5F");
    assert_eq!(target(config.clone(), "/plain?a=1"), "/plain?a=1");
    assert_eq!(target(config.clone(), "/plain?"), "/plain");
    assert_eq!(target(config, "/a|b"), "/a%7Cb");
}

#[test]
fn changed_arguments_are_forwarded() {
    let mut cx = Context::for_tests("GET", "/a?key=1&b=2");
    cx.request.set_query(Some(b"b=2"));
    assert_eq!(rewritten(json!({"host": "x"}), &mut cx), "/a?b=2");
}

#[test]
fn regex_uri_takes_the_first_pattern_that_matches() {
    let pairs = json!({"regex_uri": ["^/test/(.*)/(.*)/hello", "/hello/$1_$2", "^/test/(.*)/(.*)/world", "/world/${1}_$2?a=c"]});
    assert_eq!(target(pairs.clone(), "/test/a/b/hello"), "/hello/a_b");
    assert_eq!(target(pairs.clone(), "/test/a/b/world"), "/world/a_b?a=c");
    assert_eq!(target(pairs.clone(), "/test/a/b/world?x=1"), "/world/a_b?a=c&x=1");
    assert_eq!(target(pairs.clone(), "/other?x=1"), "/other?x=1");
    assert_eq!(target(json!({"regex_uri": ["b", "B"]}), "/abab"), "/aBab");
    // `%3f` of the client does not begin a query, nor does what it is replaced with then.
    assert_eq!(target(json!({"regex_uri": ["^/a(.*)", "/b$1?x=1"]}), "/a%3fq"), "/b%3Fq%3Fx=1");
    let reflect = json!({"regex_uri": ["^(/reflect.*)", "/print?orig=$1"]});
    assert_eq!(target(reflect, "/reflect%0d%0aX-Injected:pwn"), "/print?orig=/reflect%0D%0AX-Injected:pwn");
    assert_eq!(target(json!({"uri": "/u", "regex_uri": ["^/a", "/b"]}), "/a"), "/u");
}

#[test]
fn the_real_target_is_not_normalised() {
    let raw = |config: Value| {
        let mut config = config;
        config["use_real_request_uri_unsafe"] = true.into();
        config
    };
    assert_eq!(target(raw(json!({})), "/print%5Furi?a=1?b"), "/print%5Furi?a=1?b");
    assert_eq!(target(raw(json!({"uri": "/new"})), "/hello?name=a%20b&x=%E4"), "/new?name=a%20b&x=%E4");
    assert_eq!(target(raw(json!({"uri": "/new?x=1"})), "/hello?q=a?b"), "/new?x=1&q=a?b");
    assert_eq!(target(raw(json!({"uri": "/new"})), "/hello"), "/new");
    assert_eq!(
        target(raw(json!({"regex_uri": ["/hello/(.+)", "/hello?v=$1"]})), "/hello/%ED%85%8C"),
        "/hello?v=%ED%85%8C"
    );
    assert_eq!(target(raw(json!({"uri": "/x$uri"})), "/a%20b%0d%0ac"), "/x/a%20b%0D%0Ac");
}

#[test]
fn host_and_method() {
    let mut cx = Context::for_tests("GET", "/");
    rewritten(json!({"host": "test.com:6443", "method": "POST"}), &mut cx);
    assert_eq!(cx.upstream.host.as_deref(), Some(&b"test.com:6443"[..]));
    assert_eq!(cx.request.method_text(), "POST");
    assert!(!cx.client_sent_head());
    let mut cx = Context::for_tests("HEAD", "/");
    rewritten(json!({"method": "GET"}), &mut cx);
    assert!(cx.client_sent_head() && cx.request.method_text() == "GET");
}

#[test]
fn old_headers_set_and_remove() {
    let mut cx = Context::for_tests("GET", "/hello?name=Bill");
    for (name, value) in [("X-Api-Version", "v1"), ("X-Api-Test", "foo"), ("key", "X-APISIX")] {
        cx.request.headers.append(name, value);
    }
    let headers = json!({
        "X-Api-Version": "v2", "X-Api-Test": "", "X-Number": 1.50, "x-addr": "$remote_addr", "name": "$arg_name",
        "x-key": "${http_key}", "x-none": "$nobody", "x-default": "${nobody ?? me}"
    });
    rewritten(json!({"headers": headers}), &mut cx);
    let expected = [
        ("x-api-version", vec!["v2"]),
        ("x-api-test", vec![]),
        ("x-number", vec!["1.5"]),
        ("x-addr", vec!["127.0.0.1"]),
        ("name", vec!["Bill"]),
        ("x-key", vec!["X-APISIX"]),
        ("x-none", vec![]),
        ("x-default", vec!["me"]),
    ];
    for (name, want) in expected {
        assert_eq!(values(&cx, name), want, "{name}");
    }
}

#[test]
fn headers_are_added_then_set_then_removed() {
    let mut cx = Context::for_tests("GET", "/test/echo");
    for (name, value) in [("a", "0"), ("m", "origin"), ("gone", "1"), ("x-src", "src")] {
        cx.request.headers.append(name, value);
    }
    let config = json!({
        "regex_uri": ["^/test/(.*)", "/echo"],
        "headers": {
            "add": {"a": ["1", "cap-$1"], "both": "added", "late": "x"},
            "set": {"m": ["cap-${1}", "$http_x_src"], "both": "set", "self": ["$http_m", 2], "X-Forwarded-Proto": "grpc"},
            "remove": ["gone", "late", "X-Forwarded-Host"]
        }
    });
    rewritten(config, &mut cx);
    assert_eq!(values(&cx, "a"), ["0", "1", "cap-echo"]);
    assert_eq!(values(&cx, "m"), ["cap-echo", "src"]);
    assert_eq!(values(&cx, "both"), ["set"]);
    assert_eq!(values(&cx, "self"), ["cap-echo, src", "2"]);
    assert_eq!(values(&cx, "gone").len() + values(&cx, "late").len(), 0);
    assert!(cx.upstream.withholds(sluice_http::Known::XForwardedHost));
    assert!(!cx.upstream.withholds(sluice_http::Known::XForwardedProto));
}

#[test]
fn captures_are_empty_where_nothing_matched_and_are_not_templates() {
    let mut cx = Context::for_tests("GET", "/echo");
    rewritten(json!({"regex_uri": ["^/test/(.*)", "/x"], "headers": {"a": "[$1/$2]", "b": "\\$1"}}), &mut cx);
    assert_eq!(values(&cx, "a"), ["[/]"]);
    assert_eq!(values(&cx, "b"), ["\\$1"]);
    let mut cx = Context::for_tests("GET", "/test/$host");
    rewritten(json!({"regex_uri": ["^/test/(not)?(.*)", "/x"], "headers": {"a": "1$1/$2/$3"}}), &mut cx);
    assert_eq!(values(&cx, "a"), ["1/$host/"]);
}

#[test]
fn framing_and_host_cannot_be_edited() {
    let mut cx = Context::for_tests("POST", "/");
    cx.request.headers.append("Content-Length", "3");
    rewritten(json!({"headers": {"Content-Length": "9", "Host": "evil", "Transfer-Encoding": "chunked"}}), &mut cx);
    rewritten(json!({"headers": {"remove": ["Content-Length", "Host"]}}), &mut cx);
    assert_eq!(values(&cx, "content-length"), ["3"]);
    assert_eq!(values(&cx, "host"), ["localhost"]);
    assert!(values(&cx, "transfer-encoding").is_empty());
}

proptest! {
    #[test]
    fn targets_are_always_fit_for_a_request_line(path in "/[ -~]{0,20}", uri in "/[ -~]{0,20}", raw in any::<bool>()) {
        for config in [json!({"uri": uri, "use_real_request_uri_unsafe": raw}), json!({"regex_uri": ["(.*)", "$1?x=$1"]})] {
            let mut cx = Context::for_tests("GET", "/");
            cx.request.set_path(path.as_bytes());
            let new = rewritten(config, &mut cx);
            prop_assert!(!new.bytes().any(|b| b <= b' ' || b == 0x7f), "{new:?}");
        }
    }
}
