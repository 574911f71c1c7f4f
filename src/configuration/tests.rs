//! Problems come and go with the objects that have them.
use super::*;
use serde_json::json;
use sluice_net::tls::{ServerTls, ServerTlsSettings};
use sluice_plugin::{Clock, Env};

#[test]
fn an_object_that_becomes_good_has_no_problem() {
    let registry = Arc::new(Registry::new(&[]).unwrap());
    let env = Env::new(Clock::fake(0), sluice_telemetry::Registry::new()).with_registry(registry.clone());
    let compiler = Compiler::new(registry, env, sluice_config::CompileSettings::default());
    let tls = Arc::new(ServerTls::new(ServerTlsSettings::default()).unwrap());
    let configuration = Configuration::new(compiler, Certificates::new(tls, None), None, Enabled::default());
    let put = |list: &[(&str, Value)]| {
        let object =
            |(id, body): &(&str, Value)| Object { kind: Kind::Route, id: (*id).into(), body: body.clone().into() };
        let upserts = list.iter().map(object).collect();
        configuration.compile(None, |compiler| compiler.apply(ChangeSet { upserts, deletes: Vec::new() }));
        configuration.problems().iter().map(|problem| problem.id.to_string()).collect::<Vec<_>>()
    };
    let upstream = json!({"type": "roundrobin", "nodes": {"127.0.0.1:1": 1}});
    let good = json!({"uri": "/a", "upstream": upstream});
    assert_eq!(put(&[("a", json!({"uri": 1})), ("b", json!({"uri": 2}))]), ["a", "b"]);
    assert_eq!(put(&[("c", good.clone())]), ["a", "b"], "another object's change");
    assert_eq!(put(&[("a", good)]), ["b"]);
    let deletes = vec![(Kind::Route, "b".into())];
    configuration.compile(None, |compiler| compiler.apply(ChangeSet { upserts: Vec::new(), deletes }));
    assert!(configuration.problems().is_empty());
}
