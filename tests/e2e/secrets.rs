//! Secrets that a manager holds: there before the first request, and followed when they change.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::{Behaviour, Upstream};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn resources(vault: &Upstream) -> Value {
    json!({
        "secrets": [{"id": "vault/1", "uri": format!("http://{}", vault.addr()), "prefix": "kv/apisix", "token": "root"}],
        "routes": [
            {"id": "told", "uri": "/told", "plugins": {"mocking": {"response_example": "$secret://vault/1/jack/key", "content_type": "text/plain"}}},
            {"id": "guarded", "uri": "/guarded", "plugins": {"key-auth": {}, "mocking": {"response_example": "in"}}}
        ],
        "consumers": [{"username": "jack", "plugins": {"key-auth": {"key": "$secret://vault/1/jack/key"}}}]
    })
}

#[test]
fn a_secret_of_vault_is_there_at_once_and_followed() {
    let vault = Upstream::start().unwrap();
    let answer = |value: &str| Behaviour::answer(200, json!({"data": {"key": value}}).to_string());
    vault.on("/v1/kv/apisix/jack", answer("sesame-one"));
    let gateway = gateway(&json!({"apisix": {"lru": {"secret": {"ttl": 1}}}}), &resources(&vault));
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/told").unwrap().text(), "sesame-one", "the first request");
    let key = |key: &str| format!("GET /guarded HTTP/1.1\r\nHost: a\r\napikey: {key}\r\n\r\n");
    assert_eq!(wire.request(key("sesame-one")).unwrap().status, 200);
    vault.on("/v1/kv/apisix/jack", answer("sesame-two"));
    gateway.wait_until("/told", LIMIT, |a| a.text() == "sesame-two").unwrap();
    assert_eq!(wire.request(key("sesame-one")).unwrap().status, 401);
    assert_eq!(wire.request(key("sesame-two")).unwrap().status, 200);
    // What was good stays while the manager is away.
    vault.on("/v1/kv/apisix/jack", Behaviour::answer(503, "{}"));
    gateway.wait_for_log("its last value stays in force", LIMIT).unwrap();
    assert_eq!(wire.request(key("sesame-two")).unwrap().status, 200);
    assert!(!gateway.log_text().contains("sesame-two"), "no value in the log");
}
