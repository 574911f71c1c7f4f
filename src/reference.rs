//! What the gateway says about itself: the pages of `docs/reference/` and the schemas as `/v1/schema` of the control port
//! gives them. `cargo xtask gen` and `cargo xtask compat` read both through the binary `sluice-reference`.

use serde_json::{Value, json};

/// Generated pages: path below `docs/reference/` and text.
pub fn documents() -> Vec<(String, String)> {
    Vec::new()
}

/// Schemas of resources and plugins in the shape of APISIX's `GET /v1/schema` (apisix/control/v1.lua).
pub fn schema() -> Value {
    json!({"main": {}, "plugins": {}, "stream_plugins": {}})
}
