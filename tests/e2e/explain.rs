//! `sluice explain` names the route that a running gateway takes: a table of routes and requests in each router mode, compared
//! with `$route_id` of the access log. The surprise: nothing here says which route is right; the two must agree.

use crate::start::{binary, gateway};
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Gateway, Upstream, Wire};
use std::process::Command;
use std::time::{Duration, Instant};

/// Method, target, fields, body.
type Request = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

const REQUESTS: &[Request] = &[
    ("GET", "/", &[], ""),
    ("GET", "/hello", &[], ""),
    ("POST", "/hello", &[], ""),
    ("GET", "/hello", &[("Host", "foo.com")], ""),
    ("GET", "/hello", &[("Host", "FOO.com:9080")], ""),
    ("GET", "/hello", &[("Host", "a.foo.com")], ""),
    ("GET", "/hello", &[("Host", "b.a.foo.com")], ""),
    ("GET", "/hello", &[("Host", "bar.org")], ""),
    ("GET", "/hello/", &[], ""),
    ("GET", "/hello/world", &[], ""),
    ("GET", "/hello/world", &[("Host", "a.foo.com")], ""),
    ("GET", "/hello/../other//x", &[], ""),
    ("GET", "/%68ello", &[], ""),
    ("GET", "/vars?a=1", &[], ""),
    ("GET", "/vars?a=2", &[], ""),
    ("GET", "/vars?a=2", &[("X-Version", "v2")], ""),
    ("GET", "/vars", &[("Cookie", "user=jack")], ""),
    ("POST", "/form", &[("Content-Type", "application/x-www-form-urlencoded")], "kind=big"),
    ("POST", "/form", &[("Content-Type", "application/x-www-form-urlencoded")], "kind=small"),
    ("GET", "/address", &[], ""),
    ("GET", "/address", &[("X-Real-IP", "10.1.2.3")], ""),
    ("GET", "/address", &[("X-Real-IP", "fd00::7")], ""),
    ("GET", "/prio/a", &[], ""),
    ("GET", "/prio/b", &[], ""),
    ("GET", "/off", &[], ""),
    ("GET", "/user/7/pet", &[], ""),
    ("GET", "/user/x/pet", &[], ""),
    ("GET", "/user/7", &[], ""),
    ("GET", "/user/:name/pet", &[], ""),
    ("GET", "/slash/a%2Fb", &[], ""),
    ("GET", "/slash/a/b", &[], ""),
    ("GET", "/servlet;v=1/x", &[], ""),
    ("GET", "/servlet/.;/x", &[], ""),
    ("GET", "/nothing", &[("Host", "nowhere.net")], ""),
    ("GET", "/lua?ok=1", &[], ""),
    ("GET", "/lua?ok=0", &[], ""),
];

