//! The verbs on a store in memory, with one plugin of the tests' own.
use crate::server::Handler;
use crate::{Admin, AdminKey, AdminSettings, Gateway, Reply, Request, Role};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_model::Kind;
use sluice_plugin::definition::DefineAuth;
use sluice_plugin::{BuildError, Define, Env, Info, Phases, Plugin, Registry, define};
use sluice_secret::Keyring;
use sluice_store::store::Pending;
use sluice_store::{
    Committed, Condition, Expect, Key, MemoryStore, Note, Op, Revision, Source, State, Store, Transaction, Watch,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::{mpsc, watch};

/// A plugin that finds consumers by a secret key.
struct KeyAuth;

#[derive(Deserialize, schemars::JsonSchema)]
struct Nothing {}

#[derive(Deserialize, schemars::JsonSchema)]
struct ConsumerKey {
    key: String,
}

impl Define for KeyAuth {
    const INFO: Info = Info::new("key-auth", 2500, Phases::REWRITE).auth().secrets(&["key"]);
    type Config = Nothing;
    fn build(_: Nothing, _: &Env) -> Result<KeyAuth, BuildError> {
        Ok(KeyAuth)
    }
}

impl DefineAuth for KeyAuth {
    type ConsumerConfig = ConsumerKey;
    fn consumer_key(config: &ConsumerKey) -> String {
        config.key.clone()
    }
}

impl Plugin for KeyAuth {}

struct Fake {
    registry: Arc<Registry>,
    in_force: watch::Sender<u64>,
}

impl Gateway for Fake {
    fn registry(&self) -> Arc<Registry> {
        self.registry.clone()
    }
    fn in_force(&self) -> watch::Receiver<u64> {
        self.in_force.subscribe()
    }
    fn reload_plugins(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async { Ok(()) })
    }
    fn try_build(&self, _: Kind, id: &str, _: &Value) -> Result<(), String> {
        match id {
            "refused" => Err("failed to check the configuration of plugin x err: mismatched".into()),
            _ => Ok(()),
        }
    }
}

/// A store to which somebody else deletes a key between a check and its commit.
struct Meddled {
    store: Arc<MemoryStore>,
    key: Mutex<Option<Key>>,
}

impl Store for Meddled {
    fn source(&self) -> Source {
        self.store.source()
    }
    fn condition(&self) -> Condition {
        self.store.condition()
    }
    fn state(&self) -> &RwLock<State> {
        self.store.state()
    }
    fn catch_up(&self) -> Pending<'_, u64> {
        self.store.catch_up()
    }
    fn commit(&self, transaction: Transaction) -> Pending<'_, Committed> {
        Box::pin(async move {
            let key = self.key.lock().unwrap().take();
            if let Some(key) = key {
                let ops = vec![Op::Delete { key, expect: Expect::Any }];
                self.store.commit(Transaction { ops, note: Note::default() }).await?;
            }
            self.store.commit(transaction).await
        })
    }
    fn watch(&self) -> mpsc::Receiver<Watch> {
        self.store.watch()
    }
    fn revisions(&self, before: Option<u64>, limit: usize) -> Pending<'_, Vec<Revision>> {
        self.store.revisions(before, limit)
    }
    fn revision(&self, revision: u64) -> Pending<'_, Option<Revision>> {
        self.store.revision(revision)
    }
    fn state_at(&self, revision: u64) -> Pending<'_, State> {
        self.store.state_at(revision)
    }
}

struct Setup {
    admin: Arc<Admin>,
    store: Arc<MemoryStore>,
    meddled: Arc<Meddled>,
}

fn setup_with(settings: AdminSettings) -> Setup {
    let store = Arc::new(MemoryStore::new());
    let registry = Arc::new(Registry::new(&[&[define::<KeyAuth>().auth::<KeyAuth>()]]).unwrap());
    let in_force = watch::Sender::new(u64::MAX);
    let meddled = Arc::new(Meddled { store: store.clone(), key: Mutex::default() });
    let admin = Admin::new(settings, meddled.clone(), Arc::new(Fake { registry, in_force }));
    Setup { admin: Arc::new(admin), store, meddled }
}

fn setup() -> Setup {
    setup_with(AdminSettings { keyring: Arc::new(Keyring::new(&["qeddd145sfvddff3"], true)), ..Default::default() })
}

fn request(method: &str, path: &str, body: Value) -> Request {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut request = Request::new(method, &format!("/apisix/admin{path}"));
    request.query = crate::server::query(query);
    request.body = if body.is_null() { Default::default() } else { body.to_string().into() };
    request
}

