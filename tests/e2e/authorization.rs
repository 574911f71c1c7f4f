//! `opa` with a real server beside the upstream: what it is told of the request's objects.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::{Behaviour, Upstream};

#[test]
fn a_policy_server_sees_route_service_and_consumer() {
    let (upstream, server) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    server.otherwise(Behaviour::answer(200, r#"{"result":{"allow":true}}"#));
    let with = json!({"host": format!("http://{}", server.addr()), "policy": "p", "with_route": true,
        "with_service": true, "with_consumer": true});
    let nodes = json!({"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}});
    let resources = json!({
        "services": [{"id": "s1", "name": "shop", "plugins": {"key-auth": {}}, "upstream": nodes}],
        "consumers": [{"username": "anna", "plugins": {"key-auth": {"key": "k"}}}],
        "routes": [
            {"id": "r1", "uri": "/a", "service_id": "s1", "plugins": {"opa": with}},
            {"id": "r2", "uri": "/b", "plugins": {"opa": with}, "upstream": nodes},
        ],
    });
    let gateway = gateway(&Value::Null, &resources);
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.request("GET /a?x=1 HTTP/1.1\r\nHost: shop.test\r\napikey: k\r\n\r\n").unwrap().status, 200);
    assert_eq!(wire.get("/b").unwrap().status, 200);
    let seen = server.take_seen();
    let inputs: Vec<Value> = seen.iter().map(|s| serde_json::from_slice(&s.body).unwrap()).collect();
    let input = &inputs[0]["input"];
    assert_eq!((&input["request"]["host"], &input["request"]["query"]), (&json!("shop.test"), &json!({"x": "1"})));
    assert_eq!((&input["route"]["id"], &input["route"]["plugins"]["opa"]["with_route"]), (&json!("r1"), &json!(true)));
    assert_eq!(input["route"]["plugins"]["key-auth"]["header"], "apikey");
    assert_eq!((&input["service"]["id"], &input["service"].get("upstream")), (&json!("s1"), &None));
    assert_eq!(
        (&input["consumer"]["username"], &input["consumer"]["plugins"]["key-auth"]["key"]),
        (&json!("anna"), &json!("k"))
    );
    let other = &inputs[1]["input"];
    assert_eq!((&other["route"]["id"], other.get("service"), other.get("consumer")), (&json!("r2"), None, None));
    assert_eq!(other["route"].get("upstream"), None);
}
