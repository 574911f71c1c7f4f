//! The plugin without a gateway: an upstream is a few lines here.
use super::*;
use serde_json::{Value, json};
use sluice_engine_cache::zone::{Place, ZoneSettings};
use sluice_plugin::testing::{Harness, block_on, check};
use sluice_plugin::{Answer, Scope, define};

fn zones() -> Arc<Zones> {
    let memory = ZoneSettings { name: "memory_cache".into(), place: Place::Memory(1 << 20) };
    let runtime = Box::leak(Box::new(tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()));
    Arc::new(Zones::new(vec![memory], 10, runtime.handle().clone()))
}

fn harness(zones: &Arc<Zones>, mut more: Value) -> Result<Harness, BuildError> {
    let config = more.as_object_mut().unwrap();
    config.entry("cache_strategy").or_insert("memory".into());
    config.entry("cache_zone").or_insert("memory_cache".into());
    Harness::with_env(define::<ProxyCache>(), more, Env::for_tests().with_part(zones.clone()))
}

fn refused(config: Value) -> String {
    match harness(&zones(), config) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.0,
    }
}

/// One request through the plugin and, where it asks for one, an upstream's answer.
struct Exchange {
    reply: Option<Reply>,
    context: Context,
}

impl Exchange {
    fn run(plugin: &Harness, mut cx: Context, status: u16, headers: &[(&str, &str)], body: &str) -> Exchange {
        let mut reply = plugin.request(&mut cx);
        if let (None, Some(mut tap)) = (&reply, cx.answer_tap.take()) {
            cx.response.status = status;
            headers.iter().for_each(|(name, value)| cx.response.headers.append(name, value));
            match tap.head(&mut cx) {
                Answer::Watch | Answer::Keep => {
                    tap.body(body.as_bytes());
                    tap.end();
                }
                Answer::Replace(other) => reply = Some(*other),
                Answer::Pass => {}
            }
        }
        plugin.response(&mut cx, &[]);
        Exchange { reply, context: cx }
    }
    fn status(&self) -> &str {
        self.context.response.headers.get_str("apisix-cache-status").unwrap_or("none")
    }
}

fn get(plugin: &Harness, target: &str, headers: &[(&str, &str)]) -> Exchange {
    Exchange::run(plugin, Context::for_tests("GET", target), 200, headers, "body")
}

#[test]
fn what_is_wrong_is_named() {
    assert_eq!(refused(json!({"cache_zone": "other"})), "cache_zone other not found");
    assert_eq!(refused(json!({"cache_strategy": "disk"})), "invalid or empty cache_zone for cache_strategy: disk");
    assert_eq!(refused(json!({"cache_key": ["$request_method"]})), "cache_key variable $request_method unsupported");
    let schema = |config: Value| check(define::<ProxyCache>(), Scope::Route, &mut config.clone()).unwrap_err().0;
    assert!(schema(json!({"cache_method": ["PUT"]})).starts_with("property \"cache_method\" validation failed"));
    assert!(schema(json!({"cache_key": ["$a-b"]})).starts_with("property \"cache_key\" validation failed"));
    assert!(schema(json!({"cache_ttl": 0})).contains("cache_ttl"));
}

#[test]
fn a_zone_that_is_not_known_makes_nothing() {
    let plugin = Harness::new(define::<ProxyCache>(), json!({"cache_zone": "any"})).unwrap();
    let mut cx = Context::for_tests("GET", "/");
    assert!(plugin.request(&mut cx).is_none() && cx.answer_tap.is_none());
}

#[test]
fn the_second_request_is_a_hit_until_the_time_is_over() {
    let plugin = harness(&zones(), json!({"cache_ttl": 60})).unwrap();
    assert_eq!(get(&plugin, "/x", &[("X", "1"), ("Connection", "X-Hop"), ("X-Hop", "1")]).status(), "MISS");
    let hit = get(&plugin, "/x", &[]);
    assert_eq!(hit.status(), "HIT");
    let reply = hit.reply.unwrap();
    let names: Vec<&str> = reply.shared.as_ref().unwrap().iter().map(|(name, _)| &**name).collect();
    assert_eq!((reply.status, names), (200, vec!["X", "Date"]));
    plugin.env.clock.advance(Duration::from_secs(61));
    assert_eq!(get(&plugin, "/x", &[]).status(), "EXPIRED");
    assert_eq!(get(&plugin, "/x", &[]).status(), "HIT");
}

#[test]
fn a_304_renews_what_is_stored() {
    let plugin = harness(&zones(), json!({"cache_control": true})).unwrap();
    assert_eq!(get(&plugin, "/x", &[("Cache-Control", "max-age=10"), ("ETag", "\"1\"")]).status(), "MISS");
    plugin.env.clock.advance(Duration::from_secs(11));
    let cx = Context::for_tests("GET", "/x");
    let renewed = Exchange::run(&plugin, cx, 304, &[("Cache-Control", "max-age=20"), ("ETag", "\"1\"")], "");
    assert_eq!((renewed.status(), renewed.reply.as_ref().unwrap().status), ("REVALIDATED", 200));
    plugin.env.clock.advance(Duration::from_secs(15));
    assert_eq!(get(&plugin, "/x", &[]).status(), "HIT");
}

#[test]
fn bypass_and_no_cache_are_conditions() {
    let plugin = harness(&zones(), json!({"cache_bypass": ["$arg_bypass"], "no_cache": ["$arg_no"]})).unwrap();
    assert_eq!(get(&plugin, "/x?bypass=1", &[]).status(), "BYPASS");
    assert_eq!(get(&plugin, "/x?bypass=0", &[]).status(), "MISS");
    assert_eq!(get(&plugin, "/x?no=1", &[]).status(), "MISS");
    assert_eq!(get(&plugin, "/x?no=1", &[]).status(), "MISS");
}

#[test]
fn keys_cannot_be_forged() {
    let zones = zones();
    let plugin = harness(&zones, json!({"cache_key": ["$uri"]})).unwrap();
    // The path of a key that a consumer's would be.
    assert_eq!(get(&plugin, "/a%01bob", &[]).status(), "MISS");
    let zone = zones.get("memory_cache").unwrap();
    let found = |key: &[u8]| block_on(zone.find_later(key, |_| std::iter::empty())).stored.is_some();
    assert!(found(b"/a\x7f01bob") && !found(b"/a\x01bob"));
    assert_eq!(get(&plugin, "/a%7f01bob", &[]).status(), "MISS");
}

#[test]
fn purge_removes_a_resource() {
    let plugin = harness(&zones(), json!({})).unwrap();
    get(&plugin, "/x", &[]);
    let purge = || plugin.request(&mut Context::for_tests("PURGE", "/x")).unwrap().status;
    assert_eq!((purge(), purge()), (200, 404));
}

#[test]
fn a_large_answer_passes_and_is_not_stored() {
    let plugin = harness(&zones(), json!({"max_resp_body_size": 4})).unwrap();
    assert_eq!(get(&plugin, "/x", &[]).status(), "MISS");
    assert_eq!(get(&plugin, "/x", &[]).status(), "MISS");
}
