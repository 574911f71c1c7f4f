//! Which node answers, seen by clients: nodes that are slow, new, full or far away, and clients that come back.

use crate::start::{binary, gateway};
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Behaviour, ConfigDir, Gateway, Upstream, Wire};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Nodes that say their names.
fn nodes(count: usize) -> Vec<Upstream> {
    let named = NAMES.iter().take(count).map(|name| {
        let node = Upstream::start().unwrap();
        node.otherwise(Behaviour::answer(200, *name));
        node
    });
    named.collect()
}

fn listed(nodes: &[Upstream], metadata: impl Fn(usize) -> Value) -> Value {
    let one = |(index, node): (usize, &Upstream)| json!({"host": "127.0.0.1", "port": node.port(), "weight": 1, "metadata": metadata(index)});
    nodes.iter().enumerate().map(one).collect()
}

fn route(upstream: &Value) -> Value {
    json!({"routes": [{"id": "1", "uri": "/*", "upstream": upstream}]})
}

fn names(wire: &mut Wire, count: usize) -> Vec<String> {
    (0..count).map(|_| wire.get("/x").unwrap().text()).collect()
}

/// Latencies of so many requests from several clients at once, sorted.
fn latencies(gateway: &Gateway, clients: usize, each: usize) -> Vec<Duration> {
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut wire = gateway.connect().unwrap();
                for _ in 0..each {
                    let begun = Instant::now();
                    assert_eq!(wire.get("/x").unwrap().status, 200);
                    all.lock().unwrap().push(begun.elapsed());
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap();
    all.sort_unstable();
    all
}

fn delayed(ms: u64) -> Behaviour {
    Behaviour::Delay(Duration::from_millis(ms), Box::new(Behaviour::answer(200, "x")))
}

#[test]
fn a_slow_node_of_five_hardly_gets_requests() {
    for kind in ["p2c", "adaptive"] {
        let nodes = nodes(5);
        nodes.iter().for_each(|node| {
            node.otherwise(delayed(10));
        });
        let gateway = gateway(&Value::Null, &route(&json!({"type": kind, "nodes": listed(&nodes, |_| json!({}))})));
        let healthy = latencies(&gateway, 4, 80);
        nodes[2].otherwise(delayed(200));
        let before = nodes[2].requests();
        let slow = latencies(&gateway, 4, 300);
        let to_it = nodes[2].requests() - before;
        // what is under way when it turns slow is lost, and hardly anything after
        assert!(to_it <= 11, "{kind}: {to_it} of 1200");
        let p99 = |all: &[Duration]| all[all.len() * 99 / 100];
        eprintln!("{kind}: {to_it} requests, p99 {:?} after {:?}", p99(&slow), p99(&healthy));
        // a busy machine has outliers of its own; 200 ms would be the slow node
        let bound = 2 * p99(&healthy).max(Duration::from_millis(40));
        assert!(p99(&slow) <= bound, "{kind}: {:?} {:?}", p99(&slow), p99(&healthy));
    }
}

#[test]
fn a_cookie_brings_a_client_back_until_its_node_is_gone() {
    let nodes = nodes(3);
    let checks = json!({"active": {"http_path": "/status", "healthy": {"interval": 1, "successes": 1},
        "unhealthy": {"interval": 1, "http_failures": 1}}});
    let sticky = json!({"cookie": "node", "path": "/", "ttl": 3600, "same_site": "lax"});
    let upstream =
        json!({"type": "roundrobin", "nodes": listed(&nodes, |_| json!({})), "sticky": sticky, "checks": checks});
    let gateway = gateway(&Value::Null, &route(&upstream));
    let mut wire = gateway.connect().unwrap();
    let first = wire.get("/x").unwrap();
    let set = first.header("set-cookie").unwrap().to_owned();
    assert!(set.starts_with("node=") && set.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"), "{set}");
    let cookie = set.split(';').next().unwrap().to_owned();
    assert!(!nodes.iter().any(|node| cookie.contains(&node.port().to_string())), "{cookie}");
    let mut ask = |cookie: &str| {
        let request = format!("GET /x HTTP/1.1\r\nHost: h\r\nCookie: a=b; {cookie}\r\n\r\n");
        let answer = wire.request(request).unwrap();
        (answer.text(), answer.header("set-cookie").map(|set| set.split(';').next().unwrap().to_owned()))
    };
    for _ in 0..10 {
        assert_eq!(ask(&cookie), (first.text(), None));
    }
    // a value that is none of ours is replaced
    assert!(ask("node=10.0.0.1:80").1.is_some());
    let gone = NAMES.iter().position(|name| *name == first.text()).unwrap();
    nodes[gone].on("/status", Behaviour::answer(500, "ill"));
    let until = Instant::now() + Duration::from_secs(20);
    let moved = loop {
        let (name, set) = ask(&cookie);
        if name != first.text() {
            break set.unwrap();
        }
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_ne!(moved, cookie);
    assert_eq!(ask(&moved).1, None);
}

#[test]
fn a_retry_moves_the_cookie_too() {
    let alive = nodes(1);
    let dead = free_port();
    let list = json!({format!("127.0.0.1:{dead}"): 1, alive[0].addr().to_string(): 1});
    let gateway = gateway(&Value::Null, &route(&json!({"type": "roundrobin", "nodes": list, "sticky": {}})));
    let mut wire = gateway.connect().unwrap();
    let cookies: Vec<_> = (0..4).map(|_| wire.get("/x").unwrap().header_all("set-cookie").join("|")).collect();
    assert!(cookies.iter().all(|cookie| *cookie == cookies[0] && cookie.starts_with("sluice-")), "{cookies:?}");
}

#[test]
fn the_own_zone_comes_first() {
    let nodes = nodes(3);
    let zones = listed(&nodes, |index| json!({"zone": if index == 0 { "east" } else { "west" }}));
    let upstream = json!({"type": "roundrobin", "nodes": zones, "zone_preference": {}});
    let own = gateway(&json!({"sluice": {"zone": "east"}}), &route(&upstream));
    assert_eq!(names(&mut own.connect().unwrap(), 20), ["a"; 20]);
    // the environment's zone stands where config.yaml has none
    let dir = ConfigDir::new(&Value::Null, &route(&upstream)).unwrap();
    let west = Gateway::start_with(binary(), dir, &[("SLUICE_ZONE", "west")]).unwrap();
    let seen = names(&mut west.connect().unwrap(), 20);
    assert!(
        seen.iter().all(|name| name != "a") && seen.contains(&"b".into()) && seen.contains(&"c".into()),
        "{seen:?}"
    );
    let none = gateway(&Value::Null, &route(&upstream));
    assert!(names(&mut none.connect().unwrap(), 30).contains(&"a".into()));
}

#[test]
fn a_node_that_says_it_is_full_is_spared() {
    let nodes = nodes(2);
    let report = |name: &str, load: &str| Behaviour::with_headers(200, &[("endpoint-load-metrics", load)], name);
    nodes[0].otherwise(report("a", "TEXT cpu_utilization=0.95"));
    nodes[1].otherwise(report("b", r#"JSON {"cpu_utilization": 0.05}"#));
    let list = listed(&nodes, |_| json!({}));
    // the client need not see it
    let hide = json!({"response-rewrite": {"headers": {"remove": ["endpoint-load-metrics"]}}});
    let mut routes = route(&json!({"type": "adaptive", "nodes": list, "load_report": {}}));
    routes["routes"][0]["plugins"] = hide;
    let gateway = gateway(&Value::Null, &routes);
    let mut wire = gateway.connect().unwrap();
    names(&mut wire, 20);
    let full = names(&mut wire, 300).iter().filter(|name| *name == "a").count();
    assert!(full < 40, "{full}");
    assert_eq!(wire.get("/x").unwrap().header("endpoint-load-metrics"), None);
    let control = Wire::connect(("127.0.0.1", gateway.dir().control_port)).unwrap().get("/v1/route/1?include=status");
    let nodes = control.unwrap().json()["status"]["nodes"].clone();
    let loads: Vec<_> = nodes.as_array().unwrap().iter().map(|node| node["load"].as_f64()).collect();
    assert_eq!(loads, [Some(0.95), Some(0.05)], "{nodes}");
}

#[test]
fn a_new_node_starts_slowly() {
    let nodes = nodes(2);
    let of = |nodes: &[Upstream]| {
        route(&json!({"type": "roundrobin", "nodes": listed(nodes, |_| json!({})),
            "slow_start": {"window": 600, "min_weight_percent": 10, "aggression": 10}}))
    };
    // so aggressive that the first node is at half its weight within a second, and looked at again after six
    let gateway = gateway(&Value::Null, &of(&nodes[..1]));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(700) {
        assert_eq!(names(&mut gateway.connect().unwrap(), 3), ["a"; 3]);
    }
    gateway.dir().write_resources(&of(&nodes)).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while nodes[1].requests() == 0 {
        assert!(Instant::now() < until, "{}", gateway.log_text());
        names(&mut gateway.connect().unwrap(), 1);
    }
    let new = names(&mut gateway.connect().unwrap(), 200).iter().filter(|name| *name == "b").count();
    assert!((20..60).contains(&new), "a sixth of 200, not half: {new}");
}

#[test]
fn hash_keys_by_other_names() {
    let nodes = nodes(4);
    for (hash_on, key, request) in [
        ("query_arg", Some("user"), "GET /x?user=7&z={} HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("uri", None, "GET /x?z={} HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("client_ip", None, "GET /{} HTTP/1.1\r\nHost: h\r\n\r\n"),
    ] {
        let mut upstream = json!({"type": "chash", "hash_on": hash_on, "nodes": listed(&nodes, |_| json!({}))});
        if let Some(key) = key {
            upstream["key"] = key.into();
        }
        let gateway = gateway(&Value::Null, &route(&upstream));
        let mut wire = gateway.connect().unwrap();
        let mut ask = |z: usize| wire.request(request.replace("{}", &z.to_string())).unwrap().text();
        let first = ask(0);
        assert!((1..20).all(|z| ask(z) == first), "{hash_on}");
    }
}

#[test]
fn metadata_is_a_variable_and_status_is_shown() {
    let nodes = nodes(1);
    let port = free_port();
    let admin = json!({"admin_listen": {"ip": "127.0.0.1", "port": port},
        "admin_key": [{"name": "admin", "key": "edd1c9f034335f136f87ad84b625c8f1", "role": "admin"}]});
    let deployment = json!({"role": "traditional", "role_traditional": {"config_provider": "etcd"}, "admin": admin});
    let gateway = gateway(&json!({"deployment": deployment}), &json!({}));
    let mut wire = loop {
        if let Ok(wire) = Wire::connect(("127.0.0.1", port)) {
            break wire;
        }
    };
    let mut ask = |method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = "Host: a\r\nX-API-KEY: edd1c9f034335f136f87ad84b625c8f1\r\n";
        let length = body.len();
        wire.request(format!("{method} /apisix/admin{path} HTTP/1.1\r\n{head}Content-Length: {length}\r\n\r\n{body}"))
            .unwrap()
    };
    let upstream = json!({"type": "p2c", "nodes": listed(&nodes, |_| json!({"zone": "east", "cores": 8}))});
    assert_eq!(ask("PUT", "/upstreams/1", upstream).status, 201);
    let tell = json!({"response-rewrite": {"headers": {"set":
        {"x-node": "$upstream_node_metadata_zone-$upstream_node_metadata_cores-$upstream_node_metadata_none"}}}});
    let body = json!({"uri": "/*", "upstream_id": 1, "plugins": tell});
    assert_eq!(ask("PUT", "/routes/1?wait=true", body).status, 201);
    assert_eq!(gateway.connect().unwrap().get("/x").unwrap().header("x-node"), Some("east-8-"));
    for path in ["/upstreams/1?include=status", "/routes/1?include=status"] {
        // the answer is with the client before the gateway has counted it
        let until = Instant::now() + Duration::from_secs(10);
        let shown = loop {
            let shown = ask("GET", path, Value::Null).json();
            if shown["status"]["nodes"][0]["active"] == 0 || Instant::now() > until {
                break shown;
            }
        };
        let node = &shown["status"]["nodes"][0];
        assert_eq!((&node["port"], &node["status"]), (&json!(nodes[0].port()), &json!("unchecked")), "{shown}");
        assert!(
            node["latency_ms"].as_f64().is_some_and(|ms| ms > 0.0) && node["metadata"]["zone"] == "east",
            "{shown}"
        );
        assert_eq!(node["active"], 0);
    }
    assert_eq!(ask("GET", "/upstreams/1", Value::Null).json().get("status"), None);
    let list = ask("GET", "/upstreams?include=status", Value::Null).json();
    assert_eq!(list["list"][0]["status"]["nodes"][0]["weight"], 1, "{list}");
    let wrong = ask("PUT", "/upstreams/2", json!({"nodes": {"127.0.0.1:1": 1}, "load_report": {}}));
    assert_eq!(wrong.json()["error_msg"], "load_report needs type adaptive, but type is roundrobin");
}
