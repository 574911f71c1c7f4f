//! Against a real server, killed and restarted.
use super::*;
use crate::stored::{Body, Freshness, Stored};
use sluice_testkit::Memcached as Server;

fn answer(body: &str, tag: &str, received: u64) -> Record {
    Record::Answer(Arc::new(Stored {
        status: 200,
        freshness: Freshness { received, ..Freshness::default() },
        fields: Arc::default(),
        body: Body::Whole(body.to_owned().into()),
        tags: vec![tag.into()].into(),
    }))
}

fn store(servers: &[&Server]) -> MemcachedStore {
    let settings = MemcachedSettings {
        servers: servers.iter().map(|server| server.address()).collect(),
        timeout: Duration::from_secs(2),
        prefix: "t".into(),
        max_record: 1 << 20,
    };
    MemcachedStore::new(&settings, "zone", tokio::runtime::Handle::current())
}

async fn put(store: &MemcachedStore, key: &str, record: Record) -> Result<(), StoreError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    store.put(key.as_bytes(), record, 60, Box::new(move |result| drop(tell.send(result))));
    told.await.unwrap()
}

async fn has(store: &MemcachedStore, key: &str) -> Result<bool, StoreError> {
    let Look::Later(look) = store.look(key.as_bytes()) else { panic!("Memcached is elsewhere") };
    Ok(look.await?.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_kept_and_banned() {
    let (Some(one), Some(two)) = (Server::start(), Server::start()) else { return };
    let store = store(&[&one, &two]);
    let before = bans::now_ms() - 5000;
    let keys = ["h/a", "h/b c", "i/c", "i/d\r\n", "j"];
    for key in keys {
        put(&store, key, answer(key, "x y", before)).await.unwrap();
        assert_eq!(has(&store, key).await, Ok(true), "{key}");
    }
    assert_eq!(store.purge(Purge::Prefix(b"h/".to_vec())).await, Ok(None));
    assert_eq!((has(&store, "h/a").await, has(&store, "h/b c").await), (Ok(false), Ok(false)));
    assert_eq!(has(&store, "i/c").await, Ok(true));
    store.purge(Purge::Tag("x y".into())).await.unwrap();
    for key in keys {
        assert_eq!(has(&store, key).await, Ok(false), "{key}");
    }
    // What came after the ban is good.
    put(&store, "h/a", answer("new", "x y", bans::now_ms() + 5000)).await.unwrap();
    assert_eq!(has(&store, "h/a").await, Ok(true));
    assert_eq!((store.remove(b"h/a").await, store.remove(b"h/a").await), (Ok(true), Ok(false)));
    assert_eq!(put(&store, "large", answer(&"x".repeat(2 << 20), "", 0)).await, Err(StoreError::TooLarge));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_asked_again_when_it_is_back() {
    let Some(mut server) = Server::start() else { return };
    let store = store(&[&server]);
    put(&store, "k", answer("one", "", 1)).await.unwrap();
    server.kill();
    assert!(has(&store, "k").await.is_err());
    // Nobody waits a second time.
    let begun = std::time::Instant::now();
    assert!(has(&store, "k").await.is_err() && begun.elapsed() < Duration::from_millis(200));
    server.restart();
    while put(&store, "k", answer("two", "", 1)).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(has(&store, "k").await, Ok(true));
}
