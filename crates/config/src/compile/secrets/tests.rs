//! Routes, consumers and certificates whose secrets stand elsewhere, or encrypted.

use super::*;
use crate::compile::{ChangeSet, CompileSettings, Enabled};
use crate::snapshot::Snapshot;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use sluice_plugin::definition::DefineAuth;
use sluice_plugin::reply::ReplyBody;
use sluice_plugin::{BuildError, Clock, Context, Define, Env, Flow, Info, Phases, Plugin, Reply, define, schema_of};
use sluice_router::Mode;
use sluice_testkit::upstream::{Behaviour, Upstream};
use sluice_upstream::pool::PoolSettings;
use std::path::Path;
use std::time::Duration;

#[derive(Deserialize, JsonSchema)]
#[schemars(extend("encrypt_fields" = ["deep.key"]))]
struct Config {
    deep: Deep,
}

#[derive(Deserialize, JsonSchema)]
struct Deep {
    /// Short ones are refused, with a message that would show them.
    #[schemars(regex(pattern = "^[$a-z]"))]
    key: String,
}

/// Answers with its key.
struct Teller(String);

impl Define for Teller {
    const INFO: Info = Info::new("teller", 10, Phases::ACCESS);
    type Config = Config;
    fn build(config: Config, _: &Env) -> Result<Self, BuildError> {
        match config.deep.key.as_str() {
            "broken" => Err(BuildError::new("not to be built with broken")),
            "$env://NO_SUCH_VARIABLE_HERE" => Err(BuildError::new("not to be built with a reference")),
            _ => Ok(Teller(config.deep.key)),
        }
    }
}

impl Plugin for Teller {
    fn access<'a>(&'a self, _: &'a mut Context) -> Flow<'a> {
        Flow::reply(Reply::text(200, self.0.clone()))
    }
}

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

struct Doorman;

impl Define for Doorman {
    const INFO: Info = Info::new("doorman", 20, Phases::REWRITE).auth().secrets(&["key"]);
    type Config = Nothing;
    fn build(_: Nothing, _: &Env) -> Result<Self, BuildError> {
        Ok(Doorman)
    }
}

impl Plugin for Doorman {}

#[derive(Deserialize, JsonSchema)]
struct Consumer {
    key: String,
}

impl DefineAuth for Doorman {
    type ConsumerConfig = Consumer;
    fn consumer_schema() -> Value {
        schema_of::<Consumer>()
    }
    fn consumer_key(config: &Consumer) -> String {
        config.key.clone()
    }
}

const REFERENCE: &str = "$secret://file/1/key";

fn compiler() -> Compiler {
    let families: &[&[_]] = &[&[define::<Teller>(), define::<Doorman>().auth::<Doorman>()]];
    let registry = Arc::new(Registry::new(families).unwrap());
    let env = Env::new(Clock::fake(0), sluice_telemetry::Registry::new()).with_registry(registry.clone());
    let settings = CompileSettings {
        rules: Arc::default(),
        mode: Mode::Uri,
        pool: PoolSettings::default(),
        workers: 1,
        trusted_certificates: None,
        protocols: sluice_net::tls::Protocols::default(),
        resolver: None,
        discovery: None,
        health_checks: true,
        skip_disabled_plugins: false,
        health_probes: 64,
        zone: None,
    };
    let moment = Duration::from_millis(1);
    let store = SecretStore::new(StoreSettings { ttl: moment, neg_ttl: moment, ..StoreSettings::default() });
    Compiler::new(registry, env, settings).with_secrets(store)
}

fn object(kind: Kind, id: &str, value: Value) -> Object {
    Object { kind, id: id.into(), body: value.into() }
}

fn upserts(upserts: Vec<Object>) -> ChangeSet {
    ChangeSet { upserts, deletes: Vec::new() }
}

fn manager(folder: &Path) -> Object {
    object(Kind::Secret, "file/1", json!({"id": "1", "directory": folder}))
}

fn route(key: &str) -> Object {
    object(Kind::Route, "1", json!({"uri": "/", "plugins": {"teller": {"deep": {"key": key}}}}))
}

/// What the route's plugin answers; `None` where it is left out.
fn told(snapshot: &Snapshot) -> Option<String> {
    let mut cx = Context::for_tests("GET", "/");
    match snapshot.router.get("1")?.entries.first()?.plugin.access(&mut cx) {
        Flow::Reply(reply) => match reply.body {
            ReplyBody::Bytes(bytes) => String::from_utf8(bytes).ok(),
            _ => None,
        },
        _ => None,
    }
}

