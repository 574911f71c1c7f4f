//! Watching a running gateway: `sluice tail`, `sluice top`, and live requests explained by `debug-logger`.

use crate::start::{binary, gateway};
use serde_json::{Value, json};
use sluice_testkit::{Behaviour, Gateway, Upstream, Wire};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(15);
const KEY: &str = "a key for explaining things";

/// Runs a command against the gateway's Control API while requests are sent, until it ends.
fn watch(gateway: &Gateway, arguments: &[&str], targets: &[&str]) -> Output {
    let control = format!("127.0.0.1:{}", gateway.dir().control_port);
    let mut command = Command::new(binary());
    command.args(arguments).args(["--control", &control]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let end = Instant::now() + LIMIT;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "{arguments:?} does not end");
        let mut wire = gateway.connect().unwrap();
        for target in targets {
            wire.get(target).unwrap();
        }
    }
    child.wait_with_output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn shop(upstream: &Upstream) -> Gateway {
    upstream.on("/orders/bad", Behaviour::answer(500, "bad"));
    let nodes = json!({"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}});
    let resources = json!({
        "upstreams": [{"id": "u", "nodes": nodes["nodes"], "type": "roundrobin"}],
        "routes": [
            {"id": "r", "name": "orders", "uri": "/orders/*", "upstream_id": "u"},
            {"id": "other", "uri": "/other", "upstream": nodes},
            {"id": "broken", "uri": "/broken", "upstream": {
                "type": "roundrobin", "nodes": {"127.0.0.1:1": 1},
                "circuit_breaker": {"max_failures": 1, "unhealthy": {"interval": 60}},
            }},
        ],
    });
    gateway(&Value::Null, &resources)
}

#[test]
fn tail_follows_what_is_asked_for() {
    let upstream = Upstream::start().unwrap();
    let gateway = shop(&upstream);
    let targets = ["/orders/1?a=b", "/orders/bad", "/other", "/nowhere"];
    let output =
        watch(&gateway, &["tail", "--route", "orders", "--status", "5xx", "-n", "2", "--output", "json"], &targets);
    let seen = lines(&output);
    assert_eq!(seen.len(), 2);
    for line in &seen {
        assert_eq!((&line["target"], &line["status"]), (&json!("/orders/bad"), &json!(500)));
        assert_eq!((&line["route"], &line["upstream"]), (&json!("r"), &json!("upstreams/u")));
        assert_eq!((&line["source"], &line["client"]), (&json!("upstream"), &json!("127.0.0.1")));
        assert_eq!(line["attempts"][0]["node"], upstream.addr().to_string());
        assert!(line["duration"].as_f64().unwrap() > 0.0);
    }
    let text = watch(&gateway, &["tail", "--status", "404", "-n", "1"], &targets);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("404") && text.contains("/nowhere route=- 127.0.0.1 by apisix"), "{text}");
    let wrong = wrong_of(Command::new(binary()).args(["tail", "--status", "many", "--control"]), &gateway);
    assert!(wrong.contains("many: not a status"), "{wrong}");
}

fn wrong_of(command: &mut Command, gateway: &Gateway) -> String {
    let output = command.arg(format!("http://127.0.0.1:{}", gateway.dir().control_port)).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn top_adds_up_by_route_and_upstream() {
    let upstream = Upstream::start().unwrap();
    let gateway = shop(&upstream);
    let targets = ["/orders/1", "/orders/bad", "/nowhere"];
    let arguments = ["top", "--once", "--interval", "0.5", "--output", "json"];
    let sums = lines(&watch(&gateway, &arguments, &targets));
    let [sums] = sums.as_slice() else { panic!("{sums:?}") };
    let row = |list: &str, name: &str| {
        let rows = sums[list].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {sums}")).clone()
    };
    let orders = row("routes", "r");
    assert_eq!(orders["title"], "orders");
    assert!(orders["rate"].as_f64().unwrap() > 1.0 && orders["p99_ms"].as_f64() >= orders["p50_ms"].as_f64());
    let half = orders["requests"].as_u64().unwrap() / 2;
    assert!(orders["server_errors"].as_u64().unwrap().abs_diff(half) <= 1, "{orders}");
    assert!(row("routes", "(no route)")["client_errors"].as_u64().unwrap() > 0);
    let node = &row("upstreams", "upstreams/u")["nodes"][0];
    assert_eq!((&node["name"], &node["status"]), (&json!(upstream.addr().to_string()), &json!("unchecked")));
    assert_eq!(node["requests"], orders["requests"]);
    gateway.connect().unwrap().get("/broken").unwrap();
    let text = watch(&gateway, &["top", "--once", "--interval", "0.2"], &targets);
    let shown = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(shown.lines().any(|l| l.starts_with("routes/broken ") && l.ends_with("breaker open")), "{shown}");
    assert!(String::from_utf8_lossy(&text.stdout).contains("r orders"), "{text:?}");
}

/// What the Control API has of it; a record is there when its request is over, shortly after the answer.
fn explained(gateway: &Gateway, target: &str) -> Value {
    let end = Instant::now() + LIMIT;
    loop {
        let answer = Wire::connect(("127.0.0.1", gateway.dir().control_port)).unwrap().get(target).unwrap();
        if answer.status == 200 {
            return answer.json();
        }
        assert!(Instant::now() < end, "{target}: {}", answer.text());
        std::thread::yield_now();
    }
}

#[test]
fn a_live_request_is_explained_by_a_signed_token() {
    let (upstream, sink) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nodes = json!([
        {"host": "127.0.0.1", "port": closed.port(), "weight": 1000, "priority": 1},
        {"host": "127.0.0.1", "port": upstream.port(), "weight": 1},
    ]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("explained.log");
    let logger = json!({"key": KEY, "path": file, "endpoint": format!("http://{}/records", sink.addr())});
    let resources = json!({
        "global_rules": [{"id": "g", "plugins": {"debug-logger": logger}}],
        "consumers": [{"username": "anna", "plugins": {"key-auth": {"key": "key-of-anna"}, "cors": {}}}],
        "services": [{"id": "s", "plugins": {"proxy-rewrite": {"uri": "/new", "headers": {"set": {"X-A": "1"}}}}}],
        "routes": [
            {"id": "r", "uri": "/orders/*", "service_id": "s", "plugins": {"key-auth": {}},
             "upstream": {"type": "roundrobin", "nodes": nodes}},
            {"id": "post", "uri": "/orders/*", "methods": ["POST"], "priority": 1, "service_id": "s",
             "upstream": {"type": "roundrobin", "nodes": nodes}},
        ],
    });
    let gateway = gateway(&Value::Null, &resources);
    let token = Command::new(binary()).arg("explain-token").env("SLUICE_EXPLAIN_KEY", KEY).output().unwrap();
    let token = String::from_utf8(token.stdout).unwrap();
    let mut wire = gateway.connect().unwrap();
    let mut ask = |target: &str, token: &str| {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: h\r\napikey: key-of-anna\r\nSluice-Explain: {}\r\n\r\n",
            token.trim()
        );
        wire.request(request).unwrap()
    };
    let answer = ask("/orders/1?token=hidden&a=b", &token);
    assert_eq!(answer.status, 200);
    let record = explained(&gateway, answer.header("sluice-explain").unwrap());
    assert_eq!(upstream.seen()[0].header("sluice-explain"), None);
    assert_eq!(
        (&record["request"]["path"], &record["request"]["args"]),
        (&json!("/orders/1"), &json!("token=***&a=b"))
    );
    let candidates = record["candidates"].as_array().unwrap();
    assert!(candidates[0]["reason"].as_str().unwrap().contains("method GET"), "{record}");
    assert_eq!((&candidates[1]["route"], &candidates[1]["won"]), (&json!("r"), &json!(true)));
    let from = |name: &str| {
        let found = record["plugins"].as_array().unwrap().iter().find(|plugin| plugin["name"] == name);
        found.unwrap_or_else(|| panic!("{record}"))["from"].clone()
    };
    assert_eq!(
        (from("key-auth"), from("proxy-rewrite"), from("cors")),
        ("route".into(), "service".into(), "consumer".into())
    );
    assert_eq!(record["consumer"]["username"], "anna");
    let hook = |plugin: &str, phase: &str| {
        let hooks = record["hooks"].as_array().unwrap();
        hooks
            .iter()
            .find(|h| h["plugin"] == plugin && h["phase"] == phase)
            .unwrap_or_else(|| panic!("{record}"))
            .clone()
    };
    let consumer = json!({"what": "consumer", "to": "anna"});
    assert!(hook("key-auth", "rewrite")["changes"].as_array().unwrap().contains(&consumer));
    let target = json!({"what": "upstream.target", "to": "/new?token=***&a=b"});
    assert!(hook("proxy-rewrite", "rewrite")["changes"].as_array().unwrap().contains(&target), "{record}");
    assert!(hook("cors", "header_filter")["took_us"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (&record["events"][0]["attempt_failed"], &record["events"][0]["kind"]),
        (&json!(closed), &json!("Connect"))
    );
    let nodes: Vec<_> =
        record["node_choice"]["attempts"].as_array().unwrap().iter().map(|a| a["node"].clone()).collect();
    assert_eq!(nodes, [json!(closed), json!(upstream.addr())]);
    assert_eq!((&record["response"]["status"], &record["response"]["source"]), (&json!(200), &json!("upstream")));
    assert!(!record.to_string().contains("key-of-anna") && !record.to_string().contains(KEY), "{record}");
    // A request without a route is explained, too; one without a token, or with a wrong one, is not.
    let lost = ask("/nowhere", &token);
    assert_eq!(lost.status, 404);
    let record = explained(&gateway, lost.header("sluice-explain").unwrap());
    assert_eq!((&record["route"], &record["events"][0]["trouble"]), (&Value::Null, &json!("NoRoute")));
    assert_eq!(ask("/nowhere", "v1.99999999999.00").header("sluice-explain"), None);
    assert_eq!(explained(&gateway, "/v1/explain")["records"].as_array().map(Vec::len), Some(2));
    // The same went to the file and the server.
    let end = Instant::now() + LIMIT;
    let written = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    while written() < 2 || sink.requests() == 0 {
        assert!(Instant::now() < end, "{} lines, {} posts", written(), sink.requests());
        std::thread::sleep(Duration::from_millis(10));
    }
    let posted: Value = serde_json::from_slice(&sink.seen()[0].body).unwrap();
    assert_eq!(posted[0]["request"]["path"], "/orders/1");
}

/// The record of a request that a cache was asked for says what the cache decided and why.
#[test]
fn decisions_of_a_cache_are_explained() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/x", sluice_testkit::Behaviour::answer(200, "hello"));
    upstream.on("/gone", sluice_testkit::Behaviour::answer(503, "no"));
    let cache = json!({"cache_strategy": "memory", "cache_zone": "memory_cache", "cache_ttl": 60,
        "cache_bypass": ["$arg_fresh"], "cache_key": ["$uri", "--", "$arg_token"]});
    let resources = json!({
        "global_rules": [{"id": "g", "plugins": {"debug-logger": {"key": KEY}}}],
        "routes": [{"id": "r", "uri": "/*", "plugins": {"proxy-cache": cache},
            "upstream": {"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}}}],
    });
    let zone = json!({"name": "memory_cache", "memory_size": "1m"});
    let gateway = gateway(&json!({"apisix": {"proxy_cache": {"zones": [zone]}}}), &resources);
    let token = Command::new(binary()).arg("explain-token").env("SLUICE_EXPLAIN_KEY", KEY).output().unwrap();
    let token = String::from_utf8(token.stdout).unwrap();
    let mut wire = gateway.connect().unwrap();
    let mut ask = |method: &str, target: &str| {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: h\r\nSluice-Explain: {}\r\n\r\n", token.trim());
        let answer = wire.request(request).unwrap();
        explained(&gateway, answer.header("sluice-explain").unwrap())["cache"].clone()
    };
    let miss = ask("GET", "/x?token=hidden");
    let about = ["status", "why", "zone", "strategy", "key_rule", "key"].map(|name| miss[name].as_str().unwrap());
    let key = "/x--***";
    let nothing = "nothing is stored under the key";
    assert_eq!(about, ["MISS", nothing, "memory_cache", "memory", "$uri--$arg_token", key]);
    assert_eq!(miss["store"], json!({"stored": true, "fresh_seconds": 60}));
    let hit = ask("GET", "/x?token=hidden");
    assert_eq!((&hit["status"], &hit["store"], &hit["key"]), (&json!("HIT"), &Value::Null, &json!(key)));
    assert!(hit["why"].as_str().unwrap().starts_with("stored 0 s ago, fresh for "), "{hit}");
    let why = |method: &str, target: &str, ask: &mut dyn FnMut(&str, &str) -> Value| {
        let decision = ask(method, target);
        (decision["status"].clone(), decision["why"].clone(), decision["store"]["why"].clone())
    };
    let bypass = why("GET", "/x?fresh=1", &mut ask);
    assert_eq!(bypass, ("BYPASS".into(), "cache_bypass is neither empty nor 0".into(), Value::Null));
    let post = why("POST", "/x", &mut ask);
    assert_eq!(post, ("MISS".into(), "the method is none of cache_method".into(), Value::Null));
    let status = "the status is none of cache_http_status";
    assert_eq!(why("GET", "/gone", &mut ask), ("MISS".into(), nothing.into(), status.into()));

    // Without a request: what would be looked at.
    let config = gateway.dir().path().join("config.yaml");
    let config = if config.exists() { config } else { gateway.dir().path().join("conf/config.yaml") };
    let target = "http://h/x?token=hidden&fresh=1";
    let done =
        Command::new(binary()).args(["explain", "-c", config.to_str().unwrap(), "GET", target]).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    for line in
        ["zone: memory_cache", "key rule: $uri--$arg_token", "key: /x--***", "bypassed: cache_bypass is neither"]
    {
        assert!(text.lines().any(|l| l.trim_start().starts_with(line)), "{line}: {text}");
    }
}
