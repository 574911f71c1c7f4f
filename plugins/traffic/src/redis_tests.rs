//! The Redis policies of `limit-*` against real servers. Each has two gateways: two environments that share nothing but Redis.
use serde_json::{Value, json};
use sluice_plugin::testing::Harness;
use sluice_plugin::{Context, Definition, Env, Phase, Reply};
use sluice_testkit::{Authority, Redis};
use std::time::{Duration, Instant};

fn definition(name: &str) -> Definition {
    *crate::PLUGINS.iter().find(|d| d.info.name == name).unwrap()
}

fn gateway(name: &str, config: &Value, env: Env) -> Harness {
    Harness::with_env(definition(name), config.clone(), env.for_resource("routes/1", 1)).unwrap()
}

fn gateways(name: &str, config: &Value) -> [Harness; 2] {
    [gateway(name, config, Env::for_tests()), gateway(name, config, Env::for_tests())]
}

fn with(mut config: Value, more: &Value) -> Value {
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn single(redis: &Redis) -> Value {
    json!({"policy": "redis", "redis_host": "127.0.0.1", "redis_port": redis.port, "redis_timeout": 500})
}

fn get() -> Context {
    Context::for_tests("GET", "/")
}

/// Status (0: passed on), limit and what remains.
fn ask(gateway: &Harness) -> (u16, String) {
    let mut cx = get();
    let status = gateway.request(&mut cx).map_or(0, |reply| reply.status);
    cx.apply_early_headers();
    let value = |name| cx.response.headers.get_str(name).unwrap_or("-").to_string();
    (status, ["X-RateLimit-Limit", "X-RateLimit-Remaining"].map(value).join(" "))
}

fn counts_to_two(config: &Value) {
    let [a, b] = gateways("limit-count", config);
    assert_eq!(ask(&a), (0, "2 1".into()));
    assert_eq!(ask(&b), (0, "2 0".into()));
    assert_eq!(ask(&a), (503, "2 0".into()));
    assert_eq!(ask(&b), (503, "2 0".into()));
}

#[test]
fn a_count_is_shared() {
    let Some(redis) = Redis::start() else { return };
    let fixed = with(json!({"count": 2, "time_window": 60}), &single(&redis));
    counts_to_two(&fixed);
    let key = redis.ask(&["KEYS", "*"]);
    assert!(key.starts_with("plugin-limit-count:v1:routes/1:") && key.ends_with(":127.0.0.1"), "{key}");
    let life: u64 = redis.ask(&["PTTL", &key]).parse().unwrap();
    assert!((50_000..=60_000).contains(&life), "{life}");
    redis.ask(&["FLUSHALL"]);
    counts_to_two(&with(fixed.clone(), &json!({"window_type": "sliding"})));
    assert!(redis.ask(&["KEYS", "*"]).ends_with(".counter"));
    // A group counts over objects, under a key that APISIX has too.
    let group = with(fixed, &json!({"group": "g"}));
    let other =
        Harness::with_env(definition("limit-count"), group.clone(), Env::for_tests().for_resource("routes/2", 1));
    assert_eq!(ask(&gateway("limit-count", &group, Env::for_tests())).0, 0);
    assert_eq!(ask(&other.unwrap()), (0, "2 0".into()));
    assert_eq!(redis.ask(&["GET", "plugin-limit-count:v1:g:127.0.0.1"]), "2");
}

#[test]
fn a_window_ends_on_the_server() {
    let Some(redis) = Redis::start() else { return };
    let [a, _] = gateways("limit-count", &with(json!({"count": 1, "time_window": 1}), &single(&redis)));
    assert_eq!(ask(&a).0, 0);
    assert_eq!(ask(&a).0, 503);
    let until = Instant::now() + Duration::from_secs(5);
    while ask(&a).0 != 0 {
        assert!(Instant::now() < until);
    }
}

#[test]
fn the_last_window_counts_by_its_share() {
    let Some(redis) = Redis::start() else { return };
    let config = with(json!({"count": 4, "time_window": 60, "window_type": "sliding"}), &single(&redis));
    let [a, b] = gateways("limit-count", &config);
    for _ in 0..4 {
        assert_eq!(ask(&a).0, 0);
    }
    assert_eq!(ask(&a).0, 503);
    // Half a window later half of them count.
    let now = a.env.clock.millis();
    let halfway = now - now % 60_000 + 90_000 - now;
    for gateway in [&a, &b] {
        gateway.env.clock.advance(Duration::from_millis(halfway));
    }
    assert_eq!([ask(&a).0, ask(&b).0, ask(&a).0], [0, 0, 503]);
}

#[test]
fn rules_use_one_client() {
    let Some(redis) = Redis::start() else { return };
    let rules = json!([
        {"count": 5, "time_window": 60, "key": "$remote_addr", "header_prefix": "a"},
        {"count": 1, "time_window": 60, "key": "$request_method", "header_prefix": "b"},
        {"count": 1, "time_window": 60, "key": "$http_none"},
    ]);
    let [a, b] = gateways("limit-count", &with(json!({"rules": rules}), &single(&redis)));
    let mut cx = get();
    assert_eq!(a.request(&mut cx), None);
    cx.apply_early_headers();
    assert_eq!(cx.response.headers.get_str("X-a-RateLimit-Remaining"), Some("4"));
    assert_eq!(cx.response.headers.get_str("X-b-RateLimit-Remaining"), Some("0"));
    assert_eq!(b.request(&mut get()).unwrap().status, 503);
}

#[test]
fn tls_and_passwords() {
    let authority = Authority::new("redis").unwrap();
    let Some(redis) = Redis::with_tls(&authority, &["127.0.0.1"]) else { return };
    let config = with(json!({"count": 2, "time_window": 60}), &single(&redis));
    let tls = with(config, &json!({"redis_ssl": true, "redis_ssl_verify": true}));
    assert_eq!(ask(&gateway("limit-count", &tls, Env::for_tests())).0, 500);
    let mut env = Env::for_tests();
    env.trusted_certificates = Some(authority.pem().into());
    assert_eq!(ask(&gateway("limit-count", &tls, env)), (0, "2 1".into()));
    let Some(redis) = Redis::with(&["--requirepass", "secret"]) else { return };
    let config = with(json!({"count": 2, "time_window": 60}), &single(&redis));
    assert_eq!(ask(&gateway("limit-count", &config, Env::for_tests())).0, 500);
    counts_to_two(&with(config, &json!({"redis_password": "secret", "redis_database": 1})));
}

#[test]
fn clusters_and_sentinels() {
    let Some(nodes) = Redis::cluster() else { return };
    let addresses: Vec<_> = nodes.iter().map(Redis::address).collect();
    let cluster = json!({"policy": "redis-cluster", "redis_cluster_nodes": addresses, "redis_cluster_name": "c"});
    counts_to_two(&with(json!({"count": 2, "time_window": 60}), &cluster));
    counts_to_two(&with(json!({"count": 2, "time_window": 60, "window_type": "sliding", "key": "uri"}), &cluster));
    let [a, b] = gateways("limit-req", &with(json!({"rate": 0.01, "burst": 0, "key": "remote_addr"}), &cluster));
    assert_eq!([ask(&a).0, ask(&b).0], [0, 503]);
    let conn = json!({"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"});
    let [a, b] = gateways("limit-conn", &with(conn, &cluster));
    let mut held = get();
    assert_eq!(a.request(&mut held), None);
    assert_eq!(ask(&b).0, 503);

    let Some(master) = Redis::start() else { return };
    let sentinel = master.sentinel().unwrap();
    let fields = json!({"policy": "redis-sentinel", "redis_sentinels": [{"host": "127.0.0.1", "port": sentinel.port}],
        "redis_master_name": "mymaster"});
    counts_to_two(&with(json!({"count": 2, "time_window": 60}), &fields));
}

#[test]
fn buckets_are_shared() {
    let Some(redis) = Redis::start() else { return };
    let config = with(json!({"rate": 2, "burst": 1, "key": "remote_addr", "rejected_code": 429}), &single(&redis));
    let [a, b] = gateways("limit-req", &config);
    let begin = a.env.clock.millis();
    assert_eq!(ask(&a).0, 0);
    assert_eq!(a.env.clock.millis(), begin);
    // One above the rate waits half a second, by the clock of its own gateway; what comes at the same time is refused.
    assert_eq!(ask(&b).0, 0);
    assert_eq!(b.env.clock.millis(), begin + 500);
    assert_eq!(ask(&a).0, 429);
    a.env.clock.advance(Duration::from_millis(1000));
    assert_eq!(ask(&a).0, 0);
    let key = redis.ask(&["KEYS", "limit_req:routes/1:*"]);
    assert_eq!(redis.ask(&["HGET", &key, "last"]), (begin + 1000).to_string());
}

#[test]
fn requests_under_way_are_shared_and_signed_off() {
    let Some(redis) = Redis::start() else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = json!({"conn": 1, "burst": 1, "default_conn_delay": 0.1, "key": "remote_addr", "key_ttl": 100});
    let config = with(config, &single(&redis));
    let make = || gateway("limit-conn", &config, Env::for_tests().with_control(runtime.handle().clone()));
    let [a, b] = [make(), make()];
    let (mut one, mut two) = (get(), get());
    let begin = b.env.clock.millis();
    assert_eq!(a.request(&mut one), None);
    assert_eq!(b.request(&mut two), None);
    assert_eq!(b.env.clock.millis(), begin + 100, "the second waits");
    assert_eq!(a.request(&mut get()).unwrap().status, 503);
    let key = redis.ask(&["KEYS", "limit_conn:routes/1:*"]);
    assert_eq!(redis.ask(&["ZCARD", &key]), "2");
    // One ends by its log phase, the other is abandoned.
    a.log(&mut one);
    drop(two);
    redis.wait_for("both to be signed off", |redis| redis.ask(&["ZCARD", &key]) == "0");
    assert_eq!(a.request(&mut get()), None);
    // What nobody signs off is given up after `key_ttl`.
    redis.ask(&["ZADD", &key, &(a.env.clock.seconds() + 100).to_string(), "lost", "9999999999", "lost too"]);
    assert_eq!(a.request(&mut get()).unwrap().status, 503);
    redis.ask(&["ZREM", &key, "lost too"]);
    a.env.clock.advance(Duration::from_secs(101));
    assert_eq!(a.request(&mut get()), None);
}

#[test]
fn a_redis_that_is_away_is_known_to_be() {
    let Some(mut redis) = Redis::start() else { return };
    let limits = [
        ("limit-count", json!({"count": 1000, "time_window": 60})),
        ("limit-req", json!({"rate": 1000, "burst": 1000, "key": "remote_addr", "nodelay": true})),
        ("limit-conn", json!({"conn": 1000, "burst": 0, "default_conn_delay": 1, "key": "remote_addr"})),
    ];
    let strict = limits.clone().map(|(name, config)| gateway(name, &with(config, &single(&redis)), Env::for_tests()));
    let lenient = limits.map(|(name, config)| {
        let config = with(config, &json!({"allow_degradation": true}));
        gateway(name, &with(config, &single(&redis)), Env::for_tests())
    });
    let all = |gateways: &[Harness]| gateways.iter().map(|gateway| ask(gateway).0).collect::<Vec<_>>();
    assert_eq!(all(&strict), [0, 0, 0]);
    redis.kill();
    assert_eq!(all(&strict), [500, 500, 500]);
    assert_eq!(all(&lenient), [0, 0, 0]);
    let refused = strict.first().unwrap().phase(Phase::Access, &mut get());
    assert_eq!(refused, Some(Reply::error_msg(500, "failed to limit count")));
    redis.restart();
    let until = Instant::now() + Duration::from_secs(10);
    while all(&strict) != [0, 0, 0] {
        assert!(Instant::now() < until, "not found again");
    }
}

#[test]
fn counts_are_told_later() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for window in ["fixed", "sliding"] {
        let Some(redis) = Redis::start() else { return };
        let config = json!({"count": 5, "time_window": 3600, "sync_interval": 0.1, "window_type": window});
        let config = with(config, &single(&redis));
        let make = || gateway("limit-count", &config, Env::for_tests().with_control(runtime.handle().clone()));
        let [a, b] = [make(), make()];
        assert_eq!([ask(&a), ask(&a)], [(0, "5 4".into()), (0, "5 3".into())]);
        let told = |n: &str| redis.wait_for(n, |redis| redis.ask(&["GET", &redis.ask(&["KEYS", "*"])]) == n);
        told("2");
        assert_eq!(ask(&b), (0, "5 2".into()));
        told("3");
        // What others took is learned with the next interval; nobody is refused before, and nothing is lost after.
        assert_eq!([ask(&a).0, ask(&a).0], [0, 0]);
        told("5");
        redis.wait_for("the second gateway to learn it", |_| ask(&b).0 == 503);
    }
    let Some(mut redis) = Redis::start() else { return };
    // Away: each gateway counts for itself.
    let config = with(json!({"count": 2, "time_window": 3600, "sync_interval": 0.1}), &single(&redis));
    redis.kill();
    let [a, b] = gateways("limit-count", &config);
    for gateway in [&a, &b] {
        assert_eq!([ask(gateway).0, ask(gateway).0, ask(gateway).0], [0, 0, 503]);
    }
}
