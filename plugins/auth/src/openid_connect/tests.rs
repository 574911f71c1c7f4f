//! The provider is a fake with a fresh key. Logins are tested end to end, with a real one.
use super::*;
use crate::testing::bare;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{HttpRequest, HttpResponse, Scope, define};
use std::sync::{Arc, Mutex};

/// P-256, made for this test.
const EC_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgHFI3BSeq6G1COo8W\nmhJJCz3ITdMgIWsTjl3x3rP8avChRANCAARI6YXSElrhBwL8Ul3IMFJ9L640qUlj\nu5QigOS+3t6BSmXL7EOROlCjPykX2CgiSJj5aPh/YDh5lyBKQ94HsAG7\n-----END PRIVATE KEY-----\n";
const NOW: u64 = 1_700_000_000;
type Asked = Arc<Mutex<Vec<HttpRequest>>>;

pub struct Provider {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
}

impl Provider {
    pub fn new() -> Provider {
        let ec = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Provider { rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), ec }
    }
    pub fn token(&self, header: Value, payload: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(payload));
        let rng = SystemRandom::new();
        let bytes = match header["alg"].as_str().unwrap() {
            "ES256" => self.ec.sign(&rng, signed.as_bytes()).unwrap().as_ref().to_vec(),
            "HS256" => {
                let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, self.pem().as_bytes());
                aws_lc_rs::hmac::sign(&key, signed.as_bytes()).as_ref().to_vec()
            }
            "none" => Vec::new(),
            _ => {
                let mut out = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&signature::RSA_PKCS1_SHA256, &rng, signed.as_bytes(), &mut out).unwrap();
                out
            }
        };
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }
    fn pem(&self) -> String {
        let der: aws_lc_rs::encoding::PublicKeyX509Der<'static> = self.rsa.public_key().as_der().unwrap();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64_STANDARD.encode(der.as_ref()))
    }
    pub fn keys(&self) -> Value {
        let point = self.ec.public_key().as_ref();
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        // RSAPublicKey of 2048 bits: the modulus stands behind nine bytes of heads, the exponent is 65537
        let (n, e) = (text(&self.rsa.public_key().as_ref()[9..265]), "AQAB");
        json!({"keys": [
            {"kty": "oct", "k": "AAAA", "kid": "s"},
            {"kty": "RSA", "use": "enc", "kid": "r", "n": "AQ", "e": "AQAB"},
            {"kty": "RSA", "kid": "r", "alg": "RS256", "use": "sig", "n": n, "e": e},
            {"kty": "EC", "kid": "e", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..])},
        ]})
    }
}

fn definition() -> sluice_plugin::Definition {
    define::<OpenidConnect>()
}

