//! An Admin API on a store in memory, for the tests of this crate.
use crate::message::Request;
use crate::server::Handler;
use crate::{Admin, AdminSettings, Gateway};
use serde_json::{Value, json};
use sluice_config::{CompileSettings, Compiler, Object, Snapshot};
use sluice_model::{Body, Kind};
use sluice_plugin::{Clock, Env, Registry};
use sluice_store::{Key, MemoryStore, Store};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;

pub(crate) struct Fixture {
    pub admin: Admin,
    pub store: Arc<MemoryStore>,
}

/// A gateway without plugins that has everything in force at once.
struct Fake {
    in_force: watch::Sender<u64>,
    snapshot: Arc<Snapshot>,
}

impl Gateway for Fake {
    fn registry(&self) -> Arc<Registry> {
        Arc::new(Registry::new(&[]).unwrap())
    }
    fn in_force(&self) -> watch::Receiver<u64> {
        self.in_force.subscribe()
    }
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        Some(self.snapshot.clone())
    }
    fn reload_plugins(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async { Ok(()) })
    }
}

pub(crate) fn fixture(settings: AdminSettings) -> Fixture {
    in_force(settings, &[])
}

/// Without keys.
pub(crate) fn open() -> Fixture {
    with_routes(&[])
}

/// Without keys; these routes are in force, and not in the store.
pub(crate) fn with_routes(routes: &[(&str, Value)]) -> Fixture {
    in_force(AdminSettings { key_required: false, ..AdminSettings::default() }, routes)
}

fn in_force(settings: AdminSettings, routes: &[(&str, Value)]) -> Fixture {
    let registry = Arc::new(Registry::new(&[]).unwrap());
    let env = Env::new(Clock::default(), sluice_telemetry::Registry::new());
    let mut compiler = Compiler::new(registry, env, CompileSettings::default());
    let object = |(id, body): &(&str, Value)| {
        let mut body = body.clone();
        body["upstream"] = json!({"type": "roundrobin", "nodes": {"127.0.0.1:80": 1}});
        Object { kind: Kind::Route, id: (*id).into(), body: Body::of(&body) }
    };
    let snapshot = compiler.replace_all(routes.iter().map(object).collect()).snapshot;
    let store = Arc::new(MemoryStore::new());
    let gateway = Arc::new(Fake { in_force: watch::Sender::new(u64::MAX), snapshot });
    Fixture { admin: Admin::new(settings, store.clone(), gateway), store }
}

impl Fixture {
    pub fn ids(&self, kind: Kind) -> Vec<String> {
        self.store.state().read().unwrap().of(kind).map(|(id, _)| id.to_owned()).collect()
    }
    /// The stored body at a key; null without one.
    pub fn body(&self, key: &str) -> Value {
        self.store.state().read().unwrap().get(&Key::raw(key)).map(|entry| entry.body.value()).unwrap_or_default()
    }
}

/// Status and body.
pub(crate) async fn send(it: &Fixture, request: Request) -> (u16, Value) {
    let reply = it.admin.answer(request).await;
    (reply.status, serde_json::from_slice(&reply.body).unwrap_or_default())
}
