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
