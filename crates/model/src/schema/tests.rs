//! Tests of the validator: one line per keyword, with the exact words; defaults; secret references; limits.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn message(schema: Value, mut value: Value) -> String {
    match Schema::new(schema).unwrap().check(&mut value) {
        Ok(()) => String::from("ok"),
        Err(violation) => violation.message,
    }
}

#[test]
fn words_of_every_keyword() {
    for (schema, value, words) in [
        (json!({"type": "string"}), json!(1), "wrong type: expected string, got number"),
        (json!({"type": "object"}), json!([1]), "wrong type: expected object, got table"),
        (json!({"type": "object"}), json!([]), "ok"),
        (json!({"type": "array"}), json!({}), "ok"),
        (json!({"type": "array"}), json!({"a": 1}), "wrong type: expected array, got table"),
        (json!({"type": "string"}), json!(null), "wrong type: expected string, got userdata"),
        (json!({"type": "integer"}), json!(1.5), "wrong type: expected integer, got number"),
        (
            json!({"type": ["string", "integer"]}),
            json!(true),
            "wrong type: expected one of string, integer, got boolean",
        ),
        (json!(false), json!(1), "expect false always"),
        (json!({"required": ["uri"]}), json!({}), "property \"uri\" is required"),
        (json!({"required": []}), json!({"a": 1}), "the input data should be an empty table"),
        (
            json!({"properties": {"a": {"type": "string"}}}),
            json!({"a": 1}),
            "property \"a\" validation failed: wrong type: expected string, got number",
        ),
        (
            json!({"properties": {"a": {}}, "additionalProperties": false}),
            json!({"foo": 1}),
            "additional properties forbidden, found foo",
        ),
        (
            json!({"additionalProperties": {"type": "string"}}),
            json!({"foo": 1}),
            "failed to validate additional property foo: wrong type: expected string, got number",
        ),
        (
            json!({"patternProperties": {".*": {"type": "integer"}}}),
            json!({"a": "x"}),
            "failed to validate a (matching \".*\"): wrong type: expected integer, got string",
        ),
        (json!({"minProperties": 1}), json!({}), "expect object to have at least 1 properties"),
        (json!({"maxProperties": 1}), json!({"a": 1, "b": 2}), "expect object to have at most 1 properties"),
        (json!({"dependencies": {"a": ["b"]}}), json!({"a": 1}), "property \"b\" is required when \"a\" is set"),
        (
            json!({"properties": {"a": {}}, "dependencies": {"a": {"required": ["b"]}}}),
            json!({"a": 1}),
            "failed to validate dependent schema for \"a\": property \"b\" is required",
        ),
        (json!({"minItems": 1}), json!([]), "expect array to have at least 1 items"),
        (json!({"maxItems": 1}), json!([1, 2]), "expect array to have at most 1 items"),
        (
            json!({"items": {"type": "string"}}),
            json!(["a", 1]),
            "failed to validate item 2: wrong type: expected string, got number",
        ),
        (
            json!({"items": [{"type": "string"}], "additionalItems": false}),
            json!(["a", 1]),
            "found unexpected extra items in array",
        ),
        (
            json!({"items": [{}], "additionalItems": {"type": "string"}}),
            json!(["a", 1]),
            "failed to validate additional item 2: wrong type: expected string, got number",
        ),
        (json!({"items": false}), json!([1]), "expect false always"),
        (json!({"uniqueItems": true}), json!([1, 2, 1.0]), "expected unique items but items 1 and 3 are equal"),
        (
            json!({"uniqueItems": true}),
            json!([{"a": 1, "b": 2}, {"b": 2, "a": 1}]),
            "expected unique items but items 1 and 2 are equal",
        ),
        (json!({"minLength": 1}), json!(""), "string too short, expected at least 1, got 0"),
        (json!({"maxLength": 2}), json!("äöü"), "string too long, expected at most 2, got 3"),
        (json!({"pattern": r"^\S+$"}), json!("a b"), r#"failed to match pattern "^\\S+$" with "a b""#),
        (json!({"minimum": 1}), json!(0), "expected 0 to be at least 1"),
        (json!({"exclusiveMinimum": 0}), json!(0), "expected 0 to be greater than 0"),
        (json!({"maximum": 0.5}), json!(1.25), "expected 1.25 to be at most 0.5"),
        (json!({"exclusiveMaximum": 1}), json!(1), "expected 1 to be smaller than 1"),
        (json!({"multipleOf": 2}), json!(3), "expected 3 to be a multiple of 2"),
        (json!({"multipleOf": 0.01}), json!(1.13), "ok"),
        (json!({"enum": ["a", "b"]}), json!("c"), "matches none of the enum values"),
        (json!({"enum": [1]}), json!(1.0), "ok"),
        (
            json!({"allOf": [{}, {"type": "string"}]}),
            json!(1),
            "allOf 2 failed: wrong type: expected string, got number",
        ),
        (
            json!({"anyOf": [{"required": ["a", "b"]}, {"required": ["c"]}]}),
            json!({}),
            "object matches none of the required: [\"a\",\"b\"] or [\"c\"]",
        ),
        (json!({"anyOf": [{"type": "string"}]}), json!(1), "object matches none of the required"),
        (json!({"oneOf": [{"type": "string"}]}), json!(1), "value should match only one schema, but matches none"),
        (json!({"oneOf": [{}, {}]}), json!(1), "value should match only one schema, but matches both schemas 1 and 2"),
        (json!({"if": {}, "then": false}), json!(1), "then clause did not match"),
        (json!({"if": false, "else": false}), json!(1), "else clause did not match"),
        (json!({"not": {}}), json!(1), "value wasn't supposed to match schema"),
        (json!({"format": "ipv4"}), json!("300.1.1.1"), "expect valid ipv4 format but got: 300.1.1.1"),
        (json!({"format": "ipv6"}), json!("::1"), "ok"),
        (json!({"const": {"a": 1}}), json!({"a": 2}), "failed to check const value"),
        (json!({"contains": {"type": "string"}}), json!([1]), "failed to check contains"),
        (json!({"contains": {"type": "string"}}), json!([]), "check contains: empty array is invalid"),
        (json!({"contains": {"type": "string"}}), json!([1, "a"]), "ok"),
    ] {
        assert_eq!(message(schema.clone(), value.clone()), words, "{schema} on {value}");
    }
}

#[test]
fn violations_say_where_and_what_else() {
    let schema = Schema::new(json!({
        "properties": {"list": {"items": {
            "properties": {"kind": {"enum": ["redis", "local"]}, "a/b": {"minimum": 1}},
            "additionalProperties": false
        }}}
    }))
    .unwrap();
    let violation = schema.check(&mut json!({"list": [{}, {"kind": "redi"}]})).unwrap_err();
    assert_eq!(violation.path, "/list/1/kind");
    assert_eq!(violation.expected.as_deref(), Some("\"redis\", \"local\""));
    assert_eq!(violation.nearest.as_deref(), Some("redis"));
    let violation = schema.check(&mut json!({"list": [{"knd": 1}]})).unwrap_err();
    assert_eq!((violation.path.as_str(), violation.nearest.as_deref()), ("/list/0/knd", Some("kind")));
    let violation = schema.check(&mut json!({"list": [{"a/b": 0}]})).unwrap_err();
    assert_eq!((violation.path.as_str(), violation.expected.as_deref()), ("/list/0/a~1b", Some("at least 1")));
}

#[test]
fn defaults_are_injected_where_they_apply() {
    let schema = Schema::new(json!({
        "properties": {
            "policy": {"enum": ["local", "redis"], "default": "local"},
            "none": {"default": null},
            "items": {"items": {"properties": {"weight": {"default": 1}}}},
            "inner": {"properties": {"deep": {"default": {"x": []}}}}
        },
        "if": {"properties": {"policy": {"enum": ["redis"]}}},
        "then": {"properties": {"port": {"default": 6379}}, "required": ["host"]},
        "else": {"oneOf": [
            {"properties": {"lost": {"default": 1}}, "required": ["nothing"]},
            {"properties": {"kept": {"default": 2}}}
        ]}
    }))
    .unwrap();
    let mut value = json!({"items": [{}, {"weight": 5}], "inner": []});
    schema.check(&mut value).unwrap();
    assert_eq!(
        value,
        json!({"items": [{"weight": 1}, {"weight": 5}], "inner": {"deep": {"x": []}}, "policy": "local", "kept": 2})
    );
    let mut value = json!({"policy": "redis", "host": "h"});
    schema.check(&mut value).unwrap();
    assert_eq!(value, json!({"policy": "redis", "host": "h", "port": 6379}));
}

#[test]
fn secret_references_pass_for_strings_only() {
    let schema = json!({"properties": {"key": {"type": "string", "maxLength": 3}, "port": {"type": "integer"}}});
    assert_eq!(message(schema.clone(), json!({"key": "$secret://vault/1/a/b"})), "ok");
    assert_eq!(message(schema.clone(), json!({"key": "$ENV://LONG_NAME"})), "ok");
    assert_ne!(message(schema.clone(), json!({"key": "$other://LONG_NAME"})), "ok");
    assert_ne!(message(schema, json!({"port": "$env://PORT"})), "ok");
}

#[test]
fn whole_floats_become_integers() {
    let mut value = json!({"n": 3.0});
    Schema::new(json!({"properties": {"n": {"type": "integer"}}})).unwrap().check(&mut value).unwrap();
    assert_eq!(value, json!({"n": 3}));
}

#[test]
fn references_are_local_and_bounded() {
    let schema = json!({"definitions": {"port": {"maximum": 9}}, "items": {"$ref": "#/definitions/port"}});
    assert_eq!(message(schema, json!([10])), "failed to validate item 1: expected 10 to be at most 9");
    assert!(matches!(Schema::new(json!({"$ref": "#/none"})), Err(SchemaError::Reference { .. })));
    let both = json!({"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}});
    assert!(matches!(Schema::new(both), Err(SchemaError::Depth { .. })));
}

#[test]
fn wrong_documents_are_refused() {
    assert!(matches!(Schema::new(json!(1)), Err(SchemaError::NotASchema { .. })));
    assert!(matches!(Schema::new(json!({"type": "text"})), Err(SchemaError::Type { .. })));
    assert!(matches!(Schema::new(json!({"pattern": "("})), Err(SchemaError::Pattern { .. })));
    assert!(matches!(Schema::new(json!({"minLength": -1})), Err(SchemaError::Keyword { .. })));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-5i64..300).prop_map(Value::from),
        (-2.0f64..9.0).prop_map(Value::from),
        "[a-c$:/ ]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-d]", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn checking_twice_changes_nothing(mut value in any_json()) {
        let schema = Schema::new(json!({
            "properties": {
                "a": {"type": "integer", "default": 1},
                "b": {"properties": {"c": {"default": "x"}, "d": {"items": {"properties": {"a": {"default": 2}}}}}},
                "d": {"oneOf": [{"type": "integer"}, {"type": "object", "properties": {"b": {"default": true}}}]}
            },
            "if": {"required": ["c"]},
            "then": {"properties": {"e": {"default": []}}}
        })).unwrap();
        if schema.check(&mut value).is_ok() {
            let once = value.clone();
            prop_assert!(schema.check(&mut value).is_ok());
            prop_assert_eq!(value, once);
        }
    }
}
