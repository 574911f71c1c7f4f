//! Ids, places, completeness, and files cut short.

use super::*;
use proptest::prelude::*;
use serde_json::json;

const FILE: &str = "\
routes:
  - uri: /a
    upstream_id: 1
  - id: 7
    uri: /b
  - nonsense
  - id: 7
    uri: /c
consumers:
  - username: rose
    plugins: {key-auth: {key: ${{KEY:=one}}}}
  - id: rose/credentials/x
    plugins: {}
plugins:
  - name: key-auth
  - name: mqtt-proxy
    stream: true
rotues: []
routes_conf_version: 3
#END
";

fn parse(text: &str) -> Result<RawConfig, Vec<ConfigError>> {
    StandaloneFile::parse(&"apisix.yaml".into(), text.as_bytes(), false, &Environment::fixed([]))
}

#[test]
fn objects_have_apisix_ids_and_their_places() {
    let config = parse(FILE).unwrap();
    let ids: Vec<(Kind, &str)> = config.objects.iter().map(|object| (object.kind, object.id.as_str())).collect();
    assert_eq!(
        ids,
        [
            (Kind::Route, "arr_1"),
            (Kind::Route, "7"),
            (Kind::Consumer, "rose"),
            (Kind::Credential, "rose/credentials/x")
        ]
    );
    let seven = &config.objects[1];
    assert_eq!(seven.value, json!({"id": "7", "uri": "/c"}), "the later one, with its id as a string");
    assert_eq!(seven.error("/uri", "bad").to_string(), "apisix.yaml:8:5: routes[3].uri: bad");
    let rose = config.of(Kind::Consumer).next().unwrap();
    assert_eq!(rose.value["plugins"]["key-auth"]["key"], "one");
    assert_eq!(
        rose.error("/plugins/key-auth/key", "bad").to_string(),
        "apisix.yaml:11:26: consumers[0].plugins.key-auth.key: bad"
    );
    assert_eq!(config.errors.len(), 1);
    assert_eq!(config.errors[0].to_string(), "apisix.yaml:6:5: routes[2]: expected an object, got string \"nonsense\"");
    let plugins = config.plugins.as_ref().unwrap();
    assert_eq!(plugins[1], PluginEntry { name: "mqtt-proxy".to_owned(), stream: true });
    let notices: Vec<String> = config.notices.iter().map(ToString::to_string).collect();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert_eq!(notices[1], "apisix.yaml:18:1: rotues: ignored: unknown kind of resource (did you mean \"routes\"?)");
}

#[test]
fn json_needs_no_end_mark() {
    let text = br#"{"routes": [{"uri": "/a", "priority": "${{P:=5}}"}]}"#;
    let config = StandaloneFile::parse(&"apisix.json".into(), text, true, &Environment::fixed([])).unwrap();
    assert_eq!(config.objects[0].value, json!({"uri": "/a", "priority": 5, "id": "arr_1"}));
    for end in 0..text.len() {
        let cut = StandaloneFile::parse(&"apisix.json".into(), &text[..end], true, &Environment::fixed([]));
        assert!(cut.is_err(), "cut at {end}");
    }
}

#[test]
fn a_file_cut_anywhere_is_never_half_used() {
    let whole = FILE.trim_end().len();
    for end in 0..=FILE.len() {
        assert_eq!(parse(&FILE[..end]).is_ok(), end >= whole, "cut at {end}");
    }
    let crlf = FILE.replace('\n', "\r\n");
    assert_eq!(parse(&crlf).unwrap().objects.len(), 4);
    assert_eq!(parse(&format!("\u{feff}{FILE}")).unwrap().objects.len(), 4);
    assert!(parse(&format!("{FILE}{}", " ".repeat(20))).is_err(), "the mark is beyond the last ten bytes");
    assert!(parse("#END").unwrap().objects.is_empty());
    assert!(parse("[1]\n#END").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_change_of_a_file_panics(at in 0..FILE.len(), byte in any::<u8>()) {
        let mut bytes = FILE.as_bytes().to_vec();
        bytes[at] = byte;
        let result = StandaloneFile::parse(&"apisix.yaml".into(), &bytes, false, &Environment::fixed([]));
        if let Err(errors) = result {
            prop_assert!(!errors.is_empty());
        }
    }
}
