//! Releases: the examples' commands as their READMEs tell them, copies of requests, shares of stream connections.

use crate::start::{binary, gateway};
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Behaviour, ConfigDir, Gateway, Upstream, Wire};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// A command of a README and what it prints.
struct Said {
    command: String,
    output: Vec<String>,
}

/// The blocks marked `console`.
fn commands(readme: &str) -> Vec<Said> {
    let mut all: Vec<Said> = Vec::new();
    let mut console = false;
    for line in readme.lines() {
        match line.strip_prefix("```") {
            Some(kind) => console = kind == "console",
            None if !console => {}
            None => match line.strip_prefix("$ ") {
                Some(command) => all.push(Said { command: command.into(), output: Vec::new() }),
                None => all.last_mut().unwrap().output.push(line.into()),
            },
        }
    }
    all
}

/// Runs the commands of an example's README against the example, its backends named as given.
fn follow(name: &str, backends: [&str; 2]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let upstreams = backends.map(|name| {
        let upstream = Upstream::start().unwrap();
        upstream.otherwise(Behaviour::answer(200, format!("{name}\n")));
        upstream
    });
    let admin = free_port();
    let ports = |text: &str| {
        text.replace("127.0.0.1:1980", &upstreams[0].addr().to_string())
            .replace("127.0.0.1:1981", &upstreams[1].addr().to_string())
            .replace("127.0.0.1:9180", &format!("127.0.0.1:{admin}"))
    };
    let config: Value = match std::fs::read_to_string(folder.join("apisix.yaml")) {
        Ok(_) => Value::Null,
        Err(_) => json!({"deployment": {
            "role": "traditional",
            "role_traditional": {"config_provider": "etcd"},
            "admin": {
                "admin_listen": {"ip": "127.0.0.1", "port": admin},
                "admin_key": [{"name": "admin", "key": "edd1c9f034335f136f87ad84b625c8f1", "role": "admin"}],
            },
        }}),
    };
    let dir = ConfigDir::new(&config, &Value::Null).unwrap();
    if let Ok(text) = std::fs::read_to_string(folder.join("apisix.yaml")) {
        dir.write_raw("apisix.yaml", &ports(&text)).unwrap();
    }
    let gateway = Gateway::start(binary(), dir).unwrap();
    if !config.is_null() {
        // The port opens after the node's own.
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", admin)).is_err() {
            assert!(Instant::now() < until, "the Admin API does not listen");
            std::thread::yield_now();
        }
    }
    let said = commands(&std::fs::read_to_string(folder.join("README.md")).unwrap());
    assert!(said.len() >= 4, "{name}");
    for Said { command, output } in said {
        let command = ports(&command).replace("127.0.0.1:9080", &gateway.addr().to_string());
        let out = Command::new("sh").arg("-c").arg(&command).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines, output, "{name}: {command}\n{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn canary() {
    follow("canary", ["stable", "next"]);
}

#[test]
fn blue_green() {
    follow("blue-green", ["blue", "green"]);
}

#[test]
fn header_routing() {
    follow("header-routing", ["stable", "next"]);
}

