//! `openid-connect` and `oauth` with a real provider: logins of browsers, sessions in cookies and in Redis, renewal, logout, tokens of
//! programs; the provider is killed, restarted and given new keys meanwhile.

use crate::start::gateway;
use serde_json::{Value, json};
use sluice_testkit::{Answer, Behaviour, Browser, Gateway, IdentityProvider, Redis, Upstream};
use std::path::Path;
use std::process::Command;

const SECRET: &str = "a secret of the shop that is long enough";
const SHOP: &str = "http://gateway.test";

fn provider(client_keys: Option<&str>) -> Option<IdentityProvider> {
    IdentityProvider::start(Path::new(env!("CARGO_MANIFEST_DIR")), client_keys)
}

fn settings(provider: &IdentityProvider, more: Value) -> Value {
    let mut all = json!({"client_id": "shop", "client_secret": SECRET, "discovery": provider.discovery(),
        "redirect_uri": "/callback", "session": {"secret": "0123456789abcdef"}});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

/// One route for everything.
fn shop(upstream: &Upstream, plugin: &str, config: Value) -> Gateway {
    let nodes = json!({"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}});
    gateway(
        &Value::Null,
        &json!({"routes": [{"id": "shop", "uri": "/*", "plugins": {plugin: config}, "upstream": nodes}]}),
    )
}

fn upstream() -> Upstream {
    let upstream = Upstream::start().unwrap();
    upstream.otherwise(Behaviour::answer(200, "the shop"));
    upstream
}

fn browser(gateway: &Gateway, provider: &IdentityProvider) -> Browser {
    let mut browser = Browser::default();
    browser.knows("gateway.test", gateway.addr()).knows(provider.address().to_string(), provider.address());
    browser
}

fn decoded(text: &str) -> Value {
    let out = Command::new("base64")
        .arg("-d")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut child = out.unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

fn bearer(gateway: &Gateway, path: &str, token: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {token}\r\n\r\n");
    gateway.connect().unwrap().request(request).unwrap()
}

#[test]
fn a_person_logs_in_and_out_and_the_provider_goes_and_comes_back() {
    let Some(mut idp) = provider(None) else { return };
    let upstream = upstream();
    let more = json!({"use_pkce": true, "use_nonce": true, "set_refresh_token_header": true, "set_raw_id_token_header": true,
        "scope": "openid email", "post_logout_redirect_uri": format!("{SHOP}/bye"), "revoke_tokens_on_logout": true});
    let gateway = shop(&upstream, "openid-connect", settings(&idp, more));
    let mut browser = browser(&gateway, &idp);

    let answer = browser.go(&format!("{SHOP}/cart?item=1"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "the shop"), "{:?}", browser.visited);
    assert_eq!(browser.visited.last().unwrap(), &format!("{SHOP}/cart?item=1"));
    assert!(browser.visited[1].contains("code_challenge_method=S256") && browser.visited[1].contains("nonce="));
    let seen = upstream.take_seen().remove(0);
    let user = decoded(seen.header("x-userinfo").unwrap());
    assert_eq!((&user["sub"], &user["email"]), (&json!("anna"), &json!("anna@shop.test")));
    assert_eq!(decoded(seen.header("x-id-token").unwrap())["sub"], "anna");
    for name in ["x-access-token", "x-refresh-token", "x-raw-id-token"] {
        assert!(seen.header(name).is_some_and(|value| value.len() > 20), "{name}");
    }
    let cookies = browser.cookies("gateway.test");
    assert!(!cookies.contains("anna") && cookies.starts_with("session="), "{cookies}");

    // Logged in, the provider is not needed; a spoilt cookie is no session.
    idp.kill();
    assert_eq!(browser.step(&format!("{SHOP}/x")).status, 200);
    let spoilt = cookies.replace("session=AQ", "session=AA");
    let request = format!("GET /x HTTP/1.1\r\nHost: gateway.test\r\nCookie: {spoilt}\r\n\r\n");
    let refused = gateway.connect().unwrap().request(request).unwrap();
    assert!((refused.status, refused.header("location").is_some()) == (302, true), "{refused:?}");
    // Where it is away, nobody new can log in, and a callback that cannot be redeemed is an error.
    let mut other = self::browser(&gateway, &idp);
    let away = other.step(&format!("{SHOP}/y"));
    let state = away.header("location").unwrap().split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    let issuer = idp.issuer().replace(':', "%3A").replace('/', "%2F");
    let callback = format!("{SHOP}/callback?code=abc&state={state}&iss={issuer}");
    assert_eq!(other.step(&callback).status, 500);
    // It comes back with other keys: they are fetched when the first token names one.
    idp.restart(true);
    let mut third = self::browser(&gateway, &idp);
    assert_eq!(third.go(&format!("{SHOP}/z")).status, 200, "{:?}", third.visited);

    upstream.take_seen();
    let out = third.step(&format!("{SHOP}/logout"));
    let to = out.header("location").unwrap();
    assert!(out.status == 302 && to.starts_with(&format!("{}/session/end?id_token_hint=", idp.issuer())), "{to}");
    assert!(to.ends_with("post_logout_redirect_uri=http%3A%2F%2Fgateway.test%2Fbye"), "{to}");
    assert_eq!(third.cookies("gateway.test"), "");
    let revoked = idp.seen().iter().filter(|s| s.as_str() == "POST /token/revocation").count();
    assert_eq!((revoked, upstream.take_seen().len()), (2, 0));
    assert_eq!(third.step(&format!("{SHOP}/z")).status, 302);
}

#[test]
fn tokens_are_renewed_once_for_requests_that_come_together() {
    let Some(mut idp) = provider(None) else { return };
    let upstream = upstream();
    // Each token is to be renewed as soon as it is there.
    let more = json!({"access_token_expires_leeway": 3600, "set_refresh_token_header": true});
    let gateway = shop(&upstream, "openid-connect", settings(&idp, more));
    let mut browser = browser(&gateway, &idp);
    assert_eq!(browser.go(&format!("{SHOP}/a")).status, 200);
    let token_calls = |idp: &IdentityProvider| idp.seen().iter().filter(|s| s.as_str() == "POST /token").count();
    assert_eq!(token_calls(&idp), 2);
    let cookies = browser.cookies("gateway.test");
    let request = format!("GET /b HTTP/1.1\r\nHost: gateway.test\r\nCookie: {cookies}\r\n\r\n");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = || gateway.connect().unwrap().request(&request).unwrap().status;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(statuses, [200; 8]);
    assert_eq!(token_calls(&idp), 3);
    let tokens: Vec<_> = upstream.take_seen().iter().map(|s| s.header("x-access-token").unwrap().to_owned()).collect();
    assert!(tokens[1..].windows(2).all(|w| w[0] == w[1]) && tokens[0] != tokens[1], "{tokens:?}");
    // Who comes later with the old token gets what was renewed; from a provider that has forgotten it the person logs in again.
    assert_eq!((browser.step(&format!("{SHOP}/b")).status, token_calls(&idp)), (200, 3));
    idp.kill();
    idp.restart(false);
    let again = browser.go(&format!("{SHOP}/c"));
    assert_eq!(again.status, 200);
    assert!(browser.visited.iter().any(|url| url.contains("/auth?")), "{:?}", browser.visited);
}

#[test]
fn sessions_live_in_redis() {
    let (Some(idp), Some(mut redis)) = (provider(None), Redis::start()) else { return };
    let upstream = upstream();
    let session = json!({"secret": "0123456789abcdef", "storage": "redis", "cookie_name": "login", "cookie_path": "/",
        "redis": {"host": "127.0.0.1", "port": redis.port, "prefix": "people"}});
    let more = json!({"session": session, "use_pkce": true, "client_id": "public", "client_secret": null});
    let mut config = settings(&idp, more);
    config.as_object_mut().unwrap().remove("client_secret");
    let gateway = shop(&upstream, "openid-connect", config);
    let mut browser = browser(&gateway, &idp);
    assert_eq!(browser.go(&format!("{SHOP}/a")).status, 200, "{:?}", browser.visited);
    let cookie = browser.cookies("gateway.test");
    assert!(cookie.starts_with("login=") && cookie.len() < 300, "{cookie}");
    let keys = redis.ask(&["KEYS", "*"]);
    assert!(keys.starts_with("people:login:") && !keys.contains('\n'), "{keys}");
    let life: u64 = redis.ask(&["TTL", &keys]).parse().unwrap();
    assert!((890..=900).contains(&life), "{life}");
    assert!(!redis.ask(&["GET", &keys]).contains("anna"));
    // After a logout the cookie is good no more, wherever it was copied to.
    assert_eq!(browser.step(&format!("{SHOP}/logout")).status, 302);
    assert_eq!(redis.ask(&["KEYS", "*"]), "");
    let request = format!("GET /a HTTP/1.1\r\nHost: gateway.test\r\nCookie: {cookie}\r\n\r\n");
    assert_eq!(gateway.connect().unwrap().request(&request).unwrap().status, 302);
    // Without Redis nobody is sent in circles.
    redis.kill();
    assert_eq!(gateway.connect().unwrap().request(&request).unwrap().status, 503);
    redis.restart();
    gateway.wait_until("/a", std::time::Duration::from_secs(5), |answer| answer.status == 302).unwrap();
}

#[test]
fn the_gateway_identifies_itself_in_every_way() {
    let (pem, jwk) = client_key();
    let Some(idp) = provider(Some(&json!({"keys": [jwk]}).to_string())) else { return };
    let upstream = upstream();
    for (client, method, more) in [
        ("post", "client_secret_post", json!({})),
        ("jwt", "client_secret_jwt", json!({"par": {"enabled": true}})),
        ("key", "private_key_jwt", json!({"client_rsa_private_key": pem, "client_rsa_private_key_id": "client-1"})),
        // The way that is the default is not the client's: the provider lists others, and refuses.
        ("shop", "client_secret_basic", json!({"par": {"enabled": true}})),
    ] {
        let mut config = settings(&idp, json!({"client_id": client, "token_endpoint_auth_method": method}));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let gateway = shop(&upstream, "openid-connect", config);
        let mut browser = browser(&gateway, &idp);
        let answer = browser.go(&format!("{SHOP}/a"));
        assert_eq!(answer.status, 200, "{client}: {:?}\n{}", browser.visited, gateway.log_text());
        assert_eq!(browser.visited[1].contains("request_uri="), more.get("par").is_some(), "{:?}", browser.visited);
    }
}

#[test]
fn tokens_are_bound_to_the_key_of_the_gateway() {
    let Some(idp) = provider(None) else { return };
    let (pem, jwk) = key_pair("g('ec', {namedCurve: 'P-256'})");
    let upstream = upstream();
    let dpop = json!({"enabled": true, "private_key": pem, "public_jwk": jwk});
    for par in [false, true] {
        let more =
            json!({"client_id": "proof", "dpop": dpop, "par": {"enabled": par}, "access_token_expires_leeway": 3600});
        let gateway = shop(&upstream, "openid-connect", settings(&idp, more));
        let mut browser = browser(&gateway, &idp);
        let answer = browser.go(&format!("{SHOP}/a"));
        assert_eq!(answer.status, 200, "{:?}\n{}", browser.visited, gateway.log_text());
        // The token was renewed already, and the person asked about, each with a proof.
        assert_eq!(decoded(upstream.take_seen().remove(0).header("x-userinfo").unwrap())["sub"], "anna");
    }
}

/// A key of a client, in PEM and as a JWK.
fn client_key() -> (String, Value) {
    let (pem, mut jwk) = key_pair("g('rsa', {modulusLength: 2048})");
    for (name, value) in [("kid", "client-1"), ("alg", "RS256"), ("use", "sig")] {
        jwk[name] = json!(value);
    }
    (pem, jwk)
}

fn key_pair(make: &str) -> (String, Value) {
    let script = format!(
        "const {{generateKeyPairSync: g}} = require('crypto'); const {{privateKey: k, publicKey: p}} = {make}; \
         console.log(JSON.stringify([k.export({{type: 'pkcs8', format: 'pem'}}), p.export({{format: 'jwk'}})]))"
    );
    let Ok(out) = Command::new("node").args(["-e", &script]).output() else { return Default::default() };
    let pair: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    (pair[0].as_str().unwrap_or_default().to_owned(), pair[1].clone())
}

#[test]
fn requests_without_a_login_are_denied_or_pass() {
    let idp = Upstream::start().unwrap();
    let upstream = upstream();
    for (action, status, seen) in [("deny", 401, 0), ("pass", 200, 1)] {
        let gateway = shop(
            &upstream,
            "openid-connect",
            json!({"client_id": "shop", "client_secret": SECRET, "unauth_action": action,
            "discovery": format!("http://{}/", idp.addr()), "session": {"secret": "0123456789abcdef"}}),
        );
        let request = "GET /a HTTP/1.1\r\nHost: gateway.test\r\nX-Userinfo: forged\r\n\r\n";
        assert_eq!(gateway.connect().unwrap().request(request).unwrap().status, status);
        let asked = upstream.take_seen();
        assert!(asked.len() == seen && asked.iter().all(|s| s.header("x-userinfo").is_none()));
    }
    assert_eq!(idp.requests(), 0);
}

#[test]
fn programs_bring_tokens_that_are_verified_or_asked_about() {
    let Some(mut idp) = provider(None) else { return };
    let upstream = upstream();
    let own = |more: Value| {
        settings(
            &idp,
            json!({"bearer_only": true}).as_object().unwrap().iter().fold(more, |mut all, (k, v)| {
                all[k] = v.clone();
                all
            }),
        )
    };
    let verifying = shop(&upstream, "openid-connect", own(json!({"use_jwks": true, "required_scopes": ["read"]})));
    let asking = shop(&upstream, "openid-connect", own(json!({"introspection_interval": 60})));
    let (reader, writer, opaque) = (idp.token(true, "read"), idp.token(true, "write"), idp.token(false, ""));
    assert_eq!(bearer(&verifying, "/", &reader).status, 200);
    assert_eq!(bearer(&verifying, "/", &writer).status, 403);
    assert_eq!(bearer(&verifying, "/", &opaque).status, 401);
    assert_eq!(bearer(&asking, "/", &opaque).status, 200);
    assert_eq!(bearer(&asking, "/", "made-up").status, 401);
    let asked =
        |idp: &IdentityProvider| idp.seen().iter().filter(|s| s.as_str() == "POST /token/introspection").count();
    assert_eq!((bearer(&asking, "/", &opaque).status, asked(&idp)), (200, 2));

    // Away: what is known is known; nobody else gets in, and nobody waits long.
    idp.kill();
    assert_eq!((bearer(&verifying, "/", &reader).status, bearer(&asking, "/", &opaque).status), (200, 200));
    assert_eq!(bearer(&asking, "/", "another").status, 401);
    // Back with another key: its tokens are good at once, and those of the old key for as long as they were verified.
    idp.restart(true);
    let rotated = idp.token(true, "read");
    assert_eq!(bearer(&verifying, "/", &rotated).status, 200);
    assert_eq!(bearer(&verifying, "/", &reader).status, 200);
}
