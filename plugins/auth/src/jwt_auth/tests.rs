//! Tokens are signed here with fresh keys of every algorithm.
use super::*;
use crate::testing::{consumers, context, denied, schema_is};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Definition, Reply, Scope, define};

/// What the clock of the tests says, in seconds.
const NOW: u64 = 1_700_000_000;
const FAILED: &str = "failed to verify jwt";

fn definition() -> Definition {
    define::<JwtAuth>().auth::<JwtAuth>()
}

fn token(algorithm: &str, payload: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": algorithm})), part(payload));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn hs256(secret: &[u8], payload: &Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    token("HS256", payload, |message| hmac::sign(&key, message).as_ref().to_vec())
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

fn x509<K: AsDer<PublicKeyX509Der<'static>>>(key: &K) -> String {
    pem(key.as_der().unwrap().as_ref())
}

fn send(plugin: &Harness, consumer: Value, target: &str, headers: &[(&str, &str)]) -> (Context, Option<Reply>) {
    let known = consumers(
        &definition(),
        &[("anna", Some("phone"), consumer), ("guest", None, json!({"key": "g", "secret": "g"}))],
    );
    let mut cx = context("GET", target, headers, Arc::new(known));
    let reply = plugin.request(&mut cx);
    (cx, reply)
}

fn verdict(config: Value, consumer: Value, token: &str) -> Option<Reply> {
    send(&Harness::new(definition(), config).unwrap(), consumer, "/", &[("Authorization", token)]).1
}

fn refused(message: &str) -> Option<Reply> {
    Some(denied("Bearer realm=\"jwt\"", message))
}

fn anna() -> Value {
    json!({"key": "anna-key", "secret": "s3cret"})
}

fn good() -> String {
    hs256(b"s3cret", &json!({"key": "anna-key", "exp": NOW + 10}))
}

#[test]
fn schemas_are_those_of_apisix() {
    let text = |default: &str| json!({"type": "string", "default": default});
    schema_is(
        JwtAuth::schema(),
        json!({"type": "object", "properties": {
        "header": text("authorization"), "query": text("jwt"), "cookie": text("jwt"),
        "hide_credentials": {"type": "boolean", "default": false},
        "key_claim_name": {"type": "string", "default": "key", "minLength": 1},
        "store_in_ctx": {"type": "boolean", "default": false},
        "realm": {"type": "string", "default": "jwt", "minLength": 1, "maxLength": 128, "pattern": r"^[ -!#-[\]-~]+$"},
        "anonymous_consumer": {"type": "string", "minLength": 1},
        "claims_to_verify": {"type": "array", "items": {"type": "string", "enum": ["exp", "nbf"]}, "uniqueItems": true}}}),
    );
    let mut schema = JwtAuth::consumer_schema();
    schema.as_object_mut().unwrap().remove("dependencies");
    schema_is(
        schema,
        json!({"type": "object", "required": ["key"], "encrypt_fields": ["secret"], "properties": {
        "key": {"type": "string", "minLength": 1},
        "secret": {"type": "string", "minLength": 1},
        "algorithm": {"type": "string", "default": "HS256", "enum": ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512",
            "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"]},
        "exp": {"type": "integer", "minimum": 1, "default": 86400},
        "base64_secret": {"type": "boolean", "default": false},
        "lifetime_grace_period": {"type": "integer", "minimum": 0, "default": 0}}}),
    );
}

#[test]
fn consumers_are_checked() {
    let error = |mut config: Value| check(definition(), Scope::Consumer, &mut config).unwrap_err().0;
    assert_eq!(error(json!({"secret": "x"})), "property \"key\" is required");
    assert_eq!(error(json!({"key": "k"})), "property \"secret\" is required when using HS based algorithms");
    let base64 = "base64_secret required but the secret is not in base64 format";
    assert_eq!(error(json!({"key": "k", "secret": "~", "base64_secret": true})), base64);
    let dependent =
        "failed to validate dependent schema for \"algorithm\": value should match only one schema, but matches none";
    assert_eq!(error(json!({"key": "k", "secret": "s", "algorithm": "PS256"})), dependent);
    let mut reference = json!({"key": "k", "secret": "$env://S", "base64_secret": true});
    check(definition(), Scope::Consumer, &mut reference).unwrap();
    assert_eq!(reference["exp"], 86400);
    let parse = definition().consumer.unwrap().parse;
    assert!(parse(&reference).is_err(), "an unresolved reference is no secret");
}

