//! What may stand in a request. Read at lua-protobuf 0.5.3, pb.c (`lpb_tointegerx`, `lpbE_readenum`, `lpb_readvalue`).
use crate::{Definition, Given, Options};
use serde_json::{Value, json};

const ALL: &str = r#"
    syntax = "proto3";
    package t;
    enum Color { RED = 0; BLUE = 2; }
    message Inner { string name = 1; int32 age = 2; }
    message All {
        int32 i32 = 1; int64 i64 = 2; uint32 u32 = 3; uint64 u64 = 4; sint32 s32 = 5; fixed64 f64 = 6;
        float real = 7; double wide = 8; bool truth = 9; string text = 10; bytes raw = 11; Color color = 12;
        Inner inner = 13; repeated Inner inners = 14; repeated int32 numbers = 15; repeated string texts = 16;
        map<string, Inner> members = 17; map<int32, string> names = 18;
    }
    service S { rpc Echo (All) returns (All); }
"#;

/// What comes out again of what goes in, without the fields that are not set.
fn echo(given: Given, fields: Value) -> Result<Value, String> {
    let method = Definition::compile(ALL).unwrap().method("t.S", "Echo").unwrap();
    let message = method.encode(fields.as_object().unwrap(), given).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    method.print(&message, Options::of(["no_default_values"]), &mut out).unwrap();
    Ok(serde_json::from_slice(&out).unwrap())
}

#[test]
fn json_goes_in_and_comes_out() {
    let all = json!({
        "i32": -5, "i64": -9007199254740993i64, "u32": 4294967295u32, "u64": 18446744073709551615u64, "s32": -7, "f64": 8,
        "real": 0.1, "wide": 2.5, "truth": true, "text": "a\"b\\c\u{1}é", "raw": "raw", "color": "BLUE",
        "inner": {"name": "n", "age": 3}, "inners": [{"name": "x"}, {}], "numbers": [1, 2], "texts": ["a", ""],
        "members": {"m": {"age": 1}}, "names": {"-1": "minus", "7": "seven"},
    });
    assert_eq!(echo(Given::Json, all.clone()).unwrap(), all);
    assert_eq!(echo(Given::Json, json!({"unknown": {"x": 1}, "text": null, "i32": 0})).unwrap(), json!({}));
}

#[test]
fn numbers_and_enumerations_may_be_text() {
    for (text, number) in [
        ("1", 1),
        (" -3 ", -3),
        ("#123", 123),
        ("0xabF", 0xabf),
        ("#-0x123abcdef", -0x1_23ab_cdef),
        ("-#0x10", -16),
        ("--5", 5),
        ("1e3", 1000),
        ("2.9", 2),
        ("", 0),
        ("9007199254740993", 9_007_199_254_740_993i64),
    ] {
        let out = echo(Given::Json, json!({"i64": text})).unwrap();
        assert_eq!(out.get("i64").and_then(Value::as_i64).unwrap_or(0), number, "{text}");
    }
    for text in ["#a", "+aaa", "#aaaa", "#-aa", "inf", "nan", "1x"] {
        let error = echo(Given::Json, json!({"i64": text})).unwrap_err();
        assert_eq!(error, "number/'#number' expected for field 't.All.i64'", "{text}");
    }
    assert_eq!(echo(Given::Json, json!({"i32": "nothing", "color": "2"})).unwrap(), json!({"color": "BLUE"}));
    assert_eq!(echo(Given::Json, json!({"color": 2})).unwrap(), json!({"color": "BLUE"}));
    assert_eq!(echo(Given::Json, json!({"color": 9})).unwrap(), json!({"color": 9}));
    assert!(echo(Given::Json, json!({"color": "GREEN"})).is_err());
    for (value, truth) in [(json!("false"), false), (json!(0), false), (json!("x"), true), (json!(1), true)] {
        let out = echo(Given::Json, json!({"truth": value})).unwrap();
        assert_eq!(out.get("truth").is_some(), truth, "{value}");
    }
}

#[test]
fn values_of_another_type_are_refused() {
    for fields in [
        json!({"text": 1}),
        json!({"text": {"name": "John"}}),
        json!({"inner": "x"}),
        json!({"inners": {"a": 1}}),
        json!({"texts": "lone"}),
        json!({"i64": true}),
        json!({"u64": []}),
        json!({"wide": "x"}),
        json!({"members": 1}),
        json!({"names": {"x": "y"}}),
        json!({"i64": 1e300}),
        json!({"numbers": [{}]}),
    ] {
        assert!(echo(Given::Json, fields.clone()).is_err(), "{fields}");
    }
}

#[test]
fn a_lone_argument_may_be_a_list() {
    let out = echo(Given::Arguments, json!({"texts": "lone", "numbers": ["1", "2"]})).unwrap();
    assert_eq!(out, json!({"texts": ["lone"], "numbers": [1, 2]}));
}
