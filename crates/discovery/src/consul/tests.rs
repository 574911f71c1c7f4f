//! Tests of `consul` against a catalog that waits as Consul's does.
use super::*;
use crate::testing::{Asked, Fake, Told, conf, eventually, follow, settings, until};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// Services: address, port, passing.
type Catalogued = BTreeMap<String, Vec<(&'static str, u16, bool)>>;

#[derive(Clone)]
struct World(watch::Sender<(u64, Catalogued)>);

impl World {
    fn new() -> World {
        World(watch::Sender::new((10, Catalogued::new())))
    }

    fn set(&self, service: &str, nodes: &[(&'static str, u16, bool)]) {
        self.0.send_modify(|(index, services)| {
            *index += 1;
            if nodes.is_empty() {
                services.remove(service);
            } else {
                services.insert(service.to_owned(), nodes.to_vec());
            }
        });
    }

    async fn answer(self, asked: Asked) -> Told {
        let mut now = self.0.subscribe();
        if let Some(index) = asked.args.get("index").and_then(|index| index.parse::<u64>().ok()) {
            let wait = asked.args["wait"].trim_end_matches('s').parse().unwrap();
            let moved = now.wait_for(|(now, _)| *now != index);
            let _ = tokio::time::timeout(Duration::from_secs(wait), moved).await;
        }
        let (index, services) = now.borrow().clone();
        let body = match asked.path.as_str() {
            "/v1/catalog/services" => {
                let names = services.keys().map(String::as_str).chain(["consul"]);
                Value::Object(names.map(|name| (name.to_owned(), json!([]))).collect())
            }
            "/v1/health/state/any" => json!([]),
            path => {
                let name = path.strip_prefix("/v1/health/service/").unwrap();
                assert_eq!(asked.args["passing"], "true");
                let passing = services.get(name).into_iter().flatten().filter(|(.., passing)| *passing);
                passing
                    .map(|(address, port, _)| {
                        json!({"Node": {"Address": "10.9.9.9"}, "Service": {"Address": address, "Port": port, "Meta": null}})
                    })
                    .collect()
            }
        };
        Told::json(&body).with_index(index)
    }

    async fn serve(&self) -> Fake {
        let world = self.clone();
        Fake::start(move |asked| world.clone().answer(asked)).await
    }
}

fn begin(value: Value) -> Arc<dyn Registry> {
    start(&conf("consul", value), &settings()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_arrive_at_once_and_only_passing_nodes_count() {
    let world = World::new();
    world
        .set("api", &[("10.0.0.2", 80, true), ("10.0.0.1", 80, true), ("10.0.0.3", 80, false), ("10.0.0.2", 80, true)]);
    let server = world.serve().await;
    let registry = begin(json!({"servers": [server.url()], "token": "t", "sort_type": "combine_sort", "weight": 5}));
    let mut api = follow(&registry, "api");
    until(&mut api, &["10.0.0.1:80 5", "10.0.0.2:80 5"]).await;
    world.set("api", &[("", 0, true)]);
    until(&mut api, &["10.9.9.9:80 5"]).await;
    world.set("web", &[("10.0.0.7", 81, true)]);
    until(&mut follow(&registry, "web"), &["10.0.0.7:81 5"]).await;
    assert!(server.seen().iter().all(|asked| asked.token == "t"));
    assert_eq!(server.count("/v1/health/service/consul"), 0);
    world.set("api", &[]);
    until(&mut api, &[]).await;
    let dump = registry.dump().unwrap();
    assert_eq!(dump["services"], json!({"web": [{"host": "10.0.0.7", "port": 81, "weight": 5}]}));
    assert_eq!((&dump["config"]["token"], &dump["config"]["fetch_interval"]), (&json!("***"), &json!(3)));
    assert_eq!(registry.dump_file(), Some(Err("dump params is nil".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_outlive_the_server_and_change_when_it_is_back() {
    let world = World::new();
    world.set("api", &[("10.0.0.1", 80, true)]);
    let server = world.serve().await;
    let registry = begin(json!({"servers": [server.url()]}));
    let mut api = follow(&registry, "api");
    until(&mut api, &["10.0.0.1:80 1"]).await;
    server.kill().await;
    eventually("it is away", || !registry.reports()[0].reachable).await;
    until(&mut api, &["10.0.0.1:80 1"]).await;
    // a new server counts from the beginning
    world.0.send_modify(|(index, services)| {
        *index = 1;
        services.insert("api".to_owned(), vec![("10.0.0.2", 80, true)]);
    });
    server.restart();
    until(&mut api, &["10.0.0.2:80 1"]).await;
    assert!(registry.reports()[0].reachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_several_servers_are_put_together() {
    let (one, two) = (World::new(), World::new());
    one.set("a", &[("10.0.0.1", 80, true)]);
    two.set("b", &[("10.0.0.2", 80, true)]);
    let (first, second) = (one.serve().await, two.serve().await);
    let registry = begin(json!({"servers": [first.url(), second.url()], "skip_services": ["c"]}));
    until(&mut follow(&registry, "a"), &["10.0.0.1:80 1"]).await;
    until(&mut follow(&registry, "b"), &["10.0.0.2:80 1"]).await;
    first.kill().await;
    two.set("c", &[("10.0.0.3", 80, true)]);
    two.set("b", &[("10.0.0.4", 80, true)]);
    until(&mut follow(&registry, "b"), &["10.0.0.4:80 1"]).await;
    until(&mut follow(&registry, "a"), &["10.0.0.1:80 1"]).await;
    assert!(!registry.dump().unwrap()["services"].as_object().unwrap().contains_key("c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dump_file_bridges_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("consul.dump");
    let world = World::new();
    world.set("api", &[("10.0.0.1", 80, true)]);
    let server = world.serve().await;
    let value = |path: &std::path::Path| conf("consul", json!({"servers": [server.url()], "dump": {"path": path}}));
    let mut relative = settings();
    relative.prefix = folder.path().to_owned();
    let registry = start(&value("consul.dump".as_ref()), &relative).unwrap();
    until(&mut follow(&registry, "api"), &["10.0.0.1:80 1"]).await;
    eventually("the file is written", || path.exists()).await;
    let file: Value = serde_json::from_str(&registry.dump_file().unwrap().unwrap()).unwrap();
    assert_eq!(file["services"], json!({"api": [{"host": "10.0.0.1", "port": 80, "weight": 1}]}));
    server.kill().await;
    let second = start(&value(&path), &settings()).unwrap();
    until(&mut follow(&second, "api"), &["10.0.0.1:80 1"]).await;
    // and it is forgotten once the server has answered
    world.set("api", &[]);
    world.set("web", &[("10.0.0.2", 80, true)]);
    server.restart();
    until(&mut follow(&second, "api"), &[]).await;
    // too old
    let old = json!({"services": file["services"], "last_update": 1, "expire": 1});
    std::fs::write(&path, old.to_string()).unwrap();
    server.kill().await;
    let late = conf("consul", json!({"servers": [server.url()], "dump": {"path": path, "expire": 10}}));
    let third = start(&late, &settings()).unwrap();
    until(&mut follow(&third, "api"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keepalive_it_is_asked_at_intervals_and_the_default_stands_in() {
    let world = World::new();
    let server = world.serve().await;
    let registry = begin(json!({"servers": [server.url()], "keepalive": false, "fetch_interval": 1,
        "default_service": {"host": "127.0.0.1", "port": 20999}}));
    let mut api = follow(&registry, "api");
    until(&mut api, &["127.0.0.1:20999 1"]).await;
    world.set("api", &[("10.0.0.1", 80, true)]);
    until(&mut api, &["10.0.0.1:80 1"]).await;
    assert!(server.seen().iter().all(|asked| !asked.args.contains_key("index")));
}