impl Setup {
    async fn reply(&self, method: &str, path: &str, body: Value) -> Reply {
        self.admin.answer(request(method, path, body)).await
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let reply = self.reply(method, path, body).await;
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or_default())
    }

    async fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.send(method, path, body).await;
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.send(method, path, body).await;
        (status, answer["error_msg"].as_str().unwrap_or_default().to_owned())
    }

    fn stored(&self, key: &str) -> Value {
        self.store.state().read().unwrap().get(&Key::raw(key)).map(|entry| entry.body.value()).unwrap_or_default()
    }
}

fn upstream() -> Value {
    json!({"nodes": {"127.0.0.1:80": 1}})
}

#[tokio::test]
async fn an_object_is_created_changed_listed_and_deleted() {
    let it = setup();
    assert_eq!(it.send("PUT", "/upstreams/1", upstream()).await.0, 201);
    assert_eq!(it.send("PUT", "/upstreams/1", upstream()).await.0, 200);
    let patched = it.done("PATCH", "/upstreams/1", json!({"desc": "x"})).await;
    assert_eq!((&patched["key"], &patched["value"]["desc"]), (&json!("/apisix/upstreams/1"), &json!("x")));
    let patched = it.done("PATCH", "/upstreams/1/desc", json!("y")).await;
    assert_eq!(patched["value"]["desc"], "y");
    let list = it.done("GET", "/upstreams", Value::Null).await;
    assert_eq!((&list["total"], &list["list"][0]["value"]["id"]), (&json!(1), &json!("1")));
    let deleted = it.done("DELETE", "/upstreams/1", Value::Null).await;
    assert_eq!(deleted, json!({"deleted": "1", "key": "/apisix/upstreams/1"}));
    assert_eq!(it.send("DELETE", "/upstreams/1", Value::Null).await.0, 404);
}

#[tokio::test]
async fn posts_at_the_same_time_get_ids_of_their_own() {
    let it = Arc::new(setup());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let it = it.clone();
        tasks.spawn(async move { it.done("POST", "/upstreams", upstream()).await["value"]["id"].clone() });
    }
    let ids: std::collections::HashSet<String> = tasks.join_all().await.iter().map(ToString::to_string).collect();
    assert_eq!(ids.len(), 50);
    assert!(ids.iter().all(|id| id.len() == 22), "{ids:?}");
}

#[tokio::test]
async fn what_is_used_is_not_deleted() {
    let it = setup();
    it.done("PUT", "/upstreams/1", upstream()).await;
    it.done("PUT", "/routes/1", json!({"uri": "/", "upstream_id": 1})).await;
    let message = "can not delete this upstream, route [1] is still using it now";
    assert_eq!(it.refused("DELETE", "/upstreams/1", Value::Null).await, (400, message.to_owned()));
    it.done("DELETE", "/upstreams/1?force=true", Value::Null).await;
}

#[tokio::test]
async fn a_fallback_is_an_upstream_that_is_there_and_stays() {
    let it = setup();
    let mut first = upstream();
    first["circuit_breaker"] = json!({"max_failures": 3, "fallback": "spare"});
    let message = "failed to fetch upstream info by upstream id [spare], response code: 404".to_owned();
    assert_eq!(it.refused("PUT", "/upstreams/1", first.clone()).await, (400, message));
    it.done("PUT", "/upstreams/spare", upstream()).await;
    it.done("PUT", "/upstreams/1", first.clone()).await;
    let used = |what: &str| format!("can not delete this upstream, circuit_breaker in {what} is still using it now");
    assert_eq!(it.refused("DELETE", "/upstreams/spare", Value::Null).await, (400, used("upstream [1]")));
    it.done("PUT", "/routes/r", json!({"uri": "/", "upstream": first})).await;
    it.done("DELETE", "/upstreams/1", Value::Null).await;
    assert_eq!(it.refused("DELETE", "/upstreams/spare", Value::Null).await, (400, used("route [r]")));
    it.done("DELETE", "/routes/r", Value::Null).await;
    it.done("DELETE", "/upstreams/spare", Value::Null).await;
}

#[tokio::test]
async fn a_reference_that_goes_after_the_check_is_noticed() {
    let it = setup();
    it.done("PUT", "/upstreams/1", upstream()).await;
    *it.meddled.key.lock().unwrap() = Some(Key::of(Kind::Upstream, "1"));
    let message = "failed to fetch upstream info by upstream id [1], response code: 404".to_owned();
    let route = json!({"uri": "/", "upstream_id": "1"});
    assert_eq!(it.refused("PUT", "/routes/1", route).await, (400, message));
    assert_eq!(it.stored("routes/1"), Value::Null);
}

#[tokio::test]
async fn a_change_of_what_was_deleted_meanwhile_is_refused() {
    let it = setup();
    it.done("PUT", "/upstreams/1", upstream()).await;
    *it.meddled.key.lock().unwrap() = Some(Key::of(Kind::Upstream, "1"));
    assert_eq!(it.send("PATCH", "/upstreams/1", json!({"desc": "x"})).await.0, 404);
}

