//! The managers against servers that look at what they are asked: Vault, AWS Secrets Manager, Google Secret Manager.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test, its own functions included")]

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sluice_secret::{Credentials, Found, SecretStore, Signable, StoreSettings, sign};
use sluice_testkit::certificates::Authority;
use sluice_testkit::upstream::{Behaviour, Seen, Upstream};
use std::sync::Arc;
use std::time::Duration;

fn store(settings: StoreSettings) -> Arc<SecretStore> {
    let store = SecretStore::new(settings);
    store.start(&tokio::runtime::Handle::current());
    store
}

/// The value of `$secret://<source>/<key>` with these settings of the manager.
async fn value_with(settings: StoreSettings, source: &str, body: Value, key: &str) -> Result<Value, String> {
    let store = store(settings);
    let reference = format!("$secret://{source}/{key}");
    store.configure([(source.into(), Arc::new(body))].into_iter().collect());
    assert_eq!(store.get(&reference), Some(Found::Pending));
    tokio::time::timeout(Duration::from_secs(20), store.settle()).await.expect("an answer in time");
    match store.get(&reference) {
        Some(Found::Value(value)) => Ok(value),
        Some(Found::Missing(why)) => Err(why.to_string()),
        other => panic!("{other:?}"),
    }
}

async fn value(source: &str, body: Value, key: &str) -> Result<Value, String> {
    value_with(StoreSettings::default(), source, body, key).await
}

fn only(upstream: &Upstream) -> Seen {
    let mut seen = upstream.take_seen();
    assert_eq!(seen.len(), 1);
    seen.remove(0)
}

fn uri(upstream: &Upstream) -> String {
    format!("http://{}", upstream.addr())
}

