//! The Control API on a gateway made up of a few resources.
use super::*;
use crate::message::testing::request;
use sluice_plugin::ControlEndpoint;

struct Fake {
    resources: Vec<(Kind, Resource)>,
}

impl Running for Fake {
    fn registry(&self) -> Arc<Registry> {
        Arc::new(Registry::new(&[]).unwrap())
    }
    fn prefix(&self) -> &str {
        "/apisix"
    }
    fn resources(&self, kind: Kind) -> Vec<Resource> {
        self.resources.iter().filter(|(own, _)| *own == kind).map(|(_, own)| own.clone()).collect()
    }
    fn resource(&self, kind: Kind, id: &str) -> Option<Resource> {
        self.resources(kind).into_iter().find(|own| &*own.id == id)
    }
    fn reveal(&self, _kind: Kind, _id: &str, _body: &mut Value) {}
    fn health(&self, kind: Kind, id: &str) -> Vec<Value> {
        if (kind, id) != (Kind::Upstream, "u") {
            return Vec::new();
        }
        let counter = json!({"http_failure": 0, "success": 0, "tcp_failure": 2, "timeout_failure": 0});
        vec![json!({"ip": "127.0.0.1", "port": 1, "status": "unhealthy", "counter": counter})]
    }
    fn circuit_breakers(&self) -> Vec<Value> {
        vec![json!({"name": "/apisix/upstreams/u", "scope": "upstream", "state": "open"})]
    }
    fn discovery_dump(&self, kind: &str) -> Option<Value> {
        (kind == "eureka").then(|| json!({"config": {}, "services": {}}))
    }
    fn discovery_dump_file(&self, kind: &str) -> Option<Result<String, String>> {
        (kind == "consul").then(|| Err("dump params is nil".to_owned()))
    }
    fn reload_plugins(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async { Ok(()) })
    }
}

fn control() -> Control {
    let resource = |id: &str, body: Value| Resource { id: id.into(), body: Body::of(&body), created: 3, modified: 4 };
    let resources = vec![
        (
            Kind::Route,
            resource("1", json!({"uri": "/a", "upstream": {"nodes": {"127.0.0.1:80": 1}, "type": "roundrobin"}})),
        ),
        (Kind::Route, resource("bad", json!({"uri": 1}))),
        (
            Kind::Upstream,
            resource(
                "u",
                json!({"nodes": {"foo.com:81": 2}, "type": "roundrobin", "checks": {"active": {"type": "tcp"}}}),
            ),
        ),
        (Kind::Upstream, resource("v", json!({"nodes": [{"host": "foo.com", "port": 81, "weight": 2}]}))),
    ];
    Control::new(Arc::new(Fake { resources }))
}

async fn get(target: &str) -> (u16, Value) {
    let reply = control().dispatch(&request("GET", target, "")).await;
    (reply.status, serde_json::from_slice(&reply.body).unwrap_or_default())
}

#[tokio::test]
async fn resources_have_their_defaults_and_lists_of_nodes() {
    let (status, routes) = get("/v1/routes").await;
    assert_eq!((status, routes.as_array().map(Vec::len)), (200, Some(1)), "{routes}");
    let route = &routes[0];
    assert_eq!(route["key"], "/apisix/routes/1");
    assert_eq!((&route["createdIndex"], &route["modifiedIndex"]), (&json!(3), &json!(4)));
    assert_eq!(route["value"]["upstream"]["nodes"], json!([{"host": "127.0.0.1", "port": 80, "weight": 1}]));
    assert_eq!(route["value"]["upstream"]["hash_on"], "vars");
    assert_eq!(route["has_domain"], false);
    assert_eq!(get("/v1/upstream/u").await.1["has_domain"], true);
    assert_eq!(get("/v1/services").await, (200, json!({})));
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    for (path, message) in [
        ("/v1/route/2", "route[2] not found"),
        ("/v1/route/bad", "route[bad] not found"),
        ("/v1/service/5", "service[5] not found"),
        ("/v1/plugin_metadata/x", "plugin metadata[x] not found"),
        ("/v1/healthcheck/upstreams", "missing src id for src type upstreams"),
        ("/v1/healthcheck/upstreams/w", "upstreams[w] not found"),
        ("/v1/healthcheck/upstreams/v", "no checker for upstreams[v]"),
    ] {
        assert_eq!(get(path).await, (404, json!({"error_msg": message})), "{path}");
    }
    assert_eq!(get("/v1/healthcheck/x/1").await, (400, json!({"error_msg": "invalid src type x"})));
    for (method, path) in
        [("POST", "/v1/plugins/reload"), ("GET", "/v1/discovery/dns/dump"), ("GET", "/v1/gc"), ("GET", "/")]
    {
        let reply = control().dispatch(&request(method, path, "")).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(String::from_utf8_lossy(&reply.body).contains("<center>openresty</center>"));
    }
}

