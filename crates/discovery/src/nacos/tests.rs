//! Tests of `nacos` against a server of it.
use super::*;
use crate::testing::{Asked, Fake, Told, conf, eventually, follow, query, settings, until};
use std::collections::HashMap;
use std::sync::Mutex;

/// Instances by `namespace/group/name`.
type Instances = Arc<Mutex<HashMap<String, Value>>>;

fn answer(instances: &Instances, asked: &Asked) -> Told {
    match (asked.method.as_str(), asked.path.as_str()) {
        ("POST", "/nacos/v1/auth/login") if asked.args["password"] == "se:cret" => {
            Told::json(&json!({"accessToken": "t1"}))
        }
        ("GET", "/nacos/v1/ns/instance/list") => {
            assert_eq!(asked.args["healthyOnly"], "true");
            let arg = |name: &str| asked.args[name].as_str();
            let key = format!("{}/{}/{}", arg("namespaceId"), arg("groupName"), arg("serviceName"));
            match instances.lock().unwrap().get(&key) {
                Some(hosts) => Told::json(&json!({"hosts": hosts})),
                None => Told::text(500, "no"),
            }
        }
        _ => Told::text(403, "forbidden"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followed_services_are_asked_for_with_what_their_upstreams_say() {
    let instances: Instances = Arc::default();
    let host = |ip: &str, weight: f64| json!({"ip": ip, "port": 80, "weight": weight, "metadata": {"gRPC_port": "90"}});
    instances
        .lock()
        .unwrap()
        .insert("public/DEFAULT_GROUP/API".into(), json!([host("10.0.0.1", 1.0), host("10.0.0.2", 0.3)]));
    instances.lock().unwrap().insert("ns/G/API".into(), json!([host("10.0.0.3", 2.0)]));
    let own = instances.clone();
    let server = Fake::start(move |asked| std::future::ready(answer(&own, &asked))).await;
    let value = json!({"host": [format!("http://nacos:se:cret@{}", server.addr)], "fetch_interval": 1,
        "access_key": "ak", "secret_key": "sk"});
    let registry = start(&conf("nacos", value), &settings()).unwrap();
    let mut api = follow(&registry, "API");
    until(&mut api, &["10.0.0.1:80 1", "10.0.0.2:80 1"]).await;
    // asked for at once, with the arguments, and with the port for gRPC
    let named = ServiceQuery { namespace_id: Some("ns".into()), group_name: Some("G".into()), ..query("API") };
    until(&mut registry.follow(&named).unwrap(), &["10.0.0.3:80 2"]).await;
    let mut grpc = registry.follow(&ServiceQuery { grpc: true, ..named.clone() }).unwrap();
    until(&mut grpc, &["10.0.0.3:90 2"]).await;
    let asked = server.seen().into_iter().find(|asked| asked.method == "GET").unwrap();
    assert_eq!((asked.args["accessToken"].as_str(), asked.args["ak"].as_str()), ("t1", "ak"));
    assert!(asked.args["data"].ends_with("@@DEFAULT_GROUP@@API") && asked.args["signature"].len() == 28);
    let dump = registry.dump().unwrap();
    assert_eq!(dump["services"]["default/public/DEFAULT_GROUP/API"]["nodes"][0]["host"], "10.0.0.1");
    // one that fails keeps its nodes, the others change
    let mut lost = follow(&registry, "LOST");
    until(&mut lost, &[]).await;
    instances.lock().unwrap().remove("ns/G/API");
    instances.lock().unwrap().insert("public/DEFAULT_GROUP/API".into(), json!([host("10.0.0.9", 1.0)]));
    until(&mut api, &["10.0.0.9:80 1"]).await;
    until(&mut grpc, &["10.0.0.3:90 2"]).await;
    server.kill().await;
    eventually("it is away", || !registry.reports()[0].reachable).await;
    until(&mut api, &["10.0.0.9:80 1"]).await;
    instances.lock().unwrap().insert("public/DEFAULT_GROUP/API".into(), json!([]));
    server.restart();
    until(&mut api, &[]).await;
    // nobody follows it any more, so nobody asks
    drop((api, lost));
    eventually("it is let go", || !registry.dump().unwrap()["services"].to_string().contains("public")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_and_a_second_host_is_asked() {
    let instances: Instances = Arc::default();
    instances.lock().unwrap().insert("public/DEFAULT_GROUP/API".into(), json!([{"ip": "10.0.0.1", "port": 80}]));
    let own = instances.clone();
    let server = Fake::start(move |asked| std::future::ready(answer(&own, &asked))).await;
    let wrong = format!("http://nacos:wrong@{}", server.addr);
    let value = conf("nacos", json!({"host": [wrong, server.url()], "fetch_interval": 1}));
    let registry = start(&value, &settings()).unwrap();
    until(&mut follow(&registry, "API"), &["10.0.0.1:80 100"]).await;
    let value = conf("nacos", json!({"host": [wrong], "fetch_interval": 1}));
    let registry = start(&value, &settings()).unwrap();
    until(&mut follow(&registry, "API"), &[]).await;
    assert!(!registry.reports()[0].reachable);
}
