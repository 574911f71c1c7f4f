//! Each rule on a small file.
use super::*;
use crate::source::Source;
use sluice_config::environment::Environment;

fn findings(text: &str) -> Vec<String> {
    let mut source = Source::default();
    source.add(&"f.yaml".into(), text.as_bytes(), false, &Environment::fixed([]));
    assert!(source.errors.is_empty(), "{:?}", source.errors);
    let registry = Registry::new(&[]).unwrap();
    lint(&source.objects, &registry, &[], &[]).iter().map(|found| format!("{} {}", found.rule, found.place)).collect()
}

#[test]
fn references_and_what_nobody_uses() {
    let found = findings(
        "routes:\n- id: 1\n  uri: /\n  service_id: none\n  plugins: {traffic-split: {rules: [{weighted_upstreams: [{upstream_id: x}]}]}}\n\
         upstreams:\n- {id: u, nodes: {}}\nconsumers:\n- {id: a/credentials/1, plugins: {x: {}}}\n",
    );
    assert_eq!(
        found,
        [
            "missing-reference f.yaml:4:3: routes[0].service_id: there is no service \"none\" in the files",
            "missing-reference f.yaml:5:60: routes[0].plugins.traffic-split.rules[0].weighted_upstreams[0].upstream_id: there is no upstream \"x\" in the files",
            "unused f.yaml:7:3: upstreams[0]: no object refers to this upstream",
            "missing-reference f.yaml:9:4: consumers[0].id: there is no consumer \"a\" in the files",
        ]
    );
}

#[test]
fn routes_that_never_match_or_have_nothing_to_answer() {
    let mut source = Source::default();
    let text = "routes:\n- {id: a, uri: /x, upstream: {nodes: {}}}\n- {id: c, uri: /y}\n";
    source.add(&"f.yaml".into(), text.as_bytes(), false, &Environment::fixed([]));
    let told = [Unreachable { route: "a".into(), text: "never gets /x".into() }];
    let found = lint(&source.objects, &Registry::new(&[]).unwrap(), &told, &[]);
    let found: Vec<String> = found.iter().map(|found| format!("{} {}", found.rule, found.place)).collect();
    assert_eq!(
        found,
        [
            "unreachable-route f.yaml:2:3: routes[0]: never gets /x",
            "no-upstream f.yaml:3:3: routes[1]: has no upstream and no plugin: every request gets 503",
        ]
    );
}

#[test]
fn doors_left_open() {
    let found = findings(
        "consumers:\n- username: a\n- username: b\n  plugins: {key-auth: {key: short}}\n\
         routes:\n- id: 1\n  uri: /\n  upstream: {tls: {verify: false}}\n  plugins:\n    jwt-auth: {}\n    key-auth: {}\n    \
         cors: {allow_origins: '**', allow_credential: true}\n    http-logger: {ssl_verify: false}\n\
         ssls:\n- {id: 1, ssl_protocols: [TLSv1.1, TLSv1.3], key: $env://K}\n",
    );
    let rules: Vec<&str> = found.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(
        rules,
        [
            "consumer-without-credential",
            "plain-secret",
            "weak-secret",
            "tls-not-verified",
            "nobody-can-pass",
            "open-cors",
            "tls-not-verified",
            "old-tls"
        ],
        "{found:#?}"
    );
}

#[test]
fn rules_can_be_switched_off_and_a_sound_configuration_is_silent() {
    let mut source = Source::default();
    let text = "upstreams: [{id: u, nodes: {}}]";
    source.add(&"f.yaml".into(), text.as_bytes(), false, &Environment::fixed([]));
    let registry = Registry::new(&[]).unwrap();
    assert!(lint(&source.objects, &registry, &[], &["unused".to_owned()]).is_empty());
    assert!(
        findings(
            "upstreams: [{id: u, nodes: {}}]\nroutes: [{id: 1, uri: /, upstream_id: u, plugins: {key-auth: {}}}]\n\
         consumers: [{username: a}, {id: a/credentials/1, plugins: {key-auth: {key: $env://KEY}}}]\n"
        )
        .is_empty()
    );
}
