//! `proxy-mirror` apart from sending, which `tests/e2e/mirror.rs` looks at.
use super::*;
use sluice_plugin::testing::check;
use sluice_plugin::{Definition, Scope, define};

const DEFINITION: Definition = define::<ProxyMirror>();

#[test]
fn schema() {
    let mut config = json!({"host": "http://127.0.0.1:1999"});
    check(DEFINITION, Scope::Route, &mut config).unwrap();
    assert_eq!(config["path_concat_mode"], "replace");
    assert_eq!(config["sample_ratio"], 1);
    for host in ["http://a", "https://ab.com", "http://[::1]", "http://[::1]:202", "grpc://a:1", "grpcs://a"] {
        check(DEFINITION, Scope::Route, &mut json!({"host": host})).unwrap();
    }
    let wrong = [
        json!({}),
        json!({"host": "ftp://127.0.0.1:1999"}),
        json!({"host": "http://127.0.0.1::1999"}),
        json!({"host": "127.0.0.1:1999"}),
        json!({"host": "http://127.0.0.1:1999/uri"}),
        json!({"host": "http://a", "path": "a"}),
        json!({"host": "http://a", "path": "/a?b=c"}),
        json!({"host": "http://a", "sample_ratio": 10}),
        json!({"host": "http://a", "sample_ratio": 0}),
        json!({"host": "http://a", "path_concat_mode": "append"}),
    ];
    for mut config in wrong {
        assert!(check(DEFINITION, Scope::Route, &mut config).is_err(), "{config}");
    }
}

#[test]
fn addresses() {
    let wanted = [
        ("http", "a", "a", 80),
        ("https", "a.b:8443", "a.b", 8443),
        ("http", "[::1]", "[::1]", 80),
        ("https", "[::1]:202", "[::1]", 202),
    ];
    for (scheme, address, host, port) in wanted {
        assert_eq!(node(scheme, address), json!({"host": host, "port": port, "weight": 1}), "{address}");
    }
}

#[test]
fn the_copys_path() {
    let target = |path: Option<&str>, mode: PathConcatMode, upstream: Option<&str>| {
        let plugin = ProxyMirror { mirror: None, path: path.map(str::to_owned), mode, ratio: 1.0 };
        let mut cx = Context::for_tests("GET", "/hello?a=1");
        cx.upstream.target = upstream.map(|u| u.as_bytes().to_vec());
        String::from_utf8(plugin.target(&cx)).unwrap()
    };
    assert_eq!(target(None, PathConcatMode::Replace, None), "/hello?a=1");
    assert_eq!(target(None, PathConcatMode::Replace, Some("/new?b=2")), "/new?b=2");
    assert_eq!(target(Some("/m"), PathConcatMode::Replace, None), "/m?a=1");
    assert_eq!(target(Some("/m"), PathConcatMode::Prefix, None), "/m/hello?a=1");
}

#[test]
fn attributes() {
    let limits = Limits::read(&json!({"timeout": {"connect": "2000ms", "read": "2s", "send": 1}, "max_concurrent": 7}));
    let limits = limits.unwrap();
    assert_eq!((limits.connect, limits.read), (Duration::from_secs(2), Duration::from_secs(2)));
    assert_eq!((limits.send, limits.max_concurrent), (Duration::from_secs(1), 7));
    assert_eq!(Limits::read(&Value::Null).unwrap().read, Duration::from_secs(60));
    for wrong in [json!({"timeout": {"read": "soon"}}), json!({"max_body_size": "1m"}), json!({"max_buffered": -1})] {
        assert!(Limits::read(&wrong).is_err(), "{wrong}");
    }
}

#[test]
fn shares_are_given_back() {
    let held = Arc::new(Held::default());
    let mut first = Share::new(held.clone());
    assert!(first.grow(60, 100) && first.grow(40, 100));
    let mut second = Share::new(held.clone());
    assert!(!second.grow(1, 100));
    assert!(first.begin(1) && !second.begin(1));
    drop(first);
    assert!(second.grow(100, 100) && second.begin(1));
    drop(second);
    assert_eq!((held.bytes.load(Ordering::Relaxed), held.copies.load(Ordering::Relaxed)), (0, 0));
}

proptest::proptest! {
    /// Whatever is taken and given back, no more is held than the limit.
    #[test]
    fn never_more_than_the_limit(steps in proptest::collection::vec((0usize..6, 0usize..50), 0..60)) {
        let held = Arc::new(Held::default());
        let mut shares: Vec<Share> = (0..6).map(|_| Share::new(held.clone())).collect();
        for (index, bytes) in steps {
            match bytes {
                0 => shares[index] = Share::new(held.clone()),
                _ => {
                    shares[index].grow(bytes, 100);
                    shares[index].begin(3);
                }
            }
            proptest::prop_assert!(held.bytes.load(Ordering::Relaxed) <= 100);
            proptest::prop_assert!(held.copies.load(Ordering::Relaxed) <= 6);
        }
    }
}
