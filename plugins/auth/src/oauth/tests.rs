//! The authorization server is a fake; a real one stands in the end-to-end tests.
use super::*;
use crate::testing::bare;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{HttpError, HttpRequest, HttpResponse, Scope, define};
use std::sync::Mutex;

const NOW: u64 = 1_700_000_000;

struct Server(EcdsaKeyPair);

impl Server {
    fn new() -> Server {
        Server(EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }
    fn pem(&self) -> String {
        let der: aws_lc_rs::encoding::PublicKeyX509Der<'static> = self.0.public_key().as_der().unwrap();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64_STANDARD.encode(der.as_ref()))
    }
    fn token(&self, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256"})), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

fn answer(plugin: &Harness, headers: &[(&str, &str)], target: &str) -> (Option<(u16, String)>, Context) {
    let mut cx = bare("GET", target, headers);
    let reply = plugin.request(&mut cx);
    let challenge = |reply: &Reply| {
        let found = reply.headers.iter().find(|(name, _)| name == "WWW-Authenticate");
        found.map(|(_, value)| String::from_utf8(value.clone()).unwrap()).unwrap_or_default()
    };
    (reply.map(|reply| (reply.status, challenge(&reply))), cx)
}

fn with(server: &Server, more: Value) -> Harness {
    let mut all = json!({"public_key": server.pem()});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Harness::new(define::<OAuth>(), all).unwrap()
}

fn ask(plugin: &Harness, token: &str) -> (Option<(u16, String)>, Context) {
    answer(plugin, &[("Authorization", &format!("Bearer {token}")), ("X-User", "forged")], "/")
}

#[test]
fn configurations_are_checked() {
    let error = |mut config: Value| check(define::<OAuth>(), Scope::Route, &mut config).unwrap_err().0;
    assert_eq!(error(json!({})), "one of discovery, jwks_uri, public_key and introspection is required");
    let endpoint = "introspection.endpoint is required where there is no discovery";
    assert_eq!(error(json!({"introspection": {"client_id": "a"}})), endpoint);
    assert_eq!(error(json!({"jwks_uri": "a", "scopes": ["a b"]})), "scopes: \"a b\" is no scope");
    assert_eq!(error(json!({"jwks_uri": "a", "headers": {"a b": "sub"}})), "headers: \"a b\" is no header name");
    assert!(error(json!({"jwks_uri": "a", "headers": {"Host": "sub"}})).contains("belongs to the connection"));
    assert!(error(json!({"jwks_uri": "a", "algorithms": ["HS256"]})).starts_with("algorithms: HS256"));
    assert!(error(json!({"jwks_uri": "a", "realm": "a\"b"})).contains("realm"));
    let secret = json!({"introspection": {"endpoint": "a", "client_id": "b", "client_secret": "$env://SLUICE_NONE"}});
    let refused = Harness::new(define::<OAuth>(), secret).err().unwrap().0;
    assert!(refused.contains("refers to a secret"), "{refused}");
}

#[test]
fn scopes_roles_and_claims_decide() {
    let server = Server::new();
    let claims = json!({"sub": "anna", "scope": "read write", "realm_access": {"roles": ["clerk"]}, "tenant": "t1",
        "https://shop.test/teams": ["a", "b"], "exp": NOW + 10, "n": 5, "deep": {"x": [{}]}, "bad": "a\r\nb"});
    let token = server.token(&claims);
    let status = |more: Value| ask(&with(&server, more), &token).0.map(|(status, _)| status);
    for (more, expected) in [
        (json!({}), None),
        (json!({"scopes": ["read", "write"]}), None),
        (json!({"scopes": ["read", "admin"]}), Some(403)),
        (json!({"scopes": ["read", "admin"], "scopes_match": "any"}), None),
        (json!({"roles": ["chief", "clerk"]}), None),
        (json!({"roles": ["chief", "clerk"], "roles_match": "all"}), Some(403)),
        (json!({"roles": ["a"], "role_claims": ["https://shop.test/teams"]}), None),
        (json!({"claims": {"tenant": ["t1", "t2"], "n": [5]}}), None),
        (json!({"claims": {"tenant": ["t2"]}}), Some(403)),
        (json!({"claims": {"none": [null]}}), Some(403)),
        (json!({"issuers": ["https://idp"]}), Some(401)),
        (json!({"audiences": ["shop"]}), Some(401)),
        (json!({"algorithms": ["RS256"]}), Some(401)),
    ] {
        assert_eq!(status(more.clone()), expected, "{more}");
    }
    let challenge = ask(&with(&server, json!({"scopes": ["admin"], "realm": "shop"})), &token).0;
    let text = "Bearer realm=\"shop\", error=\"insufficient_scope\", error_description=\"the access token lacks a scope\", scope=\"admin\"";
    assert_eq!(challenge, Some((403, text.to_owned())));

    let headers =
        json!({"X-User": "sub", "X-Teams": "https://shop.test/teams", "X-N": "n", "X-Deep": "deep.x", "X-Bad": "bad"});
    let (reply, cx) = ask(&with(&server, json!({"headers": headers, "hide_token": true})), &token);
    assert_eq!(reply, None);
    let told = ["X-User", "X-Teams", "X-N", "X-Deep", "X-Bad", "Authorization"];
    let told = told.map(|name| cx.request.headers.get_str(name));
    assert_eq!(told, [Some("anna"), Some("a,b"), Some("5"), Some("[{}]"), None, None]);
}

#[test]
fn bad_tokens_get_the_challenges_of_rfc_6750() {
    let server = Server::new();
    let plugin = with(&server, json!({"token_query": "access_token", "token_cookie": "token", "hide_token": true}));
    let good = server.token(&json!({"sub": "anna"}));
    let bearer = format!("Bearer {good}");
    let none = Some((401, "Bearer realm=\"api\"".to_owned()));
    assert_eq!(answer(&plugin, &[], "/").0, none);
    assert_eq!(answer(&plugin, &[("Authorization", "Basic eDp5")], "/").0, none);
    let target = format!("/?a=1&access_token={good}");
    let (reply, cx) = answer(&plugin, &[], &target);
    assert_eq!((reply, cx.request.query()), (None, Some("a=1")));
    let cookie = format!("a=1; token={good}");
    let (reply, cx) = answer(&plugin, &[("Cookie", &cookie)], "/");
    assert_eq!((reply, cx.request.headers.get_str("cookie")), (None, Some("a=1")));
    let twice = answer(&plugin, &[("Authorization", &bearer)], &target).0.unwrap();
    assert!(twice.0 == 400 && twice.1.contains("error=\"invalid_request\""), "{twice:?}");
    for bad in [
        server.token(&json!({"exp": NOW - 61})),
        server.token(&json!({"nbf": NOW + 61})),
        Server::new().token(&json!({})),
        format!("{}.", good.rsplit_once('.').unwrap().0),
        "a.b.c".into(),
        "opaque".into(),
    ] {
        let (status, challenge) = ask(&plugin, &bad).0.unwrap();
        assert!(status == 401 && challenge.contains("error=\"invalid_token\""), "{bad}: {challenge}");
    }
    let lenient = with(&server, json!({"allow_anonymous": true}));
    assert_eq!(answer(&lenient, &[], "/").0, None);
    assert_eq!(ask(&lenient, "opaque").0.unwrap().0, 401);
}

#[test]
fn opaque_tokens_are_asked_about_and_the_answer_is_kept() {
    let asked: Arc<Mutex<Vec<HttpRequest>>> = Arc::default();
    let noted = asked.clone();
    let env = Env::for_tests().with_http(move |request: &HttpRequest| {
        noted.lock().unwrap().push(request.clone());
        let body = String::from_utf8_lossy(&request.body).into_owned();
        match () {
            () if body.contains("token=away") => Err(HttpError::new("connection refused")),
            () if request.url.ends_with("/meta") => {
                let meta = json!({"issuer": "https://as", "introspection_endpoint": "https://as/ask"});
                Ok(HttpResponse { status: 200, body: meta.to_string().into(), ..HttpResponse::default() })
            }
            () => {
                let told = json!({"active": body.contains("token=good"), "scope": "read", "username": "anna"});
                Ok(HttpResponse { status: 200, body: told.to_string().into(), ..HttpResponse::default() })
            }
        }
    });
    let config = json!({"discovery": "https://as/meta", "headers": {"X-User": "username"}, "scopes": ["read"],
        "introspection": {"client_id": "gw", "client_secret": "s", "cache_ttl": 30, "auth_method": "client_secret_post"}});
    let plugin = Harness::with_env(define::<OAuth>(), config, env).unwrap();
    let (reply, cx) = ask(&plugin, "good");
    assert_eq!((reply, cx.request.headers.get_str("X-User")), (None, Some("anna")));
    let sent = asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(&sent.body[..], b"token=good&token_type_hint=access_token&client_id=gw&client_secret=s");
    let count = || asked.lock().unwrap().len();
    let before = count();
    assert_eq!((ask(&plugin, "good").0, count()), (None, before));
    plugin.env.clock.advance(Duration::from_secs(30));
    assert_eq!((ask(&plugin, "good").0, count()), (None, before + 1));
    assert_eq!(ask(&plugin, "bad").0.unwrap().0, 401);
    assert_eq!(ask(&plugin, "away").0.unwrap().0, 503);
}