fn put(folder: &Path, text: &str) {
    std::fs::write(folder.join("next"), text).unwrap();
    std::fs::rename(folder.join("next"), folder.join("key")).unwrap();
}

async fn news(compiler: &mut Compiler) -> Applied {
    let store = compiler.secrets().clone();
    let changed = tokio::time::timeout(Duration::from_secs(20), store.changed()).await.unwrap();
    compiler.recompile(&changed)
}

#[tokio::test]
async fn a_route_follows_its_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut compiler = compiler();
    // The manager comes after the route, in the same change.
    let first = compiler.apply(upserts(vec![route(REFERENCE), manager(folder.path())]));
    assert!(first.problems.is_empty(), "{:?}", first.problems);
    assert_eq!(told(&first.snapshot).as_deref(), Some(REFERENCE), "not asked yet: literal text");
    put(folder.path(), "one");
    compiler.secrets().start(&tokio::runtime::Handle::current());
    let next = news(&mut compiler).await.snapshot;
    assert_eq!(told(&next).as_deref(), Some("one"));
    let shown = &next.router.get("1").unwrap().entries[0].config;
    assert_eq!(shown["deep"]["key"], REFERENCE, "what is shown has no secrets");
    put(folder.path(), "two");
    assert_eq!(told(&news(&mut compiler).await.snapshot).as_deref(), Some("two"));
    // Another text without the reference: nobody cares for its value any more.
    compiler.apply(upserts(vec![route("plain")]));
    assert!(compiler.secrets.users.is_empty() && compiler.secrets.used.is_empty());
    assert_eq!(told(&compiler.recompile(&[REFERENCE.into()]).snapshot).as_deref(), Some("plain"));
    compiler.apply(upserts(vec![route(REFERENCE)]));
    compiler.apply(ChangeSet { upserts: Vec::new(), deletes: vec![(Kind::Route, "1".into())] });
    assert!(compiler.secrets.users.is_empty());
}

#[tokio::test]
async fn values_stay_out_of_messages() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "good");
    let mut compiler = compiler();
    compiler.secrets().start(&tokio::runtime::Handle::current());
    compiler.apply(upserts(vec![manager(folder.path()), route(REFERENCE)]));
    let good = news(&mut compiler).await;
    assert!(good.problems.is_empty());
    put(folder.path(), "SECRET");
    let refused = news(&mut compiler).await;
    let problem = &refused.problems[0];
    assert!(problem.message.contains(REFERENCE) && !problem.message.contains("SECRET"), "{}", problem.message);
    assert!(problem.kept);
    assert_eq!(told(&refused.snapshot).as_deref(), Some("good"));
    put(folder.path(), "broken");
    let unbuilt = news(&mut compiler).await;
    assert_eq!(unbuilt.problems[0].message, format!("not to be built with {REFERENCE}"));
}

