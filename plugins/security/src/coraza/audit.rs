//! The audit log: a line of JSON for each transaction that is worth one, in the form of Coraza's JSON writer.

use super::NAME;
use serde_json::{Map, Value, json};
use sluice_engine_waf::{AuditEngine, Settings, Transaction};
use sluice_plugin::{Context, Env};
use sluice_telemetry::line_file::{DEFAULT_MAX_PENDING, LineFile};
use std::sync::Arc;

pub(super) struct Audit {
    /// None: the operator log.
    file: Option<LineFile>,
    /// `SecAuditLogParts`: B request head, C request body, F response head, H rules.
    parts: Box<str>,
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
                Some(LineFile::start(path, DEFAULT_MAX_PENDING, Some(account)).map_err(|e| e.to_string())?)
            }
        };
        Ok(Some(Arc::new(Audit { file, parts: settings.audit_parts.clone() })))
    }

    pub(super) fn write(&self, cx: &Context, transaction: &Transaction) {
        let line = self.entry(cx, transaction).to_string();
        match &self.file {
            Some(file) => {
                file.push(line.as_bytes());
            }
            None => tracing::info!(target: "coraza_audit", always = true, "{line}"),
        }
    }

    fn entry(&self, cx: &Context, transaction: &Transaction) -> Value {
        let time = cx.started_wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let stop = transaction.intervention();
        let mut request = json!({
            "method": cx.request.method_text(),
            "uri": cx.request.target(),
            "protocol": cx.request.version.as_str(),
        });
        let mut response = json!({"status": cx.response.status});
        if self.parts.contains('B') {
            request["headers"] = headers(cx.request.headers.iter());
        }
        if self.parts.contains('C')
            && let Some(body) = &cx.request_body
        {
            request["body"] = String::from_utf8_lossy(body).into();
        }
        if self.parts.contains('F') {
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
        if self.parts.contains('H') || self.parts.contains('K') {
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
