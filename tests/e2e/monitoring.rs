//! Dashboards and alert rules of `deploy/monitoring`, before a real Prometheus that scrapes two gateways under a little
//! traffic with failing nodes: every panel's and every rule's expression gives data, and every metric is documented.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Authority, Behaviour, Gateway, NameServer, Prometheus, Record, Upstream, Wire};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(25);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring")
}

/// Every expression of a dashboard's panels, with the panel's name.
fn panels() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(folder().join("dashboards")).unwrap() {
        let path = file.unwrap().path();
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let title = panel["title"].as_str().unwrap();
                found.push((format!("{name}: {title}"), target["expr"].as_str().unwrap().to_owned()));
            }
        }
    }
    assert!(found.len() > 100, "{} panels", found.len());
    found
}

/// Every alert rule's expression, without its comparison.
fn rules() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(folder().join("alerts/sluice.yaml")).unwrap();
    let mut found: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            found.push((name.to_owned(), String::new()));
        } else if let Some(expression) = line.trim().strip_prefix("expr: '").and_then(|e| e.strip_suffix('\'')) {
            let (graph, comparison) = expression.rsplit_once([' ']).unwrap();
            assert!(comparison.parse::<f64>().is_ok(), "{expression} does not end in a comparison");
            let graph = graph.strip_suffix(['<', '>']).unwrap_or_else(|| panic!("{expression}: < or > wanted"));
            found.last_mut().unwrap().1 = graph.to_owned();
        }
    }
    assert!(found.len() > 20 && found.iter().all(|(_, expression)| !expression.is_empty()), "{found:?}");
    found
}

/// What Grafana would send.
fn filled_in(expression: &str) -> String {
    let mut text = expression.replace("$__rate_interval", "6s");
    for variable in ["$instance", "$route", "$service", "$consumer"] {
        text = text.replace(variable, ".*");
    }
    text
}

fn nodes(addresses: &[String]) -> serde_json::Map<String, Value> {
    addresses.iter().map(|a| (a.clone(), json!(1))).collect()
}

/// A gateway that uses everything that has metrics.
fn busy(good: &Upstream, bad: &Upstream, sink: &Upstream, names: &NameServer, stream: SocketAddr) -> Gateway {
    let settings = json!({
        "apisix": {
            "proxy_mode": "http&stream",
            "stream_proxy": {"tcp": [{"addr": stream.to_string()}]},
            "dns_resolver": [names.addr().to_string()],
        },
        "discovery": {"dns": {"servers": [names.addr().to_string()]}},
        "nginx_config": {"http": {"enable_access_log": true, "access_log": "logs/access.log"}},
    });
    let (good, bad, sink) = (good.addr().to_string(), bad.addr().to_string(), format!("http://{}/", sink.addr()));
    let closed = format!("127.0.0.1:{}", free_port());
    let away = json!({
        "count": 5, "time_window": 60, "policy": "redis", "redis_host": "127.0.0.1", "allow_degradation": true,
        "redis_port": closed.rsplit(':').next().unwrap().parse::<u16>().unwrap(),
    });
    let waf = json!({
        "directives_map": {"default": ["SecRuleEngine On", "SecRule ARGS \"@contains attack\" \"id:1001,phase:1,deny,status:403,log\""]},
        "default_directives": "default",
    });
    let check =
        json!({"active": {"type": "tcp", "healthy": {"interval": 1}, "unhealthy": {"interval": 1, "tcp_failures": 1}}});
    let breaker = json!({"max_failures": 2, "unhealthy": {"interval": 1}, "healthy": {"successes": 1}});
    let own = |uri: &str, upstream: Value, plugins: Value| {
        let mut upstream = upstream;
        upstream["type"] = json!("roundrobin");
        json!({"id": uri.trim_start_matches('/'), "uri": uri, "plugins": plugins, "upstream": upstream})
    };
    let pair = Authority::new("test").unwrap().server(&["a.test"]).unwrap();
    let log = |plugin: Value| {
        let mut plugin = plugin;
        plugin["batch_max_size"] = json!(1);
        plugin
    };
    let resources = json!({
        "global_rules": [{"id": "1", "plugins": {"prometheus": {}}}],
        "consumers": [{"username": "anna", "plugins": {"key-auth": {"key": "secret"}}}],
        "services": [{"id": "orders", "upstream": {"type": "roundrobin", "nodes": nodes(std::slice::from_ref(&good))}}],
        "ssls": [{"id": "1", "snis": ["a.test"], "cert": pair.cert, "key": pair.key}],
        "routes": [
            {"id": "auth", "uri": "/auth", "service_id": "orders", "plugins": {"key-auth": {}}},
            own("/plugins", json!({"nodes": nodes(std::slice::from_ref(&good))}), json!({
                "coraza": waf,
                "limit-count": {"count": 5, "time_window": 1, "key": "remote_addr"},
                "limit-req": {"rate": 1000, "burst": 1000, "key": "remote_addr"},
                "limit-conn": {"conn": 100, "burst": 100, "default_conn_delay": 0.1, "key": "remote_addr"},
                "proxy-mirror": {"host": format!("http://{closed}")},
                "http-logger": log(json!({"uri": sink})),
                "tcp-logger": log(json!({"host": "127.0.0.1", "port": closed.rsplit(':').next().unwrap().parse::<u16>().unwrap()})),
                "file-logger": {"path": "logs/file.log"},
            })),
            own("/away", json!({"nodes": nodes(std::slice::from_ref(&good))}), json!({"limit-count": away})),
            own("/retried", json!({"nodes": nodes(&[good.clone(), closed.clone()]), "checks": check}), json!({})),
            own("/broken", json!({"nodes": nodes(std::slice::from_ref(&bad)), "circuit_breaker": breaker}), json!({})),
            own("/narrow", json!({"nodes": nodes(std::slice::from_ref(&good)), "concurrency_limit": {"limit": 1}}), json!({})),
            own("/named", json!({"nodes": {format!("node.test:{}", good.rsplit(':').next().unwrap()): 1}}), json!({})),
            own("/lost", json!({"nodes": {"nowhere.test:80": 1}}), json!({})),
            own("/found", json!({"service_name": "api.test", "discovery_type": "dns"}), json!({})),
            {"id": "wrong", "uri": "/wrong", "plugins": {"limit-count": {"count": -1}}},
        ],
        "stream_routes": [{"id": "tcp", "plugins": {"prometheus": {}}, "upstream": {"type": "roundrobin", "nodes": nodes(&[echo().to_string()])}}],
    });
    gateway(&settings, &resources)
}

