//! Methods by name, and bytes that nobody meant.
use super::*;
use proptest::prelude::*;

const DEFINITION: &str = r#"
    syntax = "proto3";
    package t;
    enum Color { RED = 0; }
    message All {
        int64 n = 1; string text = 2; bytes raw = 3; repeated All inner = 4; map<string, All> members = 5; Color color = 6;
        repeated uint32 numbers = 7; oneof kind { double real = 8; bool truth = 9; }
    }
    service S { rpc Echo (All) returns (All); rpc Many (All) returns (stream All); }
"#;

#[test]
fn methods_are_found_by_name() {
    let definition = Definition::compile(DEFINITION).unwrap();
    assert!(!definition.method("t.S", "Echo").unwrap().streams());
    assert!(definition.method("t.S", "Many").unwrap().streams());
    for (service, method) in [("t.S", "None"), ("S", "Echo"), ("t.All", "Echo")] {
        assert!(definition.method(service, method).is_none(), "{service}/{method}");
    }
    assert!(definition.message(".t.All").is_some());
}

#[test]
fn depth_is_bounded() {
    let method = Definition::compile(DEFINITION).unwrap().method("t.S", "Echo").unwrap();
    let mut message = vec![0x08, 1];
    for _ in 0..200 {
        let mut length = Vec::new();
        prost_reflect::prost::encoding::encode_varint(message.len() as u64, &mut length);
        message = [&[0x22][..], &length, &message].concat();
    }
    assert!(method.print(&message, Options::default(), &mut Vec::new()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_break_anything(bytes: Vec<u8>, text: String) {
        let definition = Definition::compile(DEFINITION).unwrap();
        let method = definition.method("t.S", "Echo").unwrap();
        let mut out = Vec::new();
        if method.print(&bytes, Options::default(), &mut out).is_ok() {
            // But for `bytes`, which pass as they are, it is JSON.
            let _: Value = serde_json::from_str(&String::from_utf8_lossy(&out)).unwrap();
        }
        let _ = status_details(&bytes, &definition, Some("t.All"), Options::default());
        let fields = serde_json::json!({"n": text, "text": text, "raw": text, "color": text, "real": text, "members": {text: {}}});
        let _ = method.encode(fields.as_object().unwrap(), Given::Arguments);
        let mut frames = Frames::new(100);
        frames.push(&bytes);
        while let Ok(Some(message)) = frames.message() {
            prop_assert!(message.len() <= 100);
        }
    }

    #[test]
    fn text_survives(text: String, raw: String, n: i64) {
        let method = Definition::compile(DEFINITION).unwrap().method("t.S", "Echo").unwrap();
        let fields = serde_json::json!({"text": text, "raw": raw, "n": n, "members": {text.clone(): {"text": raw}}});
        let message = method.encode(fields.as_object().unwrap(), Given::Json).unwrap();
        let mut out = Vec::new();
        method.print(&message, Options::default(), &mut out).unwrap();
        let shown: Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(&shown["text"], &Value::from(text.clone()));
        prop_assert_eq!(&shown["raw"], &Value::from(raw.clone()));
        prop_assert_eq!(&shown["n"], &Value::from(n));
        prop_assert_eq!(&shown["members"][&text]["text"], &Value::from(raw));
    }
}
