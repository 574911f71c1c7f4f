//! Google Secret Manager (apisix/secret/gcp.lua, apisix/utils/google-cloud-oauth.lua): a JSON Web Token signed with the
//! service account's key is changed for an access token, which is kept until a minute before its end. The surprise: the
//! first part of the key is the secret's name, the rest one field's name, slashes and all.

use crate::client::{Client, FetchError, present};
use crate::reference::{field_of, setting};
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const ENTRIES_URI: &str = "https://secretmanager.googleapis.com/v1";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Accounts whose tokens are kept, as in APISIX.
const MAX_TOKENS: usize = 8;
/// A token is renewed so long before its end.
const MARGIN: Duration = Duration::from_secs(60);
const MAX_FILE: u64 = 64 * 1024;

/// An access token.
pub(crate) struct Token {
    /// The settings that it was got with.
    account: Value,
    header: String,
    until: SystemTime,
}

pub(crate) async fn get(client: &Client, settings: &Value, key: &str, now: SystemTime) -> Result<Value, FetchError> {
    let (name, field) = match key.split_once('/') {
        Some((name, field)) => (name, Some(field)),
        None => (key, None),
    };
    if name.is_empty() {
        return Err(FetchError(format!("can't find main key, key: {key}")));
    }
    let failed = |e: FetchError| FetchError(format!("failed to retrtive data from gcp secret manager: {e}"));
    let text = request(client, settings, name, now).await.map_err(failed)?;
    match field {
        None => Ok(Value::String(text)),
        Some(field) => field_of(&text, field).map_err(FetchError),
    }
}

async fn request(client: &Client, settings: &Value, name: &str, now: SystemTime) -> Result<String, FetchError> {
    let account = account(settings).await?;
    let verify = settings.get("ssl_verify").and_then(Value::as_bool).unwrap_or(true);
    let authorization = token(client, &account, verify, now).await?;
    let entries = setting(&account, "entries_uri").unwrap_or(ENTRIES_URI.into());
    let project = setting(&account, "project_id").unwrap_or_default();
    let url = format!("{entries}/projects/{project}/secrets/{name}/versions/latest:access");
    let request = client.http(verify)?.get(url);
    let request = request.header("Content-Type", "application/json").header("Authorization", authorization);
    let answer = client.send(request).await?;
    if answer.status != 200 {
        return Err(FetchError(answer.body));
    }
    let body: Value =
        serde_json::from_str(&answer.body).map_err(|e| FetchError(format!("failed to parse response data, {e}")))?;
    let payload = body.get("payload").ok_or_else(|| FetchError::new("invalid payload"))?;
    let data = present(payload.get("data"))?;
    let data = BASE64_STANDARD.decode(data.as_str().unwrap_or_default());
    let text = data.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| FetchError::new("invalid payload"))
}

/// `auth_config`, or what `auth_file` holds.
async fn account(settings: &Value) -> Result<Value, FetchError> {
    if let Some(config) = settings.get("auth_config") {
        return Ok(config.clone());
    }
    let path = setting(settings, "auth_file").unwrap_or_default();
    let unreadable =
        |e: &dyn std::fmt::Display| FetchError(format!("failed to read configuration, file: {path}, err: {e}"));
    let size = tokio::fs::metadata(&*path).await.map_err(|e| unreadable(&e))?.len();
    if size > MAX_FILE {
        return Err(unreadable(&"the file is too large"));
    }
    let text = tokio::fs::read_to_string(&*path).await.map_err(|e| unreadable(&e))?;
    let broken = |e: String| FetchError(format!("config parse failure, file: {path}, err: {e}"));
    let account: Value = serde_json::from_str(&text).map_err(|e| broken(e.to_string()))?;
    match ["client_email", "private_key", "project_id"].iter().find(|name| !account[**name].is_string()) {
        Some(name) => Err(broken(format!("property \"{name}\" is required"))),
        None => Ok(account),
    }
}

/// The value of `Authorization`.
async fn token(client: &Client, account: &Value, verify: bool, now: SystemTime) -> Result<String, FetchError> {
    let known = {
        let mut tokens = client.tokens();
        tokens.retain(|token| token.until > now);
        tokens.iter().find(|token| token.account == *account).map(|token| token.header.clone())
    };
    if let Some(header) = known {
        return Ok(header);
    }
    let no_token = |e: String| FetchError(format!("failed to get google oauth token: {e}"));
    let uri = setting(account, "token_uri").unwrap_or(TOKEN_URI.into());
    let assertion = assertion(account, &uri, now).map_err(no_token)?;
    let grant = utf8_percent_encode("urn:ietf:params:oauth:grant-type:jwt-bearer", NON_ALPHANUMERIC);
    let body = format!("grant_type={grant}&assertion={}", utf8_percent_encode(&assertion, NON_ALPHANUMERIC));
    let request = client.http(verify)?.post(&*uri).header("Content-Type", "application/x-www-form-urlencoded");
    let answer = client.send(request.body(body)).await.map_err(|e| no_token(e.0))?;
    if answer.status != 200 {
        return Err(no_token(answer.body));
    }
    let body: Value = serde_json::from_str(&answer.body).map_err(|e| no_token(e.to_string()))?;
    let access = body["access_token"].as_str().ok_or_else(|| no_token("no access_token in the answer".to_owned()))?;
    let header = format!("{} {access}", body["token_type"].as_str().unwrap_or("Bearer"));
    let lifetime = Duration::from_secs(body["expires_in"].as_u64().unwrap_or(0)).saturating_sub(MARGIN);
    if let Some(until) = now.checked_add(lifetime).filter(|_| !lifetime.is_zero()) {
        let mut tokens = client.tokens();
        if tokens.len() >= MAX_TOKENS {
            tokens.remove(0);
        }
        tokens.push(Token { account: account.clone(), header: header.clone(), until });
    }
    Ok(header)
}

/// The signed token (RFC 7523) that asks for an access token; good for an hour.
fn assertion(account: &Value, audience: &str, now: SystemTime) -> Result<String, String> {
    let scope = match &account["scope"] {
        Value::String(scope) => scope.clone(),
        Value::Array(scopes) => scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        _ => SCOPE.to_owned(),
    };
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let header = json!({"alg": "RS256", "typ": "JWT"});
    let email = setting(account, "client_email").unwrap_or_default();
    let claims = json!({"iss": email, "aud": audience, "scope": scope, "iat": seconds, "exp": seconds + 3600});
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(&header), encode(&claims));
    let pem = setting(account, "private_key").unwrap_or_default();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| format!("private_key: {e}"))?;
    let key = match &key {
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err("private_key: not an RSA key".to_owned()),
    };
    let key = key.map_err(|e| format!("private_key: {e}"))?;
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &aws_lc_rs::rand::SystemRandom::new(), text.as_bytes(), &mut signature)
        .map_err(|e| format!("private_key: {e}"))?;
    Ok(format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}
