//! Tests of `csrf`.
use super::*;
use proptest::prelude::*;
use serde_json::json;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Definition, Scope, define};
use std::time::Duration;

const PLUGIN: Definition = define::<Csrf>();
const NAME: &str = "apisix-csrf-token";

/// A token made by hand: the signature over exactly the texts that stand in it.
fn signed(random: &str, expires: &str, key: &str) -> String {
    STANDARD.encode(format!(r#"{{"random":{random},"sign":"{}","expires":{expires}}}"#, sign_of(random, expires, key)))
}

fn harness(config: Value) -> Harness {
    Harness::new(PLUGIN, config).unwrap()
}

fn post(plugin: &Harness, header: Option<&str>, cookie: Option<&str>) -> Option<Reply> {
    let mut cx = Context::for_tests("POST", "/hello");
    if let Some(header) = header {
        cx.request.headers.append(NAME, header);
    }
    if let Some(cookie) = cookie {
        cx.request.headers.append("Cookie", format!("a=b; {NAME}={cookie}; c=d"));
    }
    plugin.request(&mut cx)
}

fn refused(message: &str) -> Option<Reply> {
    Some(Reply::error_msg(401, message))
}

/// The cookie's value and attributes of a response.
fn cookie(plugin: &Harness) -> (String, String) {
    let mut cx = Context::for_tests("GET", "/");
    assert_eq!(plugin.request(&mut cx), None);
    cx.response.headers.append("Set-Cookie", "upstream=1");
    plugin.response(&mut cx, &[]);
    let lines: Vec<&[u8]> = cx.response.headers.get_all("set-cookie").collect();
    assert_eq!(lines.len(), 2);
    let line = String::from_utf8(lines[1].to_vec()).unwrap();
    let (pair, attributes) = line.split_once(';').unwrap();
    (pair.split_once('=').unwrap().1.to_string(), attributes.to_string())
}

#[test]
fn configurations_are_checked() {
    let mut config = json!({"key": "userkey"});
    check(PLUGIN, Scope::Route, &mut config).unwrap();
    assert_eq!(config, json!({"key": "userkey", "expires": 7200, "name": NAME}));
    assert_eq!(check(PLUGIN, Scope::Route, &mut json!({})).unwrap_err().0, "property \"key\" is required");
    assert_eq!((PLUGIN.schema)()["encrypt_fields"], json!(["key"]));
}

#[test]
fn refusals_are_worded_as_in_apisix() {
    let plugin = harness(json!({"key": "userkey", "expires": 1_000_000_000}));
    assert_eq!(post(&plugin, None, None), refused("no csrf token in headers"));
    assert_eq!(post(&plugin, Some(""), Some("x")), refused("no csrf token in headers"));
    assert_eq!(post(&plugin, Some("wrongtoken"), None), refused("no csrf cookie"));
    assert_eq!(post(&plugin, Some("wrongtoken"), Some("testcookie")), refused("csrf token mismatch"));
    let failed = refused("Failed to verify the csrf token signature");
    let foreign = signed("0.16098306018449", "1743119911", "another");
    for token in [foreign.as_str(), "?", "bm8ganNvbg==", "NDI=", "e30="] {
        assert_eq!(post(&plugin, Some(token), Some(token)), failed, "{token}");
    }
}

#[test]
fn safe_methods_need_no_token() {
    let plugin = harness(json!({"key": "userkey"}));
    for method in ["GET", "HEAD", "OPTIONS"] {
        assert_eq!(plugin.request(&mut Context::for_tests(method, "/")), None);
    }
    for method in ["PUT", "DELETE", "PATCH", "PURGE"] {
        assert!(plugin.request(&mut Context::for_tests(method, "/")).is_some());
    }
}

#[test]
fn a_token_of_apisix_is_valid() {
    // Signed by an APISIX node with the key `userkey`.
    let token = "eyJyYW5kb20iOjAuNDI5ODYzMTk3MTYxMzksInNpZ24iOiI0ODRlMDY4NTkxMWQ5NmJhMDc5YzQ1ZGI0OTE2NmZkYjQ0ODhjODVkNWQ0NmE1Y2FhM2UwMmFhZDliNjE5OTQ2IiwiZXhwaXJlcyI6MjY0MzExOTYyNH0=";
    let plugin = harness(json!({"key": "userkey", "expires": 1_000_000_000}));
    assert_eq!(post(&plugin, Some(token), Some(token)), None);
    let unpadded = token.trim_end_matches('=');
    assert_eq!(post(&plugin, Some(unpadded), Some(unpadded)), None);
}

#[test]
fn tokens_expire() {
    let plugin = harness(json!({"key": "userkey", "expires": 10}));
    let (token, _) = cookie(&plugin);
    assert_eq!(post(&plugin, Some(&token), Some(&token)), None);
    plugin.env.clock.advance(Duration::from_secs(10));
    assert_eq!(post(&plugin, Some(&token), Some(&token)), None);
    plugin.env.clock.advance(Duration::from_secs(1));
    assert!(post(&plugin, Some(&token), Some(&token)).is_some());
    let eternal = harness(json!({"key": "userkey", "expires": 0}));
    let old = signed("0.5", "1", "userkey");
    assert_eq!(post(&eternal, Some(&old), Some(&old)), None);
}

#[test]
fn the_cookie_has_the_form_of_apisix() {
    let plugin = harness(json!({"key": "userkey"}));
    let (token, attributes) = cookie(&plugin);
    assert_eq!(attributes, "path=/;SameSite=Lax;Expires=Wed, 15-Nov-23 00:13:20 GMT");
    let json: Value = serde_json::from_slice(&STANDARD.decode(&token).unwrap()).unwrap();
    assert_eq!(json["expires"], 1_700_000_000);
    assert_eq!(json["sign"].as_str().unwrap().len(), 64);
    assert!(json["random"].as_f64().is_some_and(|r| (0.0..1.0).contains(&r)));
    assert_ne!(cookie(&plugin).0, token);
}

#[test]
fn cookie_times() {
    assert_eq!(cookie_time(0), "Thu, 01-Jan-70 00:00:00 GMT");
    assert_eq!(cookie_time(1_290_079_655), "Thu, 18-Nov-10 11:27:35 GMT");
    assert_eq!(cookie_time(951_782_400), "Tue, 29-Feb-00 00:00:00 GMT");
    assert_eq!(cookie_time(2_147_483_648), "Tue, 19-Jan-2038 03:14:08 GMT");
    assert_eq!(cookie_time(i64::MAX), "Fri, 31-Dec-9999 23:59:59 GMT");
    assert_eq!(cookie_time(-5), "Thu, 01-Jan-70 00:00:00 GMT");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// The text signed must be what Lua prints of the number after JSON has carried it, or APISIX refuses our tokens.
    #[test]
    fn tokens_are_valid_here_and_print_as_lua_prints(key in "[ -~]{0,30}") {
        let plugin = harness(json!({"key": key}));
        let (token, _) = cookie(&plugin);
        prop_assert_eq!(post(&plugin, Some(&token), Some(&token)), None);
        let text = String::from_utf8(STANDARD.decode(&token).unwrap()).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let mut printed = Vec::new();
        sluice_expr::write_number(json["random"].as_f64().unwrap(), &mut printed);
        let begin = format!("{{\"random\":{},", String::from_utf8(printed).unwrap());
        prop_assert!(text.starts_with(&begin), "{} {}", text, begin);
    }

    #[test]
    fn a_changed_token_is_refused(position in 0usize..150, change in 1u8..=255) {
        let plugin = harness(json!({"key": "userkey"}));
        let mut json = STANDARD.decode(cookie(&plugin).0).unwrap();
        let before: Value = serde_json::from_slice(&json).unwrap();
        let at = position % json.len();
        json[at] ^= change;
        let changed = STANDARD.encode(&json);
        let same = serde_json::from_slice::<Value>(&json).is_ok_and(|after| after == before);
        prop_assert!(same || post(&plugin, Some(&changed), Some(&changed)).is_some());
    }
}