#[tokio::test]
async fn no_route_is_left_without_its_upstream() {
    let it = Arc::new(setup());
    for round in 0..50 {
        it.done("PUT", "/upstreams/1", upstream()).await;
        let (writer, deleter) = (it.clone(), it.clone());
        let write =
            tokio::spawn(async move { writer.send("PUT", "/routes/1", json!({"uri": "/", "upstream_id": "1"})).await });
        let delete = tokio::spawn(async move { deleter.send("DELETE", "/upstreams/1", Value::Null).await });
        let (write, delete) = (write.await.unwrap(), delete.await.unwrap());
        let (route, upstream) = (it.stored("routes/1"), it.stored("upstreams/1"));
        assert!(route.is_null() || !upstream.is_null(), "round {round}: {write:?} {delete:?}");
        it.send("DELETE", "/routes/1", Value::Null).await;
    }
}

#[tokio::test]
async fn keys_are_stored_encrypted_shown_plain_and_unique() {
    let it = setup();
    let consumer = |name: &str, key: &str| json!({"username": name, "plugins": {"key-auth": {"key": key}}});
    let written = it.done("PUT", "/consumers", consumer("jack", "auth-one")).await;
    let secret = json!("4y+JvURBE6ZwRbbgaryrhg==");
    assert_eq!(written["value"]["plugins"]["key-auth"]["key"], secret);
    assert_eq!(it.stored("consumers/jack")["plugins"]["key-auth"]["key"], secret);
    let read = it.done("GET", "/consumers/jack", Value::Null).await;
    assert_eq!(read["value"]["plugins"]["key-auth"]["key"], "auth-one");
    let message = "duplicate key of plugin key-auth found with consumer: jack".to_owned();
    assert_eq!(it.refused("PUT", "/consumers", consumer("jill", "auth-one")).await, (400, message));
    it.done("PUT", "/consumers", consumer("jack", "auth-one")).await;
    let credential = json!({"plugins": {"key-auth": {"key": "auth-two"}}});
    it.done("PUT", "/consumers/jack/credentials/1", credential).await;
    let message = "duplicate key of plugin key-auth found with credential: 1 of consumer: jack".to_owned();
    assert_eq!(it.refused("PUT", "/consumers", consumer("jill", "auth-two")).await, (400, message));
    it.done("DELETE", "/consumers/jack", Value::Null).await;
    assert_eq!(it.stored("consumers/jack/credentials/1"), Value::Null);
    it.done("PUT", "/consumers", consumer("jill", "auth-one")).await;
    it.done("PUT", "/consumers", consumer("joan", "auth-two")).await;
}

#[tokio::test]
async fn of_two_consumers_with_one_key_at_the_same_time_one_is_refused() {
    let it = Arc::new(setup());
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..20 {
        let it = it.clone();
        tasks.spawn(async move {
            it.send("PUT", "/consumers", json!({"username": format!("c{i}"), "plugins": {"key-auth": {"key": "same"}}}))
                .await
                .0
        });
    }
    let mut statuses = tasks.join_all().await;
    statuses.sort_unstable();
    assert_eq!((statuses[0], statuses[1], statuses.len()), (201, 400, 20));
}

#[tokio::test]
async fn what_stands_below_something_needs_it() {
    let it = setup();
    let decoration = json!({"field_path": "Query.products"});
    let path = "/services/shop/graphql_cost_decorations/d1";
    assert_eq!(it.refused("PUT", path, decoration.clone()).await, (404, "service not found".to_owned()));
    assert_eq!(
        it.refused("PUT", "/consumers/x/credentials/1", json!({})).await,
        (404, "consumer not found".to_owned())
    );
    it.done("PUT", "/services/shop", json!({})).await;
    let written = it.done("PUT", path, decoration.clone()).await;
    assert_eq!(written["value"]["service_id"], "shop");
    let again = it.refused("PUT", "/services/shop/graphql_cost_decorations/d2", decoration).await;
    assert_eq!(again.1, "field_path Query.products is already decorated on this service by [d1]");
    assert_eq!(it.done("GET", "/services", Value::Null).await["total"], 1);
    assert_eq!(it.refused("PUT", "/graphql_cost_decorations/d1", json!({})).await.1, "missing service id");
    it.done("DELETE", "/services/shop", Value::Null).await;
    assert_eq!(it.stored("services/shop/graphql_cost_decorations/d1"), Value::Null);
}

#[tokio::test]
async fn a_plugin_that_refuses_keeps_the_write_away() {
    let it = setup();
    let (status, message) = it.refused("PUT", "/upstreams/refused", upstream()).await;
    assert_eq!((status, message.as_str()), (400, "failed to check the configuration of plugin x err: mismatched"));
    assert_eq!(it.stored("upstreams/refused"), Value::Null);
}

