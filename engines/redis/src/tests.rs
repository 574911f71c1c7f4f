//! Against real servers: one, one with TLS, a cluster, a sentinel; killed, stopped and restarted.
use super::*;
use sluice_testkit::{Authority, Redis as Server};
use std::time::Duration;

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn quick(settings: Settings) -> Settings {
    Settings {
        connect_timeout: Duration::from_millis(500),
        read_timeout: Duration::from_millis(300),
        cool_down: Duration::from_millis(100),
        ..settings
    }
}

fn single(server: &Server) -> Settings {
    quick(Settings::single("127.0.0.1", server.port))
}

fn bytes(text: &str) -> Reply {
    Reply::Bytes(text.into())
}

static ADD: Script = Script::new("return {redis.call('INCRBY', KEYS[1], ARGV[1]), 'a'}");

#[test]
fn commands_and_scripts() {
    let Some(server) = Server::start() else { return };
    let redis = Redis::new(single(&server));
    run(async {
        assert_eq!(redis.command(&[b"SET", b"k", b"\r\n\0"]).await, Ok(bytes("OK")));
        assert_eq!(redis.command(&[b"GET", b"k"]).await, Ok(bytes("\r\n\0")));
        assert_eq!(redis.command(&[b"GET", b"none"]).await, Ok(Reply::Nil));
        for n in [2, 4] {
            let reply = redis.script(&ADD, &[b"n"], &[b"2"]).await.unwrap();
            assert_eq!(reply, Reply::Array(vec![Reply::Integer(n), bytes("a")]));
        }
        // The server forgets scripts: it is told again.
        redis.command(&[b"SCRIPT", b"FLUSH"]).await.unwrap();
        assert_eq!(redis.script(&ADD, &[b"n"], &[b"2"]).await.unwrap().items()[0], Reply::Integer(6));
        let error = redis.command(&[b"INCR", b"k"]).await.unwrap_err();
        assert_eq!(error.to_string(), "ERR value is not an integer or out of range");
        assert!(!error.is_known());
    });
    // The runtime of the first connection is gone, the client is not.
    run(async { assert_eq!(redis.command(&[b"GET", b"n"]).await, Ok(bytes("6"))) });
}

