//! `limit-count` by its hooks.
use super::*;
use proptest::prelude::*;
use sluice_expr::{Lookup, Variable};
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Definition, Scope, define};
use std::time::Duration;

const DEFINITION: Definition = define::<LimitCount>().metadata::<Metadata>();

fn get(headers: &[(&str, &str)]) -> Context {
    let mut cx = Context::for_tests("GET", "/");
    for (name, value) in headers {
        cx.request.headers.set(name, value);
    }
    cx
}

fn env(resource: &str) -> Env {
    Env::for_tests().for_resource(resource, 1)
}

fn plugin(config: Value) -> Harness {
    Harness::with_env(DEFINITION, config, env("routes/1")).unwrap()
}

fn error(config: Value) -> String {
    check(DEFINITION, Scope::Route, &mut config.clone()).unwrap_err().0
}

/// Status (0: passed on) and the three headers.
fn ask(plugin: &Harness, cx: &mut Context) -> (u16, String) {
    let status = plugin.request(cx).map_or(0, |reply| reply.status);
    cx.apply_early_headers();
    let value = |name| cx.response.headers.get_str(name).unwrap_or("-").to_string();
    let names = ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"];
    (status, names.map(value).join(" "))
}

#[test]
fn defaults() {
    let mut config = json!({"count": 2, "time_window": 60});
    check(DEFINITION, Scope::Route, &mut config).unwrap();
    let wanted = json!({
        "count": 2, "time_window": 60, "window_type": "fixed", "key": "remote_addr", "key_type": "var", "rejected_code": 503,
        "policy": "local", "allow_degradation": false, "show_limit_quota_header": true, "sync_interval": -1,
    });
    assert_eq!(config, wanted);
    let mut metadata = json!({});
    check(DEFINITION, Scope::Metadata, &mut metadata).unwrap();
    assert_eq!(metadata["reset_header"], "X-RateLimit-Reset");
}

#[test]
fn what_is_refused() {
    let rule = json!({"count": 1, "time_window": 1, "key": "$a"});
    for (config, message) in [
        (json!({"count": 1, "time_window": 1, "rules": [rule]}), BOTH),
        (json!({"count": 1, "rules": [rule]}), BOTH),
        (json!({"rules": [rule], "group": "g"}), "group and rules cannot be specified at the same time"),
        (json!({"rules": [rule, rule]}), "duplicate key '$a' in rules"),
        (json!({"time_window": 1}), "value should match only one schema, but matches none"),
        (
            json!({"count": 1, "time_window": 1, "rejected_msg": ""}),
            "property \"rejected_msg\" validation failed: string too short, expected at least 1, got 0",
        ),
        (
            json!({"count": 1, "time_window": 1, "policy": "redis", "redis_host": "r1", "sync_interval": 0.05}),
            "sync_interval should not be smaller than 0.1",
        ),
        (
            json!({"count": 1, "time_window": 1, "policy": "redis", "redis_host": "r1", "sync_interval": 1}),
            "sync_interval should be smaller than time_window",
        ),
    ] {
        assert_eq!(error(config.clone()), message, "{config}");
    }
    assert!(error(json!({"count": 0, "time_window": 1})).starts_with("property \"count\" validation failed: "));
}

#[test]
fn a_fixed_window() {
    let plugin = plugin(json!({"count": 2, "time_window": 60, "rejected_code": 429, "rejected_msg": "enough"}));
    assert_eq!(ask(&plugin, &mut get(&[])), (0, "2 1 60".into()));
    plugin.env.clock.advance(Duration::from_millis(1234));
    assert_eq!(ask(&plugin, &mut get(&[])), (0, "2 0 58.76".into()));
    let mut cx = get(&[]);
    assert_eq!(plugin.request(&mut cx), Some(Reply::error_msg(429, "enough")));
    assert_eq!(ask(&plugin, &mut get(&[])), (429, "2 0 58.76".into()));
    plugin.env.clock.advance(Duration::from_millis(58_766));
    assert_eq!(ask(&plugin, &mut get(&[])), (0, "2 1 60".into()));
}

