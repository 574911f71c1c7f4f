//! The audit log: a line of JSON for each transaction that is worth one, in the form of Coraza's JSON writer. The surprise:
//! of the answer's body it has what rules could see of it, so none where `SecResponseBodyAccess` is off, as in Coraza.

use super::NAME;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::{Map, Value, json};
use sluice_engine_waf::{AuditEngine, Settings, Transaction};
use sluice_plugin::{Context, Env};
use sluice_telemetry::line_file::{DEFAULT_MAX_PENDING, LineFile};
use std::sync::Arc;

pub(super) struct Audit {
    /// None: the operator log.
    file: Option<LineFile>,
}

impl Audit {
    /// None where the settings want no audit log.
    pub(super) fn open(settings: &Settings, env: &Env) -> Result<Option<Arc<Audit>>, String> {
        let file = match settings.audit_log.as_deref() {
            None if settings.audit == AuditEngine::Off => return Ok(None),
            None | Some("/dev/stdout" | "/dev/stderr") => None,
            Some(path) => {
                let account = env.logs.account(NAME);
                let path = env.prefix.join(path);
                let file = LineFile::start(path, DEFAULT_MAX_PENDING, Some(account)).map_err(|e| e.to_string())?;
                env.logs.drain_at_end(&file.draining());
                Some(file)
            }
        };
        Ok(Some(Arc::new(Audit { file })))
    }

    pub(super) fn write(&self, cx: &Context, transaction: &Transaction) {
        let line = entry(cx, transaction).to_string();
        match &self.file {
            Some(file) => {
                file.push(line.as_bytes());
            }
            None => tracing::info!(target: "coraza_audit", always = true, "{line}"),
        }
    }
}

/// By the parts of `SecAuditLogParts`: B request head, C request body, E answer's body, F answer's head, H and K rules, I request
/// body without the contents of files (for C), J files.
fn entry(cx: &Context, transaction: &Transaction) -> Value {
    let parts = transaction.audit_parts();
    let time = cx.started_wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let stop = transaction.intervention();
    let mut request = json!({
        "method": cx.request.method_text(),
        "uri": cx.request.target(),
        "protocol": cx.request.version.as_str(),
    });
    let mut response = json!({"status": cx.response.status});
    if parts.contains('B') {
        request["headers"] = headers(cx.request.headers.iter());
    }
    if parts.contains('I') {
        request["body"] = compact(cx, transaction).into();
    } else if parts.contains('C')
        && let Some(body) = &cx.request_body
    {
        request["body"] = String::from_utf8_lossy(body).into();
    }
    if parts.contains('J') {
        request["files"] = transaction.files().map(|file| described(transaction, file)).collect();
    }
    if parts.contains('E') {
        response["body"] = String::from_utf8_lossy(transaction.seen_response_body()).into();
    }
    if parts.contains('F') {
        response["headers"] = headers(cx.response.headers.iter());
    }
    let mut entry = json!({
        "transaction": {
            "timestamp": time.as_secs(),
            "unix_timestamp": time.as_nanos() as u64,
            "id": cx.apisix_request_id().or(cx.known_request_id()).unwrap_or_default(),
            "client_ip": cx.client_ip().to_string(),
            "client_port": cx.client_port(),
            "host_ip": cx.connection.local.ip().to_string(),
            "host_port": cx.connection.local.port(),
            "request": request,
            "response": response,
            "is_interrupted": stop.is_some(),
        },
    });
    if parts.contains('H') || parts.contains('K') {
        let hits = transaction.hits().iter().filter(|hit| hit.audit);
        entry["messages"] = hits
            .map(|hit| {
                json!({
                    "message": hit.message,
                    "data": {
                        "id": hit.rule,
                        "msg": hit.message,
                        "data": hit.data,
                        "file": &*hit.file,
                        "line": hit.line,
                        "phase": hit.phase,
                        "severity": hit.severity.map(sluice_engine_waf::Severity::name),
                        "rev": hit.revision,
                        "ver": hit.version,
                        "tags": hit.tags,
                        "match": {"variable": hit.variable, "value": hit.value, "operator": hit.operator},
                        "disruptive": hit.disruptive,
                    },
                })
            })
            .collect();
    }
    entry
}

/// The body as a form, without the contents of files; a body that is none as it is.
fn compact(cx: &Context, transaction: &Transaction) -> String {
    let kind = cx.request.headers.get("content-type").unwrap_or_default();
    if !kind.get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/")) {
        return String::from_utf8_lossy(cx.request_body.as_deref().unwrap_or_default()).into();
    }
    let encoded = |bytes| percent_encode(bytes, NON_ALPHANUMERIC);
    let pairs = transaction.body_arguments().map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Name, size and media type, as the client gave it.
fn described(transaction: &Transaction, (field, name, size): (&[u8], &[u8], u64)) -> Value {
    let mut lines = transaction.part_headers(field).map(String::from_utf8_lossy);
    let kind = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-type").then(|| value.trim().to_owned())
    });
    json!({"name": String::from_utf8_lossy(name), "size": size, "mime": kind.unwrap_or_default()})
}

fn headers<'a>(all: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Value {
    let mut map: Map<String, Value> = Map::new();
    for (name, value) in all {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        // credentials are not written to a log
        let secret =
            matches!(name.as_str(), "authorization" | "proxy-authorization" | "cookie" | "set-cookie" | "apikey");
        let value = if secret { "***".into() } else { Value::from(String::from_utf8_lossy(value)) };
        match map.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(values) => values.push(value),
            other => *other = value,
        }
    }
    Value::Object(map)
}
