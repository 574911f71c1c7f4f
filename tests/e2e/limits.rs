//! Limits that are kept in Redis: several gateways count together, and Redis is killed, restarted and stopped under load.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Behaviour, ConfigDir, Gateway, Redis, Upstream, Wire};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);

fn limited(redis: &Redis, upstream: &Upstream) -> Value {
    let policy = |more: Value| {
        let mut limit = json!({"count": 1000, "time_window": 3600, "policy": "redis", "redis_host": "127.0.0.1",
            "redis_port": redis.port, "redis_timeout": 300, "group": more["group"]});
        limit.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let nodes = json!({"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}});
        json!({"plugins": {"limit-count": limit}, "upstream": nodes})
    };
    let mut routes = Vec::new();
    for (path, more) in [
        ("/strict", json!({"group": "strict"})),
        ("/lenient", json!({"group": "lenient", "allow_degradation": true})),
        ("/few", json!({"group": "few", "count": 10})),
    ] {
        let mut route = policy(more);
        route["id"] = json!(path.trim_start_matches('/'));
        route["uri"] = json!(path);
        routes.push(route);
    }
    json!({"routes": routes})
}

fn status(wire: &mut Wire, path: &str) -> u16 {
    wire.get(path).unwrap().status
}

#[test]
fn gateways_count_together_whatever_befalls_redis() {
    let Some(mut redis) = Redis::start() else { return };
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::answer(200, "hello"));
    let gateways = [(); 2].map(|()| gateway(&Value::Null, &limited(&redis, &upstream)));

    // Ten in all, however they come.
    let passed: usize = std::thread::scope(|scope| {
        let run = |gateway: &Gateway| {
            let mut wire = gateway.connect().unwrap();
            (0..20).filter(|_| status(&mut wire, "/few") == 200).count()
        };
        let threads: Vec<_> = gateways.iter().chain(&gateways).map(|g| scope.spawn(move || run(g))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 10);

    let mut wire = gateways[0].connect().unwrap();
    assert_eq!(status(&mut wire, "/strict"), 200);
    redis.kill();
    let begin = Instant::now();
    for _ in 0..200 {
        let answer = wire.get("/strict").unwrap();
        assert_eq!((answer.status, answer.text().trim_end()), (500, "{\"error_msg\":\"failed to limit count\"}"));
        assert_eq!(status(&mut wire, "/lenient"), 200);
    }
    redis.restart();
    while status(&mut gateways[0].connect().unwrap(), "/strict") != 200 {
        assert!(begin.elapsed() < LIMIT, "Redis was not found again");
    }

    // One that hangs costs a few time-outs, and then nothing: 200 of them would take a minute.
    let signal = |name: &str| {
        let done = std::process::Command::new("kill").args([name, &redis.pid().to_string()]).status().unwrap();
        assert!(done.success());
    };
    signal("-STOP");
    let begin = Instant::now();
    let mut wire = gateways[0].connect().unwrap();
    for _ in 0..200 {
        assert_eq!(status(&mut wire, "/strict"), 500);
    }
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
    signal("-CONT");
    let begin = Instant::now();
    while status(&mut gateways[0].connect().unwrap(), "/strict") != 200 {
        assert!(begin.elapsed() < LIMIT, "Redis was not found again");
    }
}

#[test]
fn the_example_counts_in_redis() {
    let Some(redis) = Redis::start() else { return };
    let upstream = Upstream::start().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/limit-count-redis/apisix.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.replace("127.0.0.1:1980", &upstream.addr().to_string());
    assert!(text.contains("redis_port: 6379"));
    let text = text.replace("redis_port: 6379", &format!("redis_port: {}", redis.port));
    let boot = || {
        let dir = ConfigDir::new(&Value::Null, &Value::Null).unwrap();
        dir.write_raw("apisix.yaml", &text).unwrap();
        Gateway::start(crate::start::binary(), dir).unwrap()
    };
    let gateways = [boot(), boot()];
    let statuses: Vec<u16> = (0..4).map(|n| status(&mut gateways[n % 2].connect().unwrap(), "/api/x")).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
}

#[test]
fn connections_on_a_stream_route_are_counted_until_they_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut socket in listener.incoming().flatten() {
            socket.write_all(b"hello").unwrap();
            open.push(socket);
        }
    });
    let port = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let settings =
        json!({"apisix": {"proxy_mode": "http&stream", "stream_proxy": {"tcp": [{"addr": port.to_string()}]}}});
    let limit = json!({"conn": 1, "burst": 1, "default_conn_delay": 0.2, "key": "remote_addr"});
    let upstream = json!({"type": "roundrobin", "nodes": {server.to_string(): 1}});
    let routes = json!({"stream_routes": [{"id": "1", "plugins": {"limit-conn": limit}, "upstream": upstream}]});
    let _gateway = gateway(&settings, &routes);
    let connect = || {
        let mut socket = TcpStream::connect(port).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut hello = [0; 5];
        socket.read_exact(&mut hello).is_ok().then_some(socket)
    };
    let one = connect().unwrap();
    let begin = Instant::now();
    let two = connect().unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(200), "the second waits");
    assert!(connect().is_none());
    drop((one, two));
    let begin = Instant::now();
    while connect().is_none() {
        assert!(begin.elapsed() < LIMIT, "the end of a connection was not noticed");
    }
}