#[test]
fn quota_headers_can_be_hidden_and_renamed() {
    let hidden = plugin(json!({"count": 1, "time_window": 60, "show_limit_quota_header": false}));
    assert_eq!(ask(&hidden, &mut get(&[])), (0, "- - -".into()));
    assert_eq!(ask(&hidden, &mut get(&[])), (503, "- - -".into()));
    let metadata = json!({"limit_header": "X-Limit", "remaining_header": "X-Left", "reset_header": "X-Again"});
    let metadata = [(NAME.to_string(), metadata)].into_iter().collect();
    let env = env("routes/1").with_metadata(Arc::new(metadata));
    let renamed = Harness::with_env(DEFINITION, json!({"count": 1, "time_window": 60}), env).unwrap();
    let mut cx = get(&[]);
    assert_eq!(ask(&renamed, &mut cx), (0, "- - -".into()));
    assert_eq!(cx.response.headers.get_str("X-Left"), Some("0"));
}

#[test]
fn keys() {
    let by_header = plugin(json!({"count": 1, "time_window": 60, "key": "http_x"}));
    assert_eq!(ask(&by_header, &mut get(&[("X", "a")])).0, 0);
    assert_eq!(ask(&by_header, &mut get(&[("X", "b")])).0, 0);
    assert_eq!(ask(&by_header, &mut get(&[("X", "a")])).0, 503);
    // Without the header the client's address is the key.
    assert_eq!(ask(&by_header, &mut get(&[])).0, 0);
    assert_eq!(ask(&by_header, &mut get(&[("X", "127.0.0.1")])).0, 503);
    let both = plugin(json!({"count": 1, "time_window": 60, "key": "$http_a $http_b", "key_type": "var_combination"}));
    assert_eq!(ask(&both, &mut get(&[("A", "1"), ("B", "1")])).0, 0);
    assert_eq!(ask(&both, &mut get(&[("A", "1"), ("B", "2")])).0, 0);
    assert_eq!(ask(&both, &mut get(&[("A", "1"), ("B", "1")])).0, 503);
    assert_eq!(ask(&both, &mut get(&[])).0, 0);
    assert_eq!(ask(&both, &mut get(&[])).0, 503);
    let constant = plugin(json!({"count": 1, "time_window": 60, "key": "remote_addr", "key_type": "constant"}));
    let mut cx = get(&[]);
    assert_eq!(ask(&constant, &mut cx).0, 0);
    assert!(cx.rate_limiting.unwrap().key.ends_with(b":remote_addr"));
}

#[test]
fn counters_outlive_reloads_and_belong_to_object_and_content() {
    let env = env("routes/1");
    let build =
        |count: u64, env: Env| Harness::with_env(DEFINITION, json!({"count": count, "time_window": 60}), env).unwrap();
    let first = build(1, env.clone());
    assert_eq!(ask(&first, &mut get(&[])).0, 0);
    let again = build(1, env.clone());
    drop(first);
    assert_eq!(ask(&again, &mut get(&[])).0, 503);
    assert_eq!(ask(&build(2, env.clone()), &mut get(&[])), (0, "2 1 60".into()));
    assert_eq!(ask(&build(1, env.for_resource("routes/2", 1)), &mut get(&[])).0, 0);
}

#[test]
fn a_group_shares_counters_and_must_agree() {
    let env = env("routes/1");
    let config = json!({"count": 1, "time_window": 60, "group": "g"});
    let one = Harness::with_env(DEFINITION, config.clone(), env.clone()).unwrap();
    let two = Harness::with_env(DEFINITION, config, env.for_resource("services/9", 1)).unwrap();
    let mut cx = get(&[]);
    assert_eq!(ask(&one, &mut cx).0, 0);
    assert_eq!(cx.rate_limiting.unwrap().key.as_slice(), b"g:127.0.0.1");
    assert_eq!(ask(&two, &mut get(&[])).0, 503);
    let other = json!({"count": 2, "time_window": 60, "group": "g"});
    let refused = Harness::with_env(DEFINITION, other.clone(), env.for_resource("routes/3", 1));
    assert_eq!(refused.err().unwrap().0, "group conf mismatched");
    // Once nobody uses the group its configuration is free again.
    drop((one, two));
    env.shared.collect();
    assert!(Harness::with_env(DEFINITION, other, env).is_ok());
}

