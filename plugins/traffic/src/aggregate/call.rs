//! One call: what is sent, and what came back. The surprise: a variable's value is one step of a path at most, so that no client can
//! lead a call elsewhere.
use super::shape::Shape;
use crate::batch_requests::pipeline::belongs_to_message;
use crate::own_gateway::{Gateway, Wire};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_expr::{Lookup, Template, Value as Found, Variable};
use sluice_http::h1::write;
use sluice_http::target::decode;
use sluice_plugin::{Context, HttpClient, HttpRequest};
use std::sync::Arc;
use std::time::Duration;

/// A call as configured.
#[derive(Deserialize)]
pub(super) struct CallConfig {
    pub(super) name: String,
    uri: Option<String>,
    url: Option<String>,
    method: String,
    #[serde(default)]
    headers: Map<String, Value>,
    body: Option<String>,
    #[serde(default)]
    forward_body: bool,
    #[serde(default)]
    forward_headers: Vec<String>,
    timeout: u64,
    required: bool,
    pick: Option<String>,
    select: Option<Vec<String>>,
    #[serde(default)]
    rename: Map<String, Value>,
}

/// The schema of a call.
pub(super) fn schema() -> Value {
    let names = |text: &str| json!({"description": text, "type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}});
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["name"],
        "oneOf": [{"required": ["uri"]}, {"required": ["url"]}],
        "properties": {
            "name": {"description": "Its name in the answer and in variables.", "type": "string", "pattern": "^[A-Za-z0-9_]{1,64}$"},
            "uri": {"description": "A path, and query, of this gateway; may hold variables.", "type": "string", "pattern": "^/"},
            "url": {"description": "A server's URL instead; the path may hold variables.", "type": "string", "pattern": "^https?://[^$/?#]+"},
            "method": {"description": "Method.", "type": "string", "pattern": "^[A-Z]{1,32}$", "default": "GET"},
            "headers": {
                "description": "Header fields; may hold variables.", "type": "object",
                "additionalProperties": {"oneOf": [{"type": "string"}, {"type": "number"}]}
            },
            "body": {"description": "Body; may hold variables, whose values are written as JSON text (without the quotes).", "type": "string"},
            "forward_body": {"description": "Sends the client's body.", "type": "boolean", "default": false},
            "forward_headers": names("Fields of the client that go to the server of `url`."),
            "timeout": {"description": "The most milliseconds that it may take.", "type": "integer", "minimum": 1, "default": 5000},
            "required": {"description": "Without its answer there is none.", "type": "boolean", "default": false},
            "pick": {"description": "A JSON Pointer (`/data/items`): the part of the answer that counts.", "type": "string", "pattern": "^(/.*)?$"},
            "select": names("The fields that stay, of an object or of each object of a list."),
            "rename": {"description": "New names of fields.", "type": "object", "additionalProperties": {"type": "string", "minLength": 1}}
        }
    })
}

/// What a call came to.
pub(super) struct Said {
    status: u16,
    pub(super) body: Value,
    /// Why it failed.
    pub(super) error: Option<String>,
}

impl Said {
    pub(super) fn failed(error: impl std::fmt::Display) -> Said {
        Said { status: 0, body: Value::Null, error: Some(error.to_string()) }
    }

    /// JSON as it is; anything else is text.
    fn of(status: u16, body: &[u8]) -> Said {
        let body = match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(_) if body.is_empty() => Value::Null,
            Err(_) => Value::from(String::from_utf8_lossy(body)),
        };
        let error = (!(200..300).contains(&status)).then(|| format!("status {status}"));
        Said { status, body, error }
    }

    /// The failure for the client.
    pub(super) fn told(&self) -> Option<Value> {
        let message = self.error.as_ref()?;
        Some(if self.status == 0 {
            json!({"message": message})
        } else {
            json!({"status": self.status, "message": message})
        })
    }
}

/// Variables of the request and of earlier calls.
struct Seen<'a> {
    cx: &'a Context,
    before: &'a [(&'a Call, Said)],
}

