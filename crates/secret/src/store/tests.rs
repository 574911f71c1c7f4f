//! What the store answers while managers come, fail and change. The manager is a folder of files.

use super::*;
use serde_json::json;
use std::path::Path;

const KEY: &str = "$secret://file/1/key";

fn store(settings: StoreSettings) -> Arc<SecretStore> {
    let store = SecretStore::new(settings);
    store.start(&tokio::runtime::Handle::current());
    store
}

fn brief() -> StoreSettings {
    let moment = Duration::from_millis(1);
    StoreSettings { ttl: moment, neg_ttl: moment, ..StoreSettings::default() }
}

fn sources(folder: &Path) -> HashMap<Arc<str>, Arc<Value>> {
    [("file/1".into(), Arc::new(json!({"directory": folder})))].into_iter().collect()
}

fn missing(found: Option<Found>) -> String {
    match found {
        Some(Found::Missing(why)) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("in time")
}

#[tokio::test]
async fn a_value_arrives_changes_and_survives_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "one").unwrap();
    let store = store(brief());
    store.configure(sources(folder.path()));
    assert!(!store.is_unsettled());
    assert_eq!(store.get(KEY), Some(Found::Pending));
    assert!(store.is_unsettled());
    within(store.settle()).await;
    assert_eq!(store.get(KEY), Some(Found::Value("one".into())));
    assert_eq!(store.take_changed(), [KEY.into()]);
    // Writing in place could show a moment of emptiness.
    std::fs::write(folder.path().join("next"), "two").unwrap();
    std::fs::rename(folder.path().join("next"), &file).unwrap();
    assert_eq!(within(store.changed()).await, [KEY.into()]);
    assert_eq!(store.get(KEY), Some(Found::Value("two".into())));
    std::fs::remove_file(&file).unwrap();
    let failed = async {
        while store.state().entries[KEY].error.is_none() {
            tokio::task::yield_now().await;
        }
    };
    within(failed).await;
    assert_eq!(store.get(KEY), Some(Found::Value("two".into())));
    assert!(store.take_changed().is_empty());
}

#[tokio::test]
async fn a_failure_is_told_once_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(brief());
    store.configure(sources(folder.path()));
    store.get(KEY);
    assert_eq!(within(store.changed()).await, [KEY.into()]);
    assert!(missing(store.get(KEY)).starts_with("no such file"));
    std::fs::write(folder.path().join("next"), "late").unwrap();
    std::fs::rename(folder.path().join("next"), folder.path().join("key")).unwrap();
    assert_eq!(within(store.changed()).await, [KEY.into()]);
    assert_eq!(store.get(KEY), Some(Found::Value("late".into())));
}

#[tokio::test]
async fn sources_come_change_and_go() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(first.path().join("key"), "one").unwrap();
    let store = store(StoreSettings::default());
    assert_eq!(missing(store.get(KEY)), format!("no secret conf, secret_uri: {KEY}"));
    store.configure(sources(first.path()));
    assert_eq!(within(store.changed()).await, [KEY.into()]);
    assert_eq!(store.get(KEY), Some(Found::Value("one".into())));
    // The old value stays until the new source has answered; a failure of the new source is no reason to keep it.
    store.configure(sources(second.path()));
    assert!(store.is_unsettled());
    assert_eq!(store.get(KEY), Some(Found::Value("one".into())));
    assert_eq!(within(store.changed()).await, [KEY.into()]);
    assert!(missing(store.get(KEY)).starts_with("no such file"));
    store.configure(sources(first.path()));
    within(store.changed()).await;
    store.configure(HashMap::default());
    assert_eq!(store.take_changed(), [KEY.into()]);
    assert_eq!(missing(store.get(KEY)), format!("no secret conf, secret_uri: {KEY}"));
}

#[tokio::test]
async fn what_is_not_used_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = SecretStore::new(StoreSettings::default());
    store.configure(sources(folder.path()));
    store.get(KEY);
    assert!(store.is_unsettled());
    store.retain(|text| text != KEY);
    assert!(!store.is_unsettled());
    assert!(store.state().entries.is_empty());
}

#[test]
fn texts_that_name_no_manager() {
    let store = SecretStore::new(StoreSettings::default());
    assert_eq!(store.get("plain"), None);
    assert_eq!(store.get("$uri"), None);
    assert_eq!(missing(store.get("$secret://vault")), "error format: no secret manager");
    assert_eq!(missing(store.get("$env://NO_SUCH_VARIABLE_HERE")), "no value");
}