#[test]
fn one_connection_serves_a_thread() {
    let Some(server) = Server::start() else { return };
    let redis = Redis::new(single(&server));
    run(async {
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let redis = redis.clone();
                tokio::spawn(async move { redis.command(&[b"INCR", b"n"]).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(redis.command(&[b"GET", b"n"]).await, Ok(bytes("100")));
    });
    let info = server.ask(&["INFO", "stats"]);
    let connections = info.lines().find_map(|l| l.strip_prefix("total_connections_received:")).unwrap();
    // Those of this test's own questions come on top: one that waited for the server, and this one.
    assert!(connections.trim().parse::<u32>().unwrap() <= 5, "{connections}");
}

#[test]
fn passwords_users_and_databases() {
    let Some(server) = Server::with(&["--requirepass", "secret"]) else { return };
    server.ask(&["ACL", "SETUSER", "anna", "on", ">hers", "~*", "+@all"]);
    run(async {
        let wrong = |username: Option<&str>, password: Option<&str>, database| Settings {
            username: username.map(str::to_string),
            password: password.map(str::to_string),
            database,
            ..single(&server)
        };
        for (username, password, database, error) in [
            (None, None, 0, Some("NOAUTH Authentication required.")),
            (None, Some(""), 0, Some("NOAUTH Authentication required.")),
            (None, Some("no"), 0, Some("WRONGPASS invalid username-password pair or user is disabled.")),
            (None, Some("secret"), 99, Some("failed to change redis db, err: ERR DB index is out of range")),
            (None, Some("secret"), 2, None),
            (Some("anna"), Some("hers"), 0, None),
        ] {
            let redis = Redis::new(wrong(username, password, database));
            let result = redis.command(&[b"PING"]).await;
            assert_eq!(result.err().map(|e| e.to_string()).as_deref(), error, "{username:?} {password:?} {database}");
        }
        let redis = Redis::new(wrong(None, Some("secret"), 2));
        redis.command(&[b"SET", b"k", b"v"]).await.unwrap();
        let list = redis.command(&[b"CLIENT", b"INFO"]).await.unwrap();
        assert!(String::from_utf8_lossy(list.bytes().unwrap()).contains("db=2"), "{list:?}");
    });
}

#[test]
fn a_killed_server_is_found_again() {
    let Some(mut server) = Server::start() else { return };
    let redis = Redis::new(single(&server));
    run(async {
        redis.command(&[b"PING"]).await.unwrap();
        server.kill();
        let mut known = 0;
        for _ in 0..50 {
            let error = redis.command(&[b"PING"]).await.unwrap_err();
            assert_eq!(error.to_string(), "connection refused");
            known += u32::from(error.is_known());
        }
        assert!(known >= 40, "{known}");
        server.restart();
        let until = Instant::now() + Duration::from_secs(10);
        while redis.command(&[b"PING"]).await.is_err() {
            assert!(Instant::now() < until, "not found again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A connection that the server has closed is replaced without an error.
        server.kill();
        server.restart();
        redis.command(&[b"PING"]).await.unwrap();
    });
}

#[test]
fn a_server_that_hangs_costs_a_few_time_outs() {
    let Some(server) = Server::start() else { return };
    let redis = Redis::new(Settings { cool_down: Duration::from_secs(60), ..single(&server) });
    let signal = |name: &str| {
        let status = std::process::Command::new("kill").args([name, &server.pid().to_string()]).status();
        assert!(status.unwrap().success());
    };
    run(async {
        redis.command(&[b"PING"]).await.unwrap();
        signal("-STOP");
        let begin = Instant::now();
        for n in 0..1000 {
            let error = redis.command(&[b"PING"]).await.unwrap_err();
            assert_eq!(error.to_string(), "timeout");
            assert_eq!(error.is_known(), n >= 3);
        }
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        signal("-CONT");
    });
}

#[test]
fn tls_with_and_without_a_look_at_the_certificate() {
    let authority = Authority::new("redis").unwrap();
    let Some(server) = Server::with_tls(&authority, &["127.0.0.1"]) else { return };
    let tls = |verify, trusted: Option<String>| Settings {
        tls: Some(Tls { verify, trusted: trusted.map(Into::into) }),
        ..single(&server)
    };
    run(async {
        for (settings, good) in [
            (tls(false, None), true),
            (tls(true, Some(authority.pem())), true),
            (tls(true, Some(Authority::new("other").unwrap().pem())), false),
            (tls(true, None), false),
            (single(&server), false),
        ] {
            let result = Redis::new(settings.clone()).command(&[b"PING"]).await;
            assert_eq!(result.is_ok(), good, "{settings:?}: {result:?}");
        }
    });
}

#[test]
fn a_cluster() {
    let Some(mut nodes) = Server::cluster() else { return };
    let servers = Servers::Cluster(vec![("127.0.0.1".into(), nodes[0].port)]);
    let redis = Redis::new(quick(Settings::new(servers)));
    run(async {
        for n in 0..50 {
            let key = format!("k{n}");
            let reply = redis.script(&ADD, &[key.as_bytes()], &[b"3"]).await.unwrap();
            assert_eq!(reply.items()[0], Reply::Integer(3));
        }
        let counts: Vec<u32> = nodes.iter().map(|node| node.ask(&["DBSIZE"]).parse().unwrap()).collect();
        assert_eq!(counts.iter().sum::<u32>(), 50);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        // One node away: its keys fail, the others' are served, and all come back with it.
        nodes[2].kill();
        let mut served = 0;
        for n in 0..20 {
            served += u32::from(redis.command(&[b"GET", format!("k{n}").as_bytes()]).await.is_ok());
        }
        assert!(served > 0 && served < 20, "{served}");
        nodes[2].restart();
        let until = Instant::now() + Duration::from_secs(15);
        for n in 0..50 {
            while redis.command(&[b"INCR", format!("k{n}").as_bytes()]).await.is_err() {
                assert!(Instant::now() < until, "k{n}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
}

#[test]
fn a_sentinel_names_the_server() {
    let Some(mut master) = Server::start() else { return };
    let (replica, sentinel) = (master.replica().unwrap(), master.sentinel().unwrap());
    let replicas = |s: &Server| s.ask(&["SENTINEL", "REPLICAS", "mymaster"]).contains("flags\nslave\n");
    sentinel.wait_for("the sentinel's view", replicas);
    let settings = |name: &str, role| {
        quick(Settings::new(Servers::Sentinel {
            sentinels: vec![("127.0.0.1".into(), 1), ("127.0.0.1".into(), sentinel.port)],
            master: name.into(),
            role,
            username: None,
            password: None,
        }))
    };
    run(async {
        let redis = Redis::new(settings("mymaster", Role::Master));
        redis.command(&[b"SET", b"k", b"v"]).await.unwrap();
        replica.wait_for("the write", |replica| replica.ask(&["GET", "k"]) == "v");
        let role = |reply: Reply| String::from_utf8_lossy(reply.items()[0].bytes().unwrap()).into_owned();
        assert_eq!(role(redis.command(&[b"ROLE"]).await.unwrap()), "master");
        let reader = Redis::new(settings("mymaster", Role::Replica));
        assert_eq!(role(reader.command(&[b"ROLE"]).await.unwrap()), "slave");
        let error = Redis::new(settings("other", Role::Master)).command(&[b"PING"]).await.unwrap_err();
        assert_eq!(error.to_string(), "redis connection failed, err: invalid master name");
        // The master goes, the replica takes its place, and the client follows.
        master.kill();
        let until = Instant::now() + Duration::from_secs(20);
        while redis.command(&[b"SET", b"k", b"w"]).await.is_err() {
            assert!(Instant::now() < until, "the client has not followed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(replica.ask(&["GET", "k"]), "w");
    });
}
