//! Tests of `kubernetes` against an API server that lists in pages and watches.
use super::*;
use crate::testing::{Asked, Fake, Told, conf, eventually, follow, query, settings, until};
use tokio::sync::mpsc;

/// The API server: its objects, and who watches them.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    kind: &'static str,
    objects: Vec<Value>,
    version: u64,
    watchers: Vec<mpsc::Sender<String>>,
}

impl Api {
    fn new(kind: &'static str) -> Api {
        let api = Api::default();
        api.0.lock().unwrap().kind = kind;
        api
    }

    /// Two objects a page.
    fn answer(&self, asked: &Asked) -> Told {
        let mut state = self.0.lock().unwrap();
        assert_eq!(asked.authorization, "Bearer secret");
        if asked.args.contains_key("watch") {
            if asked.args["resourceVersion"] != state.version.to_string() {
                return Told::text(410, "");
            }
            let (sender, receiver) = mpsc::channel(16);
            state.watchers.push(sender);
            return Told::stream(receiver);
        }
        let from: usize = asked.args.get("continue").map_or(0, |at| at.parse().unwrap());
        let page: Vec<&Value> = state.objects.iter().skip(from).take(2).collect();
        let more = if from + 2 < state.objects.len() { (from + 2).to_string() } else { String::new() };
        let metadata = json!({"resourceVersion": state.version.to_string(), "continue": more});
        Told::json(&json!({"kind": state.kind, "metadata": metadata, "items": page}))
    }

    async fn serve(&self) -> Fake {
        let api = self.clone();
        Fake::start(move |asked| std::future::ready(api.answer(&asked))).await
    }

    fn add(&self, object: Value) {
        self.0.lock().unwrap().objects.push(object);
    }

    /// Changes an object and tells those who watch; a text in two pieces, as the wire may have it.
    fn event(&self, kind: &str, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let name = object["metadata"]["name"].clone();
        state.objects.retain(|known| known["metadata"]["name"] != name);
        if kind != "DELETED" {
            state.objects.push(object.clone());
        }
        let text = format!("{}\n", json!({"type": kind, "object": object}));
        let (first, second) = text.split_at(20);
        state.watchers.retain(|watcher| {
            watcher.try_send(first.to_owned()).is_ok() && watcher.try_send(second.to_owned()).is_ok()
        });
    }

    fn watched(&self) -> bool {
        !self.0.lock().unwrap().watchers.is_empty()
    }
}

fn endpoints(namespace: &str, name: &str, ips: &[&str]) -> Value {
    let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"metadata": {"namespace": namespace, "name": name},
        "subsets": [{"addresses": addresses, "ports": [{"name": "p1", "port": 80}]}]})
}

