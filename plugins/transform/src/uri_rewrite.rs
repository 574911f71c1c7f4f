//! `uri-rewrite` changes where a request goes: path, query, host and scheme, by rules with conditions.
//!
//! Use it where one `proxy-rewrite` per route is not enough: rules are tried in order, and the first whose `when` holds and
//! whose `regex` matches is applied; without one the request goes on as it came. `uri` is a template with variables; `regex` is
//! a pattern on the path and its replacement; `query` removes, sets and adds arguments; `host` and `scheme` are for the upstream.
//! The client's query is kept behind the new target's own unless `query.clear` is set.
//!
//! It is Sluice's own, on the mechanism of `proxy-rewrite`: paths are percent-encoded, values of variables cannot begin the query,
//! and the path that a rule sees is the client's, decoded and normalised; a rule without `uri` and `regex` keeps the target that
//! `proxy-rewrite` has made. The surprise: a `host` whose variables make it something
//! else than a host name is left out, and the request keeps the host it has.
use crate::proxy_rewrite::{append_query, check_pair, compile_pair, encode, escape_separator};
use crate::query_edits::{self, QueryEdits};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_expr::{Captures, Expr, Regex, Replacement, Template};
use sluice_http::target;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin};

/// Configuration of `uri-rewrite`.
#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Rules; the first that fits is applied.
    #[schemars(with = "Vec<Value>")]
    rules: Vec<RuleConfig>,
}

#[derive(Deserialize)]
struct RuleConfig {
    when: Option<Value>,
    uri: Option<String>,
    regex: Option<RegexConfig>,
    host: Option<String>,
    scheme: Option<String>,
    query: Option<query_edits::Config>,
}

#[derive(Deserialize)]
struct RegexConfig {
    pattern: String,
    replacement: String,
}

enum Path {
    Keep,
    Template(Template),
    Regex(Regex, Replacement),
}

struct Rule {
    when: Option<Expr>,
    path: Path,
    host: Option<Template>,
    scheme: Option<Box<str>>,
    query: Option<QueryEdits>,
}

/// The plugin.
pub struct UriRewrite {
    rules: Box<[Rule]>,
}

impl Define for UriRewrite {
    const INFO: Info = Info::new("uri-rewrite", 1007, Phases::REWRITE);
    type Config = Config;

    fn schema() -> Value {
        json!({
            "type": "object",
            "required": ["rules"],
            "properties": {"rules": {
                "description": "Rules; the first that fits is applied.",
                "type": "array", "minItems": 1, "maxItems": 256,
                "items": {
                    "type": "object", "minProperties": 1, "additionalProperties": false,
                    "properties": {
                        "when": {"description": "An expression as in `vars`: the rule fits only where it holds.", "type": "array"},
                        "uri": {
                            "description": "New path, and query if it has `?`; may hold variables.",
                            "type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^/"
                        },
                        "regex": {
                            "description": "A pattern on the path, and what stands in for its match (`$1` is the first group). The rule fits only where it matches.",
                            "type": "object", "additionalProperties": false, "required": ["pattern", "replacement"],
                            "properties": {
                                "pattern": {"description": "Pattern.", "type": "string", "minLength": 1},
                                "replacement": {"description": "Replacement.", "type": "string"}
                            }
                        },
                        "host": {
                            "description": "New `Host` for the upstream; may hold variables.",
                            "type": "string", "minLength": 1, "maxLength": 255
                        },
                        "scheme": {
                            "description": "New scheme for the upstream.",
                            "type": "string", "enum": ["http", "https", "grpc", "grpcs"]
                        },
                        "query": query_edits::schema()
                    },
                    "not": {"required": ["uri", "regex"]}
                }
            }}
        })
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        for (i, rule) in config.rules.iter().enumerate() {
            let wrong = |what: &str, e: &dyn std::fmt::Display| BuildError(format!("rules[{i}].{what}: {e}"));
            if let Some(when) = &rule.when {
                Expr::compile(when).map_err(|e| wrong("when", &e))?;
            }
            if let Some(regex) = &rule.regex {
                check_pair(&regex.pattern, &regex.replacement).map_err(|e| wrong("regex", &e))?;
            }
        }
        Ok(())
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let rules = config.rules.into_iter().map(|rule| {
            Ok(Rule {
                when: rule.when.as_ref().map(Expr::compile).transpose().map_err(BuildError::new)?,
                path: match (rule.uri, rule.regex) {
                    (Some(uri), _) => Path::Template(Template::compile(&uri)),
                    (None, Some(regex)) => {
                        let (pattern, replacement) =
                            compile_pair(&regex.pattern, &regex.replacement).map_err(BuildError)?;
                        Path::Regex(pattern, replacement)
                    }
                    (None, None) => Path::Keep,
                },
                host: rule.host.as_deref().map(Template::compile),
                scheme: rule.scheme.map(Into::into),
                query: rule.query.as_ref().map(QueryEdits::compile),
            })
        });
        Ok(UriRewrite { rules: rules.collect::<Result<_, BuildError>>()? })
    }
}

impl Rule {
    /// The new path as it is sent, perhaps with a query of its own; `None` where the rule does not fit.
    fn path(&self, cx: &Context, captures: &mut Captures) -> Option<Vec<u8>> {
        if self.when.as_ref().is_some_and(|when| !when.eval(cx)) {
            return None;
        }
        let path = cx.request.path_bytes();
        Some(match &self.path {
            Path::Keep => match &cx.upstream.target {
                Some(target) => target::split(target).0.to_vec(),
                None => encode(path, false, false),
            },
            Path::Template(template) => {
                let mut text = Vec::new();
                template.render_escaped(cx, "", &escape_separator, &mut text);
                encode(&text, false, true)
            }
            Path::Regex(regex, replacement) => {
                if !regex.captures_into(path, captures) {
                    return None;
                }
                let (start, end) = captures.get(0).unwrap_or_default();
                let mut text = path.get(..start).unwrap_or_default().to_vec();
                replacement.expand_into(path, captures, &mut text);
                text.extend_from_slice(path.get(end..).unwrap_or_default());
                // An origin-form target begins so (RFC 9112, 3.2.1).
                if text.first() != Some(&b'/') {
                    text.insert(0, b'/');
                }
                // A `?` of the client's path came as %3F and stays so.
                encode(&text, false, !path.contains(&b'?'))
            }
        })
    }

