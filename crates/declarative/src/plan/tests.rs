//! Plans on small configurations, and the property that an applied plan leaves nothing to do.
use super::*;
use proptest::prelude::*;
use serde_json::json;

fn object(kind: Kind, id: &str, value: Value) -> Object {
    Object { key: Key::new(kind, id), value, place: None }
}

fn plan(wanted: &[Object], current: &[Object]) -> Result<Plan, PlanError> {
    let registry = Registry::new(&[]).unwrap();
    Plan::new(wanted, current, &Rules { registry: &registry, delete: true, unsupported: &[] })
}

fn steps(plan: &Plan) -> Vec<String> {
    plan.changes.iter().map(|change| format!("{:?} {}", change.action, change.key)).collect()
}

#[test]
fn dependencies_are_written_first_and_deleted_last() {
    let wanted = [
        object(Kind::Route, "1", json!({"uri": "/", "service_id": "s"})),
        object(Kind::Service, "s", json!({"upstream_id": "u"})),
        object(Kind::Upstream, "u", json!({"nodes": {"a:1": 1}})),
    ];
    assert_eq!(steps(&plan(&wanted, &[]).unwrap()), ["Create upstreams/u", "Create services/s", "Create routes/1"]);
    assert_eq!(steps(&plan(&[], &wanted).unwrap()), ["Delete routes/1", "Delete services/s", "Delete upstreams/u"]);
    let same = plan(&wanted, &wanted).unwrap();
    assert!(same.is_empty());
    assert_eq!(same.unchanged, 3);
}

#[test]
fn what_takes_anothers_place_waits_for_its_deletion() {
    let rule = |id| object(Kind::GlobalRule, id, json!({"plugins": {"cors": {}}}));
    assert_eq!(
        steps(&plan(&[rule("new")], &[rule("old")]).unwrap()),
        ["Delete global_rules/old", "Create global_rules/new"]
    );
    let credential = |id| object(Kind::Credential, id, json!({"plugins": {"key-auth": {"key": "k"}}}));
    let moved = plan(&[credential("b/credentials/1")], &[credential("a/credentials/1")]).unwrap();
    assert_eq!(steps(&moved), ["Delete consumers/a/credentials/1", "Create consumers/b/credentials/1"]);
}

#[test]
fn an_update_names_its_fields_and_hides_secrets() {
    let current =
        [object(Kind::Consumer, "anna", json!({"username": "anna", "plugins": {"x": {"key": "old", "n": 1}}}))];
    let wanted = [object(
        Kind::Consumer,
        "anna",
        json!({"username": "anna", "plugins": {"x": {"key": "new", "n": 1}}, "desc": "d"}),
    )];
    let plan = plan(&wanted, &current).unwrap();
    let mask = Some(json!(secrets::MASK));
    assert_eq!(
        plan.changes[0].fields,
        [
            Field { path: "plugins.x.key".into(), from: mask.clone(), to: mask },
            Field { path: "desc".into(), from: None, to: Some(json!("d")) },
        ]
    );
    assert_eq!(plan.changes[0].body.as_ref().unwrap()["plugins"]["x"]["key"], "new");
}

#[test]
fn a_mask_is_what_the_server_has() {
    let server = object(Kind::Consumer, "a", json!({"username": "a", "plugins": {"x": {"key": "k"}}}));
    let masked = object(Kind::Consumer, "a", json!({"username": "a", "plugins": {"x": {"key": secrets::MASK}}}));
    assert!(plan(std::slice::from_ref(&masked), std::slice::from_ref(&server)).unwrap().is_empty());
    let mut changed = masked.clone();
    changed.value["desc"] = json!("new");
    let update = plan(&[changed], &[server]).unwrap();
    assert_eq!(update.changes[0].body.as_ref().unwrap()["plugins"]["x"]["key"], "k");
    let error = plan(&[masked], &[]).unwrap_err();
    assert!(error.to_string().contains("masked, and the server has no such object"), "{error}");
}

#[test]
fn keys_that_the_server_hides_are_not_compared() {
    let pair = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
    let cert = &pair.cert.pem();
    let ours = object(Kind::Ssl, "1", json!({"cert": cert, "key": pair.signing_key.serialize_pem(), "snis": ["a"]}));
    let theirs = object(Kind::Ssl, "1", json!({"cert": cert, "snis": ["a"], "type": "server", "status": 1}));
    let left = plan(&[ours], &[theirs]).unwrap();
    assert!(left.is_empty(), "{left:?}");
    let key = || rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().signing_key.serialize_pem();
    let upstream = |key: &str| {
        object(Kind::Upstream, "1", json!({"nodes": {"a:1": 1}, "tls": {"client_cert": cert, "client_key": key}}))
    };
    assert!(plan(&[upstream(&key())], &[upstream("c2VjcmV0")]).unwrap().is_empty());
    assert!(!plan(&[upstream(&key())], &[upstream(&key())]).unwrap().is_empty());
}

#[test]
fn kinds_that_the_server_does_not_take_are_errors() {
    let registry = Registry::new(&[]).unwrap();
    let unsupported = [(Kind::StreamRoute, "stream mode is disabled".to_owned())];
    let rules = Rules { registry: &registry, delete: false, unsupported: &unsupported };
    let wanted = [object(Kind::StreamRoute, "1", json!({}))];
    let error = Plan::new(&wanted, &[], &rules).unwrap_err();
    assert_eq!(error.to_string(), "stream_routes/1: the server does not take stream_routes: stream mode is disabled");
    let kept = Plan::new(&[], &[object(Kind::Route, "1", json!({}))], &rules).unwrap();
    assert!(kept.is_empty());
}

fn objects() -> impl Strategy<Value = Vec<Object>> {
    let one = (0..4usize, 0..6u8, 0..3u8).prop_map(|(kind, id, weight)| {
        let kind = [Kind::Route, Kind::Service, Kind::Upstream, Kind::GlobalRule][kind];
        let value = match kind {
            Kind::GlobalRule => json!({"plugins": {"x": {"n": weight}}}),
            Kind::Route => json!({"uri": "/", "upstream_id": weight + 1}),
            Kind::Service => json!({"desc": weight.to_string()}),
            _ => json!({"nodes": {"a:1": weight}}),
        };
        object(kind, &id.to_string(), value)
    });
    prop::collection::vec(one, 0..12).prop_map(|list| {
        let unique: std::collections::BTreeMap<Key, Object> = list.into_iter().map(|o| (o.key.clone(), o)).collect();
        unique.into_values().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Applying a plan makes the server what was wanted, and then there is nothing left to do.
    #[test]
    fn an_applied_plan_leaves_nothing(wanted in objects(), current in objects()) {
        let made = plan(&wanted, &current).unwrap();
        let mut server: std::collections::BTreeMap<Key, Object> =
            current.into_iter().map(|o| (o.key.clone(), o)).collect();
        for change in made.changes {
            match change.body {
                Some(value) => drop(server.insert(change.key.clone(), Object { key: change.key, value, place: None })),
                None => prop_assert!(server.remove(&change.key).is_some()),
            }
        }
        let server: Vec<Object> = server.into_values().collect();
        prop_assert!(plan(&wanted, &server).unwrap().is_empty());
    }
}