#[tokio::test]
async fn secrets_are_named_by_manager_and_id() {
    let it = setup();
    let vault = json!({"uri": "http://127.0.0.1:8200", "prefix": "a", "token": "t"});
    it.done("PUT", "/secrets/vault/1", vault).await;
    assert_eq!(it.refused("PATCH", "/secrets/vault", json!({})).await, (400, "no secret id".to_owned()));
    let patched = it.done("PATCH", "/secrets/vault/1/token", json!("u")).await;
    assert_eq!((&patched["key"], &patched["value"]["token"]), (&json!("/apisix/secrets/vault/1"), &json!("u")));
    it.done("PATCH", "/secrets/vault/1", json!({"token": "v"})).await;
    assert_eq!(it.refused("DELETE", "/secrets/vault", Value::Null).await.0, 400);
    it.done("DELETE", "/secrets/vault/1", Value::Null).await;
}

#[tokio::test]
async fn a_time_to_live_is_a_positive_number() {
    let it = setup();
    for (ttl, status) in [("1", 201), ("1.5", 200), ("x", 400), ("-1", 400), ("0", 400), ("nan", 400), ("inf", 400)] {
        let path = format!("/upstreams/1?ttl={ttl}");
        assert_eq!(it.send("PUT", &path, upstream()).await.0, status, "{ttl}");
    }
    let expires = it.store.state().read().unwrap().get(&Key::raw("upstreams/1")).and_then(|entry| entry.expires);
    assert!(expires.is_some());
}

#[tokio::test]
async fn keys_and_roles_decide_who_may_write() {
    let key = |name: &str, key: &str, role| AdminKey { name: name.into(), key: key.into(), role };
    let keys = vec![key("boss", "k1", Role::Admin), key("guest", "k2", Role::Viewer)];
    let it = setup_with(AdminSettings { keys, ..Default::default() });
    let ask = async |method: &str, change: &dyn Fn(&mut Request)| {
        let mut request = request(method, "/upstreams/1", if method == "PUT" { upstream() } else { Value::Null });
        change(&mut request);
        let reply = it.admin.answer(request).await;
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        (reply.status, body["description"].as_str().unwrap_or_default().to_owned())
    };
    let header =
        |key: &'static str| move |request: &mut Request| request.headers.push(("X-API-KEY".into(), key.into()));
    assert_eq!(ask("PUT", &|_| ()).await, (401, "missing apikey".into()));
    assert_eq!(ask("PUT", &header("no")).await, (401, "wrong apikey".into()));
    assert_eq!(ask("PUT", &header("k2")).await, (401, "invalid method for role viewer".into()));
    assert_eq!(ask("PUT", &header("k1")).await.0, 201);
    assert_eq!(ask("GET", &header("k2")).await.0, 200);
    assert_eq!(ask("GET", &|r| r.query.push(("api_key".into(), "k1".into()))).await.0, 200);
    assert_eq!(ask("GET", &|r| r.headers.push(("cookie".into(), "a=b; x_api_key=k1".into()))).await.0, 200);
}

#[tokio::test]
async fn addresses_methods_and_headers() {
    let allow = vec!["127.0.0.0/24".parse().unwrap()];
    let it = setup_with(AdminSettings { allow, server: "APISIX".into(), ..Default::default() });
    let from = async |peer: &str| {
        let mut request = request("GET", "/upstreams", Value::Null);
        request.peer = Some(peer.parse().unwrap());
        it.admin.answer(request).await.status
    };
    assert_eq!((from("127.0.0.1").await, from("::ffff:127.0.0.9").await, from("10.0.0.1").await), (200, 200, 403));
    let reply = it.reply("GET", "/upstreams", Value::Null).await;
    let header = |name: &str| {
        reply.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    };
    assert_eq!((header("Server"), header("X-API-VERSION")), (Some("APISIX".into()), Some("v3".into())));
    assert_eq!(it.reply("HEAD", "", Value::Null).await.status, 200);
    assert_eq!(it.reply("HEAD", "/routes", Value::Null).await.status, 404);
    assert_eq!(
        it.refused("POST", "/consumers", json!({})).await,
        (405, "not supported `POST` method for consumer".into())
    );
    assert_eq!(it.refused("GET", "/nothing", Value::Null).await, (404, "Unsupported resource type: nothing".into()));
    assert_eq!(it.refused("POST", "/services/1", json!({})).await.1, "wrong service id, do not need it");
    assert_eq!(it.refused("PUT", "/services", json!({})).await.1, "missing service id");
    assert_eq!(it.refused("PUT", "/services/1", json!({"id": 2})).await.1, "wrong service id");
    assert_eq!(it.send("PUT", "/services", json!({"id": 7})).await.1["value"]["id"], 7);
}
