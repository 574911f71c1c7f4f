//! A change compiles what it touches, and nothing else.

use super::*;
use crate::snapshot::RouteUpstream;
use serde_json::json;
use sluice_plugin::Clock;

fn compiler() -> Compiler {
    let registry = Arc::new(Registry::new(&[]).unwrap());
    let env = Env::new(Clock::fake(0), sluice_telemetry::Registry::new()).with_registry(registry.clone());
    let settings = CompileSettings { health_checks: true, ..CompileSettings::default() };
    Compiler::new(registry, env, settings)
}

fn object(kind: Kind, id: &str, value: Value) -> Object {
    Object { kind, id: id.into(), body: value.into() }
}

fn upstream(port: u16) -> Value {
    json!({"type": "roundrobin", "nodes": {format!("127.0.0.1:{port}"): 1}})
}

fn start() -> Vec<Object> {
    vec![
        object(Kind::Route, "1", json!({"uri": "/1", "upstream": upstream(81)})),
        object(Kind::Route, "2", json!({"uri": "/2", "upstream_id": "a"})),
        object(Kind::Route, "3", json!({"uri": "/3", "upstream_id": "b"})),
        object(Kind::Upstream, "a", upstream(82)),
        object(Kind::Upstream, "b", upstream(83)),
    ]
}

fn route<'a>(snapshot: &'a Snapshot, id: &str) -> &'a Arc<CompiledRoute> {
    snapshot.router.get(id).unwrap()
}

#[test]
fn what_is_the_same_is_not_compiled_again() {
    let mut compiler = compiler();
    let first = compiler.replace_all(start());
    assert!(first.problems.is_empty(), "{:?}", first.problems);
    let again = compiler.replace_all(start());
    assert!(Arc::ptr_eq(&first.snapshot, &again.snapshot));
    let change = ChangeSet {
        upserts: vec![start().remove(0), object(Kind::Upstream, "a", upstream(92))],
        deletes: vec![(Kind::Route, "none".into())],
    };
    let next = compiler.apply(change).snapshot;
    assert_eq!(next.revision, first.snapshot.revision + 1);
    for (id, same) in [("1", true), ("2", false), ("3", true)] {
        assert_eq!(Arc::ptr_eq(route(&first.snapshot, id), route(&next, id)), same, "route {id}");
    }
    let port = |snapshot: &Snapshot, id: &str| snapshot.upstreams.get(id).unwrap().nodes.configs()[0].port;
    assert_eq!((port(&first.snapshot, "a"), port(&next, "a"), port(&next, "b")), (82, 92, 83));
    assert!(Arc::ptr_eq(first.snapshot.upstreams.get("b").unwrap(), next.upstreams.get("b").unwrap()));
}

#[test]
fn deleted_objects_are_gone_and_stored_upstreams_counted() {
    let mut compiler = compiler();
    compiler.replace_all(start());
    let deletes = vec![(Kind::Upstream, "b".into()), (Kind::Route, "1".into())];
    let next = compiler.update(Changes::Part(ChangeSet { upserts: Vec::new(), deletes })).snapshot;
    assert!(next.router.get("1").is_none());
    assert_eq!(next.upstreams.iter().map(|(id, _)| &**id).collect::<Vec<_>>(), ["a"]);
    assert_eq!((next.upstreams.len(), next.upstreams.is_empty()), (1, false));
    assert!(compiler.object(Kind::Upstream, "b").is_none());
    let last = compiler.update(Changes::Whole(Vec::new())).snapshot;
    assert!(last.router.is_empty() && last.upstreams.is_empty());
}

#[test]
fn a_refused_text_is_tried_once_and_the_good_form_stays() {
    let mut compiler = compiler();
    let before = compiler.replace_all(start()).snapshot;
    let broken = || ChangeSet { upserts: vec![object(Kind::Route, "2", json!({"uri": 5}))], deletes: Vec::new() };
    let refused = compiler.apply(broken());
    assert_eq!(refused.problems.len(), 1);
    assert!(refused.problems[0].kept);
    assert!(Arc::ptr_eq(route(&before, "2"), route(&refused.snapshot, "2")));
    assert!(compiler.apply(broken()).problems.is_empty());
}

