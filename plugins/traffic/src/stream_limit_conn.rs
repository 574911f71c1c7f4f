//! `limit-conn` on stream routes: limits the number of connections per key that are open at a time.
//!
//! Up to `conn` connections pass at once, up to `burst` more wait `default_conn_delay` seconds (twice that from the second
//! multiple of `conn`, and so on), further ones are closed. A connection counts until it ends. At most
//! `plugin_attr.limit-conn.max_keys` (1000000) keys are counted; connections of further keys are closed.
//!
//! There is no difference from APISIX. `only_use_default_delay` has no effect, as there.
//
// Read in apisix/stream/plugins/limit-conn.lua and apisix/plugins/limit-conn/init.lua.
use crate::counters::{Counters, Prefix};
use crate::limit_conn::{Lease, delay_of};
use crate::limit_key::{KeySource, KeyType, prefix_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_plugin::{BuildError, DefineStream, Env, StreamContext, StreamFlow, StreamPlugin};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "limit-conn";

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
pub struct Config {
    /// Connections without delay.
    #[schemars(extend("exclusiveMinimum" = 0, "type" = "integer"))]
    conn: f64,
    /// Further connections that are delayed.
    #[schemars(extend("minimum" = 0, "type" = "integer"))]
    burst: f64,
    /// Seconds that a connection waits for each full `conn` before it.
    #[schemars(extend("exclusiveMinimum" = 0))]
    default_conn_delay: f64,
    /// Without effect.
    #[serde(default)]
    only_use_default_delay: bool,
    /// What is counted: a variable or a text with variables, by `key_type`.
    key: String,
    /// How `key` is read.
    #[serde(default)]
    key_type: KeyType,
}

/// The plugin.
pub struct StreamLimitConn {
    conn: u64,
    most: u64,
    delay: f64,
    key: KeySource,
    counts: Arc<Counters<u64>>,
    prefix: Prefix,
}

impl DefineStream for StreamLimitConn {
    const NAME: &'static str = NAME;
    const PRIORITY: i32 = 1003;
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let counts = Counters::shared(NAME, "connections", env);
        let (conn, burst) = (config.conn as u64, config.burst as u64);
        Ok(StreamLimitConn {
            conn,
            most: conn.saturating_add(burst),
            delay: config.default_conn_delay,
            key: KeySource::new(config.key_type, &config.key),
            prefix: counts.prefix(&prefix_of(&config, env)),
            counts,
        })
    }
}

impl StreamPlugin for StreamLimitConn {
    fn preread(&self, cx: &mut StreamContext) -> StreamFlow {
        let key = self.key.of(cx, |cx| &cx.connection.peer_text, |text| self.counts.key(self.prefix, text));
        let counted = match Lease::take(&self.counts, key, self.most) {
            Ok(Some((lease, counted))) => {
                cx.hold(lease);
                counted
            }
            Ok(None) => {
                cx.rejected = Some(503);
                return StreamFlow::Close("too many connections".into());
            }
            Err(e) => return StreamFlow::Close(format!("failed to limit conn: {e}").into()),
        };
        match delay_of(self.delay, counted, self.conn) {
            delay if delay >= 0.001 => StreamFlow::Wait(Duration::try_from_secs_f64(delay).unwrap_or(Duration::MAX)),
            _ => StreamFlow::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::{Connection, define_stream, schema_of};

    fn connection() -> StreamContext {
        let [peer, local] = ["10.0.0.1:5000", "127.0.0.1:9100"].map(|a| a.parse().unwrap());
        StreamContext::new(Connection::new(peer, local, None), "r".into())
    }

    #[test]
    fn the_schema_is_apisix_s() {
        let mut schema = schema_of::<Config>();
        schema["properties"].as_object_mut().unwrap().values_mut().for_each(|p| {
            p.as_object_mut().unwrap().remove("description");
        });
        let wanted = json!({
            "conn": {"type": "integer", "exclusiveMinimum": 0}, "burst": {"type": "integer", "minimum": 0},
            "default_conn_delay": {"type": "number", "exclusiveMinimum": 0},
            "only_use_default_delay": {"type": "boolean", "default": false}, "key": {"type": "string"},
            "key_type": {"type": "string", "enum": ["var", "var_combination"], "default": "var"},
        });
        assert_eq!(schema["properties"], wanted);
        assert_eq!(schema["required"], json!(["conn", "burst", "default_conn_delay", "key"]));
    }

    #[test]
    fn excess_waits_and_more_is_closed_until_one_ends() {
        let config = json!({"conn": 1, "burst": 1, "default_conn_delay": 0.5, "key": "remote_addr"});
        let plugin = (define_stream::<StreamLimitConn>().build)(&config, &Env::for_tests()).unwrap();
        let [mut one, mut two, mut three] = [connection(), connection(), connection()];
        assert_eq!(plugin.preread(&mut one), StreamFlow::Next);
        assert_eq!(plugin.preread(&mut two), StreamFlow::Wait(Duration::from_millis(500)));
        assert!(matches!(plugin.preread(&mut three), StreamFlow::Close(_)));
        drop(one);
        assert!(matches!(plugin.preread(&mut three), StreamFlow::Wait(_)));
        drop((two, three));
        assert_eq!(plugin.preread(&mut connection()), StreamFlow::Next);
    }
}