fn mirrored(mirror: &Value, attributes: &Value, upstream: &Upstream) -> Gateway {
    let route = json!({
        "id": 1, "uri": "/*", "plugins": {"proxy-mirror": mirror},
        "upstream": {"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}},
    });
    gateway(&json!({"plugin_attr": {"proxy-mirror": attributes}}), &json!({"routes": [route]}))
}

#[test]
fn a_mirror_gets_head_and_body_as_the_upstream_does() {
    let (upstream, shadow) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    let gateway = mirrored(&json!({"host": format!("http://{}", shadow.addr())}), &Value::Null, &upstream);
    let mut wire = gateway.connect().unwrap();
    let chunked = "POST /a?b=1 HTTP/1.1\r\nHost: shop:81\r\nX-One: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = wire.request(format!("{chunked}5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")).unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(wire.get("/plain").unwrap().status, 200);
    let large = "x".repeat(300_000);
    let sent = format!("PUT /large HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{large}", large.len());
    assert_eq!(wire.request(sent).unwrap().status, 200);
    assert!(shadow.wait_for(3, PATIENCE));
    let mut seen = shadow.take_seen();
    seen.sort_by_key(|seen| seen.path().to_owned());
    let [first, big, plain] = seen.as_slice() else { panic!("three copies") };
    assert_eq!((first.method.as_str(), first.target.as_str()), ("POST", "/a?b=1"));
    assert_eq!((first.header("Host"), first.header("X-One")), (Some("shop:81"), Some("1")));
    assert_eq!((first.header("Content-Length"), first.body.as_slice()), (Some("6"), &b"hello!"[..]));
    assert_eq!((big.path(), big.body.len()), ("/large", 300_000));
    assert_eq!((plain.path(), plain.body.len(), plain.header("Content-Length")), ("/plain", 0, None));
    assert_eq!(upstream.requests(), 3);
}

#[test]
fn a_slow_or_dead_mirror_delays_nothing_and_limits_hold() {
    let (upstream, shadow) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    shadow.otherwise(Behaviour::Silence);
    let limits = json!({"max_concurrent": 2, "max_body_size": 10, "timeout": {"read": "60s"}});
    let gateway = mirrored(&json!({"host": format!("http://{}", shadow.addr())}), &limits, &upstream);
    let mut wire = gateway.connect().unwrap();
    let started = Instant::now();
    let body = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n01234567890";
    assert_eq!(wire.request(body).unwrap().status, 200);
    for _ in 0..20 {
        assert_eq!(wire.get("/").unwrap().status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(shadow.wait_for(2, PATIENCE));
    assert_eq!((upstream.requests(), shadow.connections()), (21, 2));
}

#[test]
fn a_sample_is_a_sample() {
    let (upstream, shadow) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    let mirror = json!({"host": format!("http://{}", shadow.addr()), "sample_ratio": 0.5});
    let gateway = mirrored(&mirror, &Value::Null, &upstream);
    let mut wire = gateway.connect().unwrap();
    for _ in 0..200 {
        assert_eq!(wire.get("/").unwrap().status, 200);
    }
    // Fewer than 60 or more than 140 of 200: once in 10^8 runs.
    assert!(shadow.wait_for(60, PATIENCE));
    assert!(shadow.requests() <= 140);
}

/// A TCP server that says its name and closes.
fn named(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let _ = socket.write_all(name.as_bytes());
        }
    });
    addr
}

#[test]
fn stream_connections_are_split() {
    let (own, stored, inline) = (named("own"), named("stored"), named("inline"));
    let port = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let nodes = |addr: SocketAddr| json!({"type": "roundrobin", "nodes": {addr.to_string(): 1}});
    let rules = json!([{
        "match": [{"vars": [["route_id", "==", "s"]]}],
        "weighted_upstreams": [
            {"upstream_id": "u", "weight": 2}, {"upstream": nodes(inline), "weight": 1}, {"weight": 1},
        ],
    }]);
    let resources = json!({
        "upstreams": [{"id": "u", "type": "roundrobin", "nodes": {stored.to_string(): 1}}],
        "stream_routes": [{"id": "s", "upstream": nodes(own), "plugins": {"traffic-split": {"rules": rules}}}],
    });
    let settings =
        json!({"apisix": {"proxy_mode": "http&stream", "stream_proxy": {"tcp": [{"addr": port.to_string()}]}}});
    let _gateway = gateway(&settings, &resources);
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..8 {
        let mut text = String::new();
        TcpStream::connect(port).unwrap().read_to_string(&mut text).unwrap();
        *counts.entry(text).or_insert(0) += 1;
    }
    assert_eq!(counts, [("inline".into(), 2), ("own".into(), 2), ("stored".into(), 4)].into());
}

#[test]
fn a_batch_goes_on_after_a_closed_connection() {
    let upstream = Upstream::start().unwrap();
    let resources = json!({"routes": [
        {"id": "batch", "uri": "/apisix/batch-requests", "plugins": {"public-api": {}}},
        {"id": "rest", "uri": "/*", "upstream": {"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}}},
    ]});
    let gateway = gateway(&Value::Null, &resources);
    let mut wire: Wire = gateway.connect().unwrap();
    // An answer to HTTP/1.0 ends its connection; the list goes on.
    let batch = json!({"pipeline": [{"path": "/a", "version": 1.0}, {"path": "/b", "method": "HEAD"}, {"path": "/c"}]});
    let body = batch.to_string();
    let head = format!("POST /apisix/batch-requests HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer = wire.request(format!("{head}{body}")).unwrap();
    let answers: Value = serde_json::from_str(&answer.text()).unwrap();
    let statuses: Vec<u64> = answers.as_array().unwrap().iter().filter_map(|a| a["status"].as_u64()).collect();
    assert_eq!(statuses, [200, 200, 200]);
    assert_eq!((answers[1].get("body"), answers[2]["body"].is_string()), (None, true));
    assert_eq!(upstream.requests(), 3);
}