impl Lookup for Seen<'_> {
    fn variable<'v>(&'v self, variable: &Variable) -> Option<Found<'v>> {
        let Variable::Custom(name) = variable else { return self.cx.variable(variable) };
        let Some(path) = name.strip_prefix("call.") else { return self.cx.variable(variable) };
        let mut steps = path.split('.');
        let call = steps.next()?;
        let (_, said) = self.before.iter().find(|(c, _)| c.name == call)?;
        match steps.next()? {
            "status" => Some(Found::Number(f64::from(said.status))),
            "body" => {
                let found = steps.try_fold(&said.body, |value, step| match value {
                    Value::Object(fields) => fields.get(step),
                    Value::Array(items) => items.get(step.parse::<usize>().ok()?),
                    _ => None,
                })?;
                match found {
                    Value::Null => None,
                    Value::String(text) => Some(Found::str(text)),
                    other => Some(Found::owned(other.to_string())),
                }
            }
            _ => None,
        }
    }
}

/// A compiled call.
pub(super) struct Call {
    pub(super) name: String,
    own: bool,
    target: Template,
    method: String,
    headers: Box<[(String, Template)]>,
    body: Option<Template>,
    forward_body: bool,
    forward_headers: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) required: bool,
    pub(super) shape: Shape,
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

impl CallConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        for name in self.headers.keys().chain(&self.forward_headers) {
            if !is_token(name) || belongs_to_message(&name.to_ascii_lowercase()) {
                return Err(format!("the field {name} cannot be set"));
            }
        }
        if self.body.is_some() && self.forward_body {
            return Err("either body or forward_body".into());
        }
        Ok(())
    }
}

impl Call {
    pub(super) fn compile(config: CallConfig) -> Call {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Call {
            own: config.uri.is_some(),
            target: Template::compile(config.uri.or(config.url).as_deref().unwrap_or("/")),
            method: config.method,
            headers: config
                .headers
                .iter()
                .map(|(n, v)| (n.to_ascii_lowercase(), Template::compile(&text(v))))
                .collect(),
            body: config.body.as_deref().map(Template::compile),
            forward_body: config.forward_body,
            forward_headers: config.forward_headers,
            timeout: Duration::from_millis(config.timeout),
            required: config.required,
            shape: Shape { pick: config.pick, select: config.select, rename: config.rename },
            name: config.name,
        }
    }

    pub(super) fn is_own(&self) -> bool {
        self.own
    }

    pub(super) fn reads_body(&self) -> bool {
        let templates = self.headers.iter().map(|(_, t)| t).chain(&self.body).chain([&self.target]);
        self.forward_body || templates.flat_map(Template::variables).any(Variable::needs_request_body)
    }

    /// The target with values that cannot leave their place.
    fn target(&self, seen: &Seen<'_>) -> Result<String, String> {
        let mut target = Vec::new();
        self.target.render_escaped(seen, "", &component, &mut target);
        let path = target.split(|b| *b == b'?').next().unwrap_or_default();
        let leaves = |step: &[u8]| matches!(&*decode(step), b"." | b"..");
        if path.split(|b| *b == b'/').any(leaves) {
            return Err("a step of the path is . or ..".into());
        }
        if target.iter().any(|b| !b.is_ascii_graphic()) {
            return Err("the target is not a URI".into());
        }
        String::from_utf8(target).map_err(|e| e.to_string())
    }

    /// Its own header fields; line ends cannot stand in them.
    fn own_fields(&self, seen: &Seen<'_>) -> Vec<(String, Vec<u8>)> {
        let value = |template: &Template| {
            let mut value = template.render(seen, "");
            value.retain(|b| *b >= b' ' && *b != 0x7f || *b == b'\t');
            value
        };
        self.headers.iter().map(|(name, template)| (name.clone(), value(template))).collect()
    }

    fn body(&self, seen: &Seen<'_>) -> Option<Vec<u8>> {
        match &self.body {
            Some(template) => {
                let mut body = Vec::new();
                template.render_escaped(seen, "", &json_text, &mut body);
                Some(body)
            }
            None if self.forward_body => seen.cx.request_body.clone(),
            None => None,
        }
    }