    fn apply(&self, cx: &mut Context, mut new: Vec<u8>) {
        let query = match (&self.path, &cx.upstream.target) {
            (Path::Keep, Some(target)) => target::split(target).1,
            _ => cx.request.query().map(str::as_bytes),
        };
        match &self.query {
            None => append_query(&mut new, query, false),
            Some(edits) => append_query(&mut new, Some(&edits.apply(query, cx)), false),
        }
        if let Some(template) = &self.host {
            let host = template.render(cx, "");
            if is_host(&host) {
                cx.upstream.host = Some(host);
            } else {
                tracing::warn!(plugin = "uri-rewrite", host = %String::from_utf8_lossy(&host), "this is no host name");
            }
        }
        if let Some(scheme) = &self.scheme {
            cx.upstream.scheme = Some(scheme.clone());
        }
        cx.upstream.target = Some(new);
    }
}

/// A name, address or bracketed address, with a port if need be.
fn is_host(host: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !host.is_empty() && host.len() <= 255 && host.iter().all(plain)
}

impl Plugin for UriRewrite {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let mut captures = Captures::default();
        for rule in &self.rules {
            if let Some(target) = rule.path(cx, &mut captures) {
                rule.apply(cx, target);
                break;
            }
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Scope, define};

    fn rewritten(rules: Value, target: &str, headers: &[(&str, &str)]) -> Context {
        let plugin = Harness::new(define::<UriRewrite>(), json!({"rules": rules})).unwrap();
        let mut cx = Context::for_tests("GET", target);
        headers.iter().for_each(|(name, value)| cx.request.headers.append(name, value));
        assert_eq!(plugin.request(&mut cx), None);
        cx
    }

    #[test]
    fn a_target_that_another_plugin_made_is_kept() {
        let plugin = Harness::new(define::<UriRewrite>(), json!({"rules": [{"query": {"add": {"b": 2}}}]})).unwrap();
        let mut cx = Context::for_tests("GET", "/x?a=0");
        cx.upstream.target = Some(b"/new?a=1".to_vec());
        plugin.request(&mut cx);
        assert_eq!(cx.upstream.target.as_deref(), Some(b"/new?a=1&b=2".as_slice()));
    }

    fn target(rules: Value, from: &str) -> Option<String> {
        rewritten(rules, from, &[]).upstream.target.map(|t| String::from_utf8(t).unwrap())
    }

    #[test]
    fn the_first_rule_that_fits_is_applied() {
        let rules = json!([
            {"when": [["arg_v", "==", "2"]], "uri": "/v2/$arg_id"},
            {"regex": {"pattern": "^/old/(.*)", "replacement": "/new/$1"}},
            {"uri": "/rest?from=rule"}
        ]);
        assert_eq!(target(rules.clone(), "/x?v=2&id=a%3Fb"), Some("/v2/a%253Fb?v=2&id=a%3Fb".into()));
        assert_eq!(target(rules.clone(), "/old/a%20b?c=1"), Some("/new/a%20b?c=1".into()));
        assert_eq!(target(rules, "/x?c=1"), Some("/rest?from=rule&c=1".into()));
        assert_eq!(target(json!([{"when": [["arg_v", "==", "2"]], "uri": "/v2"}]), "/x"), None);
        assert_eq!(target(json!([{"regex": {"pattern": "^/", "replacement": ""}}]), "/x"), Some("/x".into()));
    }

    #[test]
    fn host_scheme_and_query_go_to_the_upstream() {
        let rules = json!([{
            "host": "${http_x_tenant}.example.com", "scheme": "https",
            "query": {"remove": ["token"], "set": {"tenant": "$http_x_tenant"}}
        }]);
        let cx = rewritten(rules.clone(), "/a?token=s&b=1", &[("X-Tenant", "acme")]);
        assert_eq!(cx.upstream.target.as_deref(), Some(b"/a?b=1&tenant=acme".as_slice()));
        assert_eq!(cx.upstream.scheme.as_deref(), Some("https"));
        let rules = json!([{"host": "${http_x_tenant}.example.com"}]);
        let host = |tenant: &str| rewritten(rules.clone(), "/a", &[("X-Tenant", tenant)]).upstream.host;
        assert_eq!(host("acme").as_deref(), Some(b"acme.example.com".as_slice()));
        assert_eq!(host("a/b"), None);
    }

    #[test]
    fn rules_are_checked() {
        let refused =
            |rules: Value| check(define::<UriRewrite>(), Scope::Route, &mut json!({"rules": rules})).unwrap_err().0;
        assert!(refused(json!([{"regex": {"pattern": "(", "replacement": ""}}])).starts_with("rules[0].regex: "));
        assert!(refused(json!([{"uri": "/a"}, {"when": [["a"]]}])).starts_with("rules[1].when: "));
        for rules in [
            json!([]),
            json!([{}]),
            json!([{"uri": "x"}]),
            json!([{"path": "/x"}]),
            json!([{"uri": "/x", "regex": {"pattern": "a", "replacement": ""}}]),
        ] {
            assert!(!refused(rules).is_empty());
        }
    }
}
