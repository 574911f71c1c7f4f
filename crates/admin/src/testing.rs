//! An Admin API on a store in memory, for the tests of this crate.
use crate::message::Request;
use crate::server::Handler;
use crate::{Admin, AdminSettings, Gateway};
use serde_json::Value;
use sluice_model::Kind;
use sluice_plugin::Registry;
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
}

impl Gateway for Fake {
    fn registry(&self) -> Arc<Registry> {
        Arc::new(Registry::new(&[]).unwrap())
    }
    fn in_force(&self) -> watch::Receiver<u64> {
        self.in_force.subscribe()
    }
    fn reload_plugins(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async { Ok(()) })
    }
}

pub(crate) fn fixture(settings: AdminSettings) -> Fixture {
    let store = Arc::new(MemoryStore::new());
    let gateway = Arc::new(Fake { in_force: watch::Sender::new(u64::MAX) });
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
