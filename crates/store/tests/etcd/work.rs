//! Everyday work: list, watch, commit, conflicts, APISIX beside us, the history.
use super::process::{Etcd, missing};
use super::*;
use std::time::SystemTime;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_apisix_wrote_is_there_and_what_it_writes_arrives() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    etcd.put("/apisix/routes/", "init_dir");
    etcd.put("/apisix/routes/1", r#"{"uri":"/a","id":"1"}"#);
    etcd.put("/apisix/data_plane/server_info/x", "{}");
    etcd.put("/apisix2/routes/9", "{}");
    let modified = etcd.put("/apisix/consumers/jack/credentials/c", r#"{"plugins":{}}"#);
    let store = connect(settings(&[etcd.url()]), None).await.unwrap();
    assert_eq!(store.condition(), Condition::Fresh);
    {
        let state = store.state().read().unwrap();
        assert_eq!(
            state.entries.keys().map(Key::as_str).collect::<Vec<_>>(),
            ["consumers/jack/credentials/c", "routes/1"]
        );
        let entry = state.get(&Key::of(Kind::Credential, "jack/credentials/c")).unwrap();
        assert_eq!((entry.created, entry.modified), (modified, modified));
    }
    // The directories that were missing, and only those, were made.
    let all = etcd.range("/apisix/", "/apisix0");
    assert_eq!(all.iter().filter(|(key, value)| key.ends_with('/') && value == "init_dir").count(), 13);

    let mut watch = store.watch();
    let revision = etcd.put("/apisix/routes/2", r#"{"uri":"/b"}"#);
    let Watch::Changed(batch) = next(&mut watch).await else { panic!("no batch") };
    assert_eq!((batch.revision, batch.events.len()), (revision, 1));
    etcd.put("/apisix/plugins", r#"[{"name":"key-auth"}]"#);
    etcd.delete("/apisix/routes/1");
    until_routes(&store, &[("2", r#"{"uri":"/b"}"#)]).await;
    assert!(store.state().read().unwrap().get(&Key::raw("plugins")).is_some());
    let seen = store.revisions(None, 1).await.unwrap().remove(0);
    assert_eq!((seen.note.author.as_str(), seen.changes.len()), ("etcd", 1));
    assert_eq!((&seen.changes[0].before, &seen.changes[0].after), (&Some(String::new()), &None));
    let whole = store.revision(seen.revision).await.unwrap().unwrap();
    assert_eq!(whole.changes[0].before.as_deref(), Some(r#"{"uri":"/a","id":"1"}"#));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_happens_whole_or_not_at_all() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let store = connect(settings(&[etcd.url()]), None).await.unwrap();
    let body = r#"{ "uri": "/a",  "id":"1" }"#;
    let first = store.commit(write(vec![put("1", body, Expect::Absent)])).await.unwrap();
    assert_eq!(etcd.range("/apisix/routes/1", "/apisix/routes/2"), pairs(&[("/apisix/routes/1", body)]));
    {
        let state = store.state().read().unwrap();
        assert!(state.revision >= first.revision);
        assert_eq!(state.get(&Key::of(Kind::Route, "1")), Some(&first.written[0]));
    }
    let half = write(vec![put("2", "{}", Expect::Any), put("1", "[]", Expect::Absent)]);
    assert_eq!(store.commit(half).await.unwrap_err().to_string(), "routes/1: exists already");
    assert_eq!(routes(&store), pairs(&[("1", body)]));

    // Somebody else is faster than the watch: the compare is etcd's.
    for n in 0..20 {
        etcd.put("/apisix/routes/1", &n.to_string());
        let stale = write(vec![put("1", "mine", Expect::Revision(first.revision))]);
        let error = store.commit(stale).await.unwrap_err();
        assert_eq!(error.to_string(), "routes/1: was changed by somebody else");
        let any = store.commit(write(vec![put("x", &n.to_string(), Expect::Any)])).await.unwrap();
        let record = store.revision(any.revision).await.unwrap().unwrap();
        assert_eq!(record.changes[0].after, Some(n.to_string()));
    }
    let other = connect(settings(&[etcd.url()]), None).await.unwrap();
    for n in 0..20 {
        // Two processes in turn on one key, each without having seen the other's write for sure.
        let writer = if n % 2 == 0 { &store } else { &other };
        let done = writer.commit(write(vec![put("x", &format!("n{n}"), Expect::Present)])).await.unwrap();
        let record = writer.revision(done.revision).await.unwrap().unwrap();
        assert_eq!(record.changes[0].after, Some(format!("n{n}")));
        let before = if n == 0 { "19".to_owned() } else { format!("n{}", n - 1) };
        assert_eq!(record.changes[0].before, Some(before));
    }
    let gone = Op::Delete { key: Key::of(Kind::Route, "1"), expect: Expect::Present };
    let check = Op::Check { key: Key::of(Kind::Route, "x"), expect: Expect::Present };
    let deleted = store.commit(write(vec![check, gone.clone()])).await.unwrap();
    assert_eq!(deleted.deleted[0].body.as_str(), "19");
    assert_eq!(store.commit(write(vec![gone])).await.unwrap_err().to_string(), "routes/1: is not there");
    let nothing = Op::Delete { key: Key::of(Kind::Route, "1"), expect: Expect::Any };
    let idle = store.commit(write(vec![nothing])).await.unwrap();
    assert!(idle.written.is_empty() && idle.deleted.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_other_keys_does_not_hold_up_catching_up() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let store = connect(settings(&[etcd.url()]), None).await.unwrap();
    let foreign = etcd.put("/elsewhere", "x");
    assert!(store.catch_up().await.unwrap() >= foreign);
    assert!(store.state().read().unwrap().revision >= foreign);
    for n in 0..20 {
        etcd.put("/apisix/routes/1", &n.to_string());
        etcd.put("/elsewhere", "y");
        store.catch_up().await.unwrap();
        assert_eq!(routes(&store), pairs(&[("1", &n.to_string())]));
    }
    etcd.delete("/apisix/routes/1");
    etcd.put("/elsewhere", "z");
    store.catch_up().await.unwrap();
    assert!(routes(&store).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_past_can_be_seen_and_is_pruned() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let store = connect(EtcdSettings { history: 10, ..settings(&[etcd.url()]) }, None).await.unwrap();
    let first = store.commit(write(vec![put("1", "a", Expect::Any)])).await.unwrap();
    let second = store.commit(write(vec![put("1", "b", Expect::Any), put("2", "c", Expect::Any)])).await.unwrap();
    let past = store.state_at(first.revision).await.unwrap();
    assert_eq!(past.of(Kind::Route).map(|(id, e)| (id, e.body.as_str())).collect::<Vec<_>>(), [("1", "a")]);
    let listed = store.revisions(Some(second.revision), 10).await.unwrap();
    assert_eq!(listed[0].revision, first.revision);
    assert_eq!((listed[0].note.author.as_str(), listed[0].note.message.as_str()), ("admin", "why"));
    assert_eq!(listed[0].changes[0].after.as_deref(), Some(""));
    let whole = store.revision(second.revision).await.unwrap().unwrap();
    assert_eq!(whole.changes[0].before.as_deref(), Some("a"));
    assert!(matches!(store.state_at(1_000_000).await, Err(StoreError::Compacted(_))));

    // Another process reads the same history.
    let other = connect(settings(&[etcd.url()]), None).await.unwrap();
    assert_eq!(other.revision(second.revision).await.unwrap().unwrap(), whole);

    for n in 0..64 {
        store.commit(write(vec![put("1", &n.to_string(), Expect::Any)])).await.unwrap();
    }
    let kept = async {
        while etcd.range("/apisix_sluice/", "/apisix_sluice0").len() > 2 * 12 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, kept).await.unwrap();
    let newest = store.revisions(None, 1).await.unwrap().remove(0);
    assert_eq!(store.revision(newest.revision).await.unwrap().unwrap().changes[0].after.as_deref(), Some("63"));
    etcd.compact(second.revision + 1);
    assert!(matches!(store.state_at(first.revision).await, Err(StoreError::Compacted(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_a_time_to_live_goes_by_itself() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let store = connect(settings(&[etcd.url()]), None).await.unwrap();
    let key = Key::of(Kind::Route, "1");
    let op =
        Op::Put { key: key.clone(), body: "{}".into(), expect: Expect::Any, ttl: Some(Duration::from_millis(1500)) };
    store.commit(write(vec![op, put("2", "{}", Expect::Any)])).await.unwrap();
    let expires = store.state().read().unwrap().get(&key).unwrap().expires.unwrap();
    assert!(expires <= SystemTime::now() + Duration::from_secs(3));
    until_routes(&store, &[("2", "{}")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_too_large_is_refused_whole() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let store = connect(settings(&[etcd.url()]), None).await.unwrap();
    let many = |count: usize| write((0..count).map(|n| put(&n.to_string(), "{}", Expect::Any)).collect());
    store.commit(many(126)).await.unwrap();
    let error = store.commit(many(127)).await.unwrap_err();
    assert!(matches!(&error, StoreError::TooLarge(text) if text.contains("--max-txn-ops")), "{error}");
    let error = store.commit(write(vec![put("1", &"x".repeat(2 << 20), Expect::Any)])).await.unwrap_err();
    assert!(matches!(&error, StoreError::TooLarge(text) if text.contains("--max-request-bytes")), "{error}");
    assert_eq!(routes(&store).len(), 126);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_of_many_pages_is_whole() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let store = connect(settings(&[etcd.url()]), None).await.unwrap();
    for page in 0..21 {
        let ops = (0..120).map(|n| put(&format!("{page}-{n}"), "{}", Expect::Absent)).collect();
        store.commit(write(ops)).await.unwrap();
    }
    let other = connect(settings(&[etcd.url()]), None).await.unwrap();
    assert_eq!(routes(&other).len(), 21 * 120);
    assert_eq!(routes(&other), routes(&store));
}