fn cluster(server: &Fake, more: Value) -> Value {
    let mut value = json!({
        "service": {"schema": "http", "host": "127.0.0.1", "port": server.addr.port().to_string()},
        "client": {"token": "secret"}
    });
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_listed_and_watched() {
    let api = Api::new("EndpointsList");
    for number in 0..5 {
        api.add(endpoints("ns", &format!("s{number}"), &["10.0.0.1"]));
    }
    let server = api.serve().await;
    let value = conf("kubernetes", cluster(&server, json!({"label_selector": "a=b"})));
    let idle = start(&value, &Settings { control: None, ..settings() }).unwrap();
    assert_eq!(idle.ready(), Err("kubernetes discovery not ready".to_owned()));
    let registry = start(&value, &settings()).unwrap();
    let (mut first, mut last) = (follow(&registry, "ns/s0:p1"), follow(&registry, "ns/s4:p1"));
    until(&mut first, &["10.0.0.1:80 50"]).await;
    until(&mut last, &["10.0.0.1:80 50"]).await;
    eventually("it watches", || api.watched()).await;
    assert_eq!(registry.ready(), Ok(()));
    assert_eq!(server.seen()[0].args["labelSelector"], "a=b");
    api.event("MODIFIED", endpoints("ns", "s0", &["10.0.0.3", "10.0.0.2"]));
    until(&mut first, &["10.0.0.2:80 50", "10.0.0.3:80 50"]).await;
    assert!(!last.has_changed().unwrap());
    api.event("ADDED", endpoints("ns", "s9", &["10.0.0.9"]));
    until(&mut follow(&registry, "ns/s9:p1"), &["10.0.0.9:80 50"]).await;
    api.event("DELETED", endpoints("ns", "s4", &[]));
    until(&mut last, &[]).await;
    let dump = registry.dump().unwrap();
    let entries = dump["endpoints"][0]["endpoints"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["name"]), (5, &json!("ns/s0")));
    assert!(entries[1]["value"].as_str().unwrap().contains(r#"{"p1":[{"host":"10.0.0.1","weight":50,"port":80}]}"#));
    assert_eq!(dump["config"]["client"]["token"], "***");
    // away, changed meanwhile, back
    server.kill().await;
    api.0.lock().unwrap().watchers.clear();
    eventually("it is away", || !registry.reports()[0].reachable).await;
    until(&mut first, &["10.0.0.2:80 50", "10.0.0.3:80 50"]).await;
    api.event("MODIFIED", endpoints("ns", "s0", &["10.0.0.4"]));
    api.event("DELETED", endpoints("ns", "s9", &[]));
    server.restart();
    until(&mut first, &["10.0.0.4:80 50"]).await;
    until(&mut follow(&registry, "ns/s9:p1"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_too_old_is_followed_by_a_list() {
    let api = Api::new("EndpointsList");
    api.add(endpoints("ns", "api", &["10.0.0.1"]));
    let server = api.serve().await;
    let registry = start(&conf("kubernetes", cluster(&server, json!({}))), &settings()).unwrap();
    let mut following = follow(&registry, "ns/api:p1");
    until(&mut following, &["10.0.0.1:80 50"]).await;
    eventually("it watches", || api.watched()).await;
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410}});
    {
        let mut state = api.0.lock().unwrap();
        state.objects = vec![endpoints("ns", "api", &["10.0.0.2"])];
        state.version += 1;
        for watcher in state.watchers.drain(..) {
            watcher.try_send(format!("{gone}\n")).unwrap();
        }
    }
    until(&mut following, &["10.0.0.2:80 50"]).await;
    assert_eq!(registry.reports()[0].failures, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_namespaces_and_several_clusters() {
    let slice = |namespace: &str, name: &str, ip: &str| {
        json!({"metadata": {"namespace": namespace, "name": name, "labels": {"kubernetes.io/service-name": "api"}},
            "ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}]})
    };
    let (one, two) = (Api::new("EndpointSliceList"), Api::new("EndpointsList"));
    one.add(slice("prod-a", "api-1", "10.0.0.1"));
    one.add(slice("prod-a", "api-2", "10.0.0.2"));
    one.add(slice("test", "api-3", "10.0.0.3"));
    two.add(endpoints("ns", "api", &["10.1.0.1"]));
    let (first, second) = (one.serve().await, two.serve().await);
    let more = json!({"id": "one", "watch_endpoint_slices": true, "namespace_selector": {"match": ["prod-.*"]}, "default_weight": 7});
    let mut clusters =
        [cluster(&first, more), cluster(&second, json!({"id": "two", "namespace_selector": {"not_equal": "kube"}}))];
    for cluster in &mut clusters {
        sluice_model::schemas::discovery::kubernetes_of_several().check(cluster).unwrap();
    }
    let registry = start(&json!(clusters), &settings()).unwrap();
    until(&mut follow(&registry, "one/prod-a/api:8080"), &["10.0.0.1:8080 7", "10.0.0.2:8080 7"]).await;
    until(&mut follow(&registry, "one/test/api:8080"), &[]).await;
    until(&mut follow(&registry, "two/ns/api:p1"), &["10.1.0.1:80 50"]).await;
    assert_eq!(second.seen()[0].args["fieldSelector"], "metadata.namespace!=kube");
    assert_eq!(first.seen()[0].path, "/apis/discovery.k8s.io/v1/endpointslices");
    let wrong = |name: &str| registry.key(&query(name)).unwrap_err().to_string();
    assert_eq!(wrong("three/ns/api:p1"), "id not exist: three/ns/api:p1");
    assert_eq!(wrong("ns/api"), "get unexpected upstream service_name: ns/api");
    eventually("they watch", || one.watched() && two.watched()).await;
    assert_eq!(registry.dump().unwrap()["endpoints"][1]["id"], "two");
    one.event("DELETED", slice("prod-a", "api-1", "10.0.0.1"));
    until(&mut follow(&registry, "one/prod-a/api:8080"), &["10.0.0.2:8080 7"]).await;
}
