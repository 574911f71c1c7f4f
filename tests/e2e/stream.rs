//! Stream routes: bytes over real sockets, through plugins, TLS, reloads and the drain.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Authority, Gateway, Upstream, Wire};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// A TCP server that says its name and sends back what it gets.
fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                socket.write_all(name.as_bytes())?;
                loop {
                    match socket.read(&mut buffer)? {
                        0 => return Ok::<_, std::io::Error>(()),
                        n => socket.write_all(&buffer[..n])?,
                    }
                }
            });
        }
    });
    addr
}

/// The gateway with a plain and a TLS port for stream routes.
struct Ports {
    gateway: Gateway,
    plain: SocketAddr,
    tls: SocketAddr,
}

fn start(entry: &Value, resources: &Value) -> Ports {
    let [plain, tls] = std::array::from_fn(|_| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let mut first = json!({"addr": plain.to_string()});
    entry.as_object().into_iter().flatten().for_each(|(key, value)| first[key] = value.clone());
    let settings = json!({
        "sluice": {"limits": {"stream_preread_bytes": 64, "stream_preread_timeout": "400ms"}},
        "apisix": {
            "proxy_mode": "http&stream",
            "stream_proxy": {"tcp": [first, {"addr": tls.to_string(), "tls": true}]},
        },
        "nginx_config": {"worker_shutdown_timeout": "1s"},
    });
    Ports { gateway: gateway(&settings, resources), plain, tls }
}

fn nodes(addr: SocketAddr) -> Value {
    json!({"type": "roundrobin", "nodes": {addr.to_string(): 1}})
}

fn to(addr: SocketAddr) -> Value {
    json!({"stream_routes": [{"id": "all", "upstream": nodes(addr)}]})
}

/// The name of the server behind, or what came instead.
fn greeting(wire: &mut Wire) -> String {
    wire.read_exact(1).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// New connections reach this server within the time a reload may take.
#[track_caller]
fn reaches(addr: SocketAddr, name: &str) {
    let until = Instant::now() + Duration::from_secs(5);
    while Wire::connect(addr).map_or_else(|_| String::new(), |mut wire| greeting(&mut wire)) != name {
        assert!(Instant::now() < until, "{name} is not reached");
    }
}

#[test]
fn megabytes_pass_both_ways_and_the_end_is_passed_on() {
    let ports = start(&Value::Null, &to(echo("A")));
    let mut wire = Wire::connect(ports.plain).unwrap();
    assert_eq!(greeting(&mut wire), "A", "the server speaks first: nothing waits for the client");
    let block: Vec<u8> = (0..=250).cycle().take(256 * 1024).collect();
    for _ in 0..16 {
        wire.send(&block).unwrap();
        assert!(wire.read_exact(block.len()).unwrap() == block);
    }
    wire.finish().unwrap();
    assert!(wire.closed());
    // The HTTP side of the same process goes on by itself.
    assert_eq!(ports.gateway.connect().unwrap().get("/").unwrap().status, 404);
}

#[test]
fn routes_are_chosen_by_address_and_port_and_dead_nodes_are_passed_over() {
    let (a, b) = (echo("A"), echo("B"));
    let dead = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut ports = start(&Value::Null, &json!({"stream_routes": []}));
    assert!(Wire::connect(ports.plain).unwrap().closed(), "no route");
    let resources = json!({"stream_routes": [
        {"id": 1, "server_port": 1, "upstream": nodes(a)},
        {"id": 2, "remote_addr": "10.0.0.0/8", "upstream": nodes(a)},
        {"id": 3, "plugins": {"x-rewrite": {}}, "upstream": nodes(a)},
        {"id": 4, "server_addr": "127.0.0.1", "server_port": ports.plain.port(), "upstream":
            {"type": "roundrobin", "nodes": {dead.to_string(): 1000, b.to_string(): 1}}},
    ]});
    ports.gateway.dir().write_resources(&resources).unwrap();
    ports.gateway.wait_for_log("unknown plugin [x-rewrite]", Duration::from_secs(5)).unwrap();
    reaches(ports.plain, "B");
    for _ in 0..5 {
        assert_eq!(greeting(&mut Wire::connect(ports.plain).unwrap()), "B");
    }
    assert!(ports.gateway.running());
}

#[test]
fn a_session_keeps_its_upstream_through_reloads_and_ends_with_the_drain() {
    let mut ports = start(&Value::Null, &to(echo("A")));
    let mut old = Wire::connect(ports.plain).unwrap();
    assert_eq!(greeting(&mut old), "A");
    ports.gateway.dir().write_resources(&to(echo("B"))).unwrap();
    reaches(ports.plain, "B");
    old.send("still here").unwrap();
    assert_eq!(old.read_exact(10).unwrap(), b"still here");
    let mut idle = ports.gateway.connect().unwrap();
    idle.get("/").unwrap();
    let begun = Instant::now();
    ports.gateway.terminate().unwrap();
    assert!(idle.closed(), "the drain has begun");
    old.send("and here").unwrap();
    assert_eq!(old.read_exact(8).unwrap(), b"and here", "the drain leaves it its time");
    assert!(old.closed());
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(ports.gateway.wait(Duration::from_secs(5)).unwrap().success());
}

#[test]
fn mqtt_clients_are_balanced_by_their_id_and_others_are_closed() {
    let mut resources = to(echo("A"));
    resources["stream_routes"][0]["plugins"] = json!({"mqtt-proxy": {"protocol_level": 4}});
    let chash = json!({"type": "chash", "key": "mqtt_client_id", "nodes": {}});
    resources["stream_routes"][0]["upstream"] = chash;
    for name in ["A", "B", "C", "D"] {
        resources["stream_routes"][0]["upstream"]["nodes"][echo(name).to_string()] = json!(1);
    }
    let ports = start(&Value::Null, &resources);
    let connect = |id: u8| [b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01".as_slice(), &[id]].concat();
    let mut reached = std::collections::BTreeSet::new();
    for id in b'a'..=b'z' {
        let names: Vec<String> = (0..2)
            .map(|_| {
                let mut wire = Wire::connect(ports.plain).unwrap();
                let packet = connect(id);
                let (first, rest) = packet.split_at(7);
                wire.send(first).unwrap();
                wire.send(rest).unwrap();
                let name = greeting(&mut wire);
                assert_eq!(wire.read_exact(packet.len()).unwrap(), packet, "the packet reaches the server whole");
                name
            })
            .collect();
        assert_eq!(names[0], names[1]);
        reached.extend(names);
    }
    assert!(reached.len() > 1, "{reached:?}");
    let mut wrong = Wire::connect(ports.plain).unwrap();
    wrong.send("GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(wrong.closed());
    ports.gateway.wait_for_log("unexpected MQTT packet", Duration::from_secs(5)).unwrap();
}

#[test]
fn tls_ports_choose_by_server_name() {
    let authority = Authority::new("servers").unwrap();
    let pair = authority.server(&["a.test", "x.b.test", "other.test"]).unwrap();
    let resources = json!({
        "ssls": [{"id": 1, "snis": ["a.test", "x.b.test", "other.test"], "cert": pair.cert, "key": pair.key}],
        "stream_routes": [
            {"id": 1, "sni": "a.test", "upstream": nodes(echo("A"))},
            {"id": 2, "sni": "*.b.test", "upstream": nodes(echo("B"))},
            {"id": 3, "upstream": nodes(echo("C"))},
        ],
    });
    let ports = start(&Value::Null, &resources);
    let client = authority.client_config(None).unwrap();
    for (name, wanted) in [("a.test", "A"), ("x.b.test", "B"), ("other.test", "C")] {
        let mut wire = Wire::connect_tls(ports.tls, name, client.clone()).unwrap();
        assert_eq!(greeting(&mut wire), wanted, "{name}");
        wire.send("hello").unwrap();
        assert_eq!(wire.read_exact(5).unwrap(), b"hello");
    }
    assert_eq!(greeting(&mut Wire::connect(ports.plain).unwrap()), "C", "no name on a plain port");
}

#[test]
fn proxy_protocol_is_read_and_written() {
    let mut resources = to(echo("A"));
    resources["stream_routes"][0]["plugins"] = json!({"ip-restriction": {"whitelist": ["192.0.2.0/24"]}});
    let ports = start(&json!({"proxy_protocol": true, "proxy_protocol_to_upstream": true}), &resources);
    let header = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 4000 {}\r\n", ports.plain.port());
    let mut wire = Wire::connect(ports.plain).unwrap();
    wire.send(format!("{}hello", header("192.0.2.7"))).unwrap();
    assert_eq!(greeting(&mut wire), "A");
    let wanted = format!("{}hello", header("192.0.2.7"));
    assert_eq!(String::from_utf8_lossy(&wire.read_exact(wanted.len()).unwrap()), wanted);
    let mut refused = Wire::connect(ports.plain).unwrap();
    refused.send(header("198.51.100.1")).unwrap();
    assert!(refused.closed());
}

#[test]
fn clients_that_are_slow_or_send_too_much_before_a_plugin_decides_are_closed() {
    let mut resources = to(echo("A"));
    resources["stream_routes"][0]["plugins"] = json!({"mqtt-proxy": {"protocol_level": 4}});
    let ports = start(&Value::Null, &resources);
    let mut slow = Wire::connect(ports.plain).unwrap();
    slow.send(b"\x10\x0d\x00").unwrap();
    let begun = Instant::now();
    assert!(slow.closed());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    ports.gateway.wait_for_log("did not send what plugins read in time", Duration::from_secs(5)).unwrap();
    let mut large = Wire::connect(ports.plain).unwrap();
    large.send(b"\x10\xff\xff\xff\x7f").unwrap();
    assert!(large.closed());
    ports.gateway.wait_for_log("more than sluice.limits.stream_preread_bytes", Duration::from_secs(5)).unwrap();
}

#[test]
fn nodes_are_spoken_to_in_tls_where_the_scheme_says_so() {
    let authority = Authority::new("nodes").unwrap();
    let node = Upstream::start_tls(authority.server(&["node.test"]).unwrap().server_config().unwrap()).unwrap();
    let mut upstream = nodes(node.addr());
    upstream["scheme"] = json!("tls");
    let ports = start(&Value::Null, &json!({"stream_routes": [{"id": 1, "upstream": upstream}]}));
    assert_eq!(Wire::connect(ports.plain).unwrap().get("/").unwrap().status, 200);
    assert_eq!(node.requests(), 1);
}

#[test]
fn a_node_proves_its_own_name_and_is_shown_a_certificate() {
    let authority = Authority::new("nodes").unwrap();
    let config = authority.server(&["localhost"]).unwrap().server_config_for(&authority).unwrap();
    let node = Upstream::start_tls(config).unwrap();
    let us = authority.client("gateway").unwrap();
    let to = |name: &str, tls: Value| {
        json!({"scheme": "tls", "type": "roundrobin", "tls": tls,
        "nodes": {format!("{name}:{}", node.addr().port()): 1}})
    };
    let shown = json!({"verify": true, "ca_certs": [authority.pem()], "client_cert": us.cert, "client_key": us.key});
    let mut nobody = shown.clone();
    nobody.as_object_mut().unwrap().retain(|field, _| !field.starts_with("client"));
    for (name, tls, served) in
        [("localhost", &shown, true), ("127.0.0.1", &shown, false), ("localhost", &nobody, false)]
    {
        let ports = start(&Value::Null, &json!({"stream_routes": [{"id": 1, "upstream": to(name, tls.clone())}]}));
        let answer = Wire::connect(ports.plain).unwrap().get("/");
        assert_eq!(answer.is_ok_and(|a| a.status == 200), served, "{name} {}", ports.gateway.log_text());
    }
    assert_eq!(node.requests(), 1);
}
