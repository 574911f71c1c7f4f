//! `request-validation`: refuses requests whose headers or body do not match a JSON Schema.
//!
//! Use it where an upstream must not see malformed requests. `header_schema` sees the headers as an object of names in lower case;
//! `body_schema` sees a JSON body, or the fields of an urlencoded form. A refusal has `rejected_code` and, if there is one,
//! `rejected_msg`; else what is wrong. The upstream gets the JSON that was checked, written anew: of a key that is there twice,
//! it sees what the check saw; defaults of the schema are in it.
//!
//! Different from APISIX: numbers and `/` are sent as they were written (lua-cjson keeps 14 digits of a number and
//! writes `\/`); JSON deeper than 128 levels is refused.
//!
//! Source: apisix/plugins/request-validation.lua. The surprise: a property of `header_schema` may be written as in the request
//! (`X-Team`), since APISIX's table of headers looks names up in any case.
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_http::target::decode;
use sluice_model::schema::{Schema, SchemaError};
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};

/// Configuration of `request-validation`.
#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// JSON Schema of the header fields.
    header_schema: Option<Value>,
    /// JSON Schema of the body.
    body_schema: Option<Value>,
    /// Larger bodies are refused (bytes).
    max_req_body_size: u64,
    /// Status of a refusal.
    rejected_code: u16,
    /// Body of a refusal, instead of what is wrong.
    rejected_msg: Option<String>,
}

/// The plugin.
pub struct RequestValidation {
    headers: Option<HeaderSchema>,
    body: Option<Schema>,
    max_body: u64,
    code: u16,
    message: Option<String>,
}

struct HeaderSchema {
    schema: Schema,
    /// Names of properties that are not in lower case, and the fields they mean.
    aliases: Box<[(String, String)]>,
}

/// Compiles a schema; the wording is APISIX's where its suite looks at it.
fn compile(document: &Value) -> Result<Schema, BuildError> {
    Schema::new(document.clone()).map_err(|error| match &error {
        SchemaError::Type { found, .. } => BuildError(format!("invalid JSON type: {}", found.trim_matches('"'))),
        SchemaError::Keyword { path, keyword } if matches!(keyword.as_str(), "enum" | "required") => {
            let found = document.pointer(path).and_then(|node| node.get(keyword)).or_else(|| document.pointer(path));
            let kind = match found {
                Some(Value::String(_)) => "string",
                Some(Value::Number(_)) => "number",
                Some(Value::Bool(_)) => "boolean",
                Some(Value::Null) => "userdata",
                _ => return BuildError::new(error),
            };
            BuildError(format!("bad argument #1 to 'ipairs' (table expected, got {kind})"))
        }
        _ => BuildError::new(error),
    })
}

/// How `ngx.req.get_headers()` looks a name up.
fn field_name(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

impl HeaderSchema {
    fn new(document: &Value) -> Result<HeaderSchema, BuildError> {
        let properties = document["properties"].as_object().into_iter().flat_map(Map::keys);
        let required = document["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut names: Vec<&str> = properties.map(String::as_str).chain(required).collect();
        names.sort_unstable();
        names.dedup();
        let aliases = names.into_iter().map(|name| (name.to_owned(), field_name(name))).filter(|(a, b)| a != b);
        Ok(HeaderSchema { schema: compile(document)?, aliases: aliases.collect() })
    }

    fn check(&self, cx: &Context) -> Result<(), String> {
        let mut fields = Map::new();
        for (name, value) in cx.request.headers.iter() {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            push(&mut fields, name, Value::from(String::from_utf8_lossy(value)));
        }
        for (alias, field) in &self.aliases {
            if let Some(value) = fields.get(field).cloned() {
                fields.insert(alias.clone(), value);
            }
        }
        self.schema.check(&mut Value::Object(fields)).map_err(|violation| violation.message)
    }
}

/// Adds a value; those of one name become a list.
fn push(fields: &mut Map<String, Value>, name: String, value: Value) {
    match fields.get_mut(&name) {
        None => {
            fields.insert(name, value);
        }
        Some(Value::Array(all)) => all.push(value),
        Some(one) => *one = Value::Array(vec![one.take(), value]),
    }
}

/// A form as `ngx.decode_args` has it: an argument without `=` is true, one without a name is left out.
fn form(body: &[u8]) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&decode(bytes)).into_owned();
    let mut fields = Map::new();
    for argument in body.split(|b| *b == b'&') {
        let mut parts = argument.splitn(2, |b| *b == b'=');
        let name = text(parts.next().unwrap_or_default());
        if !name.is_empty() {
            push(&mut fields, name, parts.next().map_or(Value::Bool(true), |value| Value::from(text(value))));
        }
    }
    Value::Object(fields)
}

