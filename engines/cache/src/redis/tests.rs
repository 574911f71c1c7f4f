//! Against a real server, killed and restarted.
use super::*;
use crate::stored::{Body, Freshness, Stored};
use crate::vary::Vary;
use sluice_engine_redis::Settings;
use sluice_testkit::Redis as Server;
use std::time::Duration;

fn answer(body: &str, tag: &str) -> Record {
    Record::Answer(Arc::new(Stored {
        status: 200,
        freshness: Freshness::default(),
        fields: Arc::default(),
        body: Body::Whole(body.to_owned().into()),
        tags: vec![tag.into()].into(),
    }))
}

fn store(server: &Server) -> RedisStore {
    let settings = Settings {
        read_timeout: Duration::from_millis(300),
        cool_down: Duration::from_millis(100),
        ..Settings::single("127.0.0.1", server.port)
    };
    RedisStore::new(Redis::new(settings), "zone", "t", 100_000, false, tokio::runtime::Handle::current())
}

async fn put(store: &RedisStore, key: &str, record: Record) -> Result<(), StoreError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    store.put(key.as_bytes(), record, 60, Box::new(move |result| drop(tell.send(result))));
    told.await.unwrap()
}

async fn body(store: &RedisStore, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let Look::Later(look) = store.look(key.as_bytes()) else { panic!("Redis is elsewhere") };
    Ok(look.await?.map(|record| match record {
        Record::Answer(stored) => match &stored.body {
            Body::Whole(bytes) => bytes.to_vec(),
            Body::File(_) => panic!("no file"),
        },
        Record::Vary(vary) => vary.names.concat().into(),
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_kept_and_purged() {
    let Some(server) = Server::start() else { return };
    let store = store(&server);
    for (key, tag) in [("h/a*", "x"), ("h/a*\u{1}bob", "x"), ("h/ab", "y"), ("i/c", "x")] {
        put(&store, key, answer(key, tag)).await.unwrap();
    }
    let vary = Record::Vary(Arc::new(Vary { names: vec!["accept".into()], generation: 1 }));
    put(&store, "v", vary).await.unwrap();
    assert_eq!(body(&store, "v").await, Ok(Some(b"accept".to_vec())));
    assert_eq!(body(&store, "h/ab").await, Ok(Some(b"h/ab".to_vec())));
    assert!(server.ask(&["TTL", "t:zone:h/ab"]).contains("60"));
    // A star in a key is no pattern.
    assert_eq!(store.purge(Purge::Key(b"h/a*".to_vec())).await, Ok(Some(2)));
    assert_eq!(store.purge(Purge::Tag("x".into())).await, Ok(Some(1)));
    assert_eq!(store.purge(Purge::Prefix(b"h/".to_vec())).await, Ok(Some(1)));
    assert_eq!(store.remove(b"v").await, Ok(true));
    assert_eq!(put(&store, "large", answer(&"x".repeat(200_000), "")).await, Err(StoreError::TooLarge));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_asked_again_when_it_is_back() {
    let Some(mut server) = Server::start() else { return };
    let store = store(&server);
    put(&store, "k", answer("one", "")).await.unwrap();
    server.ask(&["SET", "t:zone:damaged", "SLCACHE1 but no more"]);
    assert_eq!(body(&store, "damaged").await, Ok(None));
    server.kill();
    assert!(body(&store, "k").await.is_err() && put(&store, "k", answer("two", "")).await.is_err());
    server.restart();
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while put(&store, "k", answer("three", "")).await.is_err() {
        assert!(std::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(body(&store, "k").await, Ok(Some(b"three".to_vec())));
}