fn routes(upstream: &Upstream) -> Value {
    let mut routes = json!([
        {"id": "hello", "uri": "/hello"},
        {"id": "hello-post", "uri": "/hello", "methods": ["POST"], "priority": 1},
        {"id": "hello-foo", "uri": "/hello", "host": "foo.com", "priority": 2},
        {"id": "hello-wild", "uri": "/hello", "hosts": ["*.foo.com", "bar.org"], "priority": 1},
        {"id": "below-wild", "uri": "/*", "host": "*.foo.com"},
        {"id": "below", "uri": "/hello/*"},
        {"id": "world", "uris": ["/hello/world", "/other/x"]},
        {"id": "vars-1", "uri": "/vars", "vars": [["arg_a", "==", "1"]]},
        {"id": "vars-v2", "uri": "/vars", "priority": 3, "vars": [["http_x_version", "~~", "^v[0-9]$"]]},
        {"id": "vars-or", "uri": "/vars", "vars": ["OR", ["cookie_user", "==", "jack"], ["arg_a", "in", ["7", "8"]]]},
        {"id": "form", "uri": "/form", "vars": [["post_arg_kind", "==", "big"]]},
        {"id": "address-net", "uri": "/address", "remote_addrs": ["10.0.0.0/8", "fd00::/8"]},
        {"id": "address-local", "uri": "/address", "remote_addr": "127.0.0.0/8"},
        {"id": "prio-low", "uri": "/prio/a"},
        {"id": "prio-high", "uri": "/prio/*", "priority": 10},
        {"id": "off", "uri": "/off", "status": 0},
        {"id": "pet", "uri": "/user/:name/pet"},
        {"id": "pet-7", "uri": "/user/7/pet", "methods": ["PUT"]},
        {"id": "user", "uri": "/user/:name"},
        {"id": "slash", "uri": "/slash/:one"},
        {"id": "slash-deep", "uri": "/slash/a/*"},
        {"id": "servlet", "uri": "/servlet/x"},
        {"id": "lua", "uri": "/lua", "filter_func": "function(vars) return vars.arg_ok == '1' end"},
        {"id": "rest", "uri": "/*", "hosts": ["nowhere.net"], "priority": -5},
    ]);
    for route in routes.as_array_mut().unwrap() {
        route["upstream"] = json!({"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}});
    }
    json!({"routes": routes})
}

/// What the command says of it.
fn explained(gateway: &Gateway, arguments: &[&str]) -> Value {
    let config = gateway.dir().path().join("config.yaml");
    let config = if config.exists() { config } else { gateway.dir().path().join("conf/config.yaml") };
    let done = Command::new(binary())
        .args(["explain", "--output", "json", "-c", config.to_str().unwrap()])
        .args(arguments)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn agree(mode: &str, rules: &Value) {
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("access.log");
    let upstream = Upstream::start().unwrap();
    let mut settings = json!({
        "apisix": {"router": {"http": mode}},
        "nginx_config": {"http": {"enable_access_log": true, "access_log": log, "access_log_buffer": 0,
            "access_log_format": "$route_id", "real_ip_from": ["127.0.0.0/8"]}},
    });
    for (key, value) in rules.as_object().unwrap() {
        settings["apisix"][key] = value.clone();
    }
    let gateway = gateway(&settings, &routes(&upstream));
    let mut wire = gateway.connect().unwrap();
    let mut told = Vec::new();
    for (method, target, fields, body) in REQUESTS {
        let mut request = format!("{method} {target} HTTP/1.1\r\n");
        let mut arguments: Vec<String> = Vec::new();
        if !fields.iter().any(|(name, _)| *name == "Host") {
            request += "Host: localhost\r\n";
        }
        for (name, value) in *fields {
            request += &format!("{name}: {value}\r\n");
            arguments.extend(["-H".into(), format!("{name}: {value}")]);
        }
        if !body.is_empty() {
            request += &format!("Content-Length: {}\r\n", body.len());
            arguments.extend(["--data".into(), (*body).into()]);
        }
        wire.request(format!("{request}\r\n{body}")).unwrap();
        arguments.extend([(*method).into(), (*target).into()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let explanation = explained(&gateway, &arguments);
        let won: Vec<&Value> =
            explanation["candidates"].as_array().unwrap().iter().filter(|c| c["won"] == true).collect();
        assert_eq!(won.first().map(|c| &c["route"]), explanation["route"].get("id"), "{explanation}");
        told.push(explanation["route"]["id"].as_str().unwrap_or("-").to_owned());
    }
    let until = Instant::now() + Duration::from_secs(10);
    let mut lines: Vec<String> = Vec::new();
    while lines.len() < REQUESTS.len() {
        assert!(Instant::now() < until, "the access log has {} lines", lines.len());
        std::thread::sleep(Duration::from_millis(5));
        lines = std::fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect();
    }
    for ((request, line), route) in REQUESTS.iter().zip(&lines).zip(&told) {
        let line = if line.is_empty() { "-" } else { line };
        assert_eq!(line, route, "{mode}: {request:?}");
    }
    let routes: std::collections::BTreeSet<&String> = told.iter().collect();
    assert!(routes.len() > 12, "{mode}: the table does not tell routes apart: {routes:?}");
}

#[test]
fn explain_names_the_route_by_uri() {
    agree("radixtree_uri", &json!({}));
}

#[test]
fn explain_names_the_route_by_host_and_uri() {
    agree("radixtree_host_uri", &json!({}));
}

#[test]
fn explain_names_the_route_by_uri_with_parameters() {
    agree("radixtree_uri_with_parameter", &json!({}));
}

#[test]
fn explain_names_the_route_by_priority() {
    agree("priority", &json!({}));
}

#[test]
fn rules_for_paths_hold_in_explanations() {
    let rules =
        json!({"delete_uri_tail_slash": true, "normalize_uri_like_servlet": true, "match_uri_encoded_slash": true});
    agree("radixtree_uri", &rules);
    agree("radixtree_uri_with_parameter", &rules);
}

/// A server that says its name.
fn named(name: &'static str) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut socket, name.as_bytes());
        }
    });
    addr
}

#[test]
fn connections_are_explained() {
    let ports: Vec<String> = (0..2).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let second: u16 = ports[1].rsplit(':').next().unwrap().parse().unwrap();
    let to = |name| json!({"type": "roundrobin", "nodes": {named(name).to_string(): 1}});
    let resources = json!({"stream_routes": [
        {"id": "n", "sni": "*.named.com", "upstream": to("n")},
        {"id": "s", "server_port": second, "upstream": to("s")},
        {"id": "d", "remote_addr": "127.0.0.0/8", "upstream": to("d")},
    ]});
    let settings = json!({"apisix": {"proxy_mode": "http&stream",
        "stream_proxy": {"tcp": ports.iter().map(|p| json!({"addr": p})).collect::<Vec<_>>()}}});
    let gateway = gateway(&settings, &resources);
    for port in &ports {
        let mut wire = Wire::connect(port.as_str()).unwrap();
        let taken = String::from_utf8(wire.read_exact(1).unwrap()).unwrap();
        assert_eq!(explained(&gateway, &["--stream", port])["route"]["id"], taken, "{port}");
    }
    let of = |more: &[&str]| explained(&gateway, &[&["--stream", &ports[0]], more].concat());
    assert_eq!(of(&["--sni", "A.named.com"])["route"]["id"], "n");
    let none = of(&["--client", "10.0.0.1"]);
    assert_eq!(none["route"], Value::Null);
    assert_eq!(none["candidates"][1]["reason"], "remote_addr 10.0.0.1 is not in 127.0.0.0/8");
}
