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

/// Everything goes to the upstream with what is known of the client's certificate in its fields.
fn shown_to(upstream: &Upstream) -> Value {
    let mut resources = all_to(upstream);
    resources["routes"][0]["plugins"] = json!({"proxy-rewrite": {"headers": {"set": {
        "X-Verify": "$ssl_client_verify", "X-Subject": "$ssl_client_s_dn", "X-Issuer": "$ssl_client_i_dn",
        "X-Serial": "$ssl_client_serial", "X-Fingerprint": "$ssl_client_fingerprint", "X-Remain": "$ssl_client_v_remain",
    }}}});
    resources
}

#[test]
fn each_name_has_its_own_authority_and_some_paths_need_no_certificate() {
    let upstream = Upstream::start().unwrap();
    let authority = Authority::new("servers").unwrap();
    let (people, machines) = (Authority::new("people").unwrap(), Authority::new("machines").unwrap());
    let server = authority.server(&["people.test", "machines.test", "open.test"]).unwrap();
    let mut resources = shown_to(&upstream);
    resources["ssls"] = json!([
        {"id": 1, "sni": "people.test", "cert": server.cert, "key": server.key, "client": {"ca": people.pem()}},
        {"id": 2, "sni": "machines.test", "cert": server.cert, "key": server.key,
            "client": {"ca": machines.pem(), "skip_mtls_uri_regex": ["^/health$", "^/public/"]}},
        {"id": 3, "sni": "open.test", "cert": server.cert, "key": server.key},
    ]);
    let gateway = gateway(&Value::Null, &resources);
    let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let (anna, robot) = (people.client("anna").unwrap(), machines.client("robot").unwrap());
    let ask = |sni: &str, host: &str, path: &str, identity| {
        let config = authority.client_config(identity).unwrap();
        let mut wire = Wire::connect_tls(addr, sni, config)?;
        wire.request(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    let seen = |sni: &str, path: &str, identity| {
        let answer = ask(sni, sni, path, identity).unwrap();
        assert_eq!(answer.status, 200, "{sni} {path}");
        answer.json()["headers"].clone()
    };
    let own = seen("people.test", "/", Some(&anna));
    assert_eq!((&own["x-verify"], &own["x-subject"]), (&json!("SUCCESS"), &json!("CN=anna")));
    assert_eq!(own["x-issuer"], "CN=people");
    assert_eq!(own["x-fingerprint"].as_str().unwrap().len(), 40);
    assert!(own["x-remain"].as_str().unwrap().parse::<u64>().unwrap() > 365);
    let own = seen("machines.test", "/", Some(&robot));
    assert_eq!((&own["x-verify"], &own["x-subject"]), (&json!("SUCCESS"), &json!("CN=robot")));
    // Without the right certificate only where none is needed.
    assert!(!ask("people.test", "people.test", "/", Some(&robot)).is_ok_and(|a| a.status == 200));
    assert!(!ask("people.test", "people.test", "/health", None).is_ok_and(|a| a.status == 200));
    assert_eq!(seen("machines.test", "/health", None)["x-verify"], "NONE");
    let failed = seen("machines.test", "/public/x?y", Some(&anna));
    assert_eq!(failed["x-verify"], "FAILED:unable to verify the first certificate");
    assert_eq!(failed["x-subject"], "CN=anna");
    let status = |sni, host, path, identity| ask(sni, host, path, identity).unwrap().status;
    assert_eq!(status("machines.test", "machines.test", "/", None), 400);
    assert_eq!(status("machines.test", "machines.test", "/public", Some(&anna)), 400);
    assert_eq!(status("machines.test", "machines.test", "/public/../x", None), 400);
    // A host that wants a certificate is not reached by another name.
    assert_eq!(status("open.test", "people.test", "/", None), 400);
    assert_eq!(status("machines.test", "People.test", "/health", Some(&robot)), 400);
    assert_eq!(status("people.test", "open.test", "/", Some(&anna)), 200);
    assert_eq!(status("people.test", "PEOPLE.test:9443", "/", Some(&anna)), 200);
}

#[test]
fn sessions_are_resumed_on_every_worker_with_and_without_tickets() {
    let upstream = Upstream::start().unwrap();
    let authority = Authority::new("servers").unwrap();
    let people = Authority::new("people").unwrap();
    let server = authority.server(&["api.test", "mtls.test"]).unwrap();
    let mut resources = shown_to(&upstream);
    resources["ssls"] = json!([
        {"id": 1, "sni": "api.test", "cert": server.cert, "key": server.key},
        {"id": 2, "sni": "mtls.test", "cert": server.cert, "key": server.key, "client": {"ca": people.pem()}},
    ]);
    let anna = people.client("anna").unwrap();
    for (tickets, protocols) in
        [(true, "TLSv1.2 TLSv1.3"), (false, "TLSv1.2 TLSv1.3"), (true, "TLSv1.2"), (false, "TLSv1.2")]
    {
        let settings = json!({"nginx_config": {"worker_processes": 4},
            "apisix": {"ssl": {"ssl_session_tickets": tickets, "ssl_protocols": protocols}}});
        let gateway = gateway(&settings, &resources);
        let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
        for name in ["api.test", "mtls.test"] {
            let client = authority.client_config(Some(&anna)).unwrap();
            let kinds = (0..6).map(|_| {
                let mut wire = Wire::connect_tls(addr, name, client.clone()).unwrap();
                let subject = wire.get("/").unwrap().json()["headers"]["x-subject"].clone();
                assert_eq!(subject == "CN=anna", name == "mtls.test", "{name}: {subject}");
                assert_eq!(
                    wire.tls().unwrap().protocol_version().unwrap().as_str().unwrap().contains("1_3"),
                    protocols.len() > 8
                );
                wire.tls().unwrap().handshake_kind()
            });
            let resumed = kinds.filter(|kind| *kind == Some(HandshakeKind::Resumed)).count();
            assert_eq!(resumed, 5, "{name}, tickets: {tickets}, {protocols}");
        }
    }
}

#[test]
fn ciphers_and_versions_of_the_configuration_are_in_force() {
    let upstream = Upstream::start().unwrap();
    let authority = Authority::new("servers").unwrap();
    let server = authority.server(&["old.test", "new.test"]).unwrap();
    let mut resources = all_to(&upstream);
    resources["ssls"] = json!([
        {"id": 1, "sni": "old.test", "cert": server.cert, "key": server.key},
        {"id": 2, "sni": "new.test", "cert": server.cert, "key": server.key, "ssl_protocols": ["TLSv1.3"]},
    ]);
    let ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384:!AES128";
    let settings = json!({"apisix": {"ssl": {"ssl_protocols": "TLSv1.2", "ssl_ciphers": ciphers}}});
    let gateway = gateway(&settings, &resources);
    let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let client = authority.client_config(None).unwrap();
    let settled = |name| {
        let wire = Wire::connect_tls(addr, name, client.clone()).unwrap();
        let tls = wire.tls().unwrap();
        format!("{:?} {:?}", tls.protocol_version().unwrap(), tls.negotiated_cipher_suite().unwrap().suite())
    };
    assert_eq!(settled("old.test"), "TLSv1_2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
    assert!(settled("new.test").starts_with("TLSv1_3 "));
}

#[test]
fn a_node_is_asked_anew_for_each_name() {
    let authority = Authority::new("servers").unwrap();
    let node = authority.server(&["a.test", "b.test"]).unwrap();
    let upstream = Upstream::start_tls(node.server_config().unwrap()).unwrap();
    let mut resources = all_to(&upstream);
    resources["routes"][0]["upstream"]["scheme"] = json!("https");
    resources["routes"][0]["upstream"]["tls"] = json!({"verify": true, "ca_certs": [authority.pem()]});
    let gateway = gateway(&Value::Null, &resources);
    let mut wire = gateway.connect().unwrap();
    let mut ask = |host: &str| wire.request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap().status;
    assert_eq!((ask("a.test"), ask("b.test"), ask("a.test")), (200, 200, 200));
    assert_eq!(upstream.connections(), 2, "one for each name, used again");
    // What was proven to one name says nothing of another.
    assert_eq!(ask("c.test"), 502);
}

#[test]
fn certificates_that_cannot_be_used_are_found_by_the_check() {
    let authority = Authority::new("servers").unwrap();
    let (one, other) = (authority.server(&["a.test"]).unwrap(), authority.server(&["a.test"]).unwrap());
    let resources = json!({"ssls": [{"id": "mixed", "sni": "a.test", "cert": one.cert, "key": other.key}]});
    let dir = sluice_testkit::ConfigDir::new(&Value::Null, &resources).unwrap();
    let check = |arguments: &[&str]| {
        let out = std::process::Command::new(crate::start::binary())
            .args(arguments)
            .arg("-c")
            .arg(dir.config_file())
            .output();
        let out = out.unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (good, told) = check(&["check"]);
    assert!(!good && told.contains("certificate and private key do not match"), "{told}");
    let resources = json!({"ssls": [{"id": "1", "sni": "*.a.test", "cert": one.cert, "key": one.key,
        "client": {"ca": authority.pem(), "skip_mtls_uri_regex": ["^/open"]}}]});
    dir.write_resources(&resources).unwrap();
    assert!(check(&["check"]).0);
    let (_, told) = check(&["explain", "GET", "https://x.a.test/y"]);
    assert!(told.contains("ssl 1  CN=a.test, asks for a client certificate"), "{told}");
    let (_, told) = check(&["explain", "GET", "https://x.a.test/open"]);
    assert!(told.contains("a client certificate may be shown"), "{told}");
    let (_, told) = check(&["explain", "GET", "https://a.test/"]);
    assert!(told.contains("no ssl object has this name"), "{told}");
}

#[test]
fn who_is_connected_has_to_meet_what_is_asked_for_since() {
    let upstream = Upstream::start().unwrap();
    let (authority, people) = (Authority::new("servers").unwrap(), Authority::new("people").unwrap());
    let server = authority.server(&["api.test"]).unwrap();
    let mut resources = all_to(&upstream);
    resources["ssls"] = json!([{"id": 1, "sni": "api.test", "cert": server.cert, "key": server.key}]);
    let gateway = gateway(&Value::Null, &resources);
    let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let client = authority.client_config(None).unwrap();
    let mut wire = Wire::connect_tls(addr, "api.test", client.clone()).unwrap();
    let ask = |wire: &mut Wire| wire.request("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n").map(|a| a.status).ok();
    assert_eq!(ask(&mut wire), Some(200));
    // Another certificate does not touch the connection.
    let other = authority.server(&["api.test"]).unwrap();
    resources["ssls"][0]["cert"] = json!(other.cert);
    resources["ssls"][0]["key"] = json!(other.key);
    gateway.dir().write_resources(&resources).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let fresh = Wire::connect_tls(addr, "api.test", authority.client_config(None).unwrap()).unwrap();
        let shown = fresh.tls().unwrap().peer_certificates().unwrap()[0].to_vec();
        if other.is(&shown) {
            break;
        }
        assert!(Instant::now() < until, "the new certificate is not shown");
    }
    assert_eq!(ask(&mut wire), Some(200));
    // What is asked for now is asked of all.
    resources["ssls"][0]["client"] = json!({"ca": people.pem()});
    gateway.dir().write_resources(&resources).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    let refused = loop {
        match ask(&mut wire) {
            Some(200) => assert!(Instant::now() < until, "an old connection goes on without a certificate"),
            other => break other,
        }
    };
    assert_eq!(refused, Some(400));
}
