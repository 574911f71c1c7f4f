//! A gateway on an etcd that APISIX has written to: its keys are served at once, and requests go on while etcd is killed,
//! restarted, compacted and stopped. The surprise: etcd is spoken to over its own HTTP gateway here, so that nothing of the
//! gateway's code is on both sides.

use crate::start::{binary, gateway};
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use sluice_testkit::{Behaviour, ConfigDir, Gateway, Upstream, Wire};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

struct Etcd {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
    peer: u16,
}

impl Etcd {
    /// None, with a printed reason, where Debian's etcd-server is not installed.
    fn start() -> Option<Etcd> {
        let folder = tempfile::tempdir().unwrap();
        let (port, peer) = (free_port(), free_port());
        let Ok(process) = Etcd::spawn(folder.path(), port, peer) else {
            eprintln!("skipped: no etcd here (Debian: etcd-server)");
            return None;
        };
        let etcd = Etcd { process, folder, port, peer };
        etcd.wait();
        Some(etcd)
    }

    fn spawn(folder: &Path, port: u16, peer: u16) -> std::io::Result<Child> {
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        Command::new("etcd")
            .args(["--name", "one", "--data-dir"])
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    }

    fn wait(&self) {
        let until = Instant::now() + LIMIT;
        while self.ask("/v3/kv/range", &json!({"key": "YQ=="})).is_none() {
            assert!(Instant::now() < until, "etcd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ask(&self, path: &str, body: &Value) -> Option<Value> {
        let mut wire = Wire::connect(("127.0.0.1", self.port)).ok()?;
        let body = body.to_string();
        let request = format!("POST {path} HTTP/1.1\r\nHost: e\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let answer = wire.request(request).ok().filter(|answer| answer.status == 200)?;
        serde_json::from_str(&answer.text()).ok()
    }

    /// Writes as APISIX does: JSON under `/apisix/<kind>/<id>`. Returns etcd's revision.
    fn put(&self, key: &str, value: &Value) -> u64 {
        use base64::Engine as _;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let body = json!({"key": encode(&format!("/apisix/{key}")), "value": encode(&value.to_string())});
        let answer = self.ask("/v3/kv/put", &body).expect("etcd takes a write");
        answer["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Etcd::spawn(self.folder.path(), self.port, self.peer).unwrap();
        self.wait();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn settings(etcd: &Etcd, admin: u16) -> Value {
    let host = format!("http://127.0.0.1:{}", etcd.port);
    json!({"deployment": {
        "role": "traditional", "role_traditional": {"config_provider": "etcd"},
        "admin": {
            "admin_listen": {"ip": "127.0.0.1", "port": admin},
            "admin_key": [{"name": "a", "key": "k", "role": "admin"}],
        },
        "etcd": {"host": [host], "prefix": "/apisix", "timeout": 3, "resync_delay": 1},
    }})
}

fn start(etcd: &Etcd, admin: u16) -> Gateway {
    gateway(&settings(etcd, admin), &json!({}))
}

fn route(uri: &str, upstream: &Upstream) -> Value {
    // With the fields that APISIX adds.
    json!({"id": "1", "uri": uri, "create_time": 1, "update_time": 1, "priority": 0, "status": 1,
        "upstream": {"type": "roundrobin", "scheme": "http", "hash_on": "vars", "pass_host": "pass",
            "nodes": {upstream.addr().to_string(): 1}}})
}

fn served(gateway: &Gateway, path: &str) {
    gateway.wait_until(path, LIMIT, |answer| answer.status == 200).unwrap();
}

#[test]
fn what_apisix_wrote_is_served_and_requests_go_on_whatever_befalls_etcd() {
    let Some(mut etcd) = Etcd::start() else { return };
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::answer(200, "hello"));
    etcd.put("routes/", &json!("init_dir"));
    etcd.put("routes/1", &route("/old", &upstream));
    let admin = free_port();
    let gateway = Arc::new(start(&etcd, admin));
    served(&gateway, "/old");

    let over = Arc::new(AtomicBool::new(false));
    let traffic = {
        let (gateway, over) = (gateway.clone(), over.clone());
        std::thread::spawn(move || {
            let (mut sent, mut failed) = (0, 0);
            let mut wire = gateway.connect().unwrap();
            while !over.load(Ordering::Relaxed) {
                sent += 1;
                let answer = wire.get("/old");
                failed += u32::from(!answer.as_ref().is_ok_and(|answer| answer.status == 200));
                // A thousand requests are the limit of a connection.
                if answer.is_ok_and(|answer| answer.header("connection") == Some("close")) {
                    wire = gateway.connect().unwrap();
                }
            }
            (sent, failed)
        })
    };
    etcd.put("routes/2", &route("/new", &upstream));
    served(&gateway, "/new");

    // Killed: writes are refused, and what others write after the restart is served.
    etcd.kill();
    let mut wire = Wire::connect(("127.0.0.1", admin)).unwrap();
    let body = route("/refused", &upstream).to_string();
    let put = format!(
        "PUT /apisix/admin/routes/9 HTTP/1.1\r\nHost: a\r\nX-API-KEY: k\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(wire.request(put).unwrap().status, 503);
    etcd.restart();
    etcd.put("routes/3", &route("/after-kill", &upstream));
    served(&gateway, "/after-kill");

    // Cut off, and compacted while the gateway was away from it.
    etcd.signal(rustix::process::Signal::STOP);
    std::thread::sleep(Duration::from_millis(1500));
    etcd.signal(rustix::process::Signal::CONT);
    let revision = etcd.put("routes/4", &route("/after-stop", &upstream));
    served(&gateway, "/after-stop");
    etcd.ask("/v3/kv/compaction", &json!({"revision": revision.to_string()})).expect("etcd compacts");
    etcd.kill();
    etcd.restart();
    etcd.put("routes/5", &route("/after-compaction", &upstream));
    served(&gateway, "/after-compaction");

    over.store(true, Ordering::Relaxed);
    let (sent, failed) = traffic.join().unwrap();
    assert!(sent > 100 && failed == 0, "{failed} of {sent} requests failed");

    // A second gateway that reads etcd from the start has the same.
    let listed = wire.request("GET /apisix/admin/routes HTTP/1.1\r\nHost: a\r\nX-API-KEY: k\r\n\r\n").unwrap().text();
    let second_admin = free_port();
    let second = start(&etcd, second_admin);
    served(&second, "/after-compaction");
    let mut other = crate::admin::patiently(|| Wire::connect(("127.0.0.1", second_admin)));
    let fresh = other.request("GET /apisix/admin/routes HTTP/1.1\r\nHost: a\r\nX-API-KEY: k\r\n\r\n").unwrap().text();
    assert_eq!(listed, fresh);
    assert!(!fresh.contains("/refused"));
}

#[test]
fn a_start_without_etcd_serves_what_was_last_seen() {
    let Some(mut etcd) = Etcd::start() else { return };
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::answer(200, "hello"));
    etcd.put("routes/1", &route("/kept", &upstream));
    let mut gateway = start(&etcd, free_port());
    served(&gateway, "/kept");
    let snapshot = gateway.dir().data_dir().join("etcd.snapshot");
    let until = Instant::now() + LIMIT;
    while !snapshot.exists() {
        assert!(Instant::now() < until, "no snapshot was written");
        std::thread::sleep(Duration::from_millis(20));
    }
    gateway.terminate().unwrap();
    gateway.wait(LIMIT).unwrap();
    etcd.kill();
    let admin = free_port();
    let dir = ConfigDir::new(&settings(&etcd, admin), &json!({})).unwrap();
    std::fs::copy(&snapshot, dir.data_dir().join("etcd.snapshot")).unwrap();
    let again = Gateway::start(binary(), dir).unwrap();
    served(&again, "/kept");
    let mut wire = Wire::connect(("127.0.0.1", admin)).unwrap();
    let status = wire.request("GET /apisix/admin/status HTTP/1.1\r\nHost: a\r\nX-API-KEY: k\r\n\r\n").unwrap().text();
    assert!(status.contains("stale"), "{status}");
}
