//! Requests are signed here as a client would.
use super::*;
use crate::testing::{consumers, context, denied, schema_is};
use proptest::prelude::*;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Definition, Scope, define};

/// 1,700,000,000, what the clock of the tests says.
const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
const INVALID: &str = "client request can't be validated";

fn definition() -> Definition {
    define::<HmacAuth>().auth::<HmacAuth>()
}

fn sign(algorithm: hmac::Algorithm, secret: &str, text: &str) -> String {
    BASE64_STANDARD.encode(hmac::sign(&hmac::Key::new(algorithm, secret.as_bytes()), text.as_bytes()))
}

fn authorization(algorithm: &str, headers: &str, signature: &str) -> String {
    format!("Signature keyId=\"anna-key\",algorithm=\"{algorithm}\",headers=\"{headers}\",signature=\"{signature}\"")
}

/// A valid field for `GET /x?y=1` at [`DATE`].
fn good() -> String {
    let text = format!("anna-key\nGET /x?y=1\ndate: {DATE}\n");
    authorization("hmac-sha256", "@request-target date", &sign(hmac::HMAC_SHA256, "s3cret", &text))
}

fn send(config: Value, headers: &[(&str, &str)], body: Option<&[u8]>) -> (Context, Option<Reply>) {
    let list = [
        ("anna", Some("box"), json!({"key_id": "anna-key", "secret_key": "s3cret"})),
        ("guest", None, json!({"key_id": "g", "secret_key": "g"})),
    ];
    let mut cx = context("GET", "/x?y=1", headers, Arc::new(consumers(&definition(), &list)));
    cx.request_body = body.map(<[u8]>::to_vec);
    let reply = Harness::new(definition(), config).unwrap().request(&mut cx);
    (cx, reply)
}

fn refused(message: &str) -> Option<Reply> {
    Some(denied("hmac realm=\"hmac\"", message))
}

#[test]
fn schemas_are_those_of_apisix() {
    let names = json!(["hmac-sha1", "hmac-sha256", "hmac-sha512"]);
    schema_is(
        HmacAuth::schema(),
        json!({"type": "object", "title": "work with route or service object", "properties": {
        "allowed_algorithms": {"type": "array", "minItems": 1, "items": {"type": "string", "enum": names}, "default": names},
        "clock_skew": {"type": "integer", "default": 300, "minimum": 1},
        "signed_headers": {"type": "array", "default": ["date"], "items": {"type": "string", "minLength": 1, "maxLength": 50}},
        "validate_request_body": {"type": "boolean", "default": false},
        "max_req_body_size": {"type": "integer", "minimum": 1, "default": 67108864},
        "hide_credentials": {"type": "boolean", "default": false},
        "realm": {"type": "string", "default": "hmac", "minLength": 1, "maxLength": 128, "pattern": r"^[ -!#-[\]-~]+$"},
        "anonymous_consumer": {"type": "string", "minLength": 1}}}),
    );
    let text = json!({"type": "string", "minLength": 1, "maxLength": 256});
    schema_is(
        HmacAuth::consumer_schema(),
        json!({"type": "object", "title": "work with consumer object",
        "properties": {"key_id": text, "secret_key": text}, "required": ["key_id", "secret_key"], "encrypt_fields": ["secret_key"]}),
    );
    let mut long = json!({"key_id": "k", "secret_key": "x".repeat(257)});
    let message = "property \"secret_key\" validation failed: string too long, expected at most 256, got 257";
    assert_eq!(check(definition(), Scope::Consumer, &mut long).unwrap_err().0, message);
}

#[test]
fn a_signature_names_the_consumer() {
    let (cx, reply) = send(json!({}), &[("Authorization", &good()), ("Date", DATE)], None);
    assert_eq!(reply, None);
    assert_eq!(cx.request.headers.get_str("X-Consumer-Username"), Some("anna"));
    assert_eq!(cx.request.headers.get_str("X-Credential-Identifier"), Some("box"));
    assert!(cx.request.headers.contains("Authorization"));
    let (cx, _) = send(json!({"hide_credentials": true}), &[("Authorization", &good()), ("Date", DATE)], None);
    assert!(!cx.request.headers.contains("Authorization"));
}