#[test]
fn every_algorithm_verifies_and_only_its_own() {
    let rng = SystemRandom::new();
    let payload = json!({"key": "anna-key"});
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let sign_rsa = |padding: &'static dyn signature::RsaEncoding| {
        let (rsa, rng) = (&rsa, &rng);
        move |message: &[u8]| {
            let mut out = vec![0; rsa.public_modulus_len()];
            rsa.sign(padding, rng, message, &mut out).unwrap();
            out
        }
    };
    let public = x509(rsa.public_key());
    let mut tokens = vec![
        ("RS256", public.clone(), token("RS256", &payload, sign_rsa(&signature::RSA_PKCS1_SHA256))),
        ("RS384", public.clone(), token("RS384", &payload, sign_rsa(&signature::RSA_PKCS1_SHA384))),
        ("RS512", public.clone(), token("RS512", &payload, sign_rsa(&signature::RSA_PKCS1_SHA512))),
        ("PS256", public.clone(), token("PS256", &payload, sign_rsa(&signature::RSA_PSS_SHA256))),
        ("PS384", public.clone(), token("PS384", &payload, sign_rsa(&signature::RSA_PSS_SHA384))),
        ("PS512", public.clone(), token("PS512", &payload, sign_rsa(&signature::RSA_PSS_SHA512))),
    ];
    for (name, algorithm) in [
        ("ES256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", &signature::ECDSA_P521_SHA512_FIXED_SIGNING),
    ] {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let sign = |message: &[u8]| pair.sign(&rng, message).unwrap().as_ref().to_vec();
        tokens.push((name, x509(pair.public_key()), token(name, &payload, sign)));
    }
    let pair = Ed25519KeyPair::generate().unwrap();
    tokens.push(("EdDSA", x509(pair.public_key()), token("EdDSA", &payload, |m| pair.sign(m).as_ref().to_vec())));
    for (name, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
    {
        let key = hmac::Key::new(algorithm, b"s3cret");
        tokens.push((name, "s3cret".into(), token(name, &payload, |m| hmac::sign(&key, m).as_ref().to_vec())));
    }
    for (name, key, text) in &tokens {
        let field = if name.starts_with("HS") { "secret" } else { "public_key" };
        let consumer = json!({"key": "anna-key", "algorithm": name, field: key});
        assert_eq!(verdict(json!({}), consumer.clone(), text), None, "{name}");
        let flip = if text.ends_with("AA") { "BB" } else { "AA" };
        let spoilt = format!("{}{flip}{}", &text[..text.len() - 8], &text[text.len() - 6..]);
        assert_eq!(verdict(json!({}), consumer.clone(), &spoilt), refused(FAILED), "{name}, other signature");
        // The public key as an HMAC secret is the classic confusion of algorithms.
        let confused = hs256(key.as_bytes(), &payload);
        if *name != "HS256" {
            assert_eq!(verdict(json!({}), consumer.clone(), &confused), refused(FAILED), "{name}, confusion");
        }
        let none = token("none", &payload, |_| Vec::new());
        assert_eq!(verdict(json!({}), consumer, &none), refused(FAILED), "{name}, none");
    }
}

#[test]
fn unusable_public_keys_refuse() {
    let pair = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let text =
        token("ES256", &json!({"key": "anna-key"}), |m| pair.sign(&SystemRandom::new(), m).unwrap().as_ref().to_vec());
    for key in ["x".to_string(), pem(b"x"), x509(pair.public_key())] {
        let consumer = json!({"key": "anna-key", "algorithm": "ES256", "public_key": key});
        assert_eq!(verdict(json!({}), consumer, &text), refused(FAILED), "{key}");
    }
}