#[test]
fn another_list_of_plugins_compiles_everything_anew() {
    let mut compiler = compiler();
    let first = compiler.replace_all(start()).snapshot;
    compiler.enable(Enabled { plugins: Some(vec!["key-auth".to_owned()]), ..Enabled::default() });
    let deletes = vec![(Kind::Route, "1".into())];
    let next = compiler.apply(ChangeSet { upserts: Vec::new(), deletes }).snapshot;
    assert!(next.router.get("1").is_none());
    assert!(!Arc::ptr_eq(route(&first, "3"), route(&next, "3")));
    compiler.enable(Enabled { plugins: Some(vec!["key-auth".to_owned()]), ..Enabled::default() });
    assert!(Arc::ptr_eq(&next, &compiler.apply(ChangeSet::default()).snapshot), "the same list");
    compiler.enable(Enabled::default());
    let last = compiler.replace_all(start().split_off(3)).snapshot;
    assert!(last.router.is_empty());
    assert_eq!(last.upstreams.len(), 2);
}

/// Lua is not run: a route that would be another one without it is left out and named, the rest serves.
#[test]
fn routes_that_need_lua_are_left_out() {
    let mut compiler = compiler();
    let with = |id: &str, field: &str, lua: &str| {
        object(Kind::Route, id, json!({"uri": format!("/{id}"), "upstream": upstream(81), field: lua}))
    };
    let mut objects = start();
    objects.push(with("filtered", "filter_func", "function(vars) return vars.arg_a == '1' end"));
    objects.push(with("scripted", "script", "local _M = {} return _M"));
    objects.push(with("idle", "script", "local ngx = ngx"));
    let applied = compiler.replace_all(objects);
    let named: Vec<&str> = applied.problems.iter().map(|p| &*p.id).collect();
    assert_eq!(named, ["filtered", "scripted"], "{:?}", applied.problems);
    assert!(applied.snapshot.router.get("filtered").is_none() && applied.snapshot.router.get("scripted").is_none());
    // A script that returns nothing has no phases; APISIX serves such a route, too.
    assert!(applied.snapshot.router.get("idle").is_some());
    assert!(applied.snapshot.router.get("1").is_some());
}

fn names(compiler: &Compiler) -> Vec<String> {
    compiler.states().health().into_iter().map(|report| report.name).collect()
}

#[test]
fn checks_come_and_go_with_their_upstreams() {
    let checked = |port| {
        let mut upstream = upstream(port);
        upstream["checks"] = json!({"active": {}});
        upstream
    };
    let mut compiler = compiler();
    let objects = vec![
        object(Kind::Upstream, "a", checked(81)),
        object(Kind::Service, "s", json!({"upstream": checked(82)})),
        object(Kind::Route, "1", json!({"uri": "/1", "upstream": checked(83)})),
        object(Kind::Route, "2", json!({"uri": "/2", "upstream": checked(84)})),
        object(Kind::Route, "3", json!({"uri": "/3", "service_id": "s"})),
        object(Kind::StreamRoute, "t", json!({"upstream": checked(85)})),
    ];
    let before = compiler.replace_all(objects.clone());
    assert!(before.problems.is_empty(), "{:?}", before.problems);
    let all =
        ["routes/1", "routes/2", "services/s", "stream_routes/t", "upstreams/a"].map(|key| format!("/apisix/{key}"));
    assert_eq!(names(&compiler), all);
    let checker = |snapshot: &Snapshot| snapshot.upstreams.get("a").unwrap().health.clone().unwrap();
    let first = checker(&before.snapshot);
    assert_eq!(first.report().nodes[0].port, 81);

    // other nodes: the same checker, which looks at these now although the old snapshot is still held
    let change = ChangeSet { upserts: vec![object(Kind::Upstream, "a", checked(91))], deletes: vec![] };
    let next = compiler.apply(change).snapshot;
    assert!(Arc::ptr_eq(&first, &checker(&next)));
    assert_eq!(first.report().nodes[0].port, 91);

    let change = ChangeSet {
        upserts: vec![
            object(Kind::Upstream, "a", upstream(91)),
            object(Kind::Route, "1", json!({"uri": "/1", "upstream_id": "a"})),
            object(Kind::Service, "s", json!({"upstream": upstream(82)})),
        ],
        deletes: vec![(Kind::Route, "2".into()), (Kind::StreamRoute, "t".into())],
    };
    let last = compiler.apply(change);
    assert!(last.problems.is_empty(), "{:?}", last.problems);
    assert!(names(&compiler).is_empty());
    assert!(last.snapshot.upstreams.get("a").unwrap().health.is_none());
    drop((before, next));
}

