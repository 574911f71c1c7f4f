//! The Admin API through its port: what it writes is served, who may write, HTTPS with client certificates.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Answer, Authority, Behaviour, Gateway, Upstream, Wire, WireError};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A gateway on its own store; `admin` is `deployment.admin`.
fn start(port: u16, mut admin: Value) -> Gateway {
    admin["admin_listen"] = json!({"ip": "127.0.0.1", "port": port});
    let deployment = json!({"role": "traditional", "role_traditional": {"config_provider": "etcd"}, "admin": admin});
    gateway(&json!({"deployment": deployment}), &json!({}))
}

/// The port opens after the node's own.
pub(crate) fn patiently<T>(connect: impl Fn() -> Result<T, WireError>) -> T {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match connect() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::yield_now();
    }
}

fn ask(wire: &mut Wire, method: &str, path: &str, key: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!("{method} /apisix/admin{path} HTTP/1.1\r\nHost: admin\r\nX-API-KEY: {key}\r\n");
    wire.request(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).unwrap()
}

#[test]
fn explain_tells_how_a_breaker_stands() {
    let (ill, spare) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    ill.otherwise(Behaviour::answer(500, "ill"));
    spare.otherwise(Behaviour::answer(200, "spare"));
    let port = free_port();
    let gateway = start(port, json!({}));
    let mut wire = patiently(|| Wire::connect(("127.0.0.1", port)));
    let key = std::fs::read_to_string(gateway.dir().data_dir().join("admin.key")).unwrap();
    let nodes = |to: &Upstream| json!({to.addr().to_string(): 1});
    assert_eq!(ask(&mut wire, "PUT", "/upstreams/spare", &key, &json!({"nodes": nodes(&spare)})).status, 201);
    let upstream = json!({"nodes": nodes(&ill), "circuit_breaker": {"max_failures": 2, "fallback": "spare"}});
    let route = json!({"uri": "/x", "upstream": upstream});
    assert_eq!(ask(&mut wire, "PUT", "/routes/1?wait=true", &key, &route).status, 201);
    let mut breaker = || {
        ask(&mut wire, "POST", "/explain", &key, &json!({"url": "/x"})).json()["route"]["upstream"]["circuit_breaker"]
            .take()
    };
    let told = |state: &str, lets_pass: bool| {
        let fallback = "upstreams/spare";
        json!({"scope": "upstream", "state": state, "lets_pass": lets_pass, "break_response_code": 503, "fallback": fallback})
    };
    assert_eq!(breaker(), told("closed", true));
    let mut client = Wire::connect(gateway.addr()).unwrap();
    assert_eq!([500, 500, 200], [0; 3].map(|_| client.get("/x").unwrap().status));
    assert_eq!(breaker(), told("open", false));
}

#[test]
fn what_is_written_is_served_and_the_key_is_made_at_the_first_start() {
    let upstream = Upstream::start().unwrap();
    let port = free_port();
    let gateway = start(port, json!({}));
    let mut wire = patiently(|| Wire::connect(("127.0.0.1", port)));
    let file = gateway.dir().data_dir().join("admin.key");
    let key = std::fs::read_to_string(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ask(&mut wire, "GET", "/routes", "no", &Value::Null).status, 401);
    let node = upstream.addr().to_string();
    assert_eq!(ask(&mut wire, "PUT", "/upstreams/1", &key, &json!({"nodes": {node: 1}})).status, 201);
    let route = json!({"uri": "/hello", "upstream_id": 1});
    let written = ask(&mut wire, "PUT", "/routes/1?wait=true", &key, &route);
    assert_eq!((written.status, written.header("X-API-VERSION")), (201, Some("v3")));
    assert_eq!(Wire::connect(gateway.addr()).unwrap().get("/hello").unwrap().status, 200);
    assert_eq!(ask(&mut wire, "DELETE", "/upstreams/1", &key, &Value::Null).status, 400);
    assert_eq!(ask(&mut wire, "DELETE", "/routes/1?wait=true", &key, &Value::Null).status, 200);
    assert_eq!(Wire::connect(gateway.addr()).unwrap().get("/hello").unwrap().status, 404);
    assert!(!gateway.log_text().contains(&key), "the key is in the log");
    assert!(gateway.log_text().contains("admin.key"), "the key's place is not in the log");
}

#[test]
fn a_body_that_is_too_large_is_refused_and_read_to_its_end() {
    let port = free_port();
    let _gateway = start(port, json!({"admin_key": [{"name": "a", "key": "k", "role": "admin"}]}));
    let mut wire = patiently(|| Wire::connect(("127.0.0.1", port)));
    let refused = ask(&mut wire, "PUT", "/routes/1", "k", &json!({"uri": "/", "desc": "a".repeat(2 << 20)}));
    assert_eq!(refused.status, 400);
    let text = refused.text();
    assert!(text.contains("is greater than the maximum size 1572864 allowed"), "{text}");
    assert_eq!(ask(&mut wire, "GET", "/routes", "k", &Value::Null).status, 200);
}

#[test]
fn https_asks_for_client_certificates() {
    let (servers, people) = (Authority::new("servers").unwrap(), Authority::new("people").unwrap());
    let server = servers.server(&["admin.test"]).unwrap();
    let scratch = sluice_testkit::directory::Scratch::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let port = free_port();
    let _gateway = start(
        port,
        json!({
            "https_admin": true,
            "admin_key": [{"name": "a", "key": "k", "role": "admin"}],
            "admin_api_mtls": {
                "admin_ssl_cert": file("cert.pem", &server.cert),
                "admin_ssl_cert_key": file("key.pem", &server.key),
                "admin_ssl_ca_cert": file("ca.pem", &people.pem()),
            },
        }),
    );
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let anna = servers.client_config(Some(&people.client("anna").unwrap())).unwrap();
    let mut wire = patiently(|| Wire::connect_tls(addr, "admin.test", anna.clone()));
    assert_eq!(ask(&mut wire, "GET", "/routes", "k", &Value::Null).status, 200);
    let strangers = Authority::new("strangers").unwrap();
    let mallory = servers.client_config(Some(&strangers.client("mallory").unwrap())).unwrap();
    for config in [servers.client_config(None).unwrap(), mallory] {
        let let_in = |config: Arc<_>| Wire::connect_tls(addr, "admin.test", config)?.get("/apisix/admin/routes");
        assert!(let_in(config).is_err(), "let in without a certificate of the right authority");
    }
}
