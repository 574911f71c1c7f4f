//! etcd away, back, hanging, compacted, restored; starts without it.
use super::process::{Etcd, Way, missing};
use super::*;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

fn reason(store: &EtcdStore) -> String {
    match store.condition() {
        Condition::Fresh => String::new(),
        Condition::Stale { reason, .. } => reason,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_killed_and_started_again() {
    if missing() {
        return;
    }
    let mut etcd = Etcd::start();
    let store = connect(settings(&[etcd.url()]), None).await.unwrap();
    store.commit(write(vec![put("1", "a", Expect::Any)])).await.unwrap();
    for round in 0..3 {
        etcd.kill();
        until_fresh(&store, false).await;
        assert!(reason(&store).contains(&etcd.url()), "{}", reason(&store));
        assert_eq!(routes(&store)[0].0, "1");
        let error = store.commit(write(vec![put("1", "b", Expect::Any)])).await.unwrap_err();
        assert!(matches!(&error, StoreError::Away(_)), "{error}");
        assert!(matches!(store.catch_up().await, Err(StoreError::Away(_))));
        etcd.run();
        let body = format!("after {round}");
        etcd.put("/apisix/routes/1", &body);
        until_routes(&store, &[("1", &body)]).await;
        until_fresh(&store, true).await;
        store.commit(write(vec![put("1", "again", Expect::Present)])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_hangs_and_goes_on() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let settings = EtcdSettings { timeout: Duration::from_secs(3), ..settings(&[etcd.url()]) };
    let store = connect(settings, None).await.unwrap();
    store.commit(write(vec![put("1", "a", Expect::Any)])).await.unwrap();
    etcd.signal(Signal::STOP);
    let started = Instant::now();
    let error = store.commit(write(vec![put("2", "b", Expect::Any)])).await.unwrap_err();
    assert!(matches!(&error, StoreError::Away(text) if text.contains("not known")), "{error}");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    until_fresh(&store, false).await;
    assert!(reason(&store).contains("no answer within"), "{}", reason(&store));
    assert_eq!(routes(&store)[0], ("1".to_owned(), "a".to_owned()));
    etcd.signal(Signal::CONT);
    until_fresh(&store, true).await;
    store.commit(write(vec![put("1", "c", Expect::Present), put("2", "d", Expect::Any)])).await.unwrap();
    assert_eq!(routes(&store), pairs(&[("1", "c"), ("2", "d")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_while_disconnected_changes_only_what_differs() {
    if missing() {
        return;
    }
    let mut etcd = Etcd::start();
    let store = connect(settings(&[etcd.url()]), None).await.unwrap();
    let all = vec![put("1", "a", Expect::Any), put("2", "b", Expect::Any), put("3", "c", Expect::Any)];
    store.commit(write(all)).await.unwrap();
    let mut watch = store.watch();
    etcd.kill();
    until_fresh(&store, false).await;
    // On another port the store cannot follow what happens.
    let port = etcd.port;
    etcd.port = sluice_testkit::ports::free_port();
    etcd.run();
    etcd.put("/apisix/routes/2", "b2");
    etcd.delete("/apisix/routes/3");
    let last = etcd.put("/apisix/routes/4", "d");
    etcd.compact(last);
    etcd.kill();
    etcd.port = port;
    etcd.run();
    until_routes(&store, &[("1", "a"), ("2", "b2"), ("4", "d")]).await;
    let Watch::Changed(batch) = next(&mut watch).await else { panic!("no batch") };
    assert_eq!((batch.events.len(), batch.revision), (3, last), "the unchanged route is not told");
    until_fresh(&store, true).await;
    store.commit(write(vec![put("1", "z", Expect::Present)])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_at_the_same_address() {
    if missing() {
        return;
    }
    let mut etcd = Etcd::start();
    let store = connect(settings(&[etcd.url()]), None).await.unwrap();
    for body in ["a", "b", "c"] {
        store.commit(write(vec![put("1", body, Expect::Any)])).await.unwrap();
    }
    let mut watch = store.watch();
    etcd.kill();
    let mut other = Etcd::start();
    other.put("/apisix/routes/1", "other");
    other.kill();
    other.port = etcd.port;
    other.run();
    assert!(matches!(next(&mut watch).await, Watch::Reset));
    until_routes(&store, &[("1", "other")]).await;
    until_fresh(&store, true).await;
    store.commit(write(vec![put("1", "mine", Expect::Any)])).await.unwrap();
    assert_eq!(routes(&store), pairs(&[("1", "mine")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_endpoints_is_dead() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let dead = format!("http://127.0.0.1:{}", sluice_testkit::ports::free_port());
    for hosts in [[dead.clone(), etcd.url()], [etcd.url(), dead]] {
        let store = connect(settings(&hosts), None).await.unwrap();
        store.commit(write(vec![put("1", "a", Expect::Any)])).await.unwrap();
        assert_eq!(store.condition(), Condition::Fresh);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_etcd_is_from_the_snapshot() {
    if missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("etcd.snapshot");
    let mut etcd = Etcd::start();
    let store = connect(settings(&[etcd.url()]), Some(file.clone())).await.unwrap();
    let done = store.commit(write(vec![put("1", "kept", Expect::Any)])).await.unwrap();
    let written = async {
        while !std::fs::read_to_string(&file).is_ok_and(|text| text.contains("kept")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
    drop(store);
    etcd.kill();

    let error = connect(settings(&[etcd.url()]), None).await.err().unwrap();
    assert!(
        matches!(&error, StoreError::Away(text) if text.contains(&etcd.url()) && text.contains("refused")),
        "{error}"
    );

    let store = connect(settings(&[etcd.url()]), Some(file.clone())).await.unwrap();
    assert!(reason(&store).contains(&etcd.url()), "{}", reason(&store));
    assert_eq!(routes(&store), pairs(&[("1", "kept")]));
    assert_eq!(store.state().read().unwrap().get(&Key::of(Kind::Route, "1")), Some(&done.written[0]));
    let mut watch = store.watch();
    etcd.run();
    etcd.put("/apisix/routes/2", "new");
    until_routes(&store, &[("1", "kept"), ("2", "new")]).await;
    until_fresh(&store, true).await;
    let Watch::Changed(batch) = next(&mut watch).await else { panic!("no batch") };
    assert_eq!(batch.events.len(), 1, "what the snapshot had is not told again");
    drop(store);
    etcd.kill();

    // A copy: the dropped store may still be at its last snapshot.
    let broken = dir.path().join("broken.snapshot");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&broken, &bytes).unwrap();
    let error = connect(settings(&[etcd.url()]), Some(broken.clone())).await.err().unwrap();
    assert!(matches!(&error, StoreError::Corrupt(text) if text.contains("checksum")), "{error}");
    // With etcd there it is not needed, and is written anew.
    etcd.run();
    let store = connect(settings(&[etcd.url()]), Some(broken.clone())).await.unwrap();
    assert_eq!(routes(&store).len(), 2);
    let replaced = async {
        while std::fs::read(&broken).unwrap() == bytes {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, replaced).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_serves_everything_and_the_next_member_takes_over() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let ways = [Way::to(etcd.port).await, Way::to(etcd.port).await];
    let store = connect(settings(&ways.each_ref().map(|way| way.url.clone())), None).await.unwrap();
    for n in 0..10 {
        let done = store.commit(write(vec![put("1", &n.to_string(), Expect::Any)])).await.unwrap();
        store.catch_up().await.unwrap();
        assert_eq!(store.revisions(None, 1).await.unwrap()[0].revision, done.revision);
    }
    assert_eq!(ways.iter().map(Way::accepted).sum::<usize>(), 1);
    let (used, other) = if ways[0].accepted() == 1 { (&ways[0], &ways[1]) } else { (&ways[1], &ways[0]) };
    let mut watch = store.watch();
    used.cut();
    // Written while nothing is connected, perhaps: the watch goes on where it stopped.
    let revision = etcd.put("/apisix/routes/1", "between");
    let Watch::Changed(batch) = next(&mut watch).await else { panic!("no batch") };
    assert_eq!((batch.revision, batch.events.len()), (revision, 1));
    until_fresh(&store, true).await;
    store.commit(write(vec![put("1", "after", Expect::Present)])).await.unwrap();
    assert_eq!(other.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_whose_answer_is_lost_is_looked_up() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let ways = [Way::to(etcd.port).await, Way::to(etcd.port).await];
    let store = connect(settings(&ways.each_ref().map(|way| way.url.clone())), None).await.unwrap();
    let used = if ways[0].accepted() == 1 { &ways[0] } else { &ways[1] };
    used.lose_answers();
    let cut = async {
        while etcd.range("/apisix/routes/1", "/apisix/routes/2").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        used.cut();
    };
    let writing = write(vec![put("1", "a", Expect::Absent)]);
    let (done, ()) = tokio::join!(store.commit(writing), cut);
    let done = done.unwrap();
    assert_eq!(routes(&store), pairs(&[("1", "a")]));
    assert_eq!(store.state().read().unwrap().get(&Key::of(Kind::Route, "1")), Some(&done.written[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_happens_to_etcd() {
    if missing() {
        return;
    }
    let mut etcd = Etcd::start();
    let store = Arc::new(connect(settings(&[etcd.url()]), None).await.unwrap());
    let follower = connect(settings(&[etcd.url()]), None).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut acknowledged, mut n) = (Vec::new(), 0);
                while !stop.load(Ordering::SeqCst) {
                    let (a, b) = (format!("{writer}-{n}-a"), format!("{writer}-{n}-b"));
                    let both = vec![put(&a, "{}", Expect::Absent), put(&b, "{}", Expect::Absent)];
                    let counter = put("counter", &format!("{writer}-{n}"), Expect::Any);
                    match store.commit(write([both, vec![counter]].concat())).await {
                        Ok(_) => acknowledged.push(a),
                        Err(StoreError::Away(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                        Err(other) => panic!("{other}"),
                    }
                    n += 1;
                }
                acknowledged
            })
        })
        .collect();
    for round in 0..4 {
        let before = store.state().read().unwrap().revision;
        let mut watch = store.watch();
        while store.state().read().unwrap().revision < before + 30 {
            next(&mut watch).await;
        }
        etcd.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_millis(100)).await;
        etcd.signal(Signal::CONT);
        if round % 2 == 0 {
            etcd.kill();
            until_fresh(&store, false).await;
            etcd.run();
        } else {
            let revision = etcd.put("/apisix/routes/apisix", &round.to_string());
            etcd.compact(revision);
        }
        until_fresh(&store, true).await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    until_fresh(&follower, true).await;
    store.catch_up().await.unwrap();
    follower.catch_up().await.unwrap();
    let mut truth = etcd.range("/apisix/routes/", "/apisix/routes0");
    truth.retain(|(key, _)| key != "/apisix/routes/");
    let truth: Vec<_> =
        truth.into_iter().map(|(key, body)| (key["/apisix/routes/".len()..].to_owned(), body)).collect();
    assert_eq!(routes(&store), truth);
    assert_eq!(routes(&follower), truth);
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    for a in acknowledged {
        assert!(truth.iter().any(|(id, _)| *id == a), "{a} was acknowledged");
    }
    for (id, _) in truth.iter().filter(|(id, _)| id.ends_with("-a")) {
        let other = id.replace("-a", "-b");
        assert!(truth.iter().any(|(id, _)| *id == other), "half of a transaction: {id}");
    }
}
