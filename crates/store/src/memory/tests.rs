//! The store in memory. What every store shares, planning and watchers, is tested here too.
use super::*;
use crate::watchers::WATCH_QUEUE;
use crate::{Expect, Key, Note, Op};
use sluice_model::Kind;

fn put(id: &str, body: &str, expect: Expect) -> Op {
    Op::Put { key: Key::of(Kind::Route, id), body: body.into(), expect, ttl: None }
}

fn write(ops: Vec<Op>) -> Transaction {
    Transaction { ops, note: Note { author: "admin".into(), message: String::new() } }
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    let store = MemoryStore::new();
    store.commit(write(vec![put("1", "{}", Expect::Absent)])).await.unwrap();
    let half = write(vec![put("2", "{}", Expect::Any), put("1", "[]", Expect::Absent)]);
    let error = store.commit(half).await.unwrap_err();
    assert_eq!(error.to_string(), "routes/1: exists already");
    let state = store.state().read().unwrap();
    assert_eq!(state.revision, 1);
    assert_eq!(state.of(Kind::Route).map(|(id, e)| (id, e.modified)).collect::<Vec<_>>(), [("1", 1)]);
}

#[tokio::test]
async fn watchers_see_every_batch_or_are_reset() {
    let store = MemoryStore::new();
    let mut watch = store.watch();
    for n in 0..WATCH_QUEUE + 2 {
        store.commit(write(vec![put(&n.to_string(), "{}", Expect::Any)])).await.unwrap();
    }
    for n in 0..WATCH_QUEUE {
        let Some(Watch::Changed(batch)) = watch.recv().await else { panic!("a batch is missing") };
        assert_eq!(batch.revision, n as u64 + 1);
    }
    store.commit(write(vec![put("x", "{}", Expect::Any)])).await.unwrap();
    assert!(matches!(watch.recv().await, Some(Watch::Reset)));
}

#[tokio::test]
async fn the_past_can_be_seen() {
    let store = MemoryStore::new();
    store.commit(write(vec![put("1", "1", Expect::Any)])).await.unwrap();
    store.commit(write(vec![put("1", "2", Expect::Revision(1)), put("2", "1", Expect::Any)])).await.unwrap();
    store.commit(write(vec![Op::Delete { key: Key::of(Kind::Route, "1"), expect: Expect::Present }])).await.unwrap();
    let past = store.state_at(1).await.unwrap();
    assert_eq!(past.of(Kind::Route).map(|(id, e)| (id, e.body.as_str())).collect::<Vec<_>>(), [("1", "1")]);
    assert_eq!(store.revision(2).await.unwrap().unwrap().changes[0].before.as_deref(), Some("1"));
    let listed = store.revisions(Some(3), 10).await.unwrap();
    assert_eq!(listed.iter().map(|r| r.revision).collect::<Vec<_>>(), [2, 1]);
    assert!(matches!(store.state_at(9).await, Err(StoreError::Compacted(9))));
}
