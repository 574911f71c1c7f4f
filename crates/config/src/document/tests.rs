//! Positions, limits and broken text.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn file() -> Arc<str> {
    "a.yaml".into()
}

fn yaml(text: &str) -> Document {
    Document::yaml(&file(), text.as_bytes(), Limits::default()).unwrap()
}

fn at(document: &Document, pointer: &str) -> (u32, u32) {
    let Position { line, column } = document.position_of(pointer);
    (line, column)
}

#[test]
fn every_value_has_its_place() {
    let document =
        yaml("routes:\n  - id: 1\n    plugins:\n      key-auth:\n        header: 5\n  - {uri: /é, x: [1, 2]}\n");
    assert_eq!(
        document.value,
        json!({"routes": [{"id": 1, "plugins": {"key-auth": {"header": 5}}}, {"uri": "/é", "x": [1, 2]}]})
    );
    assert_eq!(at(&document, "/routes/0/plugins/key-auth/header"), (5, 9));
    assert_eq!(at(&document, "/routes/0/plugins/key-auth/headr"), (4, 7), "the nearest ancestor");
    assert_eq!(at(&document, "/routes/1/x/1"), (6, 22), "columns count characters");
    let error = document.error("/routes/0/plugins/key-auth/header", "expected string, got number");
    assert_eq!(error.to_string(), "a.yaml:5:9: routes[0].plugins.key-auth.header: expected string, got number");
}

#[test]
fn json_has_the_same_places() {
    let text = "{\n  \"a\\\"b\": [1, {\"c\": \"é\", \"d\": true}],\n  \"e\": {}\n}";
    let document = Document::json(&file(), text.as_bytes(), Limits::default()).unwrap();
    assert_eq!(at(&document, "/a\"b"), (2, 3));
    assert_eq!(at(&document, "/a\"b/1/d"), (2, 26));
    assert_eq!(at(&document, "/e"), (3, 3));
    let error = Document::json(&file(), b"{\n \"a\": }", Limits::default()).unwrap_err();
    assert_eq!(error[0].to_string(), "a.yaml:2:7: not valid JSON: expected value");
}

#[test]
fn anchors_merge_keys_and_repeated_keys() {
    let document =
        yaml("base: &b {x: 1, y: 2}\none:\n  <<: *b\n  y: 3\ntwo: *b\ntwo: 4\nlist:\n  <<: [{p: 1}, {p: 2, q: 2}]\n");
    assert_eq!(document.value["one"], json!({"x": 1, "y": 3}));
    assert_eq!(document.value["two"], json!(4));
    assert_eq!(document.value["list"], json!({"p": 1, "q": 2}));
    assert_eq!(document.notices.len(), 1);
    assert_eq!(document.notices[0].to_string(), "a.yaml:6:1: two: the key is given twice; the last value is used");
    assert_eq!(at(&document, "/one/x"), (1, 11), "what is merged keeps its place");
    assert!(Document::yaml(&file(), b"a: &a [*a]", Limits::default()).is_err());
}

#[test]
fn bom_crlf_tabs_and_second_documents() {
    let document = yaml("\u{feff}a: 1\r\nb: |\r\n  x\r\n  y\r\nc: \"d\"\r\n");
    assert_eq!(document.value, json!({"a": 1, "b": "x\ny\n", "c": "d"}));
    assert_eq!(at(&document, "/c"), (5, 1));
    let error = Document::yaml(&file(), b"a:\n\tb: 1\n", Limits::default()).unwrap_err();
    assert!(error[0].to_string().starts_with("a.yaml:2:"), "{}", error[0]);
    assert_eq!(yaml("a: 1\n---\nb: 2\n").value, json!({"a": 1}));
    assert_eq!(yaml("").value, json!(null));
    let error = Document::yaml(&file(), b"a: b\nc: \xff\n", Limits::default()).unwrap_err();
    assert_eq!(error[0].to_string(), "a.yaml:2:4: not UTF-8 text");
}

#[test]
fn bombs_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "));
    }
    let error = Document::yaml(&file(), bomb.as_bytes(), Limits::default()).unwrap_err();
    assert!(error[0].message.contains("aliases repeat more than"), "{}", error[0]);
    let deep = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert!(Document::yaml(&file(), deep.as_bytes(), Limits::default()).is_err());
    assert!(Document::json(&file(), "[".repeat(100_000).as_bytes(), Limits::default()).is_err());
    let blocks: String = (0..500).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(Document::yaml(&file(), blocks.as_bytes(), Limits::default()).is_err());
    let limits = Limits { bytes: 3, ..Limits::default() };
    assert!(Document::yaml(&file(), b"a: 1", limits).is_err());
}

#[test]
fn variables_in_text_keep_the_places_of_the_file() {
    let environment = Environment::fixed([("KEY", "a long value"), ("LINES", "1\nx: 2"), ("N", "5")]);
    let text = "a: ${{KEY}} \nb: ${{LINES}}\nc: [\"${{N}}\", ${{N}}, 7]\n";
    let document = Document::yaml_with_environment(&file(), text.as_bytes(), &environment, Limits::default()).unwrap();
    assert_eq!(document.value, json!({"a": "a long value", "b": 1, "x": 2, "c": ["5", 5, 7]}));
    assert_eq!(at(&document, "/c"), (3, 1));
    assert_eq!(at(&document, "/c/2"), (3, 23));
    let text = "a: 1\nb: ${{GONE}}\nc: ${{LOST}}\n";
    let errors =
        Document::yaml_with_environment(&file(), text.as_bytes(), &environment, Limits::default()).unwrap_err();
    assert_eq!(errors.len(), 2, "all at once");
    assert!(errors[0].to_string().starts_with("a.yaml:2:4: the environment variable GONE is not set"), "{}", errors[0]);
}

#[test]
fn variables_after_parsing_are_re_typed() {
    let mut document = yaml("port: ${{PORT}}\nname: \"p${{PORT}}\"\n${{NAME}}: x\nd: ${{NO:=true}}\n");
    document.resolve_environment(&Environment::fixed([("PORT", "81"), ("NAME", "key")])).unwrap();
    assert_eq!(document.value, json!({"port": 81, "name": "p81", "key": "x", "d": true}));
    assert_eq!(at(&document, "/key"), (3, 1));
    let mut document = yaml("a:\n  - b: ${{GONE}}\n");
    let errors = document.resolve_environment(&Environment::fixed([])).unwrap_err();
    assert!(errors[0].to_string().starts_with("a.yaml:2:5: a[0].b: the environment variable GONE"), "{}", errors[0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_panics(text in "[-a-c:&*<>{}\\[\\]\"'|#!%@?, \n\t0-9.$é]{0,80}") {
        let environment = Environment::fixed([("a", "b: {"), ("b", "")]);
        let _ = Document::yaml_with_environment(&file(), text.as_bytes(), &environment, Limits::default());
        let _ = Document::json(&file(), text.as_bytes(), Limits::default());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = Document::yaml(&file(), &bytes, Limits::default());
    }

    #[test]
    fn json_and_yaml_agree(numbers in proptest::collection::vec(any::<i32>(), 0..5), name in "[a-z]{1,8}", text in "[ -~]{0,20}") {
        let value = json!({ name: numbers, "t": text });
        let json = serde_json::to_string(&value).unwrap();
        let one = Document::json(&file(), json.as_bytes(), Limits::default()).unwrap();
        let two = Document::yaml(&file(), json.as_bytes(), Limits::default()).unwrap();
        prop_assert_eq!(&one.value, &two.value);
        prop_assert_eq!(&one.root, &two.root);
    }
}
