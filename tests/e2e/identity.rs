//! What the plugins that know consumers have in common: secrets by reference, groups, the anonymous consumer.

use crate::start::binary;
use serde_json::{Value, json};
use sluice_testkit::{ConfigDir, Gateway, IdentityProvider, Upstream, Wire};
use std::path::Path;

/// `{"key": "anna-jwt"}`, signed with the secret below by HS256.
const TOKEN: &str =
    "eyJhbGciOiAiSFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJrZXkiOiAiYW5uYS1qd3QifQ.3ez6PN7kz8PoE29nJr1jiPUwkGeIC611YkKKzTGZE3I";
/// `Signature` for `date` and the target `/hmac`, by the secret `s3cret`.
const SIGNED: &str = "Signature keyId=\"anna-key\",algorithm=\"hmac-sha256\",headers=\"@request-target date\",signature=\"AFtzj30nnhgQekr1kj1Q0uS3uGl7eKr4tFm1+6tEQow=\"";
const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

fn ask(wire: &mut Wire, path: &str, fields: &str) -> u16 {
    wire.request(format!("GET {path} HTTP/1.1\r\nHost: gateway.test\r\n{fields}\r\n")).unwrap().status
}

/// Field and value that each plugin accepts, with the secret beside it in [`SECRETS`].
fn credentials() -> [(&'static str, String); 4] {
    [
        ("/key", "apikey: a-key\r\n".into()),
        ("/basic", "Authorization: Basic YW5uYTpvcGVu\r\n".into()),
        ("/jwt", format!("Authorization: {TOKEN}\r\n")),
        ("/hmac", format!("Authorization: {SIGNED}\r\nDate: {DATE}\r\n")),
    ]
}

const SECRETS: [(&str, &str); 6] = [
    ("T_KEY", "a-key"),
    ("T_PASSWORD", "open"),
    ("T_JWT", "a jwt secret of thirty-two bytes!"),
    ("T_HMAC", "s3cret"),
    ("T_CLIENT", "a secret of the shop that is long enough"),
    ("T_SESSION", "0123456789abcdef"),
];

fn auth(plugin: &str) -> Value {
    match plugin {
        "hmac-auth" => json!({"hmac-auth": {"clock_skew": 10_000_000_000_u64}}),
        plugin => json!({plugin: {}}),
    }
}

fn resources(upstream: &Upstream, reference: impl Fn(&str) -> String) -> Value {
    let nodes = json!({"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}});
    let names = [("/key", "key-auth"), ("/basic", "basic-auth"), ("/jwt", "jwt-auth"), ("/hmac", "hmac-auth")];
    let mut routes: Vec<Value> = names
        .iter()
        .map(|(path, plugin)| json!({"id": plugin, "uri": path, "plugins": auth(plugin), "upstream": nodes}))
        .collect();
    let both = json!([{"key-auth": {}}, {"basic-auth": {}}]);
    routes.push(
        json!({"id": "multi", "uri": "/multi", "plugins": {"multi-auth": {"auth_plugins": both}}, "upstream": nodes}),
    );
    json!({
        "routes": routes,
        "consumer_groups": [{"id": "gold", "plugins": {"limit-count": {"count": 8, "time_window": 3600}}}],
        "consumers": [{"username": "anna", "group_id": "gold", "plugins": {
            "key-auth": {"key": reference("T_KEY")},
            "basic-auth": {"username": "anna", "password": reference("T_PASSWORD")},
            "jwt-auth": {"key": "anna-jwt", "secret": reference("T_JWT")},
            "hmac-auth": {"key_id": "anna-key", "secret_key": reference("T_HMAC")},
        }}],
    })
}

fn start(resources: &Value, environment: &[(&str, &str)]) -> Gateway {
    let dir = ConfigDir::new(&Value::Null, resources).unwrap();
    Gateway::start_with(binary(), dir, environment).unwrap()
}

#[test]
fn every_plugin_takes_its_secrets_from_the_environment_or_a_manager() {
    let upstream = Upstream::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in SECRETS {
        std::fs::write(folder.path().join(name), value).unwrap();
    }
    let by_environment = resources(&upstream, |name| format!("$env://{name}"));
    let mut by_manager = resources(&upstream, |name| format!("$secret://file/1/{name}"));
    by_manager["secrets"] = json!([{"id": "file/1", "directory": folder.path()}]);
    for (resources, environment) in [(by_environment, &SECRETS[..]), (by_manager, &[])] {
        let gateway = start(&resources, environment);
        let mut wire = gateway.connect().unwrap();
        for (path, fields) in credentials() {
            assert_eq!(ask(&mut wire, path, &fields), 200, "{path}\n{}", gateway.log_text());
        }
        assert_eq!(ask(&mut wire, "/multi", &credentials()[1].1), 200);
        let seen = upstream.take_seen();
        assert!(seen.len() == 5 && seen.iter().all(|s| s.header("x-consumer-username") == Some("anna")));
        // The reference itself opens nothing, and the group's limit is one for all plugins: eight in all.
        assert_eq!(ask(&mut wire, "/key", "apikey: $env://T_KEY\r\n"), 401);
        let more: Vec<u16> = (0..4).map(|_| ask(&mut wire, "/key", &credentials()[0].1)).collect();
        assert_eq!(more, [200, 200, 200, 503]);
        let log = gateway.log_text();
        assert!(SECRETS.iter().all(|(_, value)| !log.contains(value)), "{log}");
        upstream.take_seen();
    }
}

#[test]
fn what_no_secret_was_found_for_lets_nobody_in() {
    let upstream = Upstream::start().unwrap();
    let mut resources = resources(&upstream, |name| format!("$env://{name}_MISSING"));
    let nodes = json!({"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}});
    let login = json!({"client_id": "a", "client_secret": "s", "discovery": "http://127.0.0.1:1/",
        "session": {"secret": "$env://T_SESSION_MISSING"}, "unauth_action": "pass"});
    let lookup = json!({"introspection": {"endpoint": "http://127.0.0.1:1/", "client_id": "a",
        "client_secret": "$env://T_CLIENT_MISSING"}, "allow_anonymous": true});
    let routes = resources["routes"].as_array_mut().unwrap();
    routes.push(json!({"id": "login", "uri": "/login", "plugins": {"openid-connect": login}, "upstream": nodes}));
    routes.push(json!({"id": "oauth", "uri": "/oauth", "plugins": {"oauth": lookup}, "upstream": nodes}));
    let gateway = start(&resources, &[]);
    let mut wire = gateway.connect().unwrap();
    for (path, fields) in credentials() {
        assert_eq!(ask(&mut wire, path, &fields), 401, "{path}");
    }
    assert_eq!(ask(&mut wire, "/key", "apikey: $env://T_KEY_MISSING\r\n"), 401);
    // These are not built without their secret, and the routes do not go unguarded.
    assert_eq!((ask(&mut wire, "/login", ""), ask(&mut wire, "/oauth", "")), (503, 503));
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn the_anonymous_consumer_has_its_own_limits_in_every_plugin() {
    let upstream = Upstream::start().unwrap();
    let mut resources = resources(&upstream, |name| format!("$env://{name}"));
    for route in resources["routes"].as_array_mut().unwrap() {
        for (name, config) in route["plugins"].as_object_mut().unwrap() {
            if name != "multi-auth" {
                config["anonymous_consumer"] = json!("guest");
            }
        }
    }
    let limit = json!({"limit-count": {"count": 6, "time_window": 3600}});
    resources["consumers"].as_array_mut().unwrap().push(json!({"username": "guest", "plugins": limit}));
    let gateway = start(&resources, &SECRETS);
    let mut wire = gateway.connect().unwrap();
    for (path, fields) in credentials() {
        assert_eq!((ask(&mut wire, path, ""), ask(&mut wire, path, &fields)), (200, 200), "{path}");
    }
    let names: Vec<String> =
        upstream.take_seen().iter().map(|s| s.header("x-consumer-username").unwrap_or_default().to_owned()).collect();
    assert_eq!(names, ["guest", "anna"].repeat(4));
    // A wrong credential is nobody's too.
    let more: Vec<u16> = (0..3).map(|_| ask(&mut wire, "/key", "apikey: wrong\r\n")).collect();
    assert_eq!(more, [200, 200, 503]);
}

#[test]
fn a_login_works_with_secrets_by_reference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(idp) = IdentityProvider::start(root, None) else { return };
    let upstream = Upstream::start().unwrap();
    let nodes = json!({"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}});
    let login = json!({"client_id": "shop", "client_secret": "$env://T_CLIENT", "discovery": idp.discovery(),
        "redirect_uri": "/callback", "session": {"secret": "$env://T_SESSION"}});
    let lookup = json!({"discovery": idp.discovery(), "scopes": ["read"], "headers": {"X-Client": "client_id"}, "hide_token": true,
        "introspection": {"client_id": "shop", "client_secret": "$env://T_CLIENT", "cache_ttl": 1}});
    let gateway = start(
        &json!({"routes": [
            {"id": "api", "uri": "/api/*", "plugins": {"oauth": lookup}, "upstream": nodes},
            {"id": "shop", "uri": "/*", "plugins": {"openid-connect": login}, "upstream": nodes},
        ]}),
        &SECRETS,
    );
    let mut browser = sluice_testkit::Browser::default();
    browser.knows("gateway.test", gateway.addr()).knows(idp.address().to_string(), idp.address());
    assert_eq!(browser.go("http://gateway.test/a").status, 200, "{:?}\n{}", browser.visited, gateway.log_text());
    upstream.take_seen();
    let mut wire = gateway.connect().unwrap();
    let (reader, writer, opaque) = (idp.token(true, "read"), idp.token(true, "write"), idp.token(false, ""));
    let mut with =
        |token: &str| ask(&mut wire, "/api/x", &format!("Authorization: Bearer {token}\r\nX-Client: forged\r\n"));
    // The opaque token has no scope; the answer about it says so.
    assert_eq!([with(&reader), with(&writer), with(&opaque), with("made-up"), with("")], [200, 403, 403, 401, 401]);
    let seen = upstream.take_seen();
    assert_eq!((seen.len(), seen[0].header("x-client"), seen[0].header("authorization")), (1, Some("shop"), None));
    assert!(idp.seen().iter().filter(|s| s.as_str() == "POST /token/introspection").count() >= 2);
}