impl Define for RequestValidation {
    const INFO: Info = Info::new("request-validation", 2800, Phases::REWRITE).request_body().validation();
    type Config = Config;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "header_schema": {"description": "JSON Schema of the header fields.", "type": "object"},
                "body_schema": {"description": "JSON Schema of the body.", "type": "object"},
                "max_req_body_size": {
                    "description": "Larger bodies are refused (bytes).",
                    "type": "integer", "minimum": 1, "default": 67_108_864
                },
                "rejected_code": {
                    "description": "Status of a refusal.",
                    "type": "integer", "minimum": 200, "maximum": 599, "default": 400
                },
                "rejected_msg": {
                    "description": "Body of a refusal, instead of what is wrong.",
                    "type": "string", "minLength": 1, "maxLength": 256
                }
            },
            "anyOf": [{"required": ["header_schema"]}, {"required": ["body_schema"]}]
        })
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        config.body_schema.iter().chain(&config.header_schema).try_for_each(|schema| compile(schema).map(drop))
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        Ok(RequestValidation {
            headers: config.header_schema.as_ref().map(HeaderSchema::new).transpose()?,
            body: config.body_schema.as_ref().map(compile).transpose()?,
            max_body: config.max_req_body_size,
            code: config.rejected_code,
            message: config.rejected_msg,
        })
    }
}

impl RequestValidation {
    fn refuse(&self, reason: Option<&str>) -> Reply {
        match self.message.as_deref().or(reason) {
            Some(text) => Reply::text(self.code, text),
            None => Reply::status(self.code),
        }
    }

    fn check_body(&self, schema: &Schema, cx: &mut Context) -> Result<(), Reply> {
        let body = cx.request_body.as_deref().unwrap_or_default();
        let mut kinds = cx.request.headers.get_all("content-type");
        let kind = kinds.next();
        // What is named twice may be read in two ways, here and by the upstream.
        if body.is_empty() || body.len() as u64 > self.max_body || kinds.next().is_some() {
            return Err(self.refuse(None));
        }
        const FORM: &[u8] = b"application/x-www-form-urlencoded";
        if kind.is_some_and(|kind| kind.get(..FORM.len()).is_some_and(|k| k.eq_ignore_ascii_case(FORM))) {
            return schema.check(&mut form(body)).map_err(|violation| self.refuse(Some(&violation.message)));
        }
        let mut value: Value =
            serde_json::from_slice(body).map_err(|error| self.refuse(Some(&decode_error(body, &error))))?;
        if value == Value::Bool(false) {
            return Err(self.refuse(None));
        }
        schema.check(&mut value).map_err(|violation| self.refuse(Some(&violation.message)))?;
        let checked = value.to_string().into_bytes();
        cx.request_body = Some(checked.clone());
        cx.upstream.body = Some(checked);
        Ok(())
    }
}

/// lua-cjson's wording, as far as it can be told.
fn decode_error(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return format!("Expected value but found T_END at character {}", text.len() + 1);
    }
    let lines = text.split(|b| *b == b'\n').take(error.line().saturating_sub(1)).map(|line| line.len() + 1);
    let at = lines.sum::<usize>() + error.column().max(1);
    format!("Expected value but found invalid token at character {at}")
}

impl Plugin for RequestValidation {
    fn wants_request_body(&self, _cx: &Context) -> bool {
        self.body.is_some()
    }

    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if let Some(Err(reason)) = self.headers.as_ref().map(|schema| schema.check(cx)) {
            return Flow::reply(self.refuse(Some(&reason)));
        }
        match self.body.as_ref().map(|schema| self.check_body(schema, cx)) {
            Some(Err(reply)) => Flow::reply(reply),
            _ => Flow::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Scope, define};

    fn post(kind: &str, body: &str) -> Context {
        let mut cx = Context::for_tests("POST", "/");
        cx.request.headers.append("Content-Type", kind);
        cx.request_body = Some(body.into());
        cx
    }

