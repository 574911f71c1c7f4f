//! The kit proves itself: client against upstream directly, and the case runner against nginx, a gateway that is known
//! to be right. Without nginx on the PATH the last test fails: `cargo xtask test` installs it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sluice_testkit::{Authority, Behaviour, ConfigDir, Gateway, Upstream, Wire, WireError, cases};

#[test]
fn the_client_reads_every_framing_the_upstream_writes() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/chunks", Behaviour::Chunked { chunks: vec![b"ab".to_vec(), b"cde".to_vec()], pause: Duration::ZERO });
    upstream.on("/interim", Behaviour::Interim(vec![103], Box::new(Behaviour::answer(200, "x"))));
    upstream.on("/none", Behaviour::answer(204, ""));
    let mut wire = Wire::connect(upstream.addr()).unwrap();
    assert_eq!(wire.get("/chunks").unwrap().body, b"abcde");
    assert_eq!(wire.get("/interim").unwrap().interim, [103]);
    assert_eq!(wire.get("/none").unwrap().status, 204);
    let echo = wire.request("POST /echo?a=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi").unwrap().json();
    assert_eq!((&echo["method"], &echo["query"], &echo["body"]), (&"POST".into(), &"a=1".into(), &"hi".into()));
    assert!(wire.leftover().is_empty());
    let seen = upstream.seen();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|s| s.connection == 1), "all on one connection");
}

#[test]
fn a_body_cut_short_is_closed_not_complete() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/cut", Behaviour::CloseMidBody { declared: 10, sent: 3 });
    let error = Wire::connect(upstream.addr()).unwrap().get("/cut").unwrap_err();
    assert!(matches!(&error, WireError::Closed { got } if got == b"xxx"), "{error}");
    upstream.on("/silence", Behaviour::Silence);
    let mut wire = Wire::connect(upstream.addr()).unwrap();
    wire.deadline = Duration::from_millis(50);
    assert!(matches!(wire.get("/silence"), Err(WireError::Timeout { .. })));
}

#[test]
fn a_sequence_answers_in_turn_and_its_last_repeats() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/", Behaviour::Sequence(vec![Behaviour::answer(500, ""), Behaviour::answer(200, "")]));
    let mut wire = Wire::connect(upstream.addr()).unwrap();
    let statuses: Vec<u16> = (0..3).map(|_| wire.get("/").unwrap().status).collect();
    assert_eq!(statuses, [500, 200, 200]);
}

#[test]
fn an_upgraded_connection_echoes() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/ws", Behaviour::Upgrade);
    let mut wire = Wire::connect(upstream.addr()).unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(wire.request(request).unwrap().status, 101);
    wire.send("ping").unwrap();
    assert_eq!(wire.read_exact(4).unwrap(), b"ping");
}

#[test]
fn certificates_are_trusted_only_when_they_should_be() {
    let authority = Authority::new("test").unwrap();
    let client = authority.client_config(None).unwrap();
    let good = Upstream::start_tls(authority.server(&["localhost"]).unwrap().server_config().unwrap()).unwrap();
    let mut wire = Wire::connect_tls(good.addr(), "localhost", client.clone()).unwrap();
    assert_eq!(wire.get("/").unwrap().status, 200);
    assert!(Wire::connect_tls(good.addr(), "other.example", client.clone()).is_err());
    let old = Upstream::start_tls(authority.expired(&["localhost"]).unwrap().server_config().unwrap()).unwrap();
    assert!(Wire::connect_tls(old.addr(), "localhost", client).is_err());
}

/// nginx in the gateway's place: proxies everything to the upstream of the first route.
fn nginx(dir: ConfigDir) -> anyhow::Result<Gateway> {
    let resources: Value = serde_saphyr::from_str(&std::fs::read_to_string(dir.path().join("conf/apisix.yaml"))?)?;
    let nodes = resources["routes"][0]["upstream"]["nodes"].as_object().unwrap();
    let node = nodes.keys().next().unwrap();
    let root = dir.path().display();
    let config = format!(
        "daemon off; master_process off; pid {root}/nginx.pid; error_log stderr; events {{}}
         http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
         uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
         server {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://{node}; add_header X-Gateway nginx; }} }} }}",
        dir.port
    );
    let path = dir.path().join("nginx.conf");
    std::fs::write(&path, config)?;
    let mut command = Command::new("nginx");
    command.arg("-e").arg("stderr").arg("-c").arg(&path);
    let addr = ([127, 0, 0, 1], dir.port).into();
    let gateway = Gateway::spawn(command, addr)?;
    // nginx has read its file by now, so the folder may go.
    drop(dir);
    Ok(gateway)
}

const CASE: &str = r#"
from: nginx documentation, ngx_http_proxy_module
config:
  routes: [{id: 1, uri: /*, upstream: {type: roundrobin, nodes: {"$upstream": 1}}}]
upstreams:
  default: {/teapot: {status: 418, headers: {X-Pot: tea}, body: short}}
steps:
  - send: POST /a?b=c
    headers: {X-One: "1"}
    body: hello
    repeat: 2
    expect: {status: 200, headers: {X-Gateway: nginx, X-None: {absent: true}}, body_json: {method: POST, body: hello}}
    upstream: {saw: 2, path: /a?b=c, headers: {X-One: 1}, body: hello}
    save: {who: {matches: '"x-one":"(\d)"'}}
  - send: GET /teapot?${who}
    expect: {status: 418, headers: {X-Pot: {matches: ^t}}, body: short}
    upstream: {saw: 1, path: "/teapot?1"}
"#;

#[test]
fn a_right_case_passes_and_a_wrong_one_names_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    cases::run(&file("right.yaml", CASE), &nginx).unwrap();
    let wrong = CASE.replace("status: 418, headers: {X-Pot: {matches: ^t}}", "status: 200, headers: {X-Pot: coffee}");
    let error = format!("{:#}", cases::run(&file("wrong.yaml", &wrong), &nginx).unwrap_err());
    for part in ["step 2 (GET /teapot", "want 200, got 418", "X-Pot: want [\"coffee\"], got [\"tea\"]"] {
        assert!(error.contains(part), "{part} is missing in:\n{error}");
    }
    assert!(cases::run(&file("typo.yaml", &CASE.replace("repeat: 2", "repaet: 2")), &nginx).is_err());
    let found = cases::discover(Path::new(folder.path())).unwrap();
    assert_eq!(found.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["right", "typo", "wrong"]);
}
