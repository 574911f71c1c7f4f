//! `proxy-cache` in a whole gateway: one fetch for many, stores that are killed and come back, kill -9 while files are written,
//! stale answers, bounded memory, purging by the Admin API.

use crate::start::{binary, gateway};
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Behaviour, ConfigDir, Gateway, Memcached, Redis, Upstream, Wire};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

/// Everything through one zone.
fn cached(upstream: &Upstream, plugin: Value) -> Value {
    json!({"routes": [{"id": "1", "uri": "/*", "plugins": {"proxy-cache": plugin},
        "upstream": {"type": "roundrobin", "retries": 0, "timeout": {"connect": 2, "send": 5, "read": 5},
            "nodes": {upstream.addr().to_string(): 1}}}]})
}

fn zone(zone: Value) -> Value {
    json!({"apisix": {"proxy_cache": {"zones": [zone]}}})
}

fn memory(size: &str) -> Value {
    zone(json!({"name": "z", "memory_size": size}))
}

fn status(wire: &mut Wire, target: &str) -> String {
    let answer = wire.get(target).unwrap();
    assert_eq!(answer.status, 200, "{target}");
    answer.header("apisix-cache-status").unwrap_or("none").to_owned()
}

/// Asks until the cache says so.
fn wait_for(gateway: &Gateway, target: &str, wanted: &str) {
    let until = Instant::now() + LIMIT;
    let mut wire = gateway.connect().unwrap();
    loop {
        let now = status(&mut wire, target);
        if now == wanted {
            return;
        }
        assert!(Instant::now() < until, "{target} is {now}, not {wanted}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_hundred_misses_are_one_fetch() {
    let upstream = Upstream::start().unwrap();
    let slow = Behaviour::Delay(Duration::from_millis(300), Box::new(Behaviour::answer(200, "once")));
    upstream.otherwise(slow);
    let mut settings = memory("8m");
    settings["nginx_config"] = json!({"worker_processes": 2});
    let gateway = gateway(&settings, &cached(&upstream, json!({"cache_strategy": "memory", "cache_zone": "z"})));
    let statuses: Vec<String> = std::thread::scope(|scope| {
        let ask = || {
            let mut wire = gateway.connect().unwrap();
            let answer = wire.get("/x").unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "once"));
            answer.header("apisix-cache-status").unwrap().to_owned()
        };
        let threads: Vec<_> = (0..100).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(upstream.requests(), 1);
    assert_eq!(statuses.iter().filter(|status| *status == "MISS").count(), 1);
    // What must not be stored holds nobody up for long: all who wait go on as soon as that is known.
    let private = Behaviour::with_headers(200, &[("Cache-Control", "private")], "own");
    upstream.on("/own", Behaviour::Delay(Duration::from_millis(100), Box::new(private)));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        (0..10).for_each(|_| {
            scope.spawn(|| assert_eq!(status(&mut gateway.connect().unwrap(), "/own"), "MISS"));
        });
    });
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn redis_and_memcached_may_go_and_come_back() {
    let (Some(mut redis), Some(mut memcached)) = (Redis::start(), Memcached::start()) else { return };
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::answer(200, "hello"));
    let redis_zone = zone(json!({"name": "z", "redis": {"host": "127.0.0.1", "port": redis.port, "timeout": 300}}));
    let memcached_zone = zone(json!({"name": "z", "memcached": {"servers": [memcached.address()], "timeout": 300}}));
    for (strategy, settings) in [("redis", redis_zone), ("memcached", memcached_zone)] {
        let resources = cached(&upstream, json!({"cache_strategy": strategy, "cache_zone": "z"}));
        let gateways = [(); 2].map(|()| gateway(&settings, &resources));
        let mut wire = gateways[0].connect().unwrap();
        assert_eq!(status(&mut wire, "/x"), "MISS", "{strategy}");
        // The other gateway has it too.
        wait_for(&gateways[1], "/x", "HIT");
        assert_eq!(status(&mut wire, "/x"), "HIT", "{strategy}");
        match strategy {
            "redis" => redis.kill(),
            _ => memcached.kill(),
        }
        for _ in 0..20 {
            assert_eq!(status(&mut wire, "/x"), "MISS", "{strategy}");
        }
        match strategy {
            "redis" => redis.restart(),
            _ => memcached.restart(),
        }
        wait_for(&gateways[0], "/x", "HIT");
        wait_for(&gateways[1], "/x", "HIT");
    }
}