#[test]
fn each_algorithm_where_it_is_allowed() {
    for (name, algorithm) in [
        ("hmac-sha1", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        ("hmac-sha256", hmac::HMAC_SHA256),
        ("hmac-sha512", hmac::HMAC_SHA512),
    ] {
        let text = format!("anna-key\ndate: {DATE}\n");
        let field = authorization(name, "date absent", &sign(algorithm, "s3cret", &text));
        let headers = [("Authorization", field.as_str()), ("Date", DATE)];
        assert_eq!(send(json!({}), &headers, None).1, None, "{name}");
        assert_eq!(send(json!({"allowed_algorithms": [name]}), &headers, None).1, None, "{name}");
        let other = if name == "hmac-sha1" { "hmac-sha512" } else { "hmac-sha1" };
        assert_eq!(send(json!({"allowed_algorithms": [other]}), &headers, None).1, refused(INVALID), "{name}");
    }
}

#[test]
fn what_is_not_signed_right_is_refused() {
    let good = good();
    let unsigned =
        authorization("hmac-sha256", "@request-target", &sign(hmac::HMAC_SHA256, "s3cret", "anna-key\nGET /x?y=1\n"));
    for (field, date) in [
        (good.replace("anna-key", "nobody"), Some(DATE)),
        (good.replace("sha256", "md5"), Some(DATE)),
        (good.replace("algorithm", "algo"), Some(DATE)),
        (good.replace("keyId", "key"), Some(DATE)),
        (good.replace("date", "host"), Some(DATE)),
        (good.replace("signature=\"", "signature=\"A"), Some(DATE)),
        (unsigned.clone(), Some(DATE)),
        (good.clone(), None),
        (good.clone(), Some("now")),
        (good.clone(), Some("Tue, 14 Nov 2023 22:13:21 GMT")),
        ("Signature".to_string(), Some(DATE)),
    ] {
        let headers: Vec<_> =
            std::iter::once(("Authorization", field.as_str())).chain(date.map(|d| ("Date", d))).collect();
        assert_eq!(send(json!({}), &headers, None).1, refused(INVALID), "{headers:?}");
    }
    let headers = [("Authorization", unsigned.as_str()), ("Date", DATE)];
    assert_eq!(send(json!({"signed_headers": []}), &headers, None).1, None);
    assert_eq!(
        send(json!({}), &[("Date", DATE)], None).1,
        refused("client request can't be validated: missing Authorization header")
    );
    let basic = send(json!({}), &[("Authorization", "Basic x")], None).1;
    assert_eq!(
        basic,
        refused("client request can't be validated: Authorization header does not start with 'Signature'")
    );
}

#[test]
fn old_requests_are_refused() {
    for (date, config, passes) in [
        ("Tue, 14 Nov 2023 22:08:20 GMT", json!({}), true),
        ("Tue, 14 Nov 2023 22:08:19 GMT", json!({}), false),
        ("Tue, 14 Nov 2023 22:18:21 GMT", json!({}), false),
        ("Tue, 14 Nov 2023 22:08:19 GMT", json!({"clock_skew": 301}), true),
    ] {
        let text = format!("anna-key\ndate: {date}\n");
        let field = authorization("hmac-sha256", "date", &sign(hmac::HMAC_SHA256, "s3cret", &text));
        assert_eq!(send(config, &[("Authorization", &field), ("Date", date)], None).1.is_none(), passes, "{date}");
    }
}

#[test]
fn bodies_are_validated() {
    let config = json!({"validate_request_body": true, "max_req_body_size": 4});
    let plugin = HmacAuth::build(serde_json::from_value(config.clone()).unwrap(), &Env::for_tests()).unwrap();
    assert!(plugin.wants_request_body(&Context::for_tests("POST", "/")));
    let digest = |body: &[u8]| format!("SHA-256={}", BASE64_STANDARD.encode(digest::digest(&digest::SHA256, body)));
    let good = good();
    let with = |value: &str, body: Option<&[u8]>| {
        send(config.clone(), &[("Authorization", &good), ("Date", DATE), ("Digest", value)], body).1
    };
    assert_eq!(with(&digest(b"body"), Some(b"body")), None);
    assert_eq!(with(&digest(b""), None), None);
    assert_eq!(with(&digest(b"body"), Some(b"bodY")), refused(INVALID));
    assert_eq!(send(config.clone(), &[("Authorization", &good), ("Date", DATE)], Some(b"body")).1, refused(INVALID));
    let message = "request size 5 is greater than the maximum size 4 allowed";
    assert_eq!(with(&digest(b"bodyy"), Some(b"bodyy")), Some(Reply::message(413, message)));
}

#[test]
fn anonymous_consumers() {
    let config = json!({"anonymous_consumer": "guest", "hide_credentials": true});
    let (cx, reply) = send(config, &[("Authorization", "Signature x")], None);
    assert_eq!((reply, cx.request.headers.get_str("X-Consumer-Username")), (None, Some("guest")));
    assert!(!cx.request.headers.contains("Authorization"));
    assert_eq!(send(json!({"anonymous_consumer": "nobody"}), &[], None).1, refused("Invalid user authorization"));
}

proptest! {
    #[test]
    fn any_field_is_survived(text in "\\PC{0,60}") {
        let field = format!("Signature {text}");
        let (_, reply) = send(json!({}), &[("Authorization", &field), ("Date", &text)], None);
        prop_assert_eq!(reply, refused(INVALID));
    }
}
