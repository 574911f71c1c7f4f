//! Every folder of `examples/` boots and answers as its README says; the gateway's own checker finds nothing wrong with it.

use crate::start::binary;
use serde_json::Value;
use sluice_testkit::{Authority, Behaviour, ConfigDir, Gateway, Upstream};
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// Its `apisix.yaml`, with the demo backend's address replaced, on free ports.
fn boot(name: &str, upstream: &Upstream) -> Gateway {
    let text = std::fs::read_to_string(folder().join(name).join("apisix.yaml")).unwrap();
    assert!(text.trim_end().ends_with("#END"), "{name}");
    let dir = ConfigDir::new(&Value::Null, &Value::Null).unwrap();
    dir.write_raw("apisix.yaml", &text.replace("127.0.0.1:1980", &upstream.addr().to_string())).unwrap();
    Gateway::start(binary(), dir).unwrap()
}

#[test]
fn every_example_passes_the_check() {
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let config = entry.unwrap().path().join("config.yaml");
        let out = Command::new(binary()).arg("check").arg("-c").arg(&config).output().unwrap();
        assert!(out.status.success(), "{}:\n{}", config.display(), String::from_utf8_lossy(&out.stderr));
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn cors_answers_preflights_of_known_origins() {
    let upstream = Upstream::start().unwrap();
    let gateway = boot("cors", &upstream);
    let mut wire = gateway.connect().unwrap();
    let mut ask =
        |origin: &str| wire.request(format!("OPTIONS /api/x HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n\r\n")).unwrap();
    let known = ask("https://shop.example.com");
    assert_eq!((known.status, known.header("access-control-allow-origin")), (200, Some("https://shop.example.com")));
    let other = ask("https://elsewhere.example.com");
    assert_eq!((other.status, other.header("access-control-allow-origin")), (200, None));
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn discovery_dns_finds_its_node() {
    let (upstream, server) = (Upstream::start().unwrap(), sluice_testkit::NameServer::start().unwrap());
    server.set("local.internal", 60, &[sluice_testkit::Record::address("127.0.0.1")]);
    server.set("api.internal", 60, &[sluice_testkit::Record::srv(0, 1, upstream.port(), "local.internal")]);
    let settings = std::fs::read_to_string(folder().join("discovery-dns/config.yaml")).unwrap();
    assert!(settings.contains("servers: [\"127.0.0.1:5353\"]"));
    let text = std::fs::read_to_string(folder().join("discovery-dns/apisix.yaml")).unwrap();
    let dns = serde_json::json!({"discovery": {"dns": {"servers": [server.addr().to_string()]}}});
    let dir = ConfigDir::new(&dns, &Value::Null).unwrap();
    dir.write_raw("apisix.yaml", &text).unwrap();
    let gateway = Gateway::start(binary(), dir).unwrap();
    assert_eq!(gateway.connect().unwrap().get("/x").unwrap().status, 200);
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn waf_adds_up_points_and_hides_errors() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/broken", Behaviour::answer(500, "ORA-00933"));
    let gateway = boot("waf", &upstream);
    let mut wire = gateway.connect().unwrap();
    let mut ask = |path: &str, more: &str| {
        let answer = wire.request(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{more}\r\n")).unwrap();
        (answer.status, answer.text())
    };
    assert_eq!(ask("/?q=hello", "").0, 200);
    assert_eq!(ask("/?q=1%27%20or%20%271%27=%271", "").0, 403);
    assert_eq!(ask("/", "User-Agent: sqlmap/1.7\r\n").0, 200);
    assert_eq!(ask("/x/../.git/config", "User-Agent: sqlmap/1.7\r\n").0, 403);
    assert_eq!(ask("/", "Content-Type: application/json\r\nContent-Length: 1\r\n\r\n{").0, 400);
    let (status, body) = ask("/broken", "");
    assert_eq!((status, body.contains("ORA")), (502, false));
}

#[test]
fn quickstart_answers_through_the_gateway() {
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::answer(200, "hello"));
    let gateway = boot("quickstart", &upstream);
    assert_eq!(gateway.connect().unwrap().get("/hello").unwrap().text(), "hello");
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn key_auth_limit_count_answers_401_200_503() {
    let upstream = Upstream::start().unwrap();
    let gateway = boot("key-auth-limit-count", &upstream);
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/api/x").unwrap().status, 401);
    let with_key = "GET /api/x HTTP/1.1\r\nHost: h\r\napikey: key-of-anna\r\n\r\n";
    let statuses: Vec<u16> = (0..4).map(|_| wire.request(with_key).unwrap().status).collect();
    assert_eq!(statuses, [200, 200, 200, 503]);
    assert_eq!(upstream.requests(), 3);
}

#[test]
fn circuit_breaker_hands_over_to_the_standby_and_answers_itself() {
    let (upstream, standby) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    upstream.otherwise(Behaviour::answer(500, "ill"));
    standby.otherwise(Behaviour::answer(200, "standby"));
    let text = std::fs::read_to_string(folder().join("circuit-breaker/apisix.yaml")).unwrap();
    let text = text.replace("127.0.0.1:1980", &upstream.addr().to_string());
    let dir = ConfigDir::new(&Value::Null, &Value::Null).unwrap();
    dir.write_raw("apisix.yaml", &text.replace("127.0.0.1:1981", &standby.addr().to_string())).unwrap();
    let gateway = Gateway::start(binary(), dir).unwrap();
    let mut wire = gateway.connect().unwrap();
    let mut statuses =
        |target: &str, count: usize| -> Vec<u16> { (0..count).map(|_| wire.get(target).unwrap().status).collect() };
    assert_eq!(statuses("/orders", 4), [500, 500, 500, 200]);
    assert_eq!(statuses("/reports", 5), [500, 500, 500, 500, 503]);
    let canned = wire.get("/reports").unwrap();
    assert_eq!((canned.header("retry-after"), canned.header("content-type")), (Some("60"), Some("application/json")));
    assert_eq!((upstream.requests(), standby.requests()), (7, 1));
}

#[test]
fn sticky_session_comes_back_to_its_node() {
    let (one, two) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    let text = std::fs::read_to_string(folder().join("sticky-session/apisix.yaml")).unwrap();
    let ports = [("port: 1980", &one, "one"), ("port: 1981", &two, "two")];
    let text = ports.iter().fold(text, |text, (written, node, name)| {
        node.otherwise(Behaviour::answer(200, *name));
        text.replace(written, &format!("port: {}", node.port()))
    });
    let dir = ConfigDir::new(&Value::Null, &Value::Null).unwrap();
    dir.write_raw("apisix.yaml", &text).unwrap();
    let gateway = Gateway::start(binary(), dir).unwrap();
    let mut wire = gateway.connect().unwrap();
    let first = wire.get("/shop").unwrap();
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("shop-node="), "{cookie}");
    for _ in 0..20 {
        let again = wire.request(format!("GET /shop HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n\r\n")).unwrap();
        assert_eq!((again.text(), again.header("set-cookie")), (first.text(), None));
    }
}

#[test]
fn opentelemetry_tells_its_collector() {
    let (upstream, collector) = (Upstream::start().unwrap(), sluice_testkit::Collector::start().unwrap());
    let text = std::fs::read_to_string(folder().join("opentelemetry/apisix.yaml")).unwrap();
    let text = text.replace("address: 127.0.0.1:4318", &format!("address: {}", collector.address()));
    let dir = ConfigDir::new(&Value::Null, &Value::Null).unwrap();
    dir.write_raw("apisix.yaml", &text.replace("127.0.0.1:1980", &upstream.addr().to_string())).unwrap();
    let gateway = Gateway::start(binary(), dir).unwrap();
    let request = "GET /api/x HTTP/1.1\r\nHost: h\r\nx-tenant-id: t\r\n\
                   traceparent: 00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01\r\n\r\n";
    assert_eq!(gateway.connect().unwrap().request(request).unwrap().status, 200);
    let spans = collector.wait_for(1, std::time::Duration::from_secs(10));
    assert_eq!((spans[0].name.as_str(), &spans[0].attributes["x-tenant-id"]), ("GET /api/*", &Value::from("t")));
    assert_eq!(spans[0].resource["service.name"], "gateway");
}

#[test]
fn proxy_cache_answers_the_second_time_itself() {
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::with_headers(200, &[("Cache-Control", "max-age=60")], "hello"));
    let text = std::fs::read_to_string(folder().join("proxy-cache/apisix.yaml")).unwrap();
    let settings = std::fs::read_to_string(folder().join("proxy-cache/config.yaml")).unwrap();
    assert!(settings.contains("- name: pages\n        memory_size: 64m"));
    let zones = serde_json::json!({"apisix": {"proxy_cache": {"zones": [{"name": "pages", "memory_size": "64m"}]}}});
    let dir = ConfigDir::new(&zones, &Value::Null).unwrap();
    dir.write_raw("apisix.yaml", &text.replace("127.0.0.1:1980", &upstream.addr().to_string())).unwrap();
    let gateway = Gateway::start(binary(), dir).unwrap();
    let mut wire = gateway.connect().unwrap();
    for status in ["MISS", "HIT"] {
        let answer = wire.get("/x").unwrap();
        assert_eq!((answer.text().as_str(), answer.header("apisix-cache-status")), ("hello", Some(status)));
    }
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn compress_sends_what_the_client_likes_best() {
    let upstream = Upstream::start().unwrap();
    let page = "a page of some length, ".repeat(40);
    let headers = vec![("Content-Type".into(), "text/html".into())];
    upstream.otherwise(Behaviour::Answer { status: 200, headers, body: page.clone().into_bytes() });
    let gateway = boot("compress", &upstream);
    let mut wire = gateway.connect().unwrap();
    for (accept, coding) in
        [("gzip, br, zstd", Some("zstd")), ("gzip, br", Some("br")), ("gzip", Some("gzip")), ("x", None)]
    {
        let ask = format!("GET /page HTTP/1.1\r\nHost: h\r\nAccept-Encoding: {accept}\r\n\r\n");
        let answer = wire.request(ask).unwrap();
        assert_eq!(answer.header("content-encoding"), coding, "{accept}");
        assert_eq!(answer.body.len() < page.len() / 2, coding.is_some(), "{accept}");
    }
}

#[test]
fn aggregate_makes_one_page_of_three_services() {
    let upstream = Upstream::start().unwrap();
    upstream.on("/users/7", Behaviour::answer(200, r#"{"id": 7, "name": "Anna", "password": "x"}"#));
    upstream.on("/orders", Behaviour::answer(200, r#"{"items": [1, 2]}"#));
    upstream.on("/news", Behaviour::Close);
    let gateway = boot("aggregate", &upstream);
    let page = gateway.connect().unwrap().get("/page?user=7").unwrap();
    let body: Value = serde_json::from_str(&page.text()).unwrap();
    assert_eq!(body["user"], serde_json::json!({"id": 7, "name": "Anna"}));
    assert_eq!((&body["orders"], &body["news"]), (&serde_json::json!([1, 2]), &Value::Null));
    assert_eq!((page.status, page.header("x-aggregate-partial")), (200, Some("news")));
}

/// Certificates in the folder of an example's secrets; the authority is `ca.pem`.
fn certificates(authority: &Authority, names: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
    for (file, name) in names {
        let pair = if *file == "gateway" { authority.client(name) } else { authority.server(&[name]) }.unwrap();
        std::fs::write(folder.path().join(format!("{file}.pem")), pair.cert + &authority.pem()).unwrap();
        std::fs::write(folder.path().join(format!("{file}.key")), pair.key).unwrap();
    }
    folder
}

#[test]
fn mtls_knows_both_sides() {
    let authority = Authority::new("authority").unwrap();
    let names = [("server", "api.test"), ("gateway", "gateway.test")];
    let certs = certificates(&authority, &names);
    let backend = authority.server(&["backend.test"]).unwrap();
    let upstream = Upstream::start_tls(backend.server_config_for(&authority).unwrap()).unwrap();
    let text = std::fs::read_to_string(folder().join("mtls/apisix.yaml")).unwrap();
    let text = text.replace("/tmp/sluice-mtls", &certs.path().to_string_lossy());
    let dir = ConfigDir::new(&Value::Null, &Value::Null).unwrap();
    dir.write_raw("apisix.yaml", &text.replace("127.0.0.1:1980", &upstream.addr().to_string())).unwrap();
    let gateway = Gateway::start(binary(), dir).unwrap();
    let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let ask = |path: &str, identity| {
        let config = authority.client_config(identity).unwrap();
        let mut wire = sluice_testkit::Wire::connect_tls(addr, "api.test", config).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n\r\n");
        let answer = wire.request(request).unwrap();
        (answer.status, answer.text())
    };
    let anna = authority.client("anna").unwrap();
    let (status, body) = ask("/", Some(&anna));
    assert_eq!(status, 200, "{body} {}", gateway.log_text());
    assert!(body.contains("\"x-client\":\"CN=anna\""), "{body}");
    assert_eq!(ask("/health", None).0, 200);
    assert_eq!(ask("/", None).0, 400);
}

#[test]
fn ocsp_stapling_serves_without_a_responder_too() {
    let authority = Authority::new("authority").unwrap();
    let certs = certificates(&authority, &[("server", "api.test")]);
    let upstream = Upstream::start().unwrap();
    let text = std::fs::read_to_string(folder().join("ocsp-stapling/apisix.yaml")).unwrap();
    let text = text.replace("/tmp/sluice-ocsp", &certs.path().to_string_lossy());
    let dir = ConfigDir::new(&Value::Null, &Value::Null).unwrap();
    dir.write_raw("apisix.yaml", &text.replace("127.0.0.1:1980", &upstream.addr().to_string())).unwrap();
    let gateway = Gateway::start(binary(), dir).unwrap();
    let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
    let client = authority.client_config(None).unwrap();
    let mut wire = sluice_testkit::Wire::connect_tls(addr, "api.test", client).unwrap();
    assert_eq!(wire.get("/").unwrap().status, 200);
    let why = "no ocsp response send: failed to get ocsp url: cert not contains authority_information_access extension";
    gateway.wait_for_log(why, std::time::Duration::from_secs(5)).unwrap();
}

#[test]
fn openid_connect_logs_in_and_takes_tokens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(idp) = sluice_testkit::IdentityProvider::start(root, None) else { return };
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::answer(200, "the shop"));
    let text = std::fs::read_to_string(folder().join("openid-connect/apisix.yaml")).unwrap();
    let text =
        text.replace("127.0.0.1:1980", &upstream.addr().to_string()).replace("http://127.0.0.1:8080", &idp.issuer());
    let dir = ConfigDir::new(&Value::Null, &Value::Null).unwrap();
    dir.write_raw("apisix.yaml", &text).unwrap();
    let secrets = [
        ("SHOP_CLIENT_SECRET", "a secret of the shop that is long enough"),
        ("SHOP_SESSION_SECRET", "a secret of the sessions"),
    ];
    let gateway = Gateway::start_with(binary(), dir, &secrets).unwrap();
    let mut browser = sluice_testkit::Browser::default();
    browser.knows("gateway.test", gateway.addr()).knows(idp.address().to_string(), idp.address());
    assert_eq!(browser.go("http://gateway.test/").text(), "the shop", "{:?}\n{}", browser.visited, gateway.log_text());
    let seen = upstream.take_seen().remove(0);
    assert!(seen.header("x-userinfo").is_some() && seen.header("x-access-token").is_none());
    assert_eq!(browser.step("http://gateway.test/logout").status, 302);
    assert_eq!(browser.step("http://gateway.test/").status, 302);

    let mut wire = gateway.connect().unwrap();
    let mut ask = |token: &str| {
        let request = format!("GET /api/x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n");
        wire.request(request).unwrap().status
    };
    assert_eq!([ask(&idp.token(true, "read")), ask(&idp.token(true, "write")), ask("abc")], [200, 403, 401]);
    let seen = upstream.take_seen().remove(0);
    assert_eq!((seen.header("x-client"), seen.header("authorization")), (Some("shop"), None));
}

#[test]
fn grpc_examples_serve_browsers_and_json_clients() {
    let server = crate::grpc::Server::start();
    let boot = |name: &str| {
        let text = std::fs::read_to_string(folder().join(name).join("apisix.yaml")).unwrap();
        let dir = ConfigDir::new(&Value::Null, &Value::Null).unwrap();
        dir.write_raw("apisix.yaml", &text.replace("127.0.0.1:50051", &server.addr.to_string())).unwrap();
        Gateway::start(binary(), dir).unwrap()
    };
    let transcode = boot("grpc-transcode");
    let mut wire = transcode.connect().unwrap();
    assert_eq!(wire.get("/hello?name=anna&times=2").unwrap().text(), r#"{"name":"anna","times":2}"#);
    assert_eq!(wire.get("/hellos?name=anna").unwrap().text(), "{\"name\":\"anna\",\"times\":0}\n");
    let web = boot("grpc-web");
    let call = "POST /web/helloworld.Greeter/SayHello HTTP/1.1\r\nHost: h\r\nOrigin: https://shop.example.com\r\n\
                Content-Type: application/grpc-web-text\r\nContent-Length: 16\r\n\r\nAAAAAAYKBGFubmE=";
    let answer = web.connect().unwrap().request(call).unwrap();
    assert!(answer.text().starts_with("AAAAAAYKBGFubmE=gAAA"), "{}", answer.text());
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://shop.example.com"));
}
