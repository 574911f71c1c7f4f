//! Values as they stand in a log entry. The surprise: a few variables are numbers, as APISIX's Lua sees them through
//! lua-resty-ngxvar; all others are texts.
use flate2::read::GzDecoder;
use serde_json::{Map, Number, Value as Json};
use sluice_expr::{Value, Variable};
use std::io::Read;

/// Fields and arguments that are shown at most (the default of ngx.req.get_headers and ngx.req.get_uri_args).
const MAX_FIELDS: usize = 100;

/// A text; what is not UTF-8 is replaced.
pub fn text(bytes: &[u8]) -> Json {
    Json::String(String::from_utf8_lossy(bytes).into_owned())
}

/// A number: whole ones without a point. What JSON cannot say is null.
pub fn number(n: f64) -> Json {
    if n.fract() == 0.0 && n.abs() < 9e15 {
        Json::from(n as i64)
    } else {
        Number::from_f64(n).map_or(Json::Null, Json::Number)
    }
}

/// A variable's value.
pub fn json(variable: &Variable, value: Value<'_>) -> Json {
    let numeric = matches!(
        variable,
        Variable::Status
            | Variable::RequestTime
            | Variable::RequestLength
            | Variable::BytesSent
            | Variable::UpstreamResponseTime
            | Variable::UpstreamHeaderTime
            | Variable::UpstreamConnectTime
    );
    match value {
        Value::Bytes(bytes) if numeric => {
            // Several tries stand in one text: `0.1, 0.2`.
            let text = String::from_utf8_lossy(&bytes);
            let known: Vec<f64> = text.split(", ").filter_map(|t| t.parse().ok()).collect();
            number(known.iter().sum())
        }
        Value::Bytes(bytes) => self::text(&bytes),
        Value::Number(n) => number(n),
        Value::Bool(b) => Json::Bool(b),
        Value::List(items) => Json::Array(items.into_iter().map(|item| json(variable, item)).collect()),
    }
}

fn add(map: &mut Map<String, Json>, name: String, value: Json) {
    match map.get_mut(&name) {
        None => {
            map.insert(name, value);
        }
        Some(Json::Array(all)) => all.push(value),
        Some(first) => {
            let before = first.take();
            *first = Json::Array(vec![before, value]);
        }
    }
}

/// Header fields by lower-case name; repeated ones are lists.
pub fn headers<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Json {
    let mut map = Map::new();
    for (name, value) in fields.take(MAX_FIELDS) {
        add(&mut map, String::from_utf8_lossy(name).to_ascii_lowercase(), text(value));
    }
    Json::Object(map)
}

/// Query arguments; repeated ones are lists, those without `=` are true.
pub fn arguments(query: &str) -> Json {
    let mut map = Map::new();
    let decode = |t: &str| String::from_utf8_lossy(&sluice_http::target::decode(t.as_bytes())).into_owned();
    for argument in query.split('&').filter(|a| !a.is_empty()).take(MAX_FIELDS) {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Json::String(decode(value))),
            None => (argument, Json::Bool(true)),
        };
        if !name.is_empty() {
            add(&mut map, decode(name), value);
        }
    }
    Json::Object(map)
}

/// The first `limit` bytes of what was compressed; `None` where nothing can be read.
pub fn gunzip(body: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let result = GzDecoder::new(body).take(limit as u64).read_to_end(&mut out);
    // A body that was cut gives what it can.
    (result.is_ok() || !out.is_empty()).then_some(out)
}
