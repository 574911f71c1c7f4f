//! `limit-conn` by its hooks.
use super::*;
use proptest::prelude::*;
use serde_json::Value;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Definition, Scope, define};
use std::sync::atomic::{AtomicU64, Ordering};

const DEFINITION: Definition = define::<LimitConn>();

fn get(headers: &[(&str, &str)]) -> Context {
    let mut cx = Context::for_tests("GET", "/");
    for (name, value) in headers {
        cx.request.headers.set(name, value);
    }
    cx
}

fn plugin(config: Value) -> Harness {
    Harness::new(DEFINITION, config).unwrap()
}

#[test]
fn schema() {
    let mut config = json!({"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"});
    check(DEFINITION, Scope::Route, &mut config).unwrap();
    assert_eq!(config["only_use_default_delay"], false);
    assert_eq!(config["rejected_code"], 503);
    let error = |config: Value| check(DEFINITION, Scope::Route, &mut config.clone()).unwrap_err().0;
    let missing = json!({"conn": 1, "burst": 0, "default_conn_delay": 0.1});
    assert_eq!(error(missing), "value should match only one schema, but matches none");
    let mut both = config.clone();
    both["rules"] = json!([]);
    assert_eq!(error(both), "value should match only one schema, but matches both schemas 1 and 2");
    let redis =
        json!({"conn": 1, "burst": 0, "default_conn_delay": 1, "key": "k", "policy": "redis", "redis_host": "r1"});
    let mut completed = redis;
    check(DEFINITION, Scope::Route, &mut completed).unwrap();
    assert_eq!(completed["key_ttl"], 3600);
}

#[test]
fn excess_waits_and_more_is_refused() {
    let config = json!({
        "conn": 1, "burst": 2, "default_conn_delay": 0.1, "key": "remote_addr", "rejected_code": 429, "rejected_msg": "busy",
    });
    let plugin = plugin(config);
    let begin = plugin.env.clock.millis();
    let mut requests = [get(&[]), get(&[]), get(&[]), get(&[])];
    let [one, two, three, four] = &mut requests;
    assert_eq!(plugin.request(one), None);
    assert_eq!(plugin.env.clock.millis(), begin);
    assert_eq!(plugin.request(two), None);
    assert_eq!(plugin.env.clock.millis(), begin + 100);
    assert_eq!(plugin.request(three), None);
    assert_eq!(plugin.env.clock.millis(), begin + 300);
    assert_eq!(plugin.request(four), Some(Reply::error_msg(429, "busy")));
    // A refused request was not counted, so its end changes nothing.
    plugin.log(four);
    assert!(plugin.request(&mut get(&[("X", "y")])).is_some());
    plugin.log(one);
    assert_eq!(plugin.request(one), None);
}

#[test]
fn an_abandoned_request_is_not_counted_any_more() {
    let plugin = plugin(json!({"conn": 1, "burst": 1, "default_conn_delay": 10, "key": "remote_addr"}));
    let env = plugin.env.clone();
    let mut config = json!({"conn": 1, "burst": 1, "default_conn_delay": 10, "key": "remote_addr"});
    check(DEFINITION, Scope::Route, &mut config).unwrap();
    let hooks = (DEFINITION.build)(&config, &env).unwrap();
    let mut first = get(&[]);
    assert!(matches!(hooks.access(&mut first), Flow::Next));
    for _ in 0..3 {
        // Gone while it waits: the future is dropped, then the context.
        let mut waiting = get(&[]);
        assert!(matches!(hooks.access(&mut waiting), Flow::Wait(_)));
    }
    // Gone without a log phase, the context to be used again.
    first.reset();
    assert!(matches!(hooks.access(&mut get(&[])), Flow::Next));
    let mut two = [get(&[]), get(&[])];
    assert_eq!(two.each_mut().map(|cx| plugin.request(cx)), [None, None]);
    assert!(plugin.request(&mut get(&[])).is_some());
}