    pub(super) async fn through_gateway(
        &self,
        gateway: &Gateway,
        real_ip_header: &Arc<str>,
        cx: &Context,
        before: &[(&Call, Said)],
        limit: Duration,
        keep: usize,
    ) -> Result<Said, String> {
        let seen = Seen { cx, before };
        let target = self.target(&seen)?;
        let body = self.body(&seen);
        let mut fields = self.own_fields(&seen);
        let has = |fields: &[(String, Vec<u8>)], name: &str| fields.iter().any(|(n, _)| n == name);
        let own = fields.len();
        for (name, value) in cx.request.headers.iter() {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            let wanted = !belongs_to_message(&name)
                && (self.forward_body && name == "content-type" || !name.starts_with("content-"))
                && !name.starts_with("if-")
                && !matches!(name.as_str(), "range" | "accept-encoding")
                && !name.eq_ignore_ascii_case(real_ip_header);
            if wanted && !has(fields.get(..own).unwrap_or_default(), &name) {
                fields.push((name, value.to_vec()));
            }
        }
        if !has(&fields, "host") {
            fields.push(("host".into(), cx.request.host().as_bytes().to_vec()));
        }
        fields.push((real_ip_header.to_ascii_lowercase(), cx.client_ip_text().as_bytes().to_vec()));
        if self.body.is_some() && !has(&fields, "content-type") {
            fields.push(("content-type".into(), b"application/json".to_vec()));
        }
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(self.method.as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(target.as_bytes());
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in &fields {
            write::field(name.as_bytes(), value, &mut bytes);
        }
        if let Some(body) = &body {
            bytes.extend_from_slice(b"content-length: ");
            write::number(body.len() as u64, &mut bytes);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body.as_deref().unwrap_or_default());
        let wire = Wire { bytes, to_head: self.method == "HEAD" };
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::TimedOut => "timeout".to_owned(),
            _ => e.to_string(),
        };
        let mut line = gateway.connect(cx, limit).await.map_err(failed)?;
        let answer = line.exchange(&wire, limit, keep).await.map_err(failed)?;
        if answer.cut {
            return Err(format!("the answer has more than {keep} bytes"));
        }
        Ok(Said::of(answer.head.status, &answer.body))
    }

    pub(super) async fn to_server(
        &self,
        client: &HttpClient,
        cx: &Context,
        before: &[(&Call, Said)],
        limit: Duration,
        keep: usize,
    ) -> Result<Said, String> {
        let seen = Seen { cx, before };
        let mut request = HttpRequest::new(self.method.clone(), self.target(&seen)?).timeout(limit).max_response(keep);
        request.headers = self.own_fields(&seen);
        for name in &self.forward_headers {
            if !request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
                request
                    .headers
                    .extend(cx.request.headers.get_all(name).map(|v| (name.to_ascii_lowercase(), v.to_vec())));
            }
        }
        if let Some(body) = self.body(&seen) {
            let kind = match cx.request.headers.get("content-type") {
                Some(kind) if self.forward_body => kind.to_vec(),
                _ => b"application/json".to_vec(),
            };
            if !request.headers.iter().any(|(n, _)| n == "content-type") {
                request.headers.push(("content-type".into(), kind));
            }
            request.body = body.into();
        }
        let answer = client.send(request).await.map_err(|e| e.to_string())?;
        Ok(Said::of(answer.status, &answer.body))
    }
}

/// One component of a URI.
fn component(value: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value {
        match byte {
            b'-' | b'_' | b'.' | b'~' => out.push(*byte),
            b if b.is_ascii_alphanumeric() => out.push(*b),
            b => out.extend([b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]),
        }
    }
}

/// Text inside a JSON string.
fn json_text(value: &[u8], out: &mut Vec<u8>) {
    let text = Value::from(String::from_utf8_lossy(value)).to_string();
    out.extend_from_slice(text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or_default().as_bytes());
}
