//! How the other modules start a gateway.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::{Value, json};
use sluice_testkit::{ConfigDir, Gateway, Upstream};

/// The binary under test; the environment variable `SLUICE_TEST_BINARY` names another one.
pub fn binary() -> &'static Path {
    static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
        std::env::var_os("SLUICE_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_sluice").into(), PathBuf::from)
    });
    &BINARY
}

/// A gateway on these resources; `settings` is merged over `config.yaml`.
pub fn gateway(settings: &Value, resources: &Value) -> Gateway {
    Gateway::start(binary(), ConfigDir::new(settings, resources).unwrap()).unwrap()
}

/// Everything to this upstream.
pub fn all_to(upstream: &Upstream) -> Value {
    json!({"routes": [{"id": "all", "uri": "/*", "upstream": {"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}}}]})
}

/// An upstream that echoes and a gateway in front of it.
pub fn pair() -> (Upstream, Gateway) {
    let upstream = Upstream::start().unwrap();
    let gateway = gateway(&Value::Null, &all_to(&upstream));
    (upstream, gateway)
}

#[test]
fn unix_sockets_are_served_and_cleaned_up() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    // A socket that a dead process left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let upstream = Upstream::start().unwrap();
    let settings = serde_json::json!({"sluice": {"listen_unix": [{"path": path, "mode": "0600"}]}});
    let mut gateway = gateway(&settings, &all_to(&upstream));
    let answer = sluice_testkit::Wire::connect_unix(&path).unwrap().get("/a").unwrap();
    assert_eq!((answer.status, answer.json()["headers"]["x-real-ip"].as_str()), (200, Some("127.0.0.1")));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    gateway.terminate().unwrap();
    gateway.wait(std::time::Duration::from_secs(10)).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_relative_error_log_stands_above_conf() {
    let upstream = Upstream::start().unwrap();
    let settings = serde_json::json!({"nginx_config": {"error_log": "own/errors.log", "error_log_level": "info"}});
    let gateway = gateway(&settings, &all_to(&upstream));
    let folder = gateway.dir().path();
    let prefix =
        if folder.join("config.yaml").exists() && folder.ends_with("conf") { folder.parent().unwrap() } else { folder };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let text = || std::fs::read_to_string(prefix.join("own/errors.log")).unwrap_or_default();
    while !text().contains("configuration in force") {
        assert!(std::time::Instant::now() < until, "nothing in own/errors.log: {:?}", text());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