#[test]
fn two_plugins_on_one_request_end_together() {
    let env = Env::for_tests();
    let config = |key: &str| json!({"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": key});
    let global = Harness::with_env(DEFINITION, config("remote_addr"), env.for_resource("global_rules/1", 1)).unwrap();
    let route = Harness::with_env(DEFINITION, config("uri"), env.for_resource("routes/1", 1)).unwrap();
    let mut cx = get(&[]);
    assert_eq!(global.request(&mut cx), None);
    assert_eq!(route.request(&mut cx), None);
    assert!(global.request(&mut get(&[])).is_some());
    assert!(route.request(&mut get(&[])).is_some());
    global.log(&mut cx);
    route.log(&mut cx);
    assert_eq!(global.request(&mut get(&[])), None);
    assert_eq!(route.request(&mut get(&[])), None);
}

#[test]
fn rules_apply_where_their_key_and_numbers_resolve() {
    let plugin = plugin(json!({"default_conn_delay": 0.1, "rules": [
        {"conn": 1, "burst": 0, "key": "${http_user}"},
        {"conn": "${http_conn ?? 2}", "burst": "$http_burst", "key": "$http_project"},
    ]}));
    let user = [("User", "jack")];
    let (mut one, mut two) = (get(&user), get(&user));
    assert_eq!(plugin.request(&mut one), None);
    assert_eq!(plugin.request(&mut two).unwrap().status, 503);
    assert_eq!(plugin.request(&mut get(&[])).unwrap().status, 500);
    // The second rule has no burst here, so nothing applies.
    assert_eq!(plugin.request(&mut get(&[("Project", "p")])).unwrap().status, 500);
    let project = [("Project", "p"), ("Burst", "0"), ("Conn", "1")];
    let (mut one, mut two) = (get(&project), get(&project));
    assert_eq!(plugin.request(&mut one), None);
    assert_eq!(plugin.request(&mut two).unwrap().status, 503);
}

#[test]
fn variables_that_are_no_numbers_fail_unless_degraded() {
    let mut config =
        json!({"conn": "$http_conn", "burst": "$http_burst", "default_conn_delay": 0.1, "key": "remote_addr"});
    let strict = plugin(config.clone());
    assert_eq!(strict.request(&mut get(&[("Conn", "1"), ("Burst", "0")])), None);
    for headers in
        [[("Conn", "0"), ("Burst", "0")], [("Conn", "1.5"), ("Burst", "0")], [("Conn", "1"), ("Burst", "-1")]]
    {
        assert_eq!(strict.request(&mut get(&headers)).unwrap().status, 500);
    }
    config["allow_degradation"] = json!(true);
    assert_eq!(plugin(config).request(&mut get(&[])), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn never_above_conn_and_burst(conn in 1u64..4, burst in 0u64..3, rounds in 1usize..60) {
        let env = Env::for_tests();
        let mut config = json!({"conn": conn, "burst": burst, "default_conn_delay": 0.0001, "key": "remote_addr"});
        check(DEFINITION, Scope::Route, &mut config).unwrap();
        let hooks = (DEFINITION.build)(&config, &env).unwrap();
        let (under_way, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (hooks, under_way, most) = (&hooks, &under_way, &most);
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for round in 0..rounds {
                        let mut cx = get(&[]);
                        if matches!(hooks.access(&mut cx), Flow::Next) {
                            most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            held.push(cx);
                        }
                        if (round + thread) % 3 > 0 && let Some(mut cx) = held.pop() {
                            under_way.fetch_sub(1, Ordering::SeqCst);
                            hooks.log(&mut cx);
                        }
                    }
                    under_way.fetch_sub(held.len() as u64, Ordering::SeqCst);
                });
            }
        });
        prop_assert!(most.into_inner() <= conn + burst);
        // All have ended: exactly as many pass as at the beginning.
        let mut requests: Vec<Context> = (0..10).map(|_| get(&[])).collect();
        let passed = requests.iter_mut().map(|cx| u64::from(matches!(hooks.access(cx), Flow::Next))).sum::<u64>();
        prop_assert_eq!(passed, conn + burst);
    }
}