#[test]
fn checks_that_make_no_sense_are_a_problem_and_switched_off_ones_are_not_read() {
    let mut compiler = compiler();
    let mut wrong = upstream(81);
    wrong["checks"] = json!({"active": {"type": "https", "req_headers": ["A: b\nC: d"]}});
    let applied = compiler.replace_all(vec![object(Kind::Upstream, "a", wrong.clone())]);
    assert_eq!(applied.problems.len(), 1);
    assert!(applied.problems[0].message.contains("a line end in req_headers"), "{:?}", applied.problems);
    compiler.settings.health_checks = false;
    compiler.anew = true;
    let applied = compiler.replace_all(vec![object(Kind::Upstream, "a", wrong)]);
    assert!(applied.problems.is_empty() && names(&compiler).is_empty());
}

/// What a change of one object makes the compiler look at.
fn looked_at(compiler: &mut Compiler, kind: Kind, id: &str, body: Value) -> Vec<String> {
    let applied = compiler.apply(ChangeSet { upserts: vec![object(kind, id, body)], deletes: Vec::new() });
    assert!(applied.problems.is_empty(), "{:?}", applied.problems);
    let mut all: Vec<String> = applied.compiled.iter().map(|(kind, id)| format!("{}/{id}", kind.dir())).collect();
    all.sort();
    all
}

#[test]
fn a_change_looks_at_what_depends_on_it_and_at_nothing_else() {
    let pair = sluice_testkit::Authority::new("all").unwrap().server(&["x.test"]).unwrap();
    let ssl = |kind: &str, sni: &str| match kind {
        "client" => json!({"type": "client", "cert": pair.cert, "key": pair.key}),
        _ => json!({"sni": sni, "cert": pair.cert, "key": pair.key}),
    };
    let mut objects = vec![
        object(Kind::ConsumerGroup, "g", json!({"plugins": {}})),
        object(Kind::Ssl, "shown", ssl("client", "")),
        object(Kind::PluginConfig, "7", json!({"plugins": {}})),
    ];
    for n in 0..40_u16 {
        let id = n.to_string();
        let mut own = upstream(1000 + n);
        if n == 7 {
            own["scheme"] = "https".into();
            own["tls"] = json!({"client_cert_id": "shown"});
        }
        objects.extend([
            object(Kind::Consumer, &format!("c{n}"), json!({"username": format!("c{n}"), "group_id": "g"})),
            object(Kind::Credential, &format!("c{n}/credentials/a"), json!({"plugins": {}})),
            object(Kind::Ssl, &id, ssl("server", &format!("{n}.test"))),
            object(Kind::Upstream, &id, own),
            object(Kind::Service, &id, json!({"upstream_id": id})),
            object(Kind::Route, &id, json!({"uri": format!("/{n}"), "service_id": id})),
            object(Kind::StreamRoute, &id, json!({"upstream_id": id, "server_port": 2000 + n})),
        ]);
    }
    let mut compiler = compiler();
    let first = compiler.replace_all(objects);
    assert!(first.problems.is_empty(), "{:?}", first.problems);
    let it = &mut compiler;
    let labelled = json!({"username": "c3", "labels": {"a": "b"}});
    assert_eq!(looked_at(it, Kind::Consumer, "c3", labelled), ["consumers/c3", "credentials/c3/credentials/a"]);
    assert_eq!(it.snapshot().consumers.by_name("c3").unwrap().labels["a"], "b");
    let same = |name| {
        let consumer = |snapshot: &Snapshot| snapshot.consumers.by_name(name).unwrap().clone();
        Arc::ptr_eq(&consumer(&first.snapshot), &consumer(it.snapshot()))
    };
    assert!(same("c4") && !same("c3"));
    assert_eq!(looked_at(it, Kind::ConsumerGroup, "g", json!({"plugins": {}, "desc": "x"})), ["consumer_groups/g"]);
    assert_eq!(looked_at(it, Kind::Ssl, "5", ssl("server", "five.test")), ["ssls/5"]);
    let of = |snapshot: &Snapshot, id: &str| snapshot.certificates.get(id).unwrap().clone();
    assert_eq!((it.snapshot().certificates.len(), &*of(it.snapshot(), "5").snis[0]), (40, "five.test"));
    assert!(Arc::ptr_eq(&of(&first.snapshot, "6"), &of(it.snapshot(), "6")));
    let dependents = |n| vec![format!("routes/{n}"), format!("stream_routes/{n}"), format!("upstreams/{n}")];
    assert_eq!(looked_at(it, Kind::Upstream, "3", upstream(9)), dependents(3));
    let mut showing = vec!["routes/7".to_owned(), "ssls/shown".into(), "stream_routes/7".into(), "upstreams/7".into()];
    let mut other = ssl("client", "");
    other["labels"] = json!({"a": "b"});
    assert_eq!(looked_at(it, Kind::Ssl, "shown", other), showing);
    showing.clear();
    assert_eq!(looked_at(it, Kind::Service, "2", json!({"upstream_id": "4"})), ["routes/2", "services/2"]);
    assert_eq!(
        looked_at(it, Kind::Upstream, "4", upstream(10)),
        ["routes/2", "routes/4", "stream_routes/4", "upstreams/4"]
    );

    // A plugin config and a service of one id are two things.
    it.apply(ChangeSet { upserts: Vec::new(), deletes: vec![(Kind::PluginConfig, "7".into())] });
    looked_at(it, Kind::Route, "7", json!({"uri": "/seven", "service_id": "7"}));
    assert!(route(it.snapshot(), "7").trouble.is_none());
}