/// A TCP server that sends back what it gets.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = socket.try_clone()?;
                std::io::copy(&mut reader, &mut socket)
            });
        }
    });
    addr
}

/// Requests of every kind until told to stop; one connection on the stream listener stays open.
fn traffic(gateways: [SocketAddr; 2], stream: SocketAddr, stop: &AtomicBool) {
    let mut kept = TcpStream::connect(stream).unwrap();
    let mut turn = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let mut wire = Wire::connect(gateways[0]).unwrap();
        for target in [
            "/plugins",
            "/plugins?q=attack",
            "/away",
            "/retried",
            "/broken",
            "/narrow",
            "/named",
            "/lost",
            "/found",
            "/404",
        ] {
            // A limit may close, a breaker may refuse: what is asked for is numbers.
            if wire.get(target).is_err() {
                wire = Wire::connect(gateways[0]).unwrap();
            }
        }
        let _ = wire.request("GET /auth HTTP/1.1\r\nHost: a\r\napikey: secret\r\n\r\n");
        let _ = Wire::connect(gateways[1]).and_then(|mut w| w.get("/"));
        turn += 1;
        kept.write_all(b"ping").unwrap();
        let mut back = [0; 4];
        kept.read_exact(&mut back).unwrap();
        if turn.is_multiple_of(5) {
            let mut short = TcpStream::connect(stream).unwrap();
            short.write_all(b"x").unwrap();
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// Expressions that give no data yet, with Prometheus' word where it has one.
fn without_data(prometheus: &Prometheus, expressions: &[(String, String)]) -> Vec<String> {
    let look = |(name, expression): &(String, String)| match prometheus.has_data(&filled_in(expression)) {
        Ok(true) => None,
        Ok(false) => Some(format!("{name}: {}", filled_in(expression))),
        Err(error) => Some(format!("{name}: {error}: {}", filled_in(expression))),
    };
    expressions.iter().filter_map(look).collect()
}

fn wait_for_data(prometheus: &Prometheus, expressions: &[(String, String)]) {
    let until = Instant::now() + LIMIT;
    loop {
        let missing = without_data(prometheus, expressions);
        if missing.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "no data:\n{}", missing.join("\n"));
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Names of the families that a gateway shows.
fn shown(gateway: &Gateway) -> BTreeSet<String> {
    let mut wire = Wire::connect(("127.0.0.1", gateway.dir().metrics_port)).unwrap();
    let text = wire.get("/apisix/prometheus/metrics").unwrap().text();
    text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn every_panel_and_every_rule_has_data_and_every_metric_is_documented() {
    let (good, bad, sink) = (Upstream::start().unwrap(), Upstream::start().unwrap(), Upstream::start().unwrap());
    bad.otherwise(Behaviour::answer(500, "no"));
    sink.otherwise(Behaviour::answer(503, "no"));
    let names = NameServer::start().unwrap();
    names.set("node.test", 1, &[Record::address("127.0.0.1")]);
    names.set("local.test", 60, &[Record::address("127.0.0.1")]);
    names.set("api.test", 1, &[Record::srv(0, 1, good.port(), "local.test")]);
    let stream = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let standalone = busy(&good, &bad, &sink, &names, stream);
    let admin = json!({"admin_listen": {"ip": "127.0.0.1", "port": free_port()}});
    let deployment = json!({"role": "traditional", "role_traditional": {"config_provider": "etcd"}, "admin": admin});
    let stored = gateway(&json!({"deployment": deployment}), &json!({}));
    let targets = [&standalone, &stored].map(|g| format!("127.0.0.1:{}", g.dir().metrics_port));
    let mut prometheus = Prometheus::start(&targets);
    let stop = AtomicBool::new(false);
    let (panels, rules) = (panels(), rules());
    std::thread::scope(|scope| {
        scope.spawn(|| traffic([standalone.addr(), stored.addr()], stream, &stop));
        let stopped = Stop(&stop);
        wait_for_data(&prometheus, &panels);
        // Whoever scrapes may go and come back: figures go on where they were.
        prometheus.kill();
        let before = standalone.connect().unwrap().get("/404").unwrap().status;
        assert_eq!(before, 404, "{}", standalone.log_text());
        prometheus.restart();
        wait_for_data(&prometheus, &rules);
        wait_for_data(&prometheus, &panels);
        let resets = prometheus.query("sum(resets(sluice_http_requests_total[2m]))").unwrap();
        assert_eq!(resets[0]["value"][1], "0", "no counter went back: {resets:?}");
        drop(stopped);
    });

    let documented =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/metrics.md")).unwrap();
    let all: BTreeSet<String> = shown(&standalone).union(&shown(&stored)).cloned().collect();
    let missing: Vec<&String> = all.iter().filter(|name| !documented.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not in docs/guide/metrics.md: {missing:?}");
    // And the other way round: what is shown is looked at somewhere.
    let seen: Vec<&str> = panels.iter().chain(&rules).map(|(_, expression)| expression.as_str()).collect();
    let unused: Vec<&String> = all
        .iter()
        .filter(|name| {
            !seen.iter().any(|e| e.contains(name.as_str()))
                && !["apisix_nginx_metric_errors_total"].contains(&name.as_str())
        })
        .collect();
    assert!(unused.is_empty(), "on no dashboard and in no rule: {unused:?}");
}

/// Ends the traffic also where an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_hold() {
    for arguments in [["check", "rules", "sluice.yaml"], ["test", "rules", "sluice_test.yaml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(folder().join("alerts")).output();
        let output = output.expect("promtool is missing (Debian: prometheus; `cargo xtask test` installs it)");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {}: {text}", arguments.join(" "));
    }
}

#[test]
fn dashboards_are_what_grafana_takes() {
    let mut uids = BTreeMap::new();
    for file in std::fs::read_dir(folder().join("dashboards")).unwrap() {
        let path = file.unwrap().path();
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let uid = dashboard["uid"].as_str().unwrap().to_owned();
        assert!(uids.insert(uid, path.clone()).is_none(), "{}: its uid is taken", path.display());
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<u64> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{}: ids are not unique", path.display());
        for panel in panels {
            let place = &panel["gridPos"];
            assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
            let plain = panel["type"] == "row" || !panel["targets"].as_array().unwrap().is_empty();
            assert!(plain && !panel["title"].as_str().unwrap().is_empty(), "{panel}");
        }
    }
    assert_eq!(uids.len(), 5);
}
