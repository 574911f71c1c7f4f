//! The ports for operators: Control API and status API.

use crate::start::{all_to, binary, gateway};
use serde_json::{Value, json};
use sluice_testkit::{ConfigDir, Gateway, Upstream, Wire};
use std::time::{Duration, Instant};

fn get(port: u16, target: &str) -> (u16, Value) {
    let answer = Wire::connect(("127.0.0.1", port)).unwrap().get(target).unwrap();
    let body = if answer.text().starts_with('<') { Value::Null } else { answer.json() };
    (answer.status, body)
}

/// A gateway that answers, so that its configuration is in force.
fn answering(settings: &Value, resources: &Value) -> Gateway {
    let gateway = gateway(settings, resources);
    gateway.connect().unwrap().get("/").unwrap();
    gateway
}

/// The Admin API comes last of all.
fn admin(port: u16) -> Wire {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match Wire::connect(("127.0.0.1", port)) {
            Err(error) if Instant::now() > until => panic!("{error}"),
            Err(_) => std::thread::yield_now(),
            Ok(wire) => return wire,
        }
    }
}

fn control(gateway: &Gateway, target: &str) -> (u16, Value) {
    get(gateway.dir().control_port, target)
}

#[test]
fn the_control_api_shows_what_is_in_force() {
    let upstream = Upstream::start().unwrap();
    let gateway = answering(&Value::Null, &all_to(&upstream));
    let (status, routes) = control(&gateway, "/v1/routes");
    assert_eq!((status, &routes[0]["key"]), (200, &json!("/routes/all")));
    let node = json!([{"host": "127.0.0.1", "port": upstream.addr().port(), "weight": 1}]);
    assert_eq!(routes[0]["value"]["upstream"]["nodes"], node);
    assert_eq!(control(&gateway, "/v1/route/x"), (404, json!({"error_msg": "route[x] not found"})));
    assert_eq!(
        control(&gateway, "/v1/healthcheck/routes/all"),
        (404, json!({"error_msg": "no checker for routes[all]"}))
    );
    assert_eq!(control(&gateway, "/v1/schema").1["main"]["route"]["type"], "object");
    assert_eq!(control(&gateway, "/v1/discovery/dns/dump").0, 404);
}

#[test]
fn a_named_port_that_another_process_has_is_an_error() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let control = json!({"ip": "127.0.0.1", "port": taken.local_addr().unwrap().port()});
    let dir = ConfigDir::new(&json!({"apisix": {"control": control}}), &json!({})).unwrap();
    let error = Gateway::start(binary(), dir).err().unwrap().to_string();
    assert!(error.contains("(apisix.control)"), "{error}");
}

#[test]
fn plugins_are_reloaded_from_config_yaml() {
    let upstream = Upstream::start().unwrap();
    let gateway = answering(&json!({"plugins": ["redirect"]}), &all_to(&upstream));
    let known = |name: &str| !control(&gateway, "/v1/schema").1["plugins"][name].is_null();
    assert!(known("redirect") && !known("echo"));
    let config: Value = serde_json::from_slice(&std::fs::read(gateway.dir().config_file()).unwrap()).unwrap();
    let mut changed = config;
    changed["plugins"] = json!(["redirect", "echo"]);
    gateway.dir().write_raw("config.yaml", &changed.to_string()).unwrap();
    let mut wire = Wire::connect(("127.0.0.1", gateway.dir().control_port)).unwrap();
    let answer = wire.request("PUT /v1/plugins/reload HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!((answer.status, answer.text()), (200, "done".to_owned()));
    assert!(known("echo"));
}

#[test]
fn the_status_api_tells_when_a_configuration_is_in_force() {
    let upstream = Upstream::start().unwrap();
    let ready = answering(&Value::Null, &all_to(&upstream));
    assert_eq!(get(ready.dir().status_port, "/status"), (200, json!({"status": "ok"})));
    assert_eq!(get(ready.dir().status_port, "/status/ready"), (200, json!({"status": "ok"})));
    // API-driven standalone mode has nothing until somebody brings it.
    let admin_port = free_port();
    let waiting = gateway_api_driven(admin_port);
    let (status, body) = get(waiting.dir().status_port, "/status/ready");
    assert_eq!((status, &body["status"]), (503, &json!("error")));
    let routes = all_to(&upstream).to_string();
    let put = format!(
        "PUT /apisix/admin/configs HTTP/1.1\r\nHost: x\r\nX-Digest: 1\r\nContent-Length: {}\r\n\r\n{routes}",
        routes.len()
    );
    let answer = admin(admin_port).request(put).unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(get(waiting.dir().status_port, "/status/ready"), (200, json!({"status": "ok"})));
    assert_eq!(waiting.connect().unwrap().get("/x").unwrap().status, 200);
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn gateway_api_driven(admin_port: u16) -> Gateway {
    let settings = json!({"deployment": {
        "role": "traditional",
        "role_traditional": {"config_provider": "yaml"},
        "admin": {"admin_key_required": false, "admin_listen": {"ip": "127.0.0.1", "port": admin_port}},
    }});
    answering(&settings, &json!({}))
}