    fn answer(config: Value, cx: &mut Context) -> Option<Reply> {
        Harness::new(define::<RequestValidation>(), config).unwrap().request(cx)
    }

    fn k() -> Value {
        json!({"body_schema": {
            "type": "object", "required": ["k"],
            "properties": {"k": {"type": "string", "pattern": "^good$"}, "n": {"type": "integer", "default": 3}}
        }})
    }

    #[test]
    fn the_upstream_gets_what_was_checked() {
        let mut cx = post("application/json", r#"{"k":"bad","k":"good", "u": "a/b", "big": 12345678901234567}"#);
        assert_eq!(answer(k(), &mut cx), None);
        let sent = br#"{"k":"good","u":"a/b","big":12345678901234567,"n":3}"#.to_vec();
        assert_eq!((&cx.upstream.body, &cx.request_body), (&Some(sent.clone()), &Some(sent)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refused = |kind: &str, body: &str| answer(k(), &mut post(kind, body)).unwrap();
        assert_eq!(refused("", "{}"), Reply::text(400, "property \"k\" is required"));
        assert!(
            matches!(refused("", r#"{"k":1}"#).body, sluice_plugin::reply::ReplyBody::Bytes(b) if b.starts_with(b"property \"k\" validation failed"))
        );
        assert_eq!(
            refused("", "{\"k\"\n:x}"),
            Reply::text(400, "Expected value but found invalid token at character 7")
        );
        assert_eq!(refused("", "{"), Reply::text(400, "Expected value but found T_END at character 2"));
        assert_eq!(refused("", ""), Reply::status(400));
        assert_eq!(refused("", &"[".repeat(200)).status, 400);
        let mut config = k();
        config["rejected_code"] = json!(505);
        config["rejected_msg"] = json!("no");
        for body in ["", "x", "{}"] {
            assert_eq!(answer(config.clone(), &mut post("", body)), Some(Reply::text(505, "no")), "{body}");
        }
        let mut twice = post("application/json", r#"{"k":"good"}"#);
        twice.request.headers.append("Content-Type", "application/x-www-form-urlencoded");
        assert_eq!(answer(k(), &mut twice), Some(Reply::status(400)));
        config["max_req_body_size"] = json!(5);
        assert_eq!(answer(config, &mut post("", r#"{"k":"good"}"#)), Some(Reply::text(505, "no")));
    }

    #[test]
    fn forms_are_checked_and_passed_on() {
        let mut cx = post("Application/X-WWW-Form-Urlencoded; charset=utf-8", "k=g%6Fod&a&b=1&b=2&=x");
        assert_eq!(answer(k(), &mut cx), None);
        assert_eq!(cx.upstream.body, None);
        assert_eq!(form(b"k=g%6Fod&a&b=1&b=2&=x&c="), json!({"k": "good", "a": true, "b": ["1", "2"], "c": ""}));
        assert!(answer(k(), &mut post("application/x-www-form-urlencoded", "k=bad")).is_some());
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let config = json!({"header_schema": {
            "type": "object", "required": ["X-Team"], "properties": {"X-Team": {"enum": ["a", "b"]}}
        }});
        let with = |value: Option<&str>| {
            let mut cx = Context::for_tests("GET", "/");
            value.into_iter().for_each(|v| cx.request.headers.append("x-team", v));
            answer(config.clone(), &mut cx)
        };
        assert_eq!(with(Some("a")), None);
        assert_eq!(with(Some("c")).unwrap().status, 400);
        assert_eq!(with(None), Some(Reply::text(400, "property \"X-Team\" is required")));
    }

    #[test]
    fn schemas_are_checked_when_they_are_written() {
        let refused =
            |mut config: Value| check(define::<RequestValidation>(), Scope::Route, &mut config).unwrap_err().0;
        assert_eq!(refused(json!({"body_schema": {"type": "test"}})), "invalid JSON type: test");
        let ipairs = "bad argument #1 to 'ipairs' (table expected, got string)";
        assert_eq!(refused(json!({"header_schema": {"properties": {"a": {"enum": "x"}}}})), ipairs);
        assert_eq!(refused(json!({"body_schema": {"required": "x"}})), ipairs);
        assert!(refused(json!({"rejected_msg": "x"})).contains("object matches none of the required"));
        assert!(
            refused(json!({"body_schema": {}, "rejected_code": 10000})).contains("expected 10000 to be at most 599")
        );
    }
}