#[test]
fn tokens_are_found_and_hidden() {
    let good = good();
    let (with_bearer, cookie) = (format!("Bearer {good}"), format!("a=1; Jwt={good}; b=2"));
    let only = format!("jwt={good}");
    let query = format!("/x?a=1&jwt={good}");
    for hide in [false, true] {
        let plugin = Harness::new(definition(), json!({"hide_credentials": hide, "store_in_ctx": hide})).unwrap();
        for (target, headers) in [
            ("/x", vec![("Authorization", good.as_str())]),
            ("/x", vec![("authorization", with_bearer.as_str())]),
            (query.as_str(), vec![]),
            ("/x", vec![("Cookie", cookie.as_str())]),
            ("/x", vec![("Cookie", only.as_str())]),
        ] {
            let (cx, reply) = send(&plugin, anna(), target, &headers);
            assert_eq!(reply, None, "{target} {headers:?}");
            assert_eq!(cx.request.headers.get_str("X-Consumer-Username"), Some("anna"));
            assert_eq!(cx.request.headers.get_str("X-Credential-Identifier"), Some("phone"));
            let seen = format!(
                "{:?} {}",
                cx.request.headers.iter().collect::<Vec<_>>(),
                String::from_utf8_lossy(cx.upstream_target())
            );
            let tokens: Vec<u8> =
                cx.request.headers.iter().flat_map(|(_, v)| v.to_vec()).chain(cx.upstream_target().to_vec()).collect();
            assert_eq!(String::from_utf8(tokens).unwrap().contains(&good), !hide, "{seen}");
            match headers.first() {
                Some(("Cookie", value)) if hide => {
                    assert_eq!(cx.request.headers.get_str("cookie"), value.starts_with('a').then_some("a=1; b=2"))
                }
                _ => {}
            }
            let payload = json!({"key": "anna-key", "exp": NOW + 10}).to_string();
            assert_eq!(cx.custom_variable("jwt_auth_payload"), hide.then_some(payload.as_bytes()));
        }
    }
}

