//! `redirect` answers with a redirect: to a template with variables, by a regular expression on the path, or from http
//! to https.
//!
//! Use it for moved paths and to force TLS. `http_to_https` looks at `X-Forwarded-Proto` of a trusted peer, then at the
//! connection; it answers 301 to GET and HEAD and 308 to other methods, whatever `ret_code` says. Its port is
//! `plugin_attr.redirect.https_port`, else one of `apisix.ssl.listen`; 443 is left out.
//!
//! Difference from APISIX: none known.
//!
//! Source: apisix/plugins/redirect.lua.
use crate::proxy_rewrite::{check_pair, compile_pair};
use crate::uri_escape;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_expr::{Lookup, Regex, Replacement, Variable};
use sluice_http::Method;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};

#[cfg(test)]
mod tests;

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Status of the answer.
    ret_code: u64,
    /// Where to; may hold variables.
    uri: Option<String>,
    /// A regular expression on the path, and what the path becomes.
    regex_uri: Option<Vec<String>>,
    /// Redirect requests that came without TLS.
    http_to_https: Option<bool>,
    /// Percent-encode the path of the new address.
    encode_uri: bool,
    /// Keep the query.
    append_query_string: bool,
}

enum Part {
    Text(Box<str>),
    Variable(Variable),
}

/// `uri` with its variables. Not [`sluice_expr::Template`]: here a name ends at a dot, there are no defaults, and a
/// backslash that escapes nothing is dropped.
struct Location(Box<[Part]>);

impl Location {
    fn compile(text: &str) -> Location {
        let name_len = |s: &str| s.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        let mut parts: Vec<Part> = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let after = rest.get(1..).unwrap_or_default();
            let (used, name) = match first {
                '\\' => {
                    let len = after.strip_prefix('$').map_or(0, name_len);
                    if len > 0 {
                        literal.push_str(rest.get(..2 + len).unwrap_or_default());
                    }
                    (if len > 0 { 2 + len } else { 1 }, None)
                }
                '$' => {
                    let braced = after.strip_prefix('{').unwrap_or_default();
                    let inner = name_len(braced);
                    let bare = name_len(after);
                    if inner > 0 && braced.as_bytes().get(inner) == Some(&b'}') {
                        (inner + 3, braced.get(..inner))
                    } else if bare > 0 {
                        (1 + bare, after.get(..bare))
                    } else {
                        literal.push('$');
                        (1, None)
                    }
                }
                other => {
                    literal.push(other);
                    (other.len_utf8(), None)
                }
            };
            if let Some(name) = name {
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal).into()));
                }
                parts.push(Part::Variable(Variable::parse(name)));
            }
            rest = rest.get(used..).unwrap_or_default();
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Location(parts.into())
    }

    fn render(&self, cx: &Context) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable(variable) => {
                    if let Some(value) = cx.variable(variable) {
                        value.write_to(&mut out);
                    }
                }
            }
        }
        out
    }
}

enum Target {
    Uri(Location),
    Regex(Regex, Replacement),
    None,
}

pub struct Redirect {
    status: u16,
    target: Target,
    /// One address per port, if http goes to https.
    https: Option<Box<[Location]>>,
    encode_uri: bool,
    append_query_string: bool,
}

/// The addresses of `http_to_https`: `plugin_attr.redirect.https_port`, or the ports that serve TLS.
fn https_locations(env: &Env) -> Box<[Location]> {
    let one = |port: Option<i64>| match port {
        Some(port @ (1..=442 | 444..=65535)) => Location::compile(&format!("https://$host:{port}$request_uri")),
        _ => Location::compile("https://$host$request_uri"),
    };
    match env.attribute("redirect").get("https_port").and_then(Value::as_i64) {
        None if !env.https_ports.is_empty() => env.https_ports.iter().map(|p| one(Some(i64::from(*p)))).collect(),
        attribute => [one(attribute)].into(),
    }
}

