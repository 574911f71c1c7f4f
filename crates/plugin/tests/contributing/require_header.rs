//! `require-header` refuses requests without a certain header.
//!
//! Use it where every client must name itself. It is Sluice's own, so there is nothing to differ from.
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Name of the header.
    #[schemars(length(min = 1, max = 64))]
    header: String,
    /// Status of the refusal.
    #[serde(default = "default_code")]
    #[schemars(range(min = 400, max = 499))]
    rejected_code: u16,
}

fn default_code() -> u16 {
    400
}

/// Everything is made when the configuration is compiled; a request costs one look at its headers.
pub struct RequireHeader {
    header: String,
    refusal: Reply,
}

impl Define for RequireHeader {
    const INFO: Info = Info::new("require-header", 2850, Phases::ACCESS);
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let refusal = Reply::message(config.rejected_code, &format!("header {} is missing", config.header));
        Ok(RequireHeader { header: config.header, refusal })
    }
}

impl Plugin for RequireHeader {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if cx.request.headers.contains(&self.header) { Flow::Next } else { Flow::reply(self.refusal.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Scope, define};

    #[test]
    fn requests_without_the_header_are_refused() {
        let plugin = Harness::new(define::<RequireHeader>(), json!({"header": "X-Team"})).unwrap();
        let mut cx = Context::for_tests("GET", "/");
        assert_eq!(plugin.request(&mut cx), Some(Reply::message(400, "header X-Team is missing")));
        cx.request.headers.append("x-team", "payments");
        assert_eq!(plugin.request(&mut cx), None);
    }

    #[test]
    fn the_schema_says_what_is_wrong() {
        let error = check(define::<RequireHeader>(), Scope::Route, &mut json!({})).unwrap_err();
        assert_eq!(error.0, "property \"header\" is required");
    }
}
