//! Stream routes compiled: order, merging with services, plugins that cannot be used, what a change leaves alone.
use crate::compile::{CompileSettings, Compiler, Enabled, Object};
use crate::snapshot::{CompiledStreamRoute, RouteUpstream};
use serde_json::{Value, json};
use sluice_model::Kind;
use sluice_plugin::{
    BuildError, DefineStream, Env, Registry, StreamContext, StreamFlow, StreamPlugin, define_stream, schema_of,
};
use sluice_router::{Mode, StreamRequest};
use std::sync::Arc;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct NoFields {}

macro_rules! plugin {
    ($type:ident, $name:literal, $priority:literal, $required:literal) => {
        struct $type;
        impl StreamPlugin for $type {
            fn preread(&self, _: &mut StreamContext) -> StreamFlow {
                StreamFlow::Next
            }
        }
        impl DefineStream for $type {
            const NAME: &'static str = $name;
            const PRIORITY: i32 = $priority;
            type Config = NoFields;
            fn schema() -> Value {
                let mut schema = schema_of::<NoFields>();
                schema["required"] = json!($required.split_whitespace().collect::<Vec<_>>());
                schema
            }
            fn build(_: NoFields, _: &Env) -> Result<Self, BuildError> {
                Ok($type)
            }
        }
    };
}
plugin!(Low, "low", 1, "");
plugin!(High, "high", 9, "");
plugin!(Strict, "strict", 5, "level");