/// A plugin that guards a route is not left out because its secret is away.
#[test]
fn what_cannot_be_built_without_its_secret_stops_requests() {
    let mut compiler = compiler();
    let applied = compiler.apply(upserts(vec![route("$env://NO_SUCH_VARIABLE_HERE")]));
    assert!(applied.problems.is_empty(), "{:?}", applied.problems);
    let route = applied.snapshot.router.get("1").unwrap();
    let mut cx = Context::for_tests("GET", "/");
    match route.entries[0].plugin.rewrite(&mut cx) {
        Flow::Reply(reply) => assert_eq!(reply.status, 503),
        _ => panic!("the request goes on"),
    }
    assert!(route.entries[0].info.phases.has(sluice_plugin::Phase::Rewrite));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_gets_its_secret_of_vault() {
    let vault = Upstream::start().unwrap();
    let answer = |value: &str| Behaviour::answer(200, json!({"data": {"key": value}}).to_string());
    vault.on("/v1/kv/jack", answer("one"));
    let mut compiler = compiler();
    compiler.secrets().start(&tokio::runtime::Handle::current());
    let settings = json!({"id": "1", "uri": format!("http://{}", vault.addr()), "prefix": "kv", "token": "root"});
    let applied =
        compiler.apply(upserts(vec![route("$secret://vault/1/jack/key"), object(Kind::Secret, "vault/1", settings)]));
    assert!(applied.problems.is_empty(), "{:?}", applied.problems);
    // The value may have come before the route was compiled: then there is no news of it.
    while told(compiler.snapshot()).as_deref() != Some("one") {
        news(&mut compiler).await;
    }
    vault.on("/v1/kv/jack", answer("two"));
    assert_eq!(told(&news(&mut compiler).await.snapshot).as_deref(), Some("two"));
    assert_eq!(vault.take_seen()[0].header("x-vault-token"), Some("root"));
}

#[tokio::test]
async fn services_and_consumers_follow_too() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "one");
    let mut compiler = compiler();
    let plugins = json!({"teller": {"deep": {"key": REFERENCE}}});
    compiler.apply(upserts(vec![
        manager(folder.path()),
        object(Kind::Service, "1", json!({"plugins": plugins})),
        object(Kind::Route, "1", json!({"uri": "/", "service_id": "1"})),
        object(Kind::Consumer, "anna", json!({"username": "anna", "plugins": {"doorman": {"key": REFERENCE}}})),
    ]));
    compiler.secrets().start(&tokio::runtime::Handle::current());
    let snapshot = news(&mut compiler).await.snapshot;
    assert_eq!(told(&snapshot).as_deref(), Some("one"));
    assert!(snapshot.consumers.find("doorman", "one").is_some());
    put(folder.path(), "two");
    let snapshot = news(&mut compiler).await.snapshot;
    assert_eq!(told(&snapshot).as_deref(), Some("two"));
    assert!(snapshot.consumers.find("doorman", "one").is_none());
    assert!(snapshot.consumers.find("doorman", "two").is_some());
}

#[test]
fn references_count_where_apisix_looks_for_them() {
    let mut compiler = compiler();
    let mut body = json!({"uri": "/", "desc": "$env://PATH", "plugins": {"teller": {"deep": {"key": "$ENV://PATH"}}}});
    let path = std::env::var("PATH").unwrap();
    let found = compiler.plain(Kind::Route, "1", &mut body);
    assert_eq!(
        (body["desc"].as_str(), body["plugins"]["teller"]["deep"]["key"].as_str()),
        (Some("$env://PATH"), Some(path.as_str()))
    );
    compiler.secrets.remember(Kind::Route, &"1".into(), &found);
    assert!(compiler.secrets.users.is_empty(), "the environment does not change");
    assert_eq!(compiler.secrets.shown(Kind::Route, &"1".into(), &json!([path])), json!(["$ENV://PATH"]));
    let mut tls = json!({"tls": {"client_key": "$env://PATH"}, "name": "$env://PATH"});
    compiler.plain(Kind::Upstream, "1", &mut tls);
    assert_eq!(tls, json!({"tls": {"client_key": path}, "name": "$env://PATH"}));
    let mut inline = json!({"upstream": {"tls": {"client_key": "$env://PATH"}}});
    compiler.plain(Kind::Service, "1", &mut inline);
    assert_eq!(inline["upstream"]["tls"]["client_key"], path);
    // A manager's settings must not need a manager.
    let mut vault = json!({"token": REFERENCE, "uri": "$env://PATH"});
    compiler.plain(Kind::Secret, "vault/1", &mut vault);
    assert_eq!(vault, json!({"token": REFERENCE, "uri": path}));
}

#[test]
fn encrypted_fields_are_decrypted_before_they_are_checked() {
    let keyring = || Arc::new(Keyring::new(&["edd1c9f0985e76a2"], true));
    // "bar", as APISIX writes it.
    let bar = "77+NmbYqNfN+oLm0aX5akg==";
    let mut compiler = compiler().with_keyring(keyring());
    let consumer = json!({"username": "anna", "plugins": {"doorman": {"key": bar}}});
    let applied = compiler.apply(upserts(vec![route(bar), object(Kind::Consumer, "anna", consumer)]));
    assert!(applied.problems.is_empty(), "{:?}", applied.problems);
    assert_eq!(told(&applied.snapshot).as_deref(), Some("bar"));
    assert!(applied.snapshot.consumers.find("doorman", "bar").is_some());
    // What was never encrypted is taken as it is.
    assert_eq!(told(&compiler.apply(upserts(vec![route("plain")])).snapshot).as_deref(), Some("plain"));
    // A disabled plugin's fields are not known.
    compiler.enable(Enabled { plugins: Some(vec!["teller".to_owned()]), ..Enabled::default() });
    assert!(PluginSecrets(&compiler.registry).secret_fields("doorman", PluginScope::Consumer).is_none());
}
