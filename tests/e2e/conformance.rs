//! What the protocols' specifications ask of a gateway, case by case, by the drivers in `tests/conformance`; and load from programs that
//! others wrote, with configuration and processes changing meanwhile. docs/conformance.md has the results.

use crate::http2::LIMIT;
use crate::start::{all_to, gateway};
use serde_json::{Value, json};
use sluice_testkit::directory::Scratch;
use sluice_testkit::{Authority, Behaviour, Drivers, Gateway, Upstream, ports::free_port};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const NAME: &str = "h2.test";

fn drivers() -> Drivers {
    Drivers::new(Path::new(env!("CARGO_MANIFEST_DIR")))
}

fn args(all: &[&str]) -> Vec<String> {
    all.iter().map(|part| (*part).to_owned()).collect()
}

/// Where a gateway listens.
fn addresses(gateway: &Gateway) -> [String; 4] {
    let [plain, tls] = [gateway.addr().to_string(), format!("127.0.0.1:{}", gateway.dir().tls_port)];
    ["--plain".to_owned(), plain, "--tls".to_owned(), tls]
}

/// Adds a certificate for [`NAME`]; the authority that issued it.
fn secured(resources: &mut Value) -> Authority {
    let authority = Authority::new("servers").unwrap();
    let pair = authority.server(&[NAME]).unwrap();
    resources["ssls"] = json!([{"id": 1, "snis": [NAME], "cert": pair.cert, "key": pair.key}]);
    authority
}

fn to_port(port: u16) -> Value {
    json!({"type": "roundrobin", "nodes": {format!("127.0.0.1:{port}"): 1}})
}

#[test]
fn h2spec() {
    let upstream = Upstream::start().unwrap();
    let mut resources = all_to(&upstream);
    secured(&mut resources);
    let gateway = gateway(&Value::Null, &resources);
    drivers().run("h2spec.py", &addresses(&gateway), &[("h2", 147), ("h2+tls", 147)]);
}

#[test]
fn h2spec_of_a_node() {
    let port = free_port();
    let mut upstream = to_port(port);
    upstream["scheme"] = json!("grpc");
    upstream["retries"] = json!(0);
    // Cases break their connections: none may be another's.
    upstream["keepalive_pool"] = json!({"size": 1, "idle_timeout": 60, "requests": 1});
    let gateway = gateway(&Value::Null, &json!({"routes": [{"id": "all", "uri": "/*", "upstream": upstream}]}));
    let all = args(&["--plain", &gateway.addr().to_string(), "--node", &port.to_string()]);
    drivers().run("h2spec_node.py", &all, &[("node", 97)]);
}

#[test]
fn translation_to_http_1() {
    let port = free_port();
    let mut resources =
        json!({"routes": [{"id": "all", "uri": "/*", "enable_websocket": true, "upstream": to_port(port)}]});
    secured(&mut resources);
    let gateway = gateway(&Value::Null, &resources);
    let more = args(&["--backend", &port.to_string()]);
    drivers().run("translation.py", &[&addresses(&gateway)[..], &more].concat(), &[("h1", 142), ("h1+tls", 131)]);
}

#[test]
fn autobahn() {
    let drivers = drivers();
    let server = drivers.server("echo.py", &[]);
    let mut resources =
        json!({"routes": [{"id": "all", "uri": "/*", "enable_websocket": true, "upstream": to_port(server.port)}]});
    secured(&mut resources);
    let gateway = gateway(&Value::Null, &resources);
    let more = args(&["--backend", &server.address()]);
    drivers.run("autobahn.py", &[&addresses(&gateway)[..], &more].concat(), &[("autobahn", 368)]);
}

