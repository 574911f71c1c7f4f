//! AWS Secrets Manager (apisix/secret/aws.lua). The surprise: names of secrets may hold slashes, so that the border between
//! name and field of a key is not known: the longest name is tried first, and a part becomes the field where AWS does not
//! know the name.

use crate::client::{Client, FetchError, present};
use crate::reference::{field_of, setting};
use crate::sigv4::{Credentials, Signable, sign};
use reqwest::Url;
use serde_json::{Value, json};
use std::time::SystemTime;
use time::OffsetDateTime;
use time::macros::format_description;

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
const TARGET: &str = "secretsmanager.GetSecretValue";
/// Slashes in a key, that is requests for one reference.
const MAX_PARTS: usize = 16;

pub(crate) async fn get(client: &Client, settings: &Value, key: &str, now: SystemTime) -> Result<Value, FetchError> {
    if key.is_empty() || key.starts_with('/') {
        return Err(FetchError(format!("can't find main key, key: {key}")));
    }
    let mut name = key;
    for _ in 0..MAX_PARTS {
        let field = key.get(name.len() + 1..);
        match (request(client, settings, name, now).await, field) {
            (Ok(text), None) => return Ok(Value::String(text)),
            (Ok(text), Some(field)) => return field_of(&text, field).map_err(FetchError),
            (Err(Failure { error, not_found }), _) => match name.rsplit_once('/') {
                Some((shorter, _)) if not_found => name = shorter,
                _ => return Err(FetchError(format!("failed to retrieve data from aws secret manager: {error}"))),
            },
        }
    }
    Err(FetchError(format!("the key has more than {MAX_PARTS} parts")))
}

struct Failure {
    error: String,
    not_found: bool,
}

async fn request(client: &Client, settings: &Value, name: &str, now: SystemTime) -> Result<String, Failure> {
    let fail = |error: String| Failure { error, not_found: false };
    let region = setting(settings, "region").unwrap_or("us-east-1".into());
    // The path of `endpoint_url` does not count.
    let endpoint = match setting(settings, "endpoint_url") {
        Some(url) => url.into_owned(),
        None => format!("https://secretsmanager.{region}.amazonaws.com"),
    };
    let mut url: Url = endpoint.parse().map_err(|e| fail(format!("endpoint_url: {e}")))?;
    url.set_path("/");
    url.set_query(None);
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err(fail("endpoint_url: no host".to_owned())),
    };
    let timestamp = OffsetDateTime::from(now)
        .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
        .map_err(|e| fail(e.to_string()))?;
    let payload = json!({"SecretId": name, "VersionStage": "AWSCURRENT"}).to_string();
    let token = setting(settings, "session_token");
    let mut headers = vec![("content-type", CONTENT_TYPE), ("host", host.as_str()), ("x-amz-date", timestamp.as_str())];
    if let Some(token) = &token {
        headers.push(("x-amz-security-token", token));
    }
    headers.push(("x-amz-target", TARGET));
    let signed = Signable { method: "POST", path: "/", query: "", headers: &headers, payload: payload.as_bytes() };
    let id = setting(settings, "access_key_id").unwrap_or_default();
    let secret = setting(settings, "secret_access_key").unwrap_or_default();
    let credentials = Credentials { access_key_id: &id, secret_access_key: &secret };
    let authorization = sign(&signed, credentials, &region, "secretsmanager", &timestamp);
    let mut request = client.http(true).map_err(|e| fail(e.0))?.post(url);
    for (name, value) in &headers {
        request = request.header(*name, *value);
    }
    let request = request.header("authorization", authorization).body(payload);
    let answer = client.send(request).await.map_err(|e| fail(e.0))?;
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    if answer.status != 200 {
        let kind = body.get("__type").and_then(Value::as_str).unwrap_or_default();
        let error = format!("invalid status code {}, {body}", answer.status);
        return Err(Failure { error, not_found: kind.contains("ResourceNotFoundException") });
    }
    match present(body.get("SecretString")) {
        Ok(Value::String(text)) => Ok(text),
        _ => Err(fail("no SecretString in the answer".to_owned())),
    }
}
