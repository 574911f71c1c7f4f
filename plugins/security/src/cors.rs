//! `cors` answers browsers that ask whether a page of another origin may use this API (Cross-Origin Resource Sharing).
//!
//! Every `OPTIONS` request is answered with 200 by the gateway; other responses, errors too, get the `Access-Control-*`
//! fields. The surprises are APISIX's: `Vary: Origin` is added only where `allow_origins` is not `*`, and
//! `allow_origins_by_regex` stands aside while `allow_origins_by_metadata` is set and `allow_origins` is `*`. Differences:
//! a key of `allow_origins_by_metadata` that the metadata lacks matches nothing (APISIX fails on it). Read in
//! apisix/plugins/cors.lua.
use crate::pattern::{self, Patterns};
use foldhash::HashSet;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};
use std::collections::BTreeMap;

const ORIGINS: &str = r"^(\*|\*\*|null|\w+://[^,]+(,\w+://[^,]+)*)$";
const ALL_METHODS: &str = "GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE";

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Origins that may use the API, split by `,`; `*` for all when there are no credentials, `**` for all in any case
    /// (a security risk).
    #[serde(default = "star")]
    #[schemars(regex(pattern = ORIGINS))]
    allow_origins: String,
    /// Allowed methods, split by `,`; `*` for all when there are no credentials, `**` for all in any case.
    #[serde(default = "star")]
    allow_methods: String,
    /// Header fields that requests may bear, split by `,`; `*` for all when there are no credentials, `**` for whatever
    /// the browser asks for.
    #[serde(default = "star")]
    allow_headers: String,
    /// Response fields that pages may read, split by `,`.
    expose_headers: Option<String>,
    /// For how many seconds browsers may keep the answer to a preflight; -1 for not at all.
    #[serde(default = "default_max_age")]
    max_age: i64,
    /// Lets requests bear credentials. No other option may then be `*`.
    #[serde(default)]
    allow_credential: bool,
    /// Patterns of allowed origins, instead of `allow_origins`.
    #[schemars(length(min = 1), inner(length(min = 1, max = 4096)), extend("uniqueItems" = true))]
    allow_origins_by_regex: Option<Vec<String>>,
    /// Keys of `allow_origins` in the plugin's metadata, whose origins are allowed too.
    #[schemars(length(min = 1), inner(length(min = 1, max = 4096)), extend("uniqueItems" = true))]
    allow_origins_by_metadata: Option<Vec<String>>,
    /// Origins that may read timings, in the forms of `allow_origins`.
    #[schemars(regex(pattern = ORIGINS))]
    timing_allow_origins: Option<String>,
    /// Patterns of origins that may read timings, instead of `timing_allow_origins`.
    #[schemars(length(min = 1), inner(length(min = 1, max = 4096)), extend("uniqueItems" = true))]
    timing_allow_origins_by_regex: Option<Vec<String>>,
}

fn star() -> String {
    "*".into()
}
fn default_max_age() -> i64 {
    5
}

/// `plugin_metadata` of `cors`.
#[derive(Default, Deserialize, JsonSchema)]
pub struct Metadata {
    /// Lists of origins by key, for `allow_origins_by_metadata`.
    #[serde(default)]
    #[schemars(schema_with = "origins_by_key")]
    allow_origins: Option<BTreeMap<String, String>>,
}

fn origins_by_key(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "additionalProperties": {"type": "string", "pattern": ORIGINS}})
}

/// What `allow_origins` says.
enum Origins {
    /// `*`, one origin, or `null`: the field's value, whoever asks.
    Fixed(Box<[u8]>),
    /// `**`: whoever asks.
    Any,
    /// Those of a list.
    Listed(HashSet<Box<[u8]>>),
    /// Those that a pattern occurs in.
    Matching(Patterns),
}

impl Origins {
    fn parse(text: &str) -> Origins {
        let bytes = |s: &str| s.as_bytes().into();
        match text {
            "**" => Origins::Any,
            list if list.contains(',') => Origins::Listed(list.split(',').map(bytes).collect()),
            one => Origins::Fixed(bytes(one)),
        }
    }

    /// The field's value for a request from `origin`.
    fn answer<'a>(&'a self, origin: Option<&'a [u8]>) -> Option<&'a [u8]> {
        match self {
            Origins::Fixed(value) => Some(value),
            Origins::Any => Some(origin.unwrap_or(b"*")),
            Origins::Listed(origins) => origin.filter(|o| origins.contains(*o)),
            Origins::Matching(patterns) => origin.filter(|o| patterns.is_match(o)),
        }
    }
}

/// Whether the field's value lets `origin` in; no value lets no origin in.
fn admits(answer: Option<&[u8]>, origin: Option<&[u8]>) -> bool {
    origin == answer || answer == Some(b"*")
}

/// The request's origin as it was when the plugin first saw it; later plugins may change the field.
struct OriginalOrigin(Box<[u8]>);

