//! Certificates by server name, client certificates, session resumption.

use crate::start::{all_to, gateway};
use serde_json::{Value, json};
use sluice_testkit::wire::HandshakeKind;
use sluice_testkit::{Authority, Behaviour, Upstream, Wire};
use std::time::{Duration, Instant};

#[test]
fn the_certificate_follows_the_name_and_wildcards() {
    let upstream = Upstream::start().unwrap();
    let authority = Authority::new("servers").unwrap();
    let (exact, wild) = (authority.server(&["api.test"]).unwrap(), authority.server(&["*.wild.test"]).unwrap());
    let mut resources = all_to(&upstream);
    resources["ssls"] = json!([
        {"id": 1, "snis": ["api.test"], "cert": exact.cert, "key": exact.key},
        {"id": 2, "sni": "*.wild.test", "cert": wild.cert, "key": wild.key},
    ]);
    let gateway = gateway(&Value::Null, &resources);
    let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let client = authority.client_config(None).unwrap();
    for name in ["api.test", "a.wild.test"] {
        let mut wire = Wire::connect_tls(addr, name, client.clone()).unwrap();
        assert_eq!(wire.get("/").unwrap().status, 200, "{name}");
    }
    assert!(Wire::connect_tls(addr, "other.test", client.clone()).is_err());
    let mut again = Wire::connect_tls(addr, "api.test", client).unwrap();
    again.get("/").unwrap();
    assert_eq!(again.tls().unwrap().handshake_kind(), Some(HandshakeKind::Resumed));
}

#[test]
fn client_certificates_are_asked_for_and_checked() {
    let upstream = Upstream::start().unwrap();
    let authority = Authority::new("servers").unwrap();
    let (people, strangers) = (Authority::new("people").unwrap(), Authority::new("strangers").unwrap());
    let server = authority.server(&["mtls.test"]).unwrap();
    let mut resources = all_to(&upstream);
    resources["ssls"] = json!([{"id": 1, "snis": ["mtls.test"], "cert": server.cert, "key": server.key,
        "client": {"ca": people.pem(), "depth": 1}}]);
    let gateway = gateway(&Value::Null, &resources);
    let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let ask = |identity| {
        let config = authority.client_config(identity).unwrap();
        Wire::connect_tls(addr, "mtls.test", config).and_then(|mut w| w.get("/")).map(|a| a.status)
    };
    let (anna, mallory) = (people.client("anna").unwrap(), strangers.client("mallory").unwrap());
    assert_eq!(ask(Some(&anna)).unwrap(), 200);
    for identity in [None, Some(&mallory)] {
        // APISIX lets the handshake through and answers 400; a refused handshake is as good.
        assert!(!matches!(ask(identity), Ok(200)), "let in");
    }
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn a_client_that_leaves_ends_the_request_to_the_upstream() {
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("access.log");
    let upstream = Upstream::start().unwrap();
    upstream.on("/never", Behaviour::Silence).on("/x/../never", Behaviour::Silence);
    upstream.on("/late", Behaviour::Delay(Duration::from_millis(200), Box::new(Behaviour::answer(200, "late"))));
    let authority = Authority::new("servers").unwrap();
    let server = authority.server(&["api.test"]).unwrap();
    let mut resources = all_to(&upstream);
    resources["ssls"] = json!([{"id": 1, "sni": "api.test", "cert": server.cert, "key": server.key}]);
    let settings = json!({"nginx_config": {"http": {"enable_access_log": true, "access_log": log, "access_log_buffer": 0,
        "access_log_format": "$request_uri $status"}}});
    let gateway = gateway(&settings, &resources);
    let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let client = authority.client_config(None).unwrap();

    // What comes while the upstream works is the next request, and is not lost.
    let mut wire = Wire::connect_tls(addr, "api.test", client.clone()).unwrap();
    wire.send("GET /late HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    assert!(upstream.wait_for(1, Duration::from_secs(5)));
    wire.send("GET /next HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    assert_eq!(wire.read_answer(false).unwrap().text(), "late");
    assert_eq!(wire.read_answer(false).unwrap().json()["target"], "/next");
    drop(wire);

    let mut wire = Wire::connect_tls(addr, "api.test", client).unwrap();
    wire.send("GET /x/../never HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    assert!(upstream.wait_for(3, Duration::from_secs(5)));
    drop(wire);
    let until = Instant::now() + Duration::from_secs(5);
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    while !lines().contains("/x/../never 499") {
        assert!(Instant::now() < until, "the client's leaving is not noticed: {}", lines());
        std::thread::sleep(Duration::from_millis(5));
    }
}
