//! Loggers with real sinks: what arrives, what a sink that hangs or refuses costs, and what the end of the process leaves.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::{Authority, Behaviour, Gateway, KafkaBroker, Upstream};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(15);

/// A gateway whose route has these plugins, and `/metrics`.
fn logging(settings: Value, upstream: &Upstream, plugins: Value) -> Gateway {
    let nodes = json!({upstream.addr().to_string(): 1});
    let resources = json!({"routes": [
        {"id": "r", "uri": "/a", "plugins": plugins, "upstream": {"type": "roundrobin", "nodes": nodes}},
        {"id": "m", "uri": "/apisix/prometheus/metrics", "plugins": {"public-api": {}}},
    ]});
    let mut all = json!({"plugin_attr": {"prometheus": {"enable_export_server": false}}});
    if let (Some(all), Some(more)) = (all.as_object_mut(), settings.as_object()) {
        all.extend(more.clone());
    }
    gateway(&all, &resources)
}

fn get(gateway: &Gateway, count: usize) {
    let mut wire = gateway.connect().unwrap();
    for _ in 0..count {
        assert_eq!(wire.get("/a").unwrap().status, 200);
    }
}

/// `sluice_log_entries_total` of a plugin.
fn count(gateway: &Gateway, plugin: &str, result: &str) -> u64 {
    let text = gateway.connect().unwrap().get("/apisix/prometheus/metrics").unwrap().text();
    let name = format!("sluice_log_entries_total{{plugin=\"{plugin}\",result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |n| n.parse::<f64>().unwrap() as u64)
}

fn wait_for_count(gateway: &Gateway, plugin: &str, result: &str, at_least: u64) {
    let end = Instant::now() + LIMIT;
    while count(gateway, plugin, result) < at_least {
        assert!(Instant::now() < end, "{plugin}: {result} stays below {at_least}: {}", gateway.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn one_at_once(mut plugin: Value) -> Value {
    plugin["batch_max_size"] = json!(1);
    plugin
}

#[test]
fn http_loki_and_elasticsearch_get_entries_in_their_forms() {
    let (upstream, sink) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    let version = json!({"version": {"number": "6.8.0"}}).to_string();
    sink.otherwise(Behaviour::answer(200, version)).on("/loki/api/v1/push", Behaviour::answer(204, ""));
    let address = format!("http://{}", sink.addr());
    let format = json!({"host": "$host", "uri": "$uri"});
    let plugins = json!({
        "http-logger": {"uri": format!("{address}/log"), "batch_max_size": 2, "auth_header": "Basic me", "log_format": format},
        "loki-logger": {"endpoint_addrs": [address], "batch_max_size": 2, "log_labels": {"route": "$route_id"}},
        "elasticsearch-logger": {
            "endpoint_addr": address, "field": {"index": "logs-$host"}, "batch_max_size": 2,
            "auth": {"username": "elastic", "password": "123456"},
        },
    });
    let gateway = logging(Value::Null, &upstream, plugins);
    get(&gateway, 2);
    for plugin in ["http-logger", "loki-logger", "elasticsearch-logger"] {
        wait_for_count(&gateway, plugin, "delivered", 2);
    }
    let seen = sink.take_seen();
    let to = |path: &str| seen.iter().find(|s| s.path() == path).unwrap_or_else(|| panic!("nothing at {path}"));
    let body: Value = serde_json::from_slice(&to("/log").body).unwrap();
    let entry = json!({"host": body[0]["host"], "uri": "/a", "route_id": "r"});
    assert_eq!(body, json!([entry, entry]));
    assert_eq!(to("/log").header("authorization"), Some("Basic me"));
    assert_eq!(to("/log").header("content-type"), Some("application/json"));
    let push = to("/loki/api/v1/push");
    assert_eq!(push.header("x-scope-orgid"), Some("fake"));
    let body: Value = serde_json::from_slice(&push.body).unwrap();
    assert_eq!(body["streams"][0]["stream"], json!({"route": "r"}));
    assert_eq!(body["streams"][0]["values"].as_array().map(Vec::len), Some(2));
    let line: Value = serde_json::from_str(body["streams"][0]["values"][0][1].as_str().unwrap()).unwrap();
    assert_eq!((&line["route_id"], &line["request"]["uri"]), (&json!("r"), &json!("/a")));
    let time = body["streams"][0]["values"][0][0].as_str().unwrap();
    assert!(time.len() == 19 && time.ends_with("000000"), "{time}");
    let bulk = to("/_bulk");
    assert_eq!(bulk.header("authorization"), Some("Basic ZWxhc3RpYzoxMjM0NTY="));
    let text = String::from_utf8(bulk.body.clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    let index = lines[0]["index"]["_index"].as_str().unwrap();
    assert!(index.starts_with("logs-"), "{index}");
    assert_eq!(lines[0]["index"]["_type"], json!("_doc"), "version 6 wants it");
    assert_eq!(lines[1]["request"]["method"], json!("GET"));
}

#[test]
fn tcp_tls_udp_and_syslog_get_entries() {
    let upstream = Upstream::start().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let syslog = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(LIMIT)).unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let plugins = json!({
        "tcp-logger": one_at_once(json!({"host": "127.0.0.1", "port": port(&tcp), "tls": true, "tls_options": "localhost"})),
        "udp-logger": one_at_once(json!({"host": "127.0.0.1", "port": udp.local_addr().unwrap().port()})),
        "syslog": one_at_once(json!({"host": "127.0.0.1", "port": port(&syslog)})),
    });
    let gateway = logging(Value::Null, &upstream, plugins);
    get(&gateway, 1);

    let config = Authority::new("test").unwrap().server(&["localhost"]).unwrap().server_config().unwrap();
    let (mut socket, _) = tcp.accept().unwrap();
    let mut session = rustls_connection(config);
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    assert_eq!(session.server_name(), Some("localhost"));
    let entry: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&entry["route_id"], &entry["response"]["status"]), (&json!("r"), &json!(200)));

    let mut packet = vec![0; 65_536];
    let length = udp.recv(&mut packet).unwrap();
    let entry: Value = serde_json::from_slice(&packet[..length]).unwrap();
    assert_eq!(entry["route_id"], json!("r"));

    let (socket, _) = syslog.accept().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(socket), &mut line).unwrap();
    assert!(line.starts_with("<46>1 2") && line.contains(" apisix "), "{line}");
    let (_, entry) = line.split_once(" - - ").unwrap();
    let entry: Value = serde_json::from_str(entry).unwrap();
    assert_eq!(entry["route_id"], json!("r"));
}

fn rustls_connection(config: Arc<rustls::ServerConfig>) -> rustls::ServerConnection {
    rustls::ServerConnection::new(config).unwrap()
}

/// Every logger at once with a sink that never answers, one that is not there and one that refuses: no request waits, and
/// each entry is accounted for.
#[test]
fn bad_sinks_delay_nobody_and_lose_nothing_uncounted() {
    let upstream = Upstream::start().unwrap();
    let refusing = Upstream::start().unwrap();
    refusing.otherwise(Behaviour::answer(503, "no"));
    // Takes connections into its backlog and never reads.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging: SocketAddr = hanging.local_addr().map(|a| (std::mem::forget(hanging), a).1).unwrap();
    let closed = sluice_testkit::ports::free_port();
    let plugins = json!({
        "http-logger": one_at_once(json!({"uri": format!("http://{}/", refusing.addr())})),
        "loki-logger": one_at_once(json!({"endpoint_addrs": [format!("http://{hanging}")], "timeout": 300})),
        "elasticsearch-logger": one_at_once(json!({"endpoint_addrs": [format!("http://127.0.0.1:{closed}")], "field": {"index": "x"}})),
        "tcp-logger": one_at_once(json!({"host": "127.0.0.1", "port": closed})),
        "syslog": one_at_once(json!({"host": "127.0.0.1", "port": closed})),
        "kafka-logger": one_at_once(json!({"brokers": [{"host": "127.0.0.1", "port": hanging.port()}], "kafka_topic": "t", "timeout": 1})),
    });
    // Room for few entries, so that some are discarded.
    let settings = json!({"sluice": {"limits": {"log_pending_bytes": 65536}}});
    let gateway = logging(settings, &upstream, plugins);
    let mut wire = gateway.connect().unwrap();
    let mut slowest = Duration::ZERO;
    const REQUESTS: u64 = 200;
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        assert_eq!(wire.get("/a").unwrap().status, 200);
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_millis(900), "a request took {slowest:?}");
    for plugin in ["http-logger", "elasticsearch-logger", "tcp-logger", "syslog", "loki-logger"] {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let [dropped, discarded] = ["dropped", "discarded"].map(|result| count(&gateway, plugin, result));
            assert_eq!(count(&gateway, plugin, "delivered"), 0);
            if dropped + discarded == REQUESTS {
                break;
            }
            assert!(Instant::now() < end, "{plugin}: {dropped} + {discarded} of {REQUESTS}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let discarded: u64 = ["kafka-logger", "loki-logger"].iter().map(|p| count(&gateway, p, "discarded")).sum();
    assert!(discarded > 0, "64 KiB hold not all of it");
    // Which logger's lines are shown is by chance: the operator's log bounds lines of one kind.
    gateway.wait_for_log("exceeded the max_retry_count[1] dropping the entries", LIMIT).unwrap();
    gateway.wait_for_log("max pending entries limit exceeded. discarding entry", LIMIT).unwrap();
}

/// Two sinks of one plugin and one of another, with room for few entries: those that hang cost the sound ones nothing.
#[test]
fn a_sink_that_hangs_costs_sound_ones_nothing() {
    const REQUESTS: u64 = 300;
    let (upstream, sink) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    sink.otherwise(Behaviour::answer(200, ""));
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let stuck = format!("http://{}/", hanging.local_addr().unwrap());
    let batch = json!({"batch_max_size": 10, "inactive_timeout": 1, "timeout": 300});
    let with = |key: &str, value: Value| {
        let mut own = batch.clone();
        own[key] = value;
        own
    };
    let sound = json!(format!("http://{}/sound", sink.addr()));
    let hangs = json!({
        "loki-logger": with("endpoint_addrs", json!([stuck])),
        "elasticsearch-logger": {"endpoint_addr": stuck.trim_end_matches('/'), "field": {"index": "x"}, "timeout": 300},
        "http-logger": with("uri", json!(stuck)),
    });
    let nodes = json!({upstream.addr().to_string(): 1});
    let to = json!({"type": "roundrobin", "nodes": nodes});
    let resources = json!({"routes": [
        {"id": "hangs", "uri": "/hangs", "plugins": hangs, "upstream": to},
        {"id": "r", "uri": "/a", "plugins": {"http-logger": with("uri", sound)}, "upstream": to},
        {"id": "m", "uri": "/apisix/prometheus/metrics", "plugins": {"public-api": {}}},
    ]});
    let settings = json!({
        "plugin_attr": {"prometheus": {"enable_export_server": false}},
        "sluice": {"limits": {"log_pending_bytes": 131_072}},
    });
    let gateway = gateway(&settings, &resources);
    let mut wire = gateway.connect().unwrap();
    let fill = |wire: &mut sluice_testkit::Wire, path: &str, count: u64| {
        (0..count).for_each(|_| assert_eq!(wire.get(path).unwrap().status, 200));
    };
    // The hanging ones take all there is first.
    fill(&mut wire, "/hangs", 200);
    assert!(count(&gateway, "loki-logger", "discarded") > 0, "the budget is not spent");
    for burst in 1..=REQUESTS / 20 {
        fill(&mut wire, "/a", 20);
        fill(&mut wire, "/hangs", 10);
        wait_for_count(&gateway, "http-logger", "delivered", burst * 20);
    }
    let arrived: usize =
        sink.take_seen().iter().map(|s| serde_json::from_slice::<Vec<Value>>(&s.body).unwrap().len()).sum();
    assert_eq!(arrived as u64, REQUESTS, "the sound sink has them all");
    // What the hanging ones had is waiting or discarded, to the last entry.
    let text = gateway.connect().unwrap().get("/apisix/prometheus/metrics").unwrap().text();
    for plugin in ["loki-logger", "elasticsearch-logger", "http-logger"] {
        let value = |series: String| {
            let found = text.lines().find_map(|line| line.strip_prefix(series.as_str()));
            found.map_or(0, |n| n.trim().parse::<f64>().unwrap() as u64)
        };
        let fates = ["delivered", "dropped", "discarded"]
            .map(|fate| value(format!("sluice_log_entries_total{{plugin=\"{plugin}\",result=\"{fate}\"}}")));
        let waiting = value(format!("sluice_log_pending_entries{{plugin=\"{plugin}\"}}"));
        let sound = if plugin == "http-logger" { REQUESTS } else { 0 };
        assert_eq!(fates.iter().sum::<u64>() + waiting, 200 + REQUESTS / 2 + sound, "{plugin}: {fates:?} {waiting}");
    }
    // Each of the sinks that hang is told of by its name, not the first one alone.
    for plugin in ["loki-logger", "elasticsearch-logger", "http-logger"] {
        gateway.wait_for_log(&format!("plugin={plugin}"), LIMIT).unwrap();
    }
}

/// Lines that a plugin was configured to write are all there, however fast they come; an error that repeats itself is told
/// with how often it did.
#[test]
fn the_error_log_has_what_was_asked_for_and_counts_repetitions() {
    const REQUESTS: usize = 60;
    let upstream = Upstream::start().unwrap();
    let rules =
        ["SecRuleEngine DetectionOnly", "SecRule ARGS:q \"@contains attack\" \"id:77,phase:1,log,pass,msg:'seen'\""];
    let closed = sluice_testkit::ports::free_port();
    let plugins = json!({
        "coraza": {"directives_map": {"d": rules}, "default_directives": "d"},
        "debug-logger": {"sample_ratio": 1, "log_level": "warn"},
        "tcp-logger": one_at_once(json!({"host": "127.0.0.1", "port": closed})),
    });
    let gateway = logging(json!({"nginx_config": {"error_log_level": "warn"}}), &upstream, plugins);
    let mut wire = gateway.connect().unwrap();
    (0..REQUESTS).for_each(|_| assert_eq!(wire.get("/a?q=attack").unwrap().status, 200));
    let lines = |part: &str| gateway.log_text().lines().filter(|line| line.contains(part)).count();
    let end = Instant::now() + LIMIT;
    while lines("[id \"77\"]") < REQUESTS || lines("debug-logger: {") < REQUESTS {
        assert!(Instant::now() < end, "{} and {}", lines("[id \"77\"]"), lines("debug-logger: {"));
        std::thread::sleep(Duration::from_millis(5));
    }
    wait_for_count(&gateway, "tcp-logger", "dropped", REQUESTS as u64);
    let refused = "Batch Processor[tcp logger] failed to process entries";
    let told = || {
        let text = gateway.log_text();
        let more = |line: &str| line.rsplit_once("suppressed=").map_or(0, |(_, n)| n.trim().parse::<usize>().unwrap());
        text.lines().filter(|line| line.contains(refused)).map(|line| 1 + more(line)).sum::<usize>()
    };
    let end = Instant::now() + LIMIT;
    while told() < REQUESTS {
        assert!(Instant::now() < end, "{} of {REQUESTS} are told of: {}", told(), gateway.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(told(), REQUESTS);
    gateway.wait_for_log("route=r", LIMIT).unwrap();
}

#[test]
fn what_waits_is_sent_before_the_process_ends() {
    let (upstream, sink) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    sink.otherwise(Behaviour::answer(200, ""));
    let plugins = json!({"http-logger": {"uri": format!("http://{}/", sink.addr()), "inactive_timeout": 600}});
    let mut gateway = logging(Value::Null, &upstream, plugins);
    get(&gateway, 3);
    assert_eq!(sink.requests(), 0);
    gateway.terminate().unwrap();
    gateway.wait(LIMIT).unwrap();
    let seen = sink.take_seen();
    let body: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!((seen.len(), body.as_array().map(Vec::len)), (1, Some(3)));
}

/// What a broker has acknowledged is delivered; while it is away entries are tried again, and arrive when it is back.
#[test]
fn kafka_gets_entries_also_after_a_restart() {
    let Some(mut broker) = KafkaBroker::start("logs") else { return };
    let upstream = Upstream::start().unwrap();
    let brokers = json!([{"host": "127.0.0.1", "port": broker.port}]);
    let plugin = json!({
        "brokers": brokers, "kafka_topic": "logs", "timeout": 1, "max_retry_count": 60, "retry_delay": 1,
        "meta_refresh_interval": 1,
    });
    let gateway = logging(Value::Null, &upstream, json!({"kafka-logger": one_at_once(plugin)}));
    get(&gateway, 2);
    wait_for_count(&gateway, "kafka-logger", "delivered", 2);
    broker.kill();
    get(&gateway, 3);
    gateway.wait_for_log("Batch Processor[kafka logger] failed to process entries", LIMIT).unwrap();
    broker.restart();
    wait_for_count(&gateway, "kafka-logger", "delivered", 5);
    let lost: u64 = ["dropped", "discarded"].iter().map(|result| count(&gateway, "kafka-logger", result)).sum();
    assert_eq!(lost, 0);
}