/// The body that belongs to a path: no other one may ever be seen for it.
fn body_of(n: usize) -> String {
    format!("{n} ").repeat(20_000 + n * 3000)
}

#[test]
fn kill_while_files_are_written_never_shows() {
    let upstream = Upstream::start().unwrap();
    for n in 0..20 {
        upstream.on(&format!("/{n}"), Behaviour::answer(200, body_of(n)));
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = json!({"name": "z", "disk_path": folder.path(), "disk_size": "64m", "cache_levels": "1:2", "memory_size": "1m"});
    let mut settings = zone(disk);
    settings["apisix"]["proxy_cache"]["cache_ttl"] = json!("1h");
    let resources = cached(&upstream, json!({"cache_strategy": "disk", "cache_zone": "z"}));
    let ask = |gateway: &Gateway, n: usize| {
        let Ok(answer) = gateway.connect().and_then(|mut wire| wire.get(&format!("/{n}"))) else { return None };
        assert_eq!(answer.status, 200);
        assert!(answer.text() == body_of(n), "/{n}: {} bytes that are not its own", answer.body.len());
        answer.header("apisix-cache-status").map(str::to_owned)
    };
    let mut hits = 0;
    for round in 0..5 {
        let mut gateway = Gateway::start(binary(), ConfigDir::new(&settings, &resources).unwrap()).unwrap();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|part| {
                    let (gateway, ask) = (&gateway, &ask);
                    scope.spawn(move || {
                        (0..20).filter(|n| n % 4 == part).filter_map(|n| ask(gateway, n)).collect::<Vec<_>>()
                    })
                })
                .collect();
            if round < 3 {
                std::thread::sleep(Duration::from_millis(30 * (round + 1)));
                gateway.signal(rustix::process::Signal::KILL).unwrap();
            }
            // Once all may come to the disk before the kill.
            if round == 3 {
                (0..20).for_each(|n| wait_for(&gateway, &format!("/{n}"), "HIT"));
                gateway.signal(rustix::process::Signal::KILL).unwrap();
            }
            let statuses = threads.into_iter().flat_map(|thread| thread.join().unwrap());
            hits += statuses.filter(|status| status == "HIT").count();
        });
        if round < 4 {
            gateway.wait(LIMIT).unwrap();
        }
    }
    assert!(hits >= 20, "{hits} found again after a kill");
}

#[test]
fn stale_answers_stand_in_and_are_replaced_in_the_background() {
    let upstream = Upstream::start().unwrap();
    let of =
        |body: &str| Behaviour::with_headers(200, &[("Cache-Control", "max-age=1, stale-while-revalidate=60")], body);
    upstream.on("/swr", Behaviour::Sequence(vec![of("one"), of("two")]));
    let stale = Behaviour::with_headers(200, &[("Cache-Control", "max-age=0"), ("ETag", "\"1\"")], "kept");
    upstream.on("/error", Behaviour::Sequence(vec![stale, Behaviour::answer(503, "broken"), Behaviour::Close]));
    upstream.on("/never", Behaviour::Close);
    let plugin = json!({"cache_strategy": "memory", "cache_zone": "z", "cache_control": true, "stale_if_error": 60});
    let gateway = gateway(&memory("8m"), &cached(&upstream, plugin));
    let mut wire = gateway.connect().unwrap();
    assert_eq!(status(&mut wire, "/swr"), "MISS");
    let until = Instant::now() + LIMIT;
    let mut seen = Vec::new();
    loop {
        let answer = wire.get("/swr").unwrap();
        let status = answer.header("apisix-cache-status").unwrap().to_owned();
        assert!(["HIT", "STALE", "UPDATING"].contains(&status.as_str()), "the client waited: {status}");
        seen.push(status);
        if answer.text() == "two" {
            break;
        }
        assert!(Instant::now() < until, "{seen:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(seen.iter().any(|status| status == "STALE") && upstream.requests() == 2, "{seen:?}");

    assert_eq!(status(&mut wire, "/error"), "MISS");
    let answer = wire.get("/error").unwrap();
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.header("apisix-cache-status")),
        (200, "kept", Some("STALE"))
    );
    // A validator was sent along.
    assert_eq!(upstream.seen().last().unwrap().header("if-none-match"), Some("\"1\""));
    let answer = gateway.connect().unwrap().get("/error").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "kept"));
    assert_eq!(gateway.connect().unwrap().get("/never").unwrap().status, 502);
}

