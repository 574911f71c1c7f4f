//! How the other modules start a gateway.

use std::path::Path;

use serde_json::{Value, json};
use sluice_testkit::{ConfigDir, Gateway, Upstream};

/// The binary under test; `SLUICE_TEST_BINARY` names another one.
pub fn binary() -> &'static Path {
    Path::new(option_env!("SLUICE_TEST_BINARY").unwrap_or(env!("CARGO_BIN_EXE_sluice")))
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