#[test]
fn users_come_and_go() {
    let mut compiler = compiler();
    let credential = || object(Kind::Credential, "anna/credentials/a", json!({"plugins": {}}));
    let named = |applied: &Applied| applied.problems.iter().map(|p| p.message.clone()).collect::<Vec<_>>();
    let change = |upserts, deletes| ChangeSet { upserts, deletes };
    let alone = compiler.apply(change(vec![credential()], vec![]));
    assert_eq!(named(&alone), ["consumer anna does not exist"]);
    let anna = || object(Kind::Consumer, "anna", json!({"username": "anna", "group_id": "g"}));
    let both = compiler.apply(change(vec![anna()], vec![]));
    assert!(both.problems.is_empty() && both.compiled.contains(&(Kind::Credential, "anna/credentials/a".into())));
    let brings =
        |applied: &Applied| (applied.snapshot.consumers_bring_plugins, applied.snapshot.consumer_plugins.len());
    assert_eq!(brings(&both), (true, 1), "a group counts, although there is none");
    let renamed = object(Kind::Consumer, "anna", json!({"username": "bert"}));
    let other = compiler.apply(change(vec![renamed], vec![]));
    assert_eq!(named(&other), ["consumer anna does not exist"]);
    assert!(other.snapshot.consumers.by_name("anna").is_none() && other.snapshot.consumers.by_name("bert").is_some());
    assert_eq!(brings(&other), (false, 1));
    let gone = compiler.apply(change(vec![], vec![(Kind::Consumer, "anna".into())]));
    assert!(gone.snapshot.consumers.by_name("bert").is_none() && gone.problems.is_empty());
}

fn mtls(port: u16) -> Value {
    json!({"type": "roundrobin", "scheme": "https", "nodes": {format!("127.0.0.1:{port}"): 1},
        "tls": {"client_cert_id": "c"}})
}