#[test]
fn memory_stays_bounded() {
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::answer(200, vec![b'x'; 100_000]));
    let gateway = gateway(&memory("8m"), &cached(&upstream, json!({"cache_strategy": "memory", "cache_zone": "z"})));
    let ask = |from: usize, to: usize| {
        // A connection serves a thousand requests.
        let mut wire = gateway.connect().unwrap();
        (from..to).for_each(|n| drop(status(&mut wire, &format!("/{n}"))));
    };
    ask(0, 200);
    let before = gateway.resident_kib().unwrap();
    ask(200, 700);
    ask(700, 1200);
    let after = gateway.resident_kib().unwrap();
    assert!(after < before + 30_000, "{before} KiB, then {after} KiB after 100 MB of answers");
}

#[test]
fn the_admin_api_purges_by_key_prefix_and_tag() {
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::with_headers(200, &[("Cache-Tag", "all, shop")], "a"));
    upstream.on("/vary", Behaviour::with_headers(200, &[("Vary", "Accept")], "a"));
    let port = free_port();
    let admin = json!({"admin_listen": {"ip": "127.0.0.1", "port": port}, "admin_key_required": false});
    let mut settings = memory("8m");
    settings["deployment"] =
        json!({"role": "traditional", "role_traditional": {"config_provider": "etcd"}, "admin": admin});
    let gateway = gateway(&settings, &json!({}));
    let until = Instant::now() + LIMIT;
    let mut admin = loop {
        match Wire::connect(("127.0.0.1", port)) {
            Ok(wire) => break wire,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::yield_now();
    };
    let mut ask = |method: &str, path: &str, body: &str| {
        let head =
            format!("{method} /apisix/admin{path} HTTP/1.1\r\nHost: admin\r\nContent-Length: {}\r\n\r\n", body.len());
        admin.request(format!("{head}{body}")).unwrap()
    };
    let resources = cached(&upstream, json!({"cache_strategy": "memory", "cache_zone": "z"}));
    assert_eq!(ask("PUT", "/routes/1?wait=true", &resources["routes"][0].to_string()).status, 201);
    let mut wire = gateway.connect().unwrap();
    let mut fill = || {
        for target in ["/a", "/b", "/c/1", "/c/2"] {
            status(&mut wire, target);
            assert_eq!(status(&mut wire, target), "HIT", "{target}");
        }
    };
    fill();
    for (query, count) in [("?prefix=localhost/c/", 2), ("?key=localhost/a", 1), ("?tag=shop", 1), ("", 0)] {
        let answer = ask("DELETE", &format!("/cache/z{query}"), "");
        assert_eq!((answer.status, &answer.json()["purged"]), (200, &json!(count)), "{query}");
    }
    fill();
    let list = ask("GET", "/cache", "").json();
    assert_eq!((&list["total"], &list["list"][0]["entries"]), (&json!(1), &json!(4)));
    assert_eq!(
        (ask("DELETE", "/cache/z", "").json()["purged"].clone(), ask("DELETE", "/cache/none", "").status),
        (json!(4), 404)
    );
    assert_eq!(ask("DELETE", "/cache/z?tags=a", "").status, 400);
    // A purge of a resource reaches all its variants.
    let mut accept = |kind: &str| {
        let request = format!("GET /vary HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {kind}\r\n\r\n");
        wire.request(request).unwrap().header("apisix-cache-status").unwrap().to_owned()
    };
    assert_eq!([accept("x"), accept("y"), accept("x"), accept("y")], ["MISS", "MISS", "HIT", "HIT"]);
    ask("DELETE", "/cache/z?key=127.0.0.1/vary", "");
    assert_eq!([accept("x"), accept("y")], ["MISS", "MISS"]);
}
