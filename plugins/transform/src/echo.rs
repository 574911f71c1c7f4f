//! `echo`: puts text before, after or instead of the response's body, and sets response headers. Meant for trying out
//! routes and plugin chains.
//!
//! Setting any of the three bodies also removes `Content-Length`, `Content-Encoding`, `ETag` and `Last-Modified`, which
//! described the old body (apisix/plugins/echo.lua). A header value that is neither text nor number switches all
//! `headers` off with a warning; APISIX then sets an arbitrary part of them.
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Info, Phases, Plugin, schema_of};
use smallvec::SmallVec;

/// Configuration of `echo`. One of the bodies is required.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1))]
pub struct Config {
    /// body before the filter phase.
    #[serde(default)]
    before_body: Option<String>,
    /// body to replace upstream response.
    #[serde(default)]
    body: Option<String>,
    /// body after the modification of filter phase.
    #[serde(default)]
    after_body: Option<String>,
    /// new headers for response
    #[serde(default)]
    #[schemars(extend("minProperties" = 1), with = "Option<Object>")]
    headers: Option<Map<String, Value>>,
}

/// An object of any members.
#[derive(JsonSchema)]
struct Object {}

/// The plugin.
pub struct Echo {
    before: Option<Vec<u8>>,
    body: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    headers: Vec<(Box<str>, Box<str>)>,
}

/// How far the body of this response has got.
#[derive(Default)]
struct Progress {
    /// Some instance has put its `before_body`. A global rule's `before_body` keeps a route's away, as in APISIX.
    begun: bool,
    /// Instances that have written their whole body.
    over: SmallVec<[usize; 1]>,
}

impl Define for Echo {
    const INFO: Info = Info::new("echo", 412, Phases::HEADER_FILTER.and(Phases::BODY_FILTER));
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        schema["anyOf"] = json!([{"required": ["before_body"]}, {"required": ["body"]}, {"required": ["after_body"]}]);
        schema
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let bytes = |text: Option<String>| text.map(String::into_bytes);
        let headers = config.headers.unwrap_or_default();
        let headers = headers.iter().map(|(name, value)| header(name, value)).collect::<Option<Vec<_>>>();
        if headers.is_none() {
            tracing::warn!("echo: a response header is neither text nor a number: none is set");
        }
        Ok(Echo {
            before: bytes(config.before_body),
            body: bytes(config.body),
            after: bytes(config.after_body),
            headers: headers.unwrap_or_default(),
        })
    }
}

fn header(name: &str, value: &Value) -> Option<(Box<str>, Box<str>)> {
    let value = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            let mut text = Vec::new();
            sluice_expr::write_number(number.as_f64()?, &mut text);
            String::from_utf8(text).ok()?
        }
        _ => return None,
    };
    (!name.is_empty()).then(|| (name.into(), value.into()))
}

impl Echo {
    /// Tells this instance's state from that of another (a global rule's).
    fn identity(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

impl Plugin for Echo {
    fn header_filter(&self, cx: &mut Context) {
        if self.before.is_some() || self.body.is_some() || self.after.is_some() {
            cx.body_modified();
        }
        for (name, value) in &self.headers {
            cx.response.headers.set(name, value.as_bytes());
        }
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        if cx.get::<Progress>().is_none() {
            cx.insert(Progress::default());
        }
        let Some(progress) = cx.get_mut::<Progress>() else { return };
        let this = self.identity();
        if progress.over.contains(&this) {
            chunk.data.clear();
            return;
        }
        let begun = progress.begun;
        progress.begun |= self.before.is_some();
        // The replaced body is whole with the first piece; the rest of the old one is dropped.
        let last = chunk.last || self.body.is_some();
        if last {
            progress.over.push(this);
        }
        if let Some(body) = &self.body {
            chunk.data.clear();
            chunk.data.extend_from_slice(body);
        }
        if let Some(before) = self.before.as_ref().filter(|_| !begun) {
            chunk.data.splice(0..0, before.iter().copied());
        }
        if let Some(after) = self.after.as_ref().filter(|_| last) {
            chunk.data.extend_from_slice(after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Scope, define};

    fn response() -> Context {
        let mut cx = Context::for_tests("GET", "/hello");
        cx.response.status = 200;
        for (name, value) in [("Content-Length", "5"), ("ETag", "\"x\""), ("Last-Modified", "y"), ("Location", "z")] {
            cx.response.headers.append(name, value);
        }
        cx
    }

    fn refusal(mut config: Value) -> String {
        check(define::<Echo>(), Scope::Route, &mut config).unwrap_err().0
    }

    #[test]
    fn all_parts() {
        let config = json!({
            "before_body": "before the body modification ", "body": "hello upstream",
            "after_body": " after the body modification.", "headers": {"Location": "https://a.example", "n": 2}
        });
        let harness = Harness::new(define::<Echo>(), config).unwrap();
        let mut cx = response();
        let body = harness.response(&mut cx, &[b"one", b"two", b""]);
        assert_eq!(body, b"before the body modification hello upstream after the body modification.");
        assert!(cx.wants_body());
        assert_eq!(cx.response.headers.get("location"), Some(&b"https://a.example"[..]));
        assert_eq!(cx.response.headers.get("n"), Some(&b"2"[..]));
        for gone in ["content-length", "etag", "last-modified"] {
            assert!(!cx.response.headers.contains(gone), "{gone}");
        }
    }

    #[test]
    fn around_the_upstreams_body() {
        let harness = Harness::new(define::<Echo>(), json!({"before_body": "<", "after_body": ">"})).unwrap();
        assert_eq!(harness.response(&mut response(), &[b"a", b"b", b""]), b"<ab>");
        assert_eq!(harness.response(&mut response(), &[b""]), b"<>");
    }

    #[test]
    fn no_header_where_one_is_wrong() {
        let harness = Harness::new(define::<Echo>(), json!({"body": "x", "headers": {"A": "1", "B": true}})).unwrap();
        let mut cx = response();
        harness.response(&mut cx, &[b""]);
        assert!(!cx.response.headers.contains("a"));
    }

    #[test]
    fn schema() {
        assert_eq!(
            refusal(json!({"before_body": "a", "after_body": 10})),
            r#"property "after_body" validation failed: wrong type: expected string, got number"#
        );
        let none = r#"object matches none of the required: ["before_body"] or ["body"] or ["after_body"]"#;
        assert_eq!(refusal(json!({"headers": {"a": "b"}})), none);
        assert_eq!(
            refusal(json!({"body": "", "headers": {}})),
            r#"property "headers" validation failed: expect object to have at least 1 properties"#
        );
    }
}