fn base(more: Value) -> Value {
    let mut all = json!({"client_id": "shop", "client_secret": "s&t", "discovery": "https://idp/.well-known", "bearer_only": true});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn plugin(more: Value, introspection: Value, keys: Value) -> (Harness, Asked) {
    let asked = Asked::default();
    let noted = asked.clone();
    let env = Env::for_tests().with_http(move |request: &HttpRequest| {
        noted.lock().unwrap().push(request.clone());
        let body = match request.url.as_str() {
            "https://idp/.well-known" => json!({"issuer": "https://idp", "jwks_uri": "https://idp/keys",
                "introspection_endpoint": "https://idp/introspect"}),
            "https://idp/keys" => keys.clone(),
            _ => introspection.clone(),
        };
        Ok(HttpResponse { status: 200, headers: Vec::new(), body: body.to_string().into() })
    });
    (Harness::with_env(definition(), base(more), env).unwrap(), asked)
}

fn bearer(token: &str) -> Context {
    bare(
        "GET",
        "/",
        &[("Authorization", &format!("Bearer {token}")), ("X-Userinfo", "forged"), ("X-ID-Token", "forged")],
    )
}

#[test]
fn configurations_are_checked() {
    let error = |mut config: Value| check(definition(), Scope::Route, &mut config).unwrap_err().0;
    let nameless = json!({"discovery": "https://a", "client_secret": "b", "bearer_only": true});
    assert_eq!(error(nameless), "property \"client_id\" is required");
    let secret = "property \"client_secret\" is required";
    assert_eq!(error(json!({"client_id": "a", "discovery": "https://a", "bearer_only": true})), secret);
    let session = "property \"session.secret\" is required when \"bearer_only\" is false";
    assert_eq!(error(json!({"client_id": "a", "client_secret": "b", "discovery": "https://a"})), session);
    for (more, what) in [
        (
            json!({"bearer_only": false, "session": {"secret": "$env://SLUICE_NO_SUCH_SECRET"}}),
            "session.secret refers to a secret",
        ),
        (json!({"client_secret": "$secret://vault/1/a"}), "client_secret refers to a secret"),
        (json!({"public_key": "$env://SLUICE_NO_SUCH_KEY"}), "public_key refers to a secret"),
    ] {
        let refused = Harness::new(definition(), base(more)).err().unwrap().0;
        assert!(refused.starts_with(&format!("openid-connect: {what}")), "{refused}");
    }
    let asks = |more: Value| error(base(more));
    assert!(asks(json!({"claim_schema": {"type": 5}})).starts_with("check claim_schema failed: "));
    assert_eq!(asks(json!({"use_par": true})), "property \"use_par\" is not allowed, use \"par.enabled\" instead");
    let login = |more: Value| {
        let mut all = json!({"bearer_only": false, "session": {"secret": "0123456789abcdef"}});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asks(all)
    };
    let key = json!({"token_endpoint_auth_method": "private_key_jwt", "client_rsa_private_key": EC_KEY});
    let with = |more: Value| {
        let mut all = key.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        login(all)
    };
    let property = |algorithm: &str| format!("property \"client_jwt_assertion_alg\" \"{algorithm}\"");
    assert_eq!(
        with(json!({"client_jwt_assertion_alg": "HS256"})),
        property("HS256")
            + " is symmetric and cannot be used with the private_key_jwt selected by \"token_endpoint_auth_method\""
    );
    let rsa = " requires an RSA \"client_rsa_private_key\"";
    assert_eq!(with(json!({"client_jwt_assertion_alg": "RS256"})), property("RS256") + rsa);
    let curve = " requires a \"client_rsa_private_key\" on curve \"P-521\", got \"P-256\"";
    assert_eq!(with(json!({"client_jwt_assertion_alg": "ES512"})), property("ES512") + curve);
    let par = json!({"par": {"enabled": true, "endpoint_auth_method": "private_key_jwt"}});
    let needs = "property \"par.endpoint_auth_method\" \"private_key_jwt\" requires \"client_rsa_private_key\" when \"par.enabled\" is true";
    assert_eq!(login(par), needs);
    let dpop = |jwk: Value| asks(json!({"dpop": {"enabled": true, "private_key": EC_KEY, "public_jwk": jwk}}));
    assert!(dpop(json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"})).contains("is not the public key of"));
    assert!(dpop(json!({"kty": "OKP"})).ends_with("kty \"OKP\" is not supported"));
    let jwk = crate::provider::assertion::public_jwk(EC_KEY).unwrap();
    let mut good = base(json!({"dpop": {"enabled": true, "private_key": EC_KEY, "public_jwk": jwk}}));
    assert_eq!(check(definition(), Scope::Route, &mut good), Ok(()));
}

#[test]
fn tokens_are_verified_by_public_key_and_by_key_set() {
    let provider = Provider::new();
    let good = json!({"iss": "https://idp", "sub": "anna", "exp": NOW + 10, "scope": "a b"});
    let (rs, es) = (json!({"alg": "RS256", "kid": "r"}), json!({"alg": "ES256", "kid": "e"}));
    for (more, other) in [(json!({"public_key": provider.pem()}), false), (json!({"use_jwks": true}), true)] {
        let (plugin, _) = plugin(more.clone(), Value::Null, provider.keys());
        let passes = |header: &Value, payload: &Value| {
            plugin.request(&mut bearer(&provider.token(header.clone(), payload))).is_none()
        };
        assert!(passes(&rs, &good), "{more}");
        assert_eq!(passes(&es, &good), other, "{more}");
        for header in [json!({"alg": "none"}), json!({"alg": "HS256"}), json!({"alg": "RS512", "kid": "r"})] {
            assert!(!passes(&header, &good), "{header}");
        }
        assert_eq!(passes(&json!({"alg": "RS256", "kid": "unknown"}), &good), !other);
        for (field, value) in
            [("iss", json!("https://evil")), ("iss", Value::Null), ("exp", json!(NOW - 121)), ("nbf", json!(NOW + 121))]
        {
            let mut bad = good.clone();
            bad[field] = value;
            assert!(!passes(&rs, &bad), "{bad}");
        }
        let spoilt = provider.token(rs.clone(), &good).replace("eyJ", "eyK");
        assert!(plugin.request(&mut bearer(&spoilt)).is_some());
        let stranger = Provider::new().token(rs.clone(), &good);
        let reply = plugin.request(&mut bearer(&stranger)).unwrap();
        let challenge =
            "Bearer realm=\"apisix\", error=\"invalid_token\", error_description=\"jwt signature verification failed\"";
        assert_eq!(reply, Reply::status(401).header("WWW-Authenticate", challenge));
    }
}

#[test]
fn unknown_keys_do_not_make_clients_drive_the_provider() {
    let provider = Provider::new();
    let (plugin, asked) = plugin(json!({"use_jwks": true}), Value::Null, provider.keys());
    let token = provider.token(json!({"alg": "RS256", "kid": "new"}), &json!({"iss": "https://idp"}));
    let fetches = || asked.lock().unwrap().iter().filter(|r| r.url.ends_with("/keys")).count();
    for _ in 0..9 {
        assert!(plugin.request(&mut bearer(&token)).is_some());
    }
    assert_eq!(fetches(), 4);
    plugin.env.clock.advance(Duration::from_secs(30));
    assert!(plugin.request(&mut bearer(&token)).is_some());
    assert_eq!(fetches(), 5);
}

#[test]
fn the_provider_is_asked_about_tokens() {
    let claims = json!({"active": true, "scope": "read write", "aud": ["other", "shop"]});
    let (plugin, asked) = plugin(json!({}), claims.clone(), Value::Null);
    let mut cx = bearer("opaque&x");
    assert_eq!(plugin.request(&mut cx), None);
    assert_eq!(cx.request.headers.get_str("X-Access-Token"), Some("opaque&x"));
    let userinfo = cx.request.headers.get_str("X-Userinfo").unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&BASE64_STANDARD.decode(userinfo).unwrap()).unwrap(), claims);
    assert!(!cx.request.headers.contains("X-ID-Token"));
    let sent = asked.lock().unwrap().last().unwrap().clone();
    assert_eq!(
        (sent.method.as_str(), sent.url.as_str(), &sent.body[..]),
        ("POST", "https://idp/introspect", &b"token=opaque%26x"[..])
    );
    let basic = format!("Basic {}", BASE64_STANDARD.encode("shop:s%26t"));
    assert!(sent.headers.contains(&("Authorization".into(), basic.into_bytes())), "{sent:?}");
}

#[test]
fn scopes_and_audience_decide_and_inactive_tokens_are_refused() {
    let ask = |more: Value, claims: Value| plugin(more, claims, Value::Null).0.request(&mut bearer("t"));
    let denied = |message: &str| Some(Reply::text(403, json!({ "error": message }).to_string()));
    let active = json!({"active": true, "scope": "read write", "aud": "other"});
    for inactive in [json!({"active": false}), json!({"active": "true"}), json!({}), json!([])] {
        assert_eq!(ask(json!({}), inactive.clone()).map(|r| r.status), Some(401), "{inactive}");
    }
    assert_eq!(ask(json!({"required_scopes": ["write"]}), active.clone()), None);
    let missing = ask(json!({"required_scopes": ["read", "admin"]}), active.clone());
    assert_eq!(missing, denied("required scopes read, admin not present"));
    let audience = |more: Value| json!({"claim_validator": {"audience": more}});
    assert_eq!(ask(audience(json!({"match_with_client_id": true})), active.clone()), denied("mismatched audience"));
    let absent = ask(audience(json!({"required": true, "claim": "aud2"})), active.clone());
    assert_eq!(absent, denied("required audience claim not present"));
    assert_eq!(ask(audience(json!({"required": true})), active), None);
}

#[test]
fn requests_without_a_token_are_challenged() {
    let (plugin, asked) = plugin(json!({"realm": "shop"}), json!({"active": true}), Value::Null);
    let challenge = Reply::status(401).header("WWW-Authenticate", "Bearer realm=\"shop\"");
    assert_eq!(plugin.request(&mut bare("GET", "/", &[])), Some(challenge.clone()));
    assert_eq!(plugin.request(&mut bare("GET", "/", &[("Authorization", "Basic eDp5")])), Some(challenge));
    assert_eq!(plugin.request(&mut bare("GET", "/", &[("Authorization", "x")])), Some(Reply::status(400)));
    assert!(asked.lock().unwrap().is_empty());
    assert_eq!(plugin.request(&mut bare("GET", "/", &[("X-Access-Token", "t")])), None);
}

#[test]
fn answers_about_tokens_are_kept_as_long_as_they_say() {
    let calls = |asked: &Asked| asked.lock().unwrap().iter().filter(|r| r.method == "POST").count();
    for (more, claims, life) in [
        (json!({}), json!({"active": true, "exp": NOW + 100}), 100),
        (json!({"introspection_interval": 20}), json!({"active": true, "exp": NOW + 100}), 20),
        (json!({"introspection_expiry_claim": "ttl"}), json!({"active": true, "ttl": 50}), 50),
        (json!({}), json!({"active": true}), 0),
    ] {
        let (plugin, asked) = plugin(more, claims, Value::Null);
        let ask = || {
            assert_eq!(plugin.request(&mut bearer("t")), None);
            calls(&asked)
        };
        assert_eq!((ask(), ask()), (1, if life > 0 { 1 } else { 2 }));
        plugin.env.clock.advance(Duration::from_secs(life.max(1) - 1));
        assert_eq!(ask(), if life > 0 { 1 } else { 3 });
        plugin.env.clock.advance(Duration::from_secs(1));
        assert_eq!(ask(), if life > 0 { 2 } else { 4 });
    }
}

#[test]
fn claims_are_checked_by_a_schema() {
    let schema =
        json!({"claim_schema": {"type": "object", "properties": {"team": {"type": "string"}}, "required": ["team"]}});
    let ask = |claims: Value| plugin(schema.clone(), claims, Value::Null).0.request(&mut bearer("t"));
    assert_eq!(ask(json!({"active": true, "team": "a"})), None);
    let challenge =
        "Bearer realm=\"apisix\", error=\"invalid_token\", error_description=\"property \"team\" is required\"";
    assert_eq!(ask(json!({"active": true})), Some(Reply::status(401).header("WWW-Authenticate", challenge)));
}

#[test]
fn a_provider_that_went_away_is_not_asked_by_every_client() {
    let (away, asked) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), Asked::default());
    let (gone, noted, provider) = (away.clone(), asked.clone(), Provider::new());
    let keys = provider.keys();
    let env = Env::for_tests().with_http(move |request: &HttpRequest| {
        noted.lock().unwrap().push(request.clone());
        if gone.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(sluice_plugin::HttpError::new("connection refused"));
        }
        let body = match request.url.ends_with("/keys") {
            true => keys.clone(),
            false => json!({"issuer": "https://idp", "jwks_uri": "https://idp/keys"}),
        };
        Ok(HttpResponse { status: 200, headers: Vec::new(), body: body.to_string().into() })
    });
    let more = json!({"use_jwks": true, "jwt_verification_cache_ignore": true, "jwk_expires_in": 60});
    let plugin = Harness::with_env(definition(), base(more), env).unwrap();
    let token =
        provider.token(json!({"alg": "RS256", "kid": "r"}), &json!({"iss": "https://idp", "exp": NOW + 90_000}));
    assert_eq!(plugin.request(&mut bearer(&token)), None);
    away.store(true, std::sync::atomic::Ordering::SeqCst);
    plugin.env.clock.advance(Duration::from_secs(4000));
    let before = asked.lock().unwrap().len();
    for _ in 0..5 {
        assert_eq!(plugin.request(&mut bearer(&token)), None);
    }
    // Once about the metadata, once about the keys.
    assert_eq!(asked.lock().unwrap().len() - before, 2);
}
