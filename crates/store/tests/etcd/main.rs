//! The etcd store against real etcd processes: each test has its own, on a free port. Waiting is by the store's own
//! watch, never by time alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test, its own functions included")]
mod faults;
mod process;
mod security;
mod work;

use sluice_model::Kind;
use sluice_store::{Condition, EtcdSettings, EtcdStore, Expect, Key, Note, Op, Store, StoreError, Transaction, Watch};
use std::path::PathBuf;
use std::time::Duration;

/// Nothing takes longer than this unless it is broken.
const PATIENCE: Duration = Duration::from_secs(40);

fn settings(urls: &[String]) -> EtcdSettings {
    EtcdSettings {
        hosts: urls.to_vec(),
        timeout: Duration::from_secs(10),
        health_check_timeout: Duration::from_secs(2),
        resync_delay: Duration::from_millis(200),
        snapshot_delay: Duration::from_millis(10),
        ..EtcdSettings::default()
    }
}

async fn connect(settings: EtcdSettings, snapshot: Option<PathBuf>) -> Result<EtcdStore, StoreError> {
    EtcdStore::connect(settings, snapshot, &tokio::runtime::Handle::current()).await
}

fn put(id: &str, body: &str, expect: Expect) -> Op {
    Op::Put { key: Key::of(Kind::Route, id), body: body.into(), expect, ttl: None }
}

fn write(ops: Vec<Op>) -> Transaction {
    Transaction { ops, note: Note { author: "admin".into(), message: "why".into() } }
}

/// Ids and bodies of the routes.
fn routes(store: &EtcdStore) -> Vec<(String, String)> {
    let state = store.state().read().unwrap();
    state.of(Kind::Route).map(|(id, entry)| (id.to_owned(), entry.body.as_str().to_owned())).collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(id, body)| ((*id).to_owned(), (*body).to_owned())).collect()
}

/// Waits, from change to change, until the routes are these.
async fn until_routes(store: &EtcdStore, wanted: &[(&str, &str)]) {
    let mut watch = store.watch();
    let done = async {
        while routes(store) != pairs(wanted) {
            watch.recv().await.unwrap();
        }
    };
    if tokio::time::timeout(PATIENCE, done).await.is_err() {
        panic!("expected {wanted:?}, there is {:?}", routes(store));
    }
}

/// Waits until the store is in touch with etcd, or until it is not.
async fn until_fresh(store: &EtcdStore, fresh: bool) {
    let done = async {
        while (store.condition() == Condition::Fresh) != fresh {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, done).await.is_ok(), "{:?}", store.condition());
}

async fn next(watch: &mut tokio::sync::mpsc::Receiver<Watch>) -> Watch {
    tokio::time::timeout(PATIENCE, watch.recv()).await.unwrap().unwrap()
}
