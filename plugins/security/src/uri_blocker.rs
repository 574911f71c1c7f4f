//! `uri-blocker` refuses requests whose URI matches one of some patterns.
//!
//! Use it to keep paths such as `root.exe` or `/admin` from the upstream. Patterns see the normalised, decoded path (`/./a`
//! and `/%61` are `/a`) and the query as it was sent, so `^/internal/` cannot be dodged by spelling. Read in
//! apisix/plugins/uri-blocker.lua and apisix/init.lua ("normalized but not rewritten uri").
use crate::pattern::{self, Patterns};
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_http::{Request, target};
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};
use std::borrow::Cow;

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Patterns; one match blocks.
    #[schemars(inner(length(min = 1, max = 4096)), extend("uniqueItems" = true))]
    block_rules: Vec<String>,
    /// Status of the refusal.
    #[serde(default = "default_code")]
    #[schemars(range(min = 200))]
    rejected_code: i64,
    /// Becomes `error_msg` of the refusal; without it the refusal has the gateway's page for the status.
    #[schemars(length(min = 1))]
    rejected_msg: Option<String>,
    /// Letters match in either case.
    #[serde(default)]
    case_insensitive: bool,
}

fn default_code() -> i64 {
    403
}

pub struct UriBlocker {
    /// All rules in one. No rules are the empty pattern, which blocks everything, as in APISIX.
    rules: Patterns,
    refusal: Reply,
}

impl Define for UriBlocker {
    const INFO: Info = Info::new("uri-blocker", 2900, Phases::REWRITE);
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        config.block_rules.iter().try_for_each(|rule| pattern::compile(rule).map(drop))
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let status = u16::try_from(config.rejected_code).unwrap_or(500);
        let refusal = match &config.rejected_msg {
            Some(message) => Reply::error_msg(status, message),
            None => Reply::status(status),
        };
        let options = if config.case_insensitive { "i" } else { "" };
        Ok(UriBlocker { rules: Patterns::new(&config.block_rules, options)?, refusal })
    }
}

impl Plugin for UriBlocker {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if self.rules.is_match(&request_uri(&cx.request)) { Flow::reply(self.refusal.clone()) } else { Flow::Next }
    }
}

/// `$request_uri` as APISIX's plugins see it: the path normalised, `?` and the query only where there is one.
fn request_uri(request: &Request) -> Cow<'_, [u8]> {
    let (target, normal) = (request.target_bytes(), request.path_bytes());
    let (path, query) = target::split(target);
    match query.filter(|query| !query.is_empty()) {
        None => Cow::Borrowed(normal),
        Some(_) if path == normal => Cow::Borrowed(target),
        Some(query) => Cow::Owned([normal, b"?", query].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Definition, Scope, define};

    const PLUGIN: Definition = define::<UriBlocker>();

    fn error(mut config: Value) -> String {
        check(PLUGIN, Scope::Route, &mut config).unwrap_err().0
    }
    fn answer(config: &Value, target: &str) -> Option<Reply> {
        let plugin = Harness::new(PLUGIN, config.clone()).unwrap();
        plugin.request(&mut Context::for_tests("GET", target))
    }

    #[test]
    fn configurations_are_checked() {
        assert_eq!(error(json!({"block_rules": [".+("]})), "pcre_compile() failed: missing ) in \".+(\"");
        assert_eq!(error(json!({"block_rules": ["^a", "^b("]})), "pcre_compile() failed: missing ) in \"^b(\"");
        assert_eq!(
            error(json!({"block_rules": ["^a"], "rejected_msg": ""})),
            "property \"rejected_msg\" validation failed: string too short, expected at least 1, got 0"
        );
        assert_eq!(error(json!({})), "property \"block_rules\" is required");
        let message = error(json!({"block_rules": ["a", "a"]}));
        assert!(message.contains("expected unique items"), "{message}");
        let mut config = json!({"block_rules": ["a"]});
        check(PLUGIN, Scope::Route, &mut config).unwrap();
        assert_eq!(config, json!({"block_rules": ["a"], "rejected_code": 403, "case_insensitive": false}));
    }

    #[test]
    fn any_rule_blocks_path_or_query() {
        let config = json!({"block_rules": ["aa", "bb", "c\\d+"]});
        for blocked in ["/hello?x=bb", "/hello?bb=2", "/hello?c1=2", "/aa"] {
            assert_eq!(answer(&config, blocked), Some(Reply::status(403)), "{blocked}");
        }
        assert_eq!(answer(&config, "/hello?cc=2"), None);
        assert_eq!(answer(&config, "/hello?AA"), None);
        let sql = json!({"block_rules": ["select.+(from|limit)", "(?:(union(.*?)select))"]});
        assert!(answer(&sql, "/hello?name=;select%20from%20sys").is_some());
        assert!(answer(&sql, "/hello?name=;union%20select%20").is_some());
    }

    #[test]
    fn the_refusal_is_configurable() {
        let config = json!({"block_rules": ["AA"], "case_insensitive": true, "rejected_code": 410, "rejected_msg": "access is not allowed"});
        assert_eq!(answer(&config, "/x?aA"), Some(Reply::error_msg(410, "access is not allowed")));
    }

    #[test]
    fn bytes_that_are_not_utf8_hide_nothing() {
        let plugin = Harness::new(PLUGIN, json!({"block_rules": ["root\\.exe"]})).unwrap();
        let mut cx = Context::for_tests("GET", "/");
        cx.request.set_target(b"/?root.exe\xff");
        assert_eq!(plugin.request(&mut cx), Some(Reply::status(403)));
    }

    #[test]
    fn spelling_hides_nothing() {
        let config = json!({"block_rules": ["^/internal/", "\\?$"]});
        for blocked in ["/./internal/x?aa=1", "//internal/x", "/a/../internal/", "/%69nternal/x", "/internal/"] {
            assert!(answer(&config, blocked).is_some(), "{blocked}");
        }
        assert_eq!(answer(&config, "/hello?/internal/"), None);
        assert_eq!(answer(&config, "/hello?"), None);
    }
}