#[test]
fn grpcio() {
    let drivers = drivers();
    let authority = Authority::new("nodes").unwrap();
    let pair = authority.server(&["node.test"]).unwrap();
    let scratch = Scratch::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let server = drivers.server("grpc_server.py", &[]);
    let secure = args(&["--cert", &file("cert.pem", &pair.cert), "--key", &file("key.pem", &pair.key)]);
    let secure = drivers.server("grpc_server.py", &secure);
    let mortal = drivers.server("grpc_server.py", &[]);
    let call = |service: &str, scheme: &str, port: u16, plugins: Value, vars: Value| {
        let mut upstream = to_port(port);
        upstream["scheme"] = json!(scheme);
        json!({"id": format!("{service}-{scheme}"), "uri": format!("/{service}.Server/*"), "vars": vars, "upstream": upstream, "plugins": plugins})
    };
    let own = |service: &str, status: u16| {
        call(service, "grpc", server.port, json!({"fault-injection": {"abort": {"http_status": status}}}), json!([]))
    };
    // Who comes with TLS is served by the node with TLS.
    let by = |scheme: &str| json!([["scheme", "==", scheme]]);
    let mut resources = json!({"routes": [
        call("conform", "grpc", server.port, json!({}), by("http")),
        call("conform", "grpcs", secure.port, json!({}), by("https")),
        call("mortal", "grpc", mortal.port, json!({}), json!([])),
        call("dead", "grpc", free_port(), json!({}), json!([])),
        own("forbidden", 403), own("locked", 401), own("busy", 429),
    ]});
    let authority = secured(&mut resources);
    let gateway = gateway(&Value::Null, &resources);
    let more = args(&["--ca", &file("ca.pem", &authority.pem())]);
    drivers.run("grpc_calls.py", &[&addresses(&gateway)[..], &more].concat(), &[("grpc", 20), ("grpcs", 16)]);
}

/// `h2load` (nghttp2) over 10 connections of 100 streams.
fn h2load(url: &str, to: &str, requests: usize) -> Child {
    let mut command = Command::new("h2load");
    // A name in the URL is what TLS asks for; where it is connected to is said apart.
    command.args(["-c", "10", "-m", "100", "-n", &requests.to_string(), "--connect-to", to, url]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn all_succeed(load: Child, requests: usize) {
    let out = load.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let wanted = format!(
        "requests: {requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout"
    );
    assert!(said.contains(&wanted), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
}

fn loaded() -> (Upstream, Gateway, Value) {
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::answer(200, "hello")).forget_requests();
    let mut resources = all_to(&upstream);
    secured(&mut resources);
    let gateway = gateway(&Value::Null, &resources);
    (upstream, gateway, resources)
}

#[test]
fn h2load_while_the_configuration_changes() {
    const REQUESTS: usize = 10_000;
    let (_upstream, gateway, mut resources) = loaded();
    let mut load = h2load(&format!("http://{NAME}/"), &gateway.addr().to_string(), REQUESTS);
    let mut changes = 0;
    while load.try_wait().unwrap().is_none() {
        changes += 1;
        let plugins = json!({"response-rewrite": {"headers": {"set": {"X-Change": changes.to_string()}}}});
        resources["routes"][0]["plugins"] = plugins;
        gateway.dir().write_resources(&resources).unwrap();
        let changed = |answer: &sluice_testkit::Answer| answer.header("x-change") == Some(&changes.to_string());
        gateway.wait_until("/", LIMIT, changed).unwrap();
    }
    all_succeed(load, REQUESTS);
    assert!(changes > 1, "{changes}");
}

#[test]
fn h2load_with_tls() {
    // Twice what nginx would let pass on a connection.
    const REQUESTS: usize = 20_000;
    let (_upstream, gateway, _) = loaded();
    let to = format!("127.0.0.1:{}", gateway.dir().tls_port);
    all_succeed(h2load(&format!("https://{NAME}/"), &to, REQUESTS), REQUESTS);
}

#[test]
fn a_gateway_that_drains_loses_nothing() {
    const REQUESTS: u64 = 2_000;
    let upstream = Upstream::start().unwrap();
    let [mut first, other] = std::array::from_fn(|_| gateway(&Value::Null, &all_to(&upstream)));
    let (to, then, count) = (first.addr().to_string(), other.addr().to_string(), REQUESTS.to_string());
    let drivers = drivers();
    let mut driver = drivers.start("drain.py", &args(&["--first", &to, "--then", &then, "--requests", &count]));
    let mut said = String::new();
    while let Some(Ok(line)) = driver.lines.next() {
        if line == "drain now" {
            first.terminate().unwrap();
        }
        said = format!("{said}{line}\n");
    }
    driver.end(&said, &[("drain", 1)]);
    assert!(first.wait(LIMIT).unwrap().success());
    // Nothing was done twice.
    assert_eq!(upstream.requests(), REQUESTS, "{said}");
}
