//! `referer-restriction` lets requests in by the host of `Referer`, the page they come from.
//!
//! Use it against embedding of pictures and downloads by other sites. A `Referer` that is not an `http(s)://` URI counts
//! as missing. Host names are compared as they are sent; `*example.com` matches any host that ends so. Difference from
//! APISIX: an IPv6 host (`http://[::1]/`) is understood. Read in apisix/plugins/referer-restriction.lua.
use foldhash::HashSet;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};

/// apisix/schema_def.lua `host_def`.
const HOST: &str = r"^\*$|^\*?[0-9a-zA-Z-._\[\]:]+$";

#[derive(Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = [{"required": ["whitelist"]}, {"required": ["blacklist"]}]))]
pub struct Config {
    /// Lets requests without `Referer` pass.
    #[serde(default)]
    bypass_missing: bool,
    /// Only these hosts may refer; a leading `*` matches any beginning.
    #[schemars(length(min = 1), inner(regex(pattern = HOST)))]
    whitelist: Option<Vec<String>>,
    /// These hosts may not refer; a leading `*` matches any beginning.
    #[schemars(length(min = 1), inner(regex(pattern = HOST)))]
    blacklist: Option<Vec<String>>,
    /// What a refused client reads.
    #[serde(default = "default_message")]
    #[schemars(length(min = 1, max = 1024))]
    message: String,
}

fn default_message() -> String {
    "Your referer host is not allowed".into()
}

pub struct RefererRestriction {
    hosts: HashSet<Box<[u8]>>,
    suffixes: Vec<Box<[u8]>>,
    /// What being in the list means.
    listed_may_pass: bool,
    bypass_missing: bool,
    refusal: Reply,
}

impl Define for RefererRestriction {
    const INFO: Info = Info::new("referer-restriction", 2990, Phases::ACCESS);
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let listed_may_pass = config.whitelist.is_some();
        let (mut hosts, mut suffixes) = (HashSet::default(), Vec::new());
        for host in config.whitelist.or(config.blacklist).unwrap_or_default() {
            match host.strip_prefix('*') {
                Some(suffix) => suffixes.push(suffix.as_bytes().into()),
                None => {
                    hosts.insert(host.into_bytes().into());
                }
            }
        }
        let refusal = Reply::message(403, &config.message);
        Ok(RefererRestriction { hosts, suffixes, listed_may_pass, bypass_missing: config.bypass_missing, refusal })
    }
}

impl Plugin for RefererRestriction {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let referer = cx.request.headers.joined("referer");
        let passes = match referer.as_deref().and_then(host_of) {
            None => self.bypass_missing,
            Some(host) => {
                let listed = self.hosts.contains(host) || self.suffixes.iter().any(|s| host.ends_with(s));
                listed == self.listed_may_pass
            }
        };
        if passes { Flow::Next } else { Flow::reply(self.refusal.clone()) }
    }
}

/// The host of `http://host…`, `https://host…` or `//host…` (lua-resty-http `parse_uri`).
fn host_of(uri: &[u8]) -> Option<&[u8]> {
    let rest = [&b"https:"[..], b"http:"].iter().find_map(|scheme| uri.strip_prefix(*scheme)).unwrap_or(uri);
    let rest = rest.strip_prefix(b"//")?;
    let end = match rest.first()? {
        b'[' => rest.iter().position(|b| *b == b']')? + 1,
        _ => rest.iter().position(|b| matches!(b, b':' | b'/' | b'?')).unwrap_or(rest.len()),
    };
    rest.get(..end).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Definition, Scope, define};

    const PLUGIN: Definition = define::<RefererRestriction>();

    fn error(mut config: Value) -> String {
        check(PLUGIN, Scope::Route, &mut config).unwrap_err().0
    }
    fn answer(config: Value, referer: Option<&str>) -> Option<Reply> {
        let plugin = Harness::new(PLUGIN, config).unwrap();
        let mut cx = Context::for_tests("GET", "/hello");
        if let Some(referer) = referer {
            cx.request.headers.append("Referer", referer);
        }
        plugin.request(&mut cx)
    }

    #[test]
    fn hosts_are_checked() {
        let message = error(json!({"whitelist": ["a/b"]}));
        assert!(message.contains("failed to validate item 1: failed to match pattern"), "{message}");
        assert_eq!(error(json!({})), "value should match only one schema, but matches none");
        assert_eq!(
            error(json!({"whitelist": ["a"], "blacklist": ["b"]})),
            "value should match only one schema, but matches both schemas 1 and 2"
        );
        let mut config = json!({"whitelist": ["*"]});
        check(PLUGIN, Scope::Route, &mut config).unwrap();
        let full = json!({"whitelist": ["*"], "bypass_missing": false, "message": "Your referer host is not allowed"});
        assert_eq!(config, full);
    }

    #[test]
    fn whitelist() {
        let config = json!({"whitelist": ["*.xx.com", "yy.com"]});
        for allowed in
            ["http://www.xx.com", "https://yy.com/am", "//yy.com?x", "http://yy.com:8080/", "http://a.b.xx.com/"]
        {
            assert_eq!(answer(config.clone(), Some(allowed)), None, "{allowed}");
        }
        let refusal = Some(Reply::message(403, "Your referer host is not allowed"));
        for refused in [
            "https://www.yy.com/am",
            "http://xx.com",
            "http://evil.com/yy.com",
            "www.yy.com",
            "http://",
            "ftp://yy.com",
        ] {
            assert_eq!(answer(config.clone(), Some(refused)), refusal, "{refused}");
        }
        assert_eq!(answer(config, None), refusal);
    }

    #[test]
    fn missing_and_malformed_may_be_let_in() {
        let config = json!({"whitelist": ["*.xx.com"], "bypass_missing": true});
        for missing in [None, Some("www.yy.com"), Some("")] {
            assert_eq!(answer(config.clone(), missing), None, "{missing:?}");
        }
        assert!(answer(config, Some("http://yy.com")).is_some());
    }

    #[test]
    fn blacklist() {
        let config = json!({"blacklist": ["*.xx.com", "[::1]"], "message": "Your referer host is deny"});
        let refusal = Some(Reply::message(403, "Your referer host is deny"));
        for refused in [Some("http://www.xx.com"), Some("http://[::1]:80/"), None] {
            assert_eq!(answer(config.clone(), refused), refusal, "{refused:?}");
        }
        assert_eq!(answer(config, Some("https://yy.com")), None);
    }
}
