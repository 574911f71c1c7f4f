//! Tests of `eureka` against a server of it.
use super::*;
use crate::testing::{Fake, Told, conf, eventually, follow, settings, until};
use std::sync::Mutex;

fn instance(ip: &str, port: u16, status: &str) -> Value {
    json!({"ipAddr": ip, "status": status, "overriddenstatus": "UNKNOWN", "app": "API",
        "port": {"$": port, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
        "metadata": {"weight": "8", "zone": "a"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_are_up_become_nodes() {
    let apps = Arc::new(Mutex::new(json!([])));
    let own = apps.clone();
    let server = Fake::start(move |asked| {
        let apps = own.lock().unwrap().clone();
        async move {
            match asked.path.as_str() {
                "/eureka/apps" => Told::json(&json!({"applications": {"application": apps}})),
                _ => Told::text(404, ""),
            }
        }
    })
    .await;
    let mut secure = instance("10.0.0.3", 80, "UP");
    secure["securePort"]["@enabled"] = json!(true);
    secure["metadata"] = Value::Null;
    let mut out = instance("10.0.0.4", 80, "UP");
    out["overriddenstatus"] = json!("OUT_OF_SERVICE");
    let all = [instance("10.0.0.1", 80, "UP"), instance("10.0.0.2", 80, "DOWN"), secure, out];
    *apps.lock().unwrap() = json!([{"name": "API", "instance": all}]);
    // the first host is nobody's
    let hosts = ["http://127.0.0.1:1".to_owned(), format!("http://u:p@{}", server.addr)];
    let value = json!({"host": hosts, "prefix": "/eureka", "fetch_interval": 1, "weight": 9});
    let registry = start(&conf("eureka", value), &settings()).unwrap();
    let mut api = follow(&registry, "API");
    until(&mut api, &["10.0.0.1:80 8", "10.0.0.3:443 9"]).await;
    assert_eq!(server.seen()[0].authorization, "Basic dTpw");
    let dump = registry.dump().unwrap();
    assert_eq!(
        dump["services"]["API"][0],
        json!({"host": "10.0.0.1", "port": 80, "weight": 8, "metadata": {"zone": "a"}})
    );
    assert_eq!(dump["config"]["host"][1], format!("http://{}", server.addr));
    server.kill().await;
    eventually("it is away", || !registry.reports()[0].reachable).await;
    until(&mut api, &["10.0.0.1:80 8", "10.0.0.3:443 9"]).await;
    // Eureka may fold a list of one
    *apps.lock().unwrap() = json!({"name": "API", "instance": instance("10.0.0.5", 81, "UP")});
    server.restart();
    until(&mut api, &["10.0.0.5:81 8"]).await;
    *apps.lock().unwrap() = json!([]);
    until(&mut api, &[]).await;
}