#[tokio::test(flavor = "multi_thread")]
async fn vault_is_asked_for_the_path_and_holds_the_field() {
    let vault = Upstream::start().unwrap();
    vault.on("/v1/kv/apisix/jack", Behaviour::answer(200, r#"{"data": {"key": "value", "n": 7, "none": null}}"#));
    let settings = json!({"uri": uri(&vault), "prefix": "kv/apisix", "token": "root", "namespace": "team"});
    assert_eq!(value("vault/1", settings.clone(), "jack/key").await, Ok("value".into()));
    let seen = only(&vault);
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/v1/kv/apisix/jack"));
    assert_eq!((seen.header("x-vault-token"), seen.header("x-vault-namespace")), (Some("root"), Some("team")));
    assert_eq!(value("vault/1", settings.clone(), "jack/n").await, Ok(7.into()));
    for field in ["none", "other"] {
        assert_eq!(value("vault/1", settings.clone(), &format!("jack/{field}")).await, Err("no value".into()));
    }
    // The token from the environment; a doubled slash in the prefix.
    let settings = json!({"uri": uri(&vault), "prefix": "/kv/apisix/", "token": "$ENV://PATH"});
    vault.take_seen();
    assert_eq!(value("vault/1", settings, "jack/key").await, Ok("value".into()));
    let seen = only(&vault);
    assert_eq!(seen.header("x-vault-token"), std::env::var("PATH").ok().as_deref());
    assert_eq!((seen.target.as_str(), seen.header("x-vault-namespace")), ("/v1/kv/apisix/jack", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vault_may_do_wrong() {
    let vault = Upstream::start().unwrap();
    let settings = json!({"uri": uri(&vault), "prefix": "kv", "token": "root"});
    let denied = r#"{"errors":["permission denied"]}"#;
    vault.on("/v1/kv/denied", Behaviour::answer(403, denied));
    vault.on("/v1/kv/page", Behaviour::answer(502, "<html>"));
    vault.on("/v1/kv/moved", Behaviour::with_headers(302, &[("Location", "/v1/kv/good")], "{}"));
    vault.on("/v1/kv/silent", Behaviour::Silence);
    vault.on("/v1/kv/large", Behaviour::answer(200, format!(r#"{{"data": {{"a": "{}"}}}}"#, "x".repeat(2000))));
    vault.on("/v1/kv/closed", Behaviour::Close);
    let limits =
        StoreSettings { timeout: Duration::from_millis(200), response_bytes: 1000, ..StoreSettings::default() };
    for (key, message) in [
        ("denied/a", format!("failed to decode result, res: {denied}")),
        ("page/a", "failed to decode result, status: 502".into()),
        ("moved/a", "failed to decode result, res: {}".into()),
        ("silent/a", "failed to retrtive data from vault kv engine: timeout".into()),
        ("large/a", "failed to retrtive data from vault kv engine: the answer has more than 1000 bytes".into()),
        ("key", "error key format, key: key".into()),
    ] {
        assert_eq!(value_with(limits.clone(), "vault/1", settings.clone(), key).await, Err(message), "{key}");
    }
    let closed = value("vault/1", settings, "closed/a").await.unwrap_err();
    assert!(closed.starts_with("failed to retrtive data from vault kv engine: "), "{closed}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = json!({"uri": format!("http://{nobody}"), "prefix": "kv", "token": "root"});
    assert_eq!(
        value("vault/1", settings, "a/b").await,
        Err("failed to retrtive data from vault kv engine: connection refused".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_a_manager_is_checked() {
    let authority = Authority::new("secrets").unwrap();
    let server = authority.server(&["localhost"]).unwrap().server_config().unwrap();
    let vault = Upstream::start_tls(server).unwrap();
    vault.otherwise(Behaviour::answer(200, r#"{"data": {"key": "value"}}"#));
    let settings = json!({"uri": format!("https://localhost:{}", vault.port()), "prefix": "kv", "token": "root"});
    let trusting = StoreSettings { trusted_certificates: Some(authority.pem()), ..StoreSettings::default() };
    assert_eq!(value_with(trusting, "vault/1", settings.clone(), "a/key").await, Ok("value".into()));
    let other = Authority::new("other").unwrap().pem();
    let strict = StoreSettings { trusted_certificates: Some(other), ..StoreSettings::default() };
    assert!(value_with(strict, "vault/1", settings, "a/key").await.unwrap_err().contains("invalid peer certificate"));
}

fn aws_settings(upstream: &Upstream) -> Value {
    json!({
        "access_key_id": "AKIDEXAMPLE", "secret_access_key": "secret", "region": "eu-west-1",
        "session_token": "session", "endpoint_url": format!("{}/ignored", uri(upstream))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_to_aws_are_signed() {
    let aws = Upstream::start().unwrap();
    aws.on("/", Behaviour::answer(200, r#"{"SecretString": "{\"key\": \"value\", \"n\": 1}"}"#));
    let text = "{\"key\": \"value\", \"n\": 1}";
    assert_eq!(value("aws/1", aws_settings(&aws), "name").await, Ok(text.into()));
    let seen = only(&aws);
    let header = |name: &str| seen.header(name).unwrap_or_default();
    assert_eq!((seen.method.as_str(), header("x-amz-target")), ("POST", "secretsmanager.GetSecretValue"));
    let body: Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(body, json!({"SecretId": "name", "VersionStage": "AWSCURRENT"}));
    let signed: Vec<(&str, &str)> =
        ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"].map(|n| (n, header(n))).to_vec();
    assert_eq!((signed[0].1, signed[3].1), ("application/x-amz-json-1.1", "session"));
    assert_eq!(signed[1].1, aws.addr().to_string());
    let request = Signable { method: "POST", path: "/", query: "", headers: &signed, payload: &seen.body };
    let credentials = Credentials { access_key_id: "AKIDEXAMPLE", secret_access_key: "secret" };
    let expected = sign(&request, credentials, "eu-west-1", "secretsmanager", header("x-amz-date"));
    assert_eq!(header("authorization"), expected);
}

/// "a/b/c" is tried as a name, then "a/b" with the field "c", then "a" with "b/c".
#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_an_aws_secret_ends_where_aws_knows_it() {
    let unknown = || Behaviour::answer(400, r#"{"__type": "ResourceNotFoundException", "message": "no"}"#);
    let aws = Upstream::start().unwrap();
    let known = Behaviour::answer(200, r#"{"SecretString": "{\"b/c\": \"deep\"}"}"#);
    aws.on("/", Behaviour::Sequence(vec![unknown(), unknown(), known]));
    assert_eq!(value("aws/1", aws_settings(&aws), "a/b/c").await, Ok("deep".into()));
    let seen = aws.take_seen();
    let name = |seen: &Seen| serde_json::from_slice::<Value>(&seen.body).unwrap()["SecretId"].clone();
    assert_eq!(seen.iter().map(name).collect::<Vec<_>>(), ["a/b/c", "a/b", "a"]);
    aws.on("/", unknown());
    let error = "failed to retrieve data from aws secret manager: invalid status code 400, \
                 {\"__type\":\"ResourceNotFoundException\",\"message\":\"no\"}";
    assert_eq!(value("aws/1", aws_settings(&aws), "a/b").await, Err(error.into()));
    aws.take_seen();
    aws.on("/", Behaviour::answer(403, r#"{"__type": "AccessDeniedException"}"#));
    assert!(value("aws/1", aws_settings(&aws), "a/b").await.unwrap_err().contains("invalid status code 403"));
    assert_eq!(aws.take_seen().len(), 1, "only an unknown name is tried otherwise");
    assert_eq!(value("aws/1", aws_settings(&aws), "/a").await, Err("can't find main key, key: /a".into()));
}

fn pem(key: &KeyPair) -> String {
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(der.as_ref()))
}

fn google(key: &KeyPair, upstream: &Upstream) -> Value {
    json!({
        "client_email": "gateway@example.com", "private_key": pem(key), "project_id": "project",
        "token_uri": format!("{}/token", uri(upstream)), "scope": ["one", "two"],
        "entries_uri": format!("{}/v1", uri(upstream))
    })
}

fn google_server(token: &str) -> Upstream {
    let upstream = Upstream::start().unwrap();
    upstream.on("/token", Behaviour::answer(200, token));
    let data = BASE64_STANDARD.encode(r#"{"a/b": "value"}"#);
    let answer = json!({"name": "x", "payload": {"data": data}}).to_string();
    upstream.on("/v1/projects/project/secrets/name/versions/latest:access", Behaviour::answer(200, answer));
    upstream
}

const TOKEN: &str = r#"{"access_token": "access", "expires_in": 3599, "token_type": "Bearer"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn google_gets_a_signed_assertion_and_gives_a_token_for_it() {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let upstream = google_server(TOKEN);
    let settings = json!({"auth_config": google(&key, &upstream), "ssl_verify": false});
    assert_eq!(value("gcp/1", settings, "name/a/b").await, Ok("value".into()));
    let seen = upstream.take_seen();
    let [token, secret] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((token.method.as_str(), token.target.as_str()), ("POST", "/token"));
    assert_eq!(token.header("content-type"), Some("application/x-www-form-urlencoded"));
    let form =
        String::from_utf8(token.body.clone()).unwrap().replace("%2E", ".").replace("%2D", "-").replace("%5F", "_");
    let assertion =
        form.strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=").unwrap();
    let (text, signature) = assertion.rsplit_once('.').unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
    public.verify(text.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap()).expect("a good signature");
    let part = |part: &str| serde_json::from_slice::<Value>(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let (header, claims) = text.split_once('.').unwrap();
    assert_eq!(part(header), json!({"alg": "RS256", "typ": "JWT"}));
    let claims = part(claims);
    assert_eq!((claims["iss"].as_str(), claims["scope"].as_str()), (Some("gateway@example.com"), Some("one two")));
    assert_eq!(claims["aud"], format!("{}/token", uri(&upstream)));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    assert_eq!(secret.header("authorization"), Some("Bearer access"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_google_serves_until_it_ends() {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    for (token, asked) in [(TOKEN, 1), (r#"{"access_token": "brief", "expires_in": 60}"#, 2)] {
        let upstream = google_server(token);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("account.json");
        std::fs::write(&file, google(&key, &upstream).to_string()).unwrap();
        let one = StoreSettings { concurrency: 1, ..StoreSettings::default() };
        let store = store(one);
        store.configure([("gcp/1".into(), Arc::new(json!({"auth_file": file})))].into_iter().collect());
        for reference in ["$secret://gcp/1/name/a/b", "$secret://gcp/1/name"] {
            store.get(reference);
        }
        tokio::time::timeout(Duration::from_secs(20), store.settle()).await.unwrap();
        assert_eq!(store.get("$secret://gcp/1/name/a/b"), Some(Found::Value("value".into())));
        assert_eq!(store.get("$secret://gcp/1/name"), Some(Found::Value(r#"{"a/b": "value"}"#.into())));
        let tokens = upstream.take_seen().iter().filter(|seen| seen.target == "/token").count();
        assert_eq!(tokens, asked, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_google_may_do_wrong() {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let upstream = google_server(TOKEN);
    let account = google(&key, &upstream);
    let settings = json!({"auth_config": account});
    let prefix = "failed to retrtive data from gcp secret manager: ";
    upstream.on("/v1/projects/project/secrets/gone/versions/latest:access", Behaviour::answer(404, "not there"));
    assert_eq!(value("gcp/1", settings.clone(), "gone").await, Err(format!("{prefix}not there")));
    assert_eq!(value("gcp/1", settings.clone(), "/a").await, Err("can't find main key, key: /a".into()));
    upstream.on("/token", Behaviour::answer(401, "denied"));
    let error = format!("{prefix}failed to get google oauth token: denied");
    assert_eq!(value("gcp/1", settings, "name").await, Err(error));
    let mut broken = account;
    broken["private_key"] = "no key".into();
    let error = value("gcp/1", json!({"auth_config": broken}), "name").await.unwrap_err();
    assert!(error.starts_with(&format!("{prefix}failed to get google oauth token: private_key: ")), "{error}");
    let missing = value("gcp/1", json!({"auth_file": "/no/such/file"}), "name").await.unwrap_err();
    assert!(missing.contains("failed to read configuration, file: /no/such/file"), "{missing}");
}
