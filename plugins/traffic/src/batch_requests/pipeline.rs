//! The list of requests: its form, and each request as bytes. The surprise: what a client writes into the list becomes a message
//! on a connection of the gateway's own, so nothing in it may end a line or change where the message ends.
use crate::own_gateway::Wire;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_http::h1::write;
use sluice_plugin::Context;
use std::collections::BTreeMap;
use std::time::Duration;

/// apisix/plugins/batch-requests.lua `req_schema`.
pub fn schema() -> Value {
    let methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"];
    json!({
        "type": "object",
        "properties": {
            "query": {"type": "object"},
            "headers": {"type": "object"},
            "timeout": {"type": "integer", "minimum": 1, "default": 30000},
            "pipeline": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "version": {"type": "number", "enum": [1.0, 1.1], "default": 1.1},
                        "method": {"type": "string", "enum": methods, "default": "GET"},
                        "path": {"type": "string", "minLength": 1},
                        "query": {"type": "object"},
                        "headers": {"type": "object"},
                        "body": {"type": "string"},
                        "ssl_verify": {"type": "boolean", "default": false}
                    },
                    "required": ["path"]
                }
            }
        },
        "anyOf": [{"required": ["pipeline"]}]
    })
}

/// A checked list.
#[derive(Debug, Deserialize)]
pub struct Batch {
    query: Option<Map<String, Value>>,
    headers: Option<Map<String, Value>>,
    timeout: u64,
    pipeline: Vec<Request>,
}

#[derive(Debug, Deserialize)]
struct Request {
    version: f64,
    method: String,
    path: String,
    query: Option<Map<String, Value>>,
    headers: Option<Map<String, Value>>,
    body: Option<String>,
}

/// A field of the list that cannot stand in a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("invalid header name: {0}")]
    HeaderName(String),
    #[error("invalid value of header {0}")]
    HeaderValue(String),
}

/// Fields of one request by their names in lower case.
type Fields = BTreeMap<String, Vec<Vec<u8>>>;

impl Batch {
    pub fn len(&self) -> usize {
        self.pipeline.len()
    }
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }

    /// Each request with what is common to all: its own fields before those of the list, these before the outer request's.
    pub fn requests(&self, cx: &Context, real_ip_header: &str) -> Result<Vec<Wire>, BadRequest> {
        let mut common = Fields::new();
        for (name, value) in cx.request.headers.iter() {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            if !name.starts_with("content-") && !belongs_to_message(&name) {
                common.entry(name).or_default().push(value.to_vec());
            }
        }
        if !common.contains_key("host") {
            common.insert("host".into(), vec![cx.request.host().as_bytes().to_vec()]);
        }
        common.extend(fields(self.headers.as_ref())?);
        let real_ip = (real_ip_header.to_ascii_lowercase(), cx.client_ip_text().as_bytes().to_vec());
        self.pipeline.iter().map(|request| request.wire(&common, self.query.as_ref(), &real_ip)).collect()
    }
}

impl Request {
    fn wire(
        &self,
        common: &Fields,
        query: Option<&Map<String, Value>>,
        real_ip: &(String, Vec<u8>),
    ) -> Result<Wire, BadRequest> {
        let mut all = fields(self.headers.as_ref())?;
        for (name, values) in common {
            if !all.contains_key(name) {
                all.insert(name.clone(), values.clone());
            }
        }
        all.insert(real_ip.0.clone(), vec![real_ip.1.clone()]);
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(self.method.as_bytes());
        bytes.push(b' ');
        escape(self.path.as_bytes(), |b| b.is_ascii_graphic() && b != b'#', &mut bytes);
        self.write_query(query, &mut bytes);
        bytes.extend_from_slice(if self.version < 1.05 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
        for (name, values) in &all {
            values.iter().for_each(|value| write::field(name.as_bytes(), value, &mut bytes));
        }
        if let Some(body) = &self.body {
            bytes.extend_from_slice(b"content-length: ");
            write::number(body.len() as u64, &mut bytes);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default().as_bytes());
        Ok(Wire { bytes, to_head: self.method == "HEAD" })
    }

    /// The request's own arguments, and those of the list that it does not have.
    fn write_query(&self, common: Option<&Map<String, Value>>, out: &mut Vec<u8>) {
        let own = self.query.iter().flatten();
        let has = |name: &str| self.query.as_ref().is_some_and(|query| query.contains_key(name));
        let rest = common.into_iter().flatten().filter(|(name, _)| !has(name));
        let mut separator = if self.path.contains('?') { b'&' } else { b'?' };
        let mut argument = |name: &str, value: Option<&str>| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
            out.push(std::mem::replace(&mut separator, b'&'));
            escape(name.as_bytes(), plain, out);
            if let Some(value) = value {
                out.push(b'=');
                escape(value.as_bytes(), plain, out);
            }
        };
        for (name, value) in own.chain(rest) {
            match value {
                // As ngx.encode_args: true is a name alone, false is nothing.
                Value::Bool(true) => argument(name, None),
                Value::Bool(false) | Value::Null => {}
                Value::Array(items) => items.iter().for_each(|item| argument(name, Some(&text(item)))),
                one => argument(name, Some(&text(one))),
            }
        }
    }
}

/// Fields that say where a message ends, or belong to one connection.
pub(crate) fn belongs_to_message(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "content-length"
            | "expect"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn fields(map: Option<&Map<String, Value>>) -> Result<Fields, BadRequest> {
    let mut all = Fields::new();
    for (name, value) in map.into_iter().flatten() {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(BadRequest::HeaderName(name.clone()));
        }
        let values = match value {
            Value::Array(items) => items.iter().map(text).collect(),
            one => vec![text(one)],
        };
        if values.iter().any(|value| value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f)) {
            return Err(BadRequest::HeaderValue(name.clone()));
        }
        let name = name.to_ascii_lowercase();
        if !belongs_to_message(&name) {
            all.insert(name, values.into_iter().map(String::into_bytes).collect());
        }
    }
    Ok(all)
}

/// A value as Lua prints it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            let mut out = Vec::new();
            sluice_expr::write_number(number.as_f64().unwrap_or_default(), &mut out);
            String::from_utf8(out).unwrap_or_default()
        }
        other => other.to_string(),
    }
}

fn escape(bytes: &[u8], plain: impl Fn(u8) -> bool, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        match plain(*byte) {
            true => out.push(*byte),
            false => out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}