fn compiler() -> Compiler {
    let families: &[&[_]] = &[&[define_stream::<Low>(), define_stream::<High>(), define_stream::<Strict>()]];
    let registry = Arc::new(Registry::new(&[]).unwrap().with_stream(families).unwrap());
    let settings = CompileSettings {
        rules: Arc::default(),
        mode: Mode::Uri,
        pool: sluice_upstream::pool::PoolSettings { size: 1, idle_timeout: Default::default(), requests: 1 },
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
    Compiler::new(registry, Env::for_tests(), settings)
}

fn object(kind: Kind, value: Value) -> Object {
    let id = value["id"].as_str().unwrap().into();
    Object { kind, id, body: value.into() }
}

fn route(id: &str, more: Value) -> Object {
    let mut value = json!({"id": id, "upstream": {"type": "roundrobin", "nodes": {"127.0.0.1:1": 1}}});
    for (key, field) in more.as_object().unwrap() {
        value[key] = field.clone();
    }
    object(Kind::StreamRoute, value)
}

fn found(compiler: &Compiler) -> Option<Arc<CompiledStreamRoute>> {
    let request =
        StreamRequest { remote: "127.0.0.1".parse().unwrap(), server: "127.0.0.1:9100".parse().unwrap(), sni: None };
    compiler.snapshot().stream_router.find(&request).cloned()
}

fn found_id(compiler: &Compiler) -> Option<String> {
    found(compiler).map(|route| route.id.to_string())
}

#[test]
fn the_order_is_the_source_s() {
    let mut compiler = compiler();
    compiler.replace_all(vec![route("b", json!({})), route("a", json!({}))]);
    assert_eq!(found_id(&compiler).as_deref(), Some("b"));
    let before = found(&compiler).unwrap();
    compiler.replace_all(vec![route("a", json!({})), route("b", json!({}))]);
    assert_eq!(found_id(&compiler).as_deref(), Some("a"), "only the order has changed");
    compiler.replace_all(vec![route("b", json!({}))]);
    assert!(Arc::ptr_eq(&before, &found(&compiler).unwrap()), "what stays is not compiled again");
    compiler.replace_all(Vec::new());
    assert_eq!(found_id(&compiler), None);
}

#[test]
fn routes_that_cannot_be_used_are_reported_and_left_out() {
    let mut compiler = compiler();
    let applied = compiler.replace_all(vec![
        route("1", json!({"plugins": {"x-rewrite": {"uri": 1}}})),
        route("2", json!({"plugins": {"strict": {"uri": 1}}})),
        route("3", json!({"remote_addr": "1.2.3"})),
        route("4", json!({"protocol": {"name": "pingpong"}})),
    ]);
    let problems: Vec<_> = applied.problems.iter().map(|p| (&*p.id, p.message.as_str())).collect();
    assert_eq!(problems[0], ("1", "unknown plugin [x-rewrite]"));
    let message = "failed to check the configuration of stream plugin [strict]: property \"level\" is required";
    assert_eq!(problems[1], ("2", message));
    assert_eq!(problems[2].0, "3");
    assert_eq!(problems[3], ("4", "unknown protocol [pingpong]"));
    assert_eq!(found_id(&compiler), None);
    compiler.replace_all(vec![route("5", json!({"plugins": {"low": {}, "strict": {"level": 1}, "high": {}}}))]);
    let names = |route: &CompiledStreamRoute| route.plugins.iter().map(|p| p.name).collect::<Vec<_>>();
    assert_eq!(names(&found(&compiler).unwrap()), ["high", "strict", "low"]);
    let applied = compiler.replace_all(vec![route("5", json!({"plugins": {"strict": {}}}))]);
    assert!(applied.problems[0].kept);
    assert_eq!(names(&found(&compiler).unwrap()).len(), 3, "the last good form stays");
}

#[test]
fn plugins_that_are_not_enabled_do_not_run() {
    let mut compiler = compiler();
    let objects = || vec![route("1", json!({"plugins": {"low": {}}}))];
    assert_eq!(compiler.replace_all(objects()).problems, []);
    compiler.enable(Enabled { plugins: None, stream_plugins: Some(vec!["high".into()]) });
    assert_eq!(compiler.replace_all(objects()).problems[0].message, "unknown plugin [low]", "of a file");
    compiler.settings.skip_disabled_plugins = true;
    compiler.anew = true;
    assert_eq!(compiler.replace_all(objects()).problems, []);
    assert!(found(&compiler).unwrap().plugins.is_empty());
}

#[test]
fn upstreams_by_id_of_the_service_and_missing() {
    let mut compiler = compiler();
    let upstream = |port: u16, more: Value| {
        let mut value = json!({"id": "u", "type": "roundrobin", "nodes": {format!("127.0.0.1:{port}"): 1}});
        more.as_object().unwrap().iter().for_each(|(k, v)| value[k] = v.clone());
        object(Kind::Upstream, value)
    };
    let service = || object(Kind::Service, json!({"id": "s", "upstream_id": "u"}));
    let by_service = || object(Kind::StreamRoute, json!({"id": "r", "service_id": "s"}));
    let port = |compiler: &Compiler| match &found(compiler).unwrap().upstream {
        RouteUpstream::Found(upstream) => Some(upstream.nodes.configs()[0].port),
        _ => None,
    };
    compiler.replace_all(vec![upstream(1, json!({})), service(), by_service()]);
    assert_eq!(port(&compiler), Some(1));
    compiler.replace_all(vec![upstream(2, json!({})), service(), by_service()]);
    assert_eq!(port(&compiler), Some(2), "a changed upstream reaches routes through their service");
    compiler.replace_all(vec![by_service()]);
    assert!(found(&compiler).unwrap().missing_service);
    compiler.replace_all(vec![object(Kind::StreamRoute, json!({"id": "r", "upstream_id": "u"}))]);
    assert!(matches!(found(&compiler).unwrap().upstream, RouteUpstream::Missing));
    let seconds = |compiler: &Compiler| match &found(compiler).unwrap().upstream {
        RouteUpstream::Found(upstream) => upstream.stream_idle.as_secs(),
        _ => 0,
    };
    let by_id = || object(Kind::StreamRoute, json!({"id": "r", "upstream_id": "u"}));
    compiler.replace_all(vec![upstream(1, json!({})), by_id()]);
    assert_eq!(seconds(&compiler), 600);
    let timeout = json!({"timeout": {"connect": 1, "send": 7, "read": 5}});
    compiler.replace_all(vec![upstream(1, timeout), by_id()]);
    assert_eq!(seconds(&compiler), 7);
}