impl Define for Redirect {
    const INFO: Info = Info::new("redirect", 900, Phases::REWRITE);
    type Config = Config;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "ret_code": {"description": "Status of the answer.", "type": "integer", "minimum": 200, "default": 302},
                "uri": {
                    "description": "Where to; may hold variables.",
                    "type": "string", "minLength": 2,
                    "pattern": "(\\\\\\$[0-9a-zA-Z_]+)|\\$\\{([0-9a-zA-Z_]+)\\}|\\$([0-9a-zA-Z_]+)|(\\$|[^$\\\\]+)"
                },
                "regex_uri": {
                    "description": "A regular expression on the path, and what the path becomes.",
                    "type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "string"}
                },
                "http_to_https": {"description": "Redirect requests that came without TLS.", "type": "boolean"},
                "encode_uri": {"description": "Percent-encode the path of the new address.", "type": "boolean", "default": false},
                "append_query_string": {"description": "Keep the query.", "type": "boolean", "default": false}
            },
            "oneOf": [{"required": ["uri"]}, {"required": ["regex_uri"]}, {"required": ["http_to_https"]}]
        })
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        if let Some([pattern, replacement]) = config.regex_uri.as_deref() {
            check_pair(pattern, replacement)
                .map_err(|e| BuildError(format!("invalid regex_uri ({pattern}, {replacement}), err:{e}")))?;
        }
        if config.http_to_https == Some(true) && config.append_query_string {
            return Err(BuildError::new("only one of `http_to_https` and `append_query_string` can be configured."));
        }
        Ok(())
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let target = match (&config.uri, config.regex_uri.as_deref()) {
            (Some(uri), _) => Target::Uri(Location::compile(uri)),
            (None, Some([pattern, replacement])) => {
                let (regex, replacement) = compile_pair(pattern, replacement).map_err(BuildError)?;
                Target::Regex(regex, replacement)
            }
            _ => Target::None,
        };
        Ok(Redirect {
            // What does not fit into three digits cannot be sent.
            status: u16::try_from(config.ret_code).ok().filter(|s| *s < 1000).unwrap_or(500),
            target,
            https: (config.http_to_https == Some(true)).then(|| https_locations(env)),
            encode_uri: config.encode_uri,
            append_query_string: config.append_query_string,
        })
    }
}

/// Whether the client's connection is TLS, as a trusted peer or the connection itself says.
fn is_https(cx: &Context) -> bool {
    match cx.request.headers.get("x-forwarded-proto") {
        Some(proto) => proto == b"https",
        None => cx.connection.tls.is_some(),
    }
}

impl Redirect {
    fn new_address(&self, cx: &Context) -> Option<(u16, Vec<u8>)> {
        if let Some(locations) = &self.https
            && !is_https(cx)
        {
            let status = if matches!(cx.request.method, Method::Get | Method::Head) { 301 } else { 308 };
            let location = match &**locations {
                [only] => only,
                several => several.get(rand::random_range(0..several.len().max(1)))?,
            };
            return Some((status, location.render(cx)));
        }
        let address = match &self.target {
            Target::Uri(location) => location.render(cx),
            Target::Regex(regex, replacement) => match regex.replace(cx.request.path_bytes(), replacement, 1) {
                (address, 1..) => address,
                _ => return None,
            },
            Target::None => return None,
        };
        Some((self.status, address))
    }
}

impl Plugin for Redirect {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let Some((status, address)) = self.new_address(cx) else { return Flow::Next };
        let question = address.iter().position(|b| *b == b'?');
        let mut location = Vec::with_capacity(address.len() + 32);
        if self.encode_uri {
            let (path, query) = address.split_at_checked(question.unwrap_or(address.len())).unwrap_or_default();
            uri_escape::path(path, &mut location);
            uri_escape::controls(query, &mut location);
        } else {
            uri_escape::controls(&address, &mut location);
        }
        if self.append_query_string
            && let Some(query) = cx.request.query().filter(|q| !q.is_empty())
        {
            location.push(if question.is_some() { b'&' } else { b'?' });
            location.extend_from_slice(query.as_bytes());
        }
        Flow::reply(Reply::status(status).header("Location", location))
    }
}
