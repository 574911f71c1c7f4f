//! `ua-restriction` lets only some user agents in, or keeps some out, by patterns on `User-Agent`.
//!
//! Use it against crawlers that name themselves; anyone can send any name. Difference from APISIX: with several
//! `User-Agent` fields, one that the denylist names is enough to refuse (APISIX refuses where one of them is *not*
//! named, so it also refuses two harmless ones). Read in apisix/plugins/ua-restriction.lua.
use crate::pattern;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_expr::Regex;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};

#[derive(Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = [{"required": ["allowlist"]}, {"required": ["denylist"]}]))]
pub struct Config {
    /// Lets requests without `User-Agent` pass.
    #[serde(default)]
    bypass_missing: bool,
    /// Patterns of which one must occur in the user agent.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    allowlist: Option<Vec<String>>,
    /// Patterns of which none may occur in the user agent.
    #[schemars(length(min = 1), inner(length(min = 1)))]
    denylist: Option<Vec<String>>,
    /// What a refused client reads.
    #[serde(default = "default_message")]
    #[schemars(length(min = 1, max = 1024))]
    message: String,
}

fn default_message() -> String {
    "Not allowed".into()
}

pub struct UaRestriction {
    rules: Vec<Regex>,
    /// What a match means.
    matching_may_pass: bool,
    bypass_missing: bool,
    refusal: Reply,
}

impl Define for UaRestriction {
    const INFO: Info = Info::new("ua-restriction", 2999, Phases::ACCESS);
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        let lists = [&config.allowlist, &config.denylist];
        lists.into_iter().flatten().flatten().try_for_each(|rule| pattern::compile(rule).map(drop))
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let matching_may_pass = config.allowlist.is_some();
        let list = config.allowlist.or(config.denylist).unwrap_or_default();
        Ok(UaRestriction {
            rules: list.iter().map(|rule| pattern::compile(rule)).collect::<Result<_, _>>()?,
            matching_may_pass,
            bypass_missing: config.bypass_missing,
            refusal: Reply::message(403, &config.message),
        })
    }
}

impl Plugin for UaRestriction {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let (mut missing, mut matches) = (true, false);
        for agent in cx.request.headers.get_all("user-agent") {
            missing = false;
            let agent = agent.trim_ascii();
            matches |= self.rules.iter().any(|rule| rule.is_match(agent));
        }
        let passes = if missing { self.bypass_missing } else { matches == self.matching_may_pass };
        if passes { Flow::Next } else { Flow::reply(self.refusal.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Definition, Scope, define};

    const PLUGIN: Definition = define::<UaRestriction>();

    fn error(mut config: Value) -> String {
        check(PLUGIN, Scope::Route, &mut config).unwrap_err().0
    }
    fn passes(config: Value, agents: &[&str]) -> bool {
        let plugin = Harness::new(PLUGIN, config).unwrap();
        let mut cx = Context::for_tests("GET", "/hello");
        for agent in agents {
            cx.request.headers.append("User-Agent", agent);
        }
        let reply = plugin.request(&mut cx);
        assert!(reply.is_none() || reply == Some(Reply::message(403, "Not allowed")), "{reply:?}");
        reply.is_none()
    }

    #[test]
    fn exactly_one_list_is_needed() {
        assert_eq!(error(json!({})), "value should match only one schema, but matches none");
        assert_eq!(
            error(json!({"allowlist": ["a"], "denylist": ["b"]})),
            "value should match only one schema, but matches both schemas 1 and 2"
        );
        assert!(error(json!({"denylist": []})).contains("expect array to have at least 1 items"));
        assert!(error(json!({"denylist": [""]})).contains("failed to validate item 1: string too short"));
        assert_eq!(error(json!({"denylist": ["a("]})), "pcre_compile() failed: missing ) in \"a(\"");
        let mut config = json!({"allowlist": ["a"]});
        check(PLUGIN, Scope::Route, &mut config).unwrap();
        assert_eq!(config, json!({"allowlist": ["a"], "bypass_missing": false, "message": "Not allowed"}));
    }

    #[test]
    fn denylist() {
        let config = json!({"denylist": ["my-bot1", "(Baiduspider)/(\\d+)\\.(\\d+)"]});
        for refused in [&["my-bot1"][..], &["Baiduspider/3.0"], &["my-bot1", "my-bot2"], &["my-bot2", "my-bot1"], &[]] {
            assert!(!passes(config.clone(), refused), "{refused:?}");
        }
        for allowed in [&["foo/bar"][..], &["Baiduspider"], &["MY-BOT1"], &["a", "b"]] {
            assert!(passes(config.clone(), allowed), "{allowed:?}");
        }
    }

    #[test]
    fn allowlist() {
        let config = json!({"allowlist": ["^my-bot1$", "(Baiduspider)/(\\d+)\\.(\\d+)"]});
        for allowed in
            [&["my-bot1"][..], &["  my-bot1 "], &["Baiduspider/3.0"], &["foo", "my-bot1"], &["my-bot1", "foo"]]
        {
            assert!(passes(config.clone(), allowed), "{allowed:?}");
        }
        assert!(!passes(config.clone(), &["foo"]));
        assert!(!passes(config, &[]));
    }

    #[test]
    fn missing_agents_may_be_let_in() {
        assert!(passes(json!({"allowlist": ["a"], "bypass_missing": true}), &[]));
        assert!(passes(json!({"denylist": ["a"], "bypass_missing": true}), &[]));
        assert!(!passes(json!({"denylist": ["^$"], "bypass_missing": true}), &[""]));
    }
}
