//! `client-control`: the largest request body of a route, in place of the gateway's `client_max_body_size`.
//!
//! A request that says a larger `Content-Length` gets 413 before anything is read; a chunked body is cut off with 413
//! when it has grown too large. 0 takes every limit away, also one that `config.yaml` sets
//! (apisix/plugins/client-control.lua).
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_expr::parse_number;
use sluice_http::Known;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};

/// Configuration of `client-control`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Maximum message body size in bytes. No restriction when set to 0.
    #[serde(default)]
    #[schemars(range(min = 0))]
    max_body_size: Option<u64>,
}

/// The plugin.
pub struct ClientControl {
    max_body_size: Option<u64>,
}

impl Define for ClientControl {
    const INFO: Info = Info::new("client-control", 22000, Phases::REWRITE);
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        Ok(ClientControl { max_body_size: config.max_body_size })
    }
}

impl Plugin for ClientControl {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let Some(limit) = self.max_body_size else { return Flow::Next };
        let length = cx.request.headers.known(Known::ContentLength).and_then(parse_number);
        if limit != 0 && length.is_some_and(|n| n > limit as f64) {
            return Flow::reply(Reply::status(413));
        }
        cx.max_body_size = Some(limit);
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Scope, define};

    fn status(config: serde_json::Value, length: Option<&str>) -> (Option<u16>, Option<u64>) {
        let harness = Harness::new(define::<ClientControl>(), config).unwrap();
        let mut cx = Context::for_tests("POST", "/hello");
        if let Some(length) = length {
            cx.request.headers.set("Content-Length", length);
        }
        let reply = harness.request(&mut cx);
        (reply.map(|r| r.status), cx.max_body_size)
    }

    #[test]
    fn a_larger_length_is_refused() {
        let config = json!({"max_body_size": 5});
        assert_eq!(status(config.clone(), Some("6")), (Some(413), None));
        assert_eq!(status(config.clone(), Some("5")), (None, Some(5)));
        assert_eq!(status(config, None), (None, Some(5)), "a chunked body is limited while it is read");
    }

    #[test]
    fn zero_is_no_limit_and_nothing_changes_nothing() {
        assert_eq!(status(json!({"max_body_size": 0}), Some("6")), (None, Some(0)));
        assert_eq!(status(json!({}), Some("6")), (None, None));
    }

    #[test]
    fn schema() {
        let refuse = |mut config| check(define::<ClientControl>(), Scope::Route, &mut config).unwrap_err().0;
        let text = r#"property "max_body_size" validation failed: expected -1 to be at least 0"#;
        assert_eq!(refuse(json!({"max_body_size": -1})), text);
    }
}