#[test]
fn what_is_no_valid_token_is_refused() {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let headless = format!("{}.{}.x", part("[]"), part("{}"));
    let bodiless = format!("{}.{}.x", part(r#"{"alg":"HS256"}"#), part("{"));
    let four = format!("{}.x", good());
    let invalid = "JWT token invalid";
    for (text, message) in [
        ("", invalid),
        ("Bearer", invalid),
        ("a.b.c", invalid),
        (headless.as_str(), invalid),
        (bodiless.as_str(), invalid),
        (four.as_str(), invalid),
        (hs256(b"s3cret", &json!({"sub": "anna-key"})).as_str(), "missing user key in JWT token"),
        (hs256(b"s3cret", &json!({"key": "nobody"})).as_str(), "Invalid user key in JWT token"),
        (hs256(b"s3cret", &json!({"key": 5})).as_str(), "Invalid user key in JWT token"),
        (hs256(b"wrong", &json!({"key": "anna-key"})).as_str(), FAILED),
    ] {
        assert_eq!(verdict(json!({}), anna(), text), refused(message), "{text}");
    }
    let plugin = Harness::new(definition(), json!({"realm": "shop"})).unwrap();
    let missing = send(&plugin, anna(), "/?key=x", &[("Cookie", "a=b")]).1;
    assert_eq!(missing, Some(denied("Bearer realm=\"shop\"", "Missing JWT token in request")));
}

#[test]
fn times_are_checked() {
    let sent = |config: Value, grace: u64, claims: Value| {
        let mut payload = claims;
        payload["key"] = json!("anna-key");
        let consumer = json!({"key": "anna-key", "secret": "s3cret", "lifetime_grace_period": grace});
        verdict(config, consumer, &hs256(b"s3cret", &payload)).is_none()
    };
    for (claims, grace, passes) in [
        (json!({}), 0, true),
        (json!({"exp": NOW + 1, "nbf": NOW - 1}), 0, true),
        (json!({"exp": NOW}), 0, false),
        (json!({"exp": NOW}), 1, true),
        (json!({"exp": NOW as f64 + 0.5}), 0, true),
        (json!({"nbf": NOW}), 0, false),
        (json!({"nbf": NOW + 4}), 5, true),
        (json!({"nbf": NOW + 5}), 5, false),
        (json!({"exp": "later"}), 0, false),
        (json!({"exp": null}), 0, false),
    ] {
        assert_eq!(sent(json!({}), grace, claims.clone()), passes, "{claims} {grace}");
        assert_eq!(sent(json!({"claims_to_verify": []}), grace, claims.clone()), passes, "{claims} {grace}");
    }
    assert!(!sent(json!({"claims_to_verify": ["nbf"]}), 0, json!({"exp": NOW + 1})));
    assert!(sent(json!({"claims_to_verify": ["nbf"]}), 0, json!({"nbf": NOW - 1, "exp": NOW - 1})));
    assert!(!sent(json!({"claims_to_verify": ["exp", "nbf"]}), 0, json!({"nbf": NOW - 1, "exp": NOW - 1})));
}

#[test]
fn reasons_for_the_log() {
    let reason = |payload: Value, config: Value| {
        let refusal = token::check_claims(&serde_json::from_value::<Vec<Claim>>(config).unwrap(), &payload, NOW, 0);
        refusal.unwrap_err().to_string()
    };
    assert_eq!(reason(json!({"exp": 1563870501}), json!([])), "'exp' claim expired at Tue, 23 Jul 2019 08:28:21 GMT");
    assert_eq!(
        reason(json!({"nbf": 4102444800u64}), json!(["nbf"])),
        "'nbf' claim not valid until Fri, 01 Jan 2100 00:00:00 GMT"
    );
    assert_eq!(reason(json!({"nbf": 1e300}), json!([])), "'nbf' claim not valid until 1e300");
    assert_eq!(reason(json!({}), json!(["exp"])), "claim exp is missing");
    let parse = |text: &'static str| Token::parse(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(parse("a.b"), "invalid jwt string");
    assert_eq!(parse("a\n.b.c"), "invalid header: a\\n");
    assert_eq!(parse("eyJhbGciOiJIUzI1NiJ9.b.c"), "invalid payload: b");
}

#[test]
fn another_claim_and_a_base64_secret() {
    let consumer = json!({"key": "anna-key", "secret": BASE64_STANDARD.encode([0u8, 255, 7]), "base64_secret": true});
    let text = hs256(&[0, 255, 7], &json!({"iss": "anna-key"}));
    assert_eq!(verdict(json!({"key_claim_name": "iss"}), consumer, &text), None);
}

#[test]
fn an_invalid_token_may_pass_as_the_anonymous_consumer() {
    let plugin = Harness::new(definition(), json!({"anonymous_consumer": "guest", "hide_credentials": true})).unwrap();
    for headers in [vec![], vec![("Authorization", "Bearer x.y.z")]] {
        let (cx, reply) = send(&plugin, anna(), "/", &headers);
        assert_eq!(reply, None);
        assert_eq!(cx.request.headers.get_str("X-Consumer-Username"), Some("guest"));
        assert!(!cx.request.headers.contains("Authorization"));
    }
    let lost = Harness::new(definition(), json!({"anonymous_consumer": "nobody"})).unwrap();
    assert_eq!(send(&lost, anna(), "/", &[]).1, refused("Invalid user authorization"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_altered_token_passes(at in 0usize..200, byte in "[A-Za-z0-9_.-]") {
        let mut text = good().into_bytes();
        let at = at % text.len();
        let byte = byte.as_bytes()[0];
        // The last character of the signature carries two unused bits.
        prop_assume!(text[at] != byte && at + 1 < text.len());
        text[at] = byte;
        let reply = verdict(json!({}), anna(), std::str::from_utf8(&text).unwrap());
        prop_assert!(reply.is_some());
    }

    #[test]
    fn any_text_is_survived(text in "\\PC{0,80}") {
        prop_assert!(Token::parse(text.as_bytes()).is_err() || text.matches('.').count() == 2);
    }
}
