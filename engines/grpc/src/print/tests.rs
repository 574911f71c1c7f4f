//! What answers look like. Read at lua-protobuf 0.5.3, pb.c (`lpb_pushinteger`, `lpb_setdeffields`, `lpbD_message`), and at
//! APISIX's t/plugin/grpc-transcode4.t.
use crate::{Definition, Given, Options};
use serde_json::{Value, json};

const THREE: &str = r#"
    syntax = "proto3";
    package t;
    enum Color { RED = 0; BLUE = 2; }
    message Inner { repeated string tags = 1; }
    message Reply {
        string msg = 1; int64 n = 2; uint64 u = 3; Color color = 4; bool truth = 5; double real = 6; bytes raw = 7;
        repeated string items = 8; map<string, Inner> members = 9; Inner inner = 10; optional int32 maybe = 11;
        oneof kind { string left = 12; int32 right = 13; }
    }
    service S { rpc Echo (Reply) returns (Reply); }
"#;

const TWO: &str = r#"
    syntax = "proto2";
    package t;
    message Reply { optional string a = 1; optional int32 b = 2 [default = 7]; repeated int32 c = 3; }
    service S { rpc Echo (Reply) returns (Reply); }
"#;

fn echo(definition: &str, fields: Value, options: &[&str]) -> String {
    let method = Definition::compile(definition).unwrap().method("t.S", "Echo").unwrap();
    let message = method.encode(fields.as_object().unwrap(), Given::Json).unwrap();
    let mut out = Vec::new();
    method.print(&message, Options::of(options.iter().copied()), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn default_values_by_option() {
    let all = r#"{"msg":"","n":0,"u":0,"color":"RED","truth":false,"real":0,"raw":"","items":[],"members":{}}"#;
    assert_eq!(echo(THREE, json!({}), &[]), all);
    assert_eq!(echo(THREE, json!({}), &["use_default_values"]), all);
    assert_eq!(echo(THREE, json!({}), &["no_default_values"]), "{}");
    assert_eq!(echo(THREE, json!({}), &["use_default_metatable"]), r#"{"items":[],"members":{}}"#);
    assert_eq!(echo(TWO, json!({}), &[]), "{}");
    assert_eq!(echo(TWO, json!({}), &["use_default_values"]), r#"{"b":7}"#);
    let inner = echo(THREE, json!({"inner": {}, "members": {"alice": {}}}), &["use_default_metatable"]);
    assert_eq!(inner, r#"{"items":[],"members":{"alice":{"tags":[]}},"inner":{"tags":[]}}"#);
}

#[test]
fn choices_are_named_and_presence_is_kept() {
    let none = &["no_default_values"];
    assert_eq!(echo(THREE, json!({"right": 0}), none), r#"{"kind":"right","right":0}"#);
    assert_eq!(echo(THREE, json!({"maybe": 0}), none), r#"{"maybe":0}"#);
}

#[test]
fn integers_by_option() {
    let show = |n: Value, option: &str| echo(THREE, json!({"n": n}), &["no_default_values", option]);
    for (n, number, text, hexadecimal) in [
        (json!(4294967295u32), "4294967295", "4294967295", "4294967295"),
        (json!(-2147483648i64), "-2147483648", "-2147483648", "-2147483648"),
        (json!(2251799813685261i64), "2251799813685261", "\"#2251799813685261\"", "\"#0x800000000000D\""),
        (json!(-4294967296i64), "-4294967296", "\"#-4294967296\"", "\"#-0x100000000\""),
    ] {
        assert_eq!(show(n.clone(), "int64_as_number"), format!("{{\"n\":{number}}}"));
        assert_eq!(show(n.clone(), "int64_as_string"), format!("{{\"n\":{text}}}"));
        assert_eq!(show(n, "int64_as_hexstring"), format!("{{\"n\":{hexadecimal}}}"));
    }
    let largest = echo(THREE, json!({"u": u64::MAX}), &["no_default_values", "int64_as_string"]);
    assert_eq!(largest, r##"{"u":"#18446744073709551615"}"##);
}

#[test]
fn enumerations_numbers_and_bytes() {
    let none = "no_default_values";
    assert_eq!(echo(THREE, json!({"color": 2}), &[none]), r#"{"color":"BLUE"}"#);
    assert_eq!(echo(THREE, json!({"color": 2}), &[none, "enum_as_value"]), r#"{"color":2}"#);
    assert_eq!(echo(THREE, json!({"real": 3, "raw": "a\tb\u{7f}"}), &[none]), r#"{"real":3,"raw":"a\tb\u007f"}"#);
    assert_eq!(echo(THREE, json!({"real": 0.25}), &[none]), r#"{"real":0.25}"#);
    let method = Definition::compile(THREE).unwrap().method("t.S", "Echo").unwrap();
    let mut out = Vec::new();
    let raw = [b"\x3a\x03".as_slice(), &[b'a', 0xff, b'"']].concat();
    method.print(&raw, Options::of([none]), &mut out).unwrap();
    assert_eq!(out, b"{\"raw\":\"a\xff\\\"\"}");
    assert!(method.print(b"\x3a\x09abc", Options::default(), &mut out).is_err());
}