pub struct Cors {
    /// `allow_origins`, or `allow_origins_by_regex` where it is set.
    origins: Origins,
    /// None without `allow_origins_by_metadata`.
    metadata: Option<Vec<Origins>>,
    allow_all: bool,
    /// Fields whose values do not depend on the request.
    fields: Vec<(&'static str, Box<[u8]>)>,
    /// `allow_headers` is `**`.
    echo_headers: bool,
    timing: Option<Origins>,
}

impl Define for Cors {
    const INFO: Info = Info::new("cors", 4000, Phases::REWRITE.and(Phases::HEADER_FILTER));
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        let starred = [&config.allow_origins, &config.allow_methods, &config.allow_headers].into_iter();
        let optional = [&config.expose_headers, &config.timing_allow_origins].into_iter().flatten();
        if config.allow_credential && starred.chain(optional).any(|value| value == "*") {
            return Err(BuildError::new("you can not set '*' for other option when 'allow_credential' is true"));
        }
        let patterns = [&config.allow_origins_by_regex, &config.timing_allow_origins_by_regex].into_iter().flatten();
        patterns.flatten().try_for_each(|rule| pattern::compile(rule).map(drop))
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let metadata = match &config.allow_origins_by_metadata {
            None => None,
            Some(keys) => {
                let known = match env.metadata("cors") {
                    Some(value) => Metadata::deserialize(value).map_err(BuildError::new)?,
                    None => Metadata::default(),
                };
                let known = known.allow_origins.unwrap_or_default();
                Some(keys.iter().filter_map(|key| known.get(key)).map(|origins| Origins::parse(origins)).collect())
            }
        };
        let matching = |rules: &Vec<String>| Patterns::new(rules, "").map(Origins::Matching);
        let origins = match &config.allow_origins_by_regex {
            Some(rules) => matching(rules)?,
            None => Origins::parse(&config.allow_origins),
        };
        let timing = match (&config.timing_allow_origins_by_regex, &config.timing_allow_origins) {
            (Some(rules), _) => Some(matching(rules)?),
            (None, Some(origins)) => Some(Origins::parse(origins)),
            (None, None) => None,
        };
        let echo_headers = config.allow_headers == "**";
        let methods = if config.allow_methods == "**" { ALL_METHODS } else { &config.allow_methods };
        let mut fields: Vec<(&'static str, Box<[u8]>)> = vec![
            ("Access-Control-Allow-Methods", methods.as_bytes().into()),
            ("Access-Control-Max-Age", config.max_age.to_string().into_bytes().into()),
        ];
        if let Some(expose) = config.expose_headers.filter(|e| !e.is_empty()) {
            fields.push(("Access-Control-Expose-Headers", expose.into_bytes().into()));
        }
        if !echo_headers {
            fields.push(("Access-Control-Allow-Headers", config.allow_headers.into_bytes().into()));
        }
        if config.allow_credential {
            fields.push(("Access-Control-Allow-Credentials", b"true"[..].into()));
        }
        Ok(Cors { origins, metadata, allow_all: config.allow_origins == "*", fields, echo_headers, timing })
    }
}

impl Cors {
    /// The value of `Access-Control-Allow-Origin`.
    fn allowed<'a>(&'a self, origin: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let Some(lists) = &self.metadata else {
            return self.origins.answer(origin).filter(|answer| admits(Some(answer), origin));
        };
        let asking = Some(origin?);
        if lists.iter().any(|list| admits(list.answer(asking), asking)) {
            return asking;
        }
        let own = if self.allow_all { None } else { self.origins.answer(asking) };
        own.filter(|answer| admits(Some(answer), asking))
    }
}

impl Plugin for Cors {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        match cx.request.headers.get("origin") {
            Some(origin) => {
                let origin = OriginalOrigin(origin.into());
                cx.insert(origin);
            }
            None => drop(cx.take::<OriginalOrigin>()),
        }
        if cx.request.method_text() == "OPTIONS" { Flow::reply(Reply::status(200)) } else { Flow::Next }
    }

    fn header_filter(&self, cx: &mut Context) {
        // Taken out for a while, so that the origin can be read from the context meanwhile.
        let mut headers = std::mem::take(&mut cx.response.headers);
        let origin = cx.get::<OriginalOrigin>().map(|o| &*o.0);
        if !self.allow_all {
            headers.append("Vary", "Origin");
        }
        if let Some(allowed) = self.allowed(origin) {
            headers.set("Access-Control-Allow-Origin", allowed);
            for (name, value) in &self.fields {
                headers.set(name, value);
            }
            if self.echo_headers {
                match cx.request.headers.get("access-control-request-headers") {
                    Some(asked) => headers.set("Access-Control-Allow-Headers", asked),
                    None => drop(headers.remove("Access-Control-Allow-Headers")),
                }
            }
        }
        if let Some(answer) = self.timing.as_ref().and_then(|timing| timing.answer(origin))
            && admits(Some(answer), origin)
        {
            headers.set("Timing-Allow-Origin", answer);
        }
        cx.response.headers = headers;
    }
}

#[cfg(test)]
mod tests;