#[tokio::test]
async fn breakers_and_limits_are_told() {
    let open = json!({"name": "/apisix/upstreams/u", "scope": "upstream", "state": "open"});
    assert_eq!(get("/v1/circuit_breakers").await, (200, json!([open])));
    assert_eq!(get("/v1/circuit_breakers/upstreams/u").await, (200, open));
    let missing = json!({"error_msg": "routes/1 not found"});
    assert_eq!(get("/v1/circuit_breakers/routes/1").await, (404, missing));
    assert_eq!(get("/v1/concurrency_limits").await, (200, json!([])));
}

#[tokio::test]
async fn registries_show_what_they_told() {
    assert_eq!(get("/v1/discovery/eureka/dump").await, (200, json!({"config": {}, "services": {}})));
    let file = control().dispatch(&request("GET", "/v1/discovery/consul/show_dump_file", "")).await;
    assert_eq!((file.status, file.body), (503, b"dump params is nil".to_vec()));
    assert_eq!(get("/v1/discovery/eureka/show_dump_file").await.0, 404);
}

#[tokio::test]
async fn health_is_told_as_json_and_as_a_page() {
    let node = json!({"ip": "127.0.0.1", "port": 1, "status": "unhealthy",
        "counter": {"http_failure": 0, "success": 0, "tcp_failure": 2, "timeout_failure": 0}});
    let info = json!({"name": "/apisix/upstreams/u", "nodes": [node], "type": "tcp"});
    assert_eq!(get("/v1/healthcheck/upstreams/u").await, (200, info.clone()));
    assert_eq!(get("/v1/healthcheck").await, (200, json!([info])));
    let mut asked = request("GET", "/v1/healthcheck", "");
    asked.headers.push(("accept".into(), "text/html".into()));
    let page = control().dispatch(&asked).await;
    let text = String::from_utf8(page.body).unwrap();
    assert!(
        text.contains("<tr bgcolor=\"#FF0000\">\n<td>1</td>\n<td>/apisix/upstreams/u</td>\n<td>tcp</td>"),
        "{text}"
    );
    assert_eq!(page.headers, [("Content-Type", "text/html".to_owned())]);
}

#[tokio::test]
async fn schemas_reload_and_gc() {
    let (status, schema) = get("/v1/schema").await;
    assert_eq!((status, &schema["main"]["route"]["type"]), (200, &json!("object")));
    assert_eq!(schema["main"]["plugins"]["type"], "array");
    assert_eq!(schema["main"]["stream_route"]["type"], "object");
    let reload = control().dispatch(&request("PUT", "/v1/plugins/reload", "")).await;
    assert_eq!((reload.status, reload.body), (200, b"done".to_vec()));
    assert_eq!(control().dispatch(&request("POST", "/v1/gc", "")).await.status, 200);
}

#[test]
fn endpoints_of_plugins_match_by_path_and_method() {
    let endpoint =
        ControlEndpoint { methods: &["GET"], uri: "/v1/plugin/x/*", handler: |_| sluice_plugin::Reply::text(200, "y") };
    assert!(endpoint.matches("GET", "/v1/plugin/x/y"));
    assert!(!endpoint.matches("PUT", "/v1/plugin/x/y"));
    assert!(!endpoint.matches("GET", "/v1/plugin/y"));
}