#[test]
fn rules() {
    let plugin = plugin(json!({"rejected_code": 429, "rules": [
        {"count": "${http_limit ?? 2}", "time_window": 60, "key": "${http_user}", "header_prefix": "User"},
        {"count": 1, "time_window": "$http_window", "key": "$http_project"},
        {"count": 1, "time_window": 60, "key": "constant"},
    ]}));
    let mut cx = get(&[("User", "jack")]);
    assert_eq!(ask(&plugin, &mut cx), (0, "- - -".into()));
    assert_eq!(cx.response.headers.get_str("X-User-RateLimit-Remaining"), Some("1"));
    assert!(!cx.response.headers.contains("X-2-RateLimit-Limit"));
    let mut cx = get(&[("User", "jack"), ("Project", "p"), ("Window", "10")]);
    assert_eq!(ask(&plugin, &mut cx).0, 0);
    assert_eq!(cx.response.headers.get_str("X-2-RateLimit-Reset"), Some("10"));
    assert_eq!(ask(&plugin, &mut get(&[("Project", "p"), ("Window", "10")])).0, 429);
    assert_eq!(ask(&plugin, &mut get(&[("User", "jack")])).0, 429);
    // The counter stands at three; a higher limit for the same key lets the fourth pass.
    assert_eq!(ask(&plugin, &mut get(&[("User", "jack"), ("Limit", "4")])).0, 0);
    // No rule applies, or a number is none.
    assert_eq!(ask(&plugin, &mut get(&[])).0, 500);
    assert_eq!(ask(&plugin, &mut get(&[("Project", "q"), ("Window", "soon")])).0, 500);
}

#[test]
fn degradation_lets_pass() {
    let strict = json!({"count": "$http_n", "time_window": 60});
    assert_eq!(ask(&plugin(strict), &mut get(&[])).0, 500);
    let lenient = json!({"count": "$http_n", "time_window": 60, "allow_degradation": true});
    assert_eq!(ask(&plugin(lenient), &mut get(&[])), (0, "- - -".into()));
}

#[test]
fn a_sliding_window() {
    let plugin = plugin(json!({"count": 2, "time_window": 60, "window_type": "sliding"}));
    // The fake clock stands 20 s into an aligned minute.
    assert_eq!(ask(&plugin, &mut get(&[])), (0, "2 1 40".into()));
    assert_eq!(ask(&plugin, &mut get(&[])), (0, "2 0 40".into()));
    assert_eq!(ask(&plugin, &mut get(&[])), (503, "2 0 40".into()));
    plugin.env.clock.advance(Duration::from_secs(40));
    assert_eq!(ask(&plugin, &mut get(&[])).0, 503);
    plugin.env.clock.advance(Duration::from_secs(31));
    assert_eq!(ask(&plugin, &mut get(&[])).0, 0);
    assert_eq!(ask(&plugin, &mut get(&[])).0, 0);
    assert_eq!(ask(&plugin, &mut get(&[])).0, 503);
}

#[test]
fn rate_limiting_info() {
    let plugin = plugin(json!({"count": 2, "time_window": 60, "key": "http_x"}));
    let mut cx = get(&[("X", "a")]);
    let info = Variable::parse("rate_limiting_info");
    assert_eq!(cx.variable(&info), None);
    plugin.request(&mut cx);
    let text = cx.variable(&info).unwrap().as_str().into_owned();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert!(json["rate_limiting_key"].as_str().unwrap().starts_with("routes/1:"), "{text}");
    let end = ":a\",\"rate_limiting_limit\":2,\"rate_limiting_remaining\":1,\"rate_limiting_reset\":60}";
    assert!(text.ends_with(end), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn threads_never_pass_more_than_count(count in 1u64..50, keys in 1usize..4, per_thread in 1usize..100) {
        let env = env("routes/1");
        let mut config = json!({"count": count, "time_window": 60, "key": "http_x"});
        check(DEFINITION, Scope::Route, &mut config).unwrap();
        // Every thread has a plugin of its own, as after reloads.
        let plugins: Vec<_> = (0..4).map(|_| (DEFINITION.build)(&config, &env).unwrap()).collect();
        let passed: usize = std::thread::scope(|scope| {
            let run = |plugin: Arc<dyn Plugin>| {
                let pass = |n: &usize| {
                    let mut cx = get(&[("X", &(n % keys).to_string())]);
                    matches!(plugin.access(&mut cx), Flow::Next)
                };
                (0..keys * per_thread).filter(pass).count()
            };
            let threads: Vec<_> = plugins.iter().cloned().map(|p| scope.spawn(move || run(p))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        prop_assert_eq!(passed, keys * (count as usize).min(4 * per_thread));
    }
}
