//! Tests of `consul_kv` against a store that waits as Consul's does.
use super::*;
use crate::testing::{Asked, Fake, Told, conf, eventually, follow, settings, until};
use tokio::sync::watch;

type Store = watch::Sender<(u64, Vec<(&'static str, Value)>)>;

async fn answer(store: Store, asked: Asked) -> Told {
    assert_eq!((asked.path.as_str(), asked.args["recurse"].as_str()), ("/v1/kv/upstreams", "true"));
    let mut now = store.subscribe();
    if let Some(index) = asked.args.get("index").and_then(|index| index.parse::<u64>().ok()) {
        let _ = tokio::time::timeout(Duration::from_secs(60), now.wait_for(|(now, _)| *now != index)).await;
    }
    let (index, keys) = now.borrow().clone();
    if keys.is_empty() {
        return Told::text(404, "").with_index(index);
    }
    let entry = |(key, value): &(&str, Value)| json!({"Key": key, "Value": STANDARD.encode(value.to_string())});
    Told::json(&keys.iter().map(entry).collect()).with_index(index)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_become_nodes_and_changes_arrive() {
    let store: Store = watch::Sender::new((
        5,
        vec![
            ("upstreams/web/127.0.0.1:80", json!({"weight": 3, "max_fails": 2})),
            ("upstreams/web/127.0.0.2:80", json!({})),
            ("upstreams/web/127.0.0.3:80", json!({"check_status": false})),
            ("upstreams/skipped/127.0.0.4:80", json!({})),
            ("upstreams/nonsense", json!({})),
        ],
    ));
    let own = store.clone();
    let server = Fake::start(move |asked| answer(own.clone(), asked)).await;
    let value = json!({"servers": [server.url()], "weight": 7, "skip_keys": ["upstreams/skipped/"],
        "default_service": {"host": "10.0.0.9", "port": 1}});
    let registry = start(&conf("consul_kv", value), &settings()).unwrap();
    let name = format!("{}/v1/kv/upstreams/web/", server.url());
    let mut web = follow(&registry, &name);
    until(&mut web, &["127.0.0.1:80 3", "127.0.0.2:80 7"]).await;
    assert_eq!(registry.dump().unwrap()["services"].as_object().unwrap().len(), 1);
    store.send_replace((6, vec![("upstreams/web/127.0.0.2:80", json!({"weight": 0}))]));
    until(&mut web, &["127.0.0.2:80 0"]).await;
    server.kill().await;
    eventually("it is away", || !registry.reports()[0].reachable).await;
    until(&mut web, &["127.0.0.2:80 0"]).await;
    store.send_replace((2, Vec::new()));
    server.restart();
    until(&mut web, &["10.0.0.9:1 7"]).await;
}

#[test]
fn keys_are_read_as_apisix_reads_them() {
    let read = |key| parse_key("upstreams", key);
    assert_eq!(read("upstreams/a/b/10.0.0.1:80"), Some(("upstreams/a/b/", "10.0.0.1", 80)));
    for key in ["upstreams/10.0.0.1:80", "upstreams/a/10.0.0.1", "upstreams/a/x_y:80", "other/a/b:1", "upstreams/a/b:x"]
    {
        assert_eq!(read(key), None, "{key}");
    }
}