/// Whichever way a route has its upstream: it matches, and requests get 502 while the certificate is not there.
#[test]
fn an_upstream_lives_and_dies_with_its_client_certificate() {
    let pair = sluice_testkit::certificates::Authority::new("ca").unwrap().server(&["a.test"]).unwrap();
    let ssl = |kind: &str| {
        let value = json!({"type": kind, "snis": ["a.test"], "cert": pair.cert, "key": pair.key});
        vec![object(Kind::Ssl, "c", value)]
    };
    let mut compiler = compiler();
    let first = compiler.replace_all(vec![
        object(Kind::Route, "inline", json!({"uri": "/1", "upstream": mtls(81)})),
        object(Kind::Route, "stored", json!({"uri": "/2", "upstream_id": "u"})),
        object(Kind::Route, "service", json!({"uri": "/3", "service_id": "s"})),
        object(Kind::Upstream, "u", mtls(82)),
        object(Kind::Service, "s", json!({"upstream": mtls(83)})),
    ]);
    let found = |snapshot: &Snapshot| {
        ["inline", "stored", "service"].map(|id| match route(snapshot, id).upstream {
            RouteUpstream::Found(_) => Some(true),
            RouteUpstream::Missing => Some(false),
            RouteUpstream::None => None,
        })
    };
    assert_eq!(found(&first.snapshot), [Some(false); 3]);
    assert_eq!(first.problems.len(), 3, "{:?}", first.problems);
    let apply = |compiler: &mut Compiler, upserts, deletes| compiler.apply(ChangeSet { upserts, deletes }).snapshot;
    assert_eq!(found(&apply(&mut compiler, ssl("client"), Vec::new())), [Some(true); 3]);
    assert_eq!(found(&apply(&mut compiler, ssl("server"), Vec::new())), [Some(false); 3]);
    assert_eq!(found(&apply(&mut compiler, ssl("client"), Vec::new())), [Some(true); 3]);
    assert_eq!(found(&apply(&mut compiler, Vec::new(), vec![(Kind::Ssl, "c".into())])), [Some(false); 3]);
}

/// A registry with one service, `api`.
struct OneService(tokio::sync::watch::Sender<sluice_upstream::ServiceNodes>);

impl sluice_upstream::Discover for OneService {
    fn check(&self, query: &sluice_upstream::ServiceQuery) -> Result<(), sluice_upstream::DiscoverError> {
        match &*query.registry {
            "dns" => Ok(()),
            other => Err(sluice_upstream::DiscoverError::Uninitialized(other.into())),
        }
    }
    fn follow(
        &self,
        query: &sluice_upstream::ServiceQuery,
    ) -> Result<sluice_upstream::Following, sluice_upstream::DiscoverError> {
        self.check(query).map(|()| self.0.subscribe())
    }
}

#[tokio::test]
async fn nodes_of_a_service_change_without_anything_being_compiled() {
    let registry = Arc::new(OneService(tokio::sync::watch::Sender::default()));
    let mut compiler = compiler();
    compiler.settings.discovery = Some(registry.clone());
    compiler.env = compiler.env.clone().with_control(tokio::runtime::Handle::current());
    let service = |kind: &str| json!({"type": "roundrobin", "service_name": "api", "discovery_type": kind});
    let applied = compiler.replace_all(vec![
        object(Kind::Route, "1", json!({"uri": "/1", "upstream": service("dns")})),
        object(Kind::Route, "2", json!({"uri": "/2", "upstream": service("consul")})),
        object(Kind::Upstream, "a", service("eureka")),
    ]);
    let told: Vec<_> = applied.problems.iter().map(|p| (&*p.id, p.path.as_str(), p.message.as_str())).collect();
    assert_eq!(
        told,
        [
            ("a", "/discovery_type", "discovery eureka is uninitialized"),
            ("2", "/upstream/discovery_type", "discovery consul is uninitialized")
        ]
    );
    // both are used all the same, without nodes
    let upstream = |id: &str| match &route(&applied.snapshot, id).upstream {
        RouteUpstream::Found(upstream) => upstream.clone(),
        other => panic!("{other:?}"),
    };
    assert!(!upstream("2").nodes.moves() && applied.snapshot.upstreams.contains_key("a"));
    let followed = upstream("1");
    assert_eq!((applied.unresolved.len(), followed.nodes.service().map(|s| &*s.name)), (1, Some("api")));
    let node =
        sluice_upstream::ServiceNode { host: "10.0.0.1".into(), port: None, weight: 1, priority: 0, metadata: None };
    registry.0.send_replace(sluice_upstream::ServiceNodes { asked: true, nodes: [node].into() });
    let arrived = async {
        while followed.nodes.balancer().nodes().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), arrived).await.unwrap();
    assert_eq!(followed.nodes.configs()[0].port, 80);
    assert!(Arc::ptr_eq(compiler.snapshot(), &applied.snapshot));
    drop((applied, followed, compiler));
    // who is gone follows no more
    let unfollowed = async {
        while registry.0.receiver_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), unfollowed).await.unwrap();
}
