//! What is found and what is not; a property: what is told to get nothing gets nothing.
use super::*;
use crate::{MethodSet, Request};
use proptest::prelude::*;
use sluice_expr::{Expr, Lookup, Value, Variable};

struct Nothing;

impl Lookup for Nothing {
    fn variable(&self, _variable: &Variable) -> Option<Value<'_>> {
        None
    }
}

fn spec(id: &str, uri: &str) -> RouteSpec<()> {
    RouteSpec {
        id: id.into(),
        uris: vec![uri.into()],
        hosts: Vec::new(),
        methods: MethodSet::ANY,
        remote_addrs: Vec::new(),
        vars: None,
        filter: None,
        priority: 0,
        handle: (),
    }
}

fn told(mode: Mode, specs: Vec<RouteSpec<()>>) -> Vec<String> {
    Router::build(mode, specs).0.examine_all().iter().map(ToString::to_string).collect()
}

#[test]
fn one_route_takes_all_of_another() {
    let first = RouteSpec { priority: 1, ..spec("a", "/x/*") };
    let narrow = RouteSpec { methods: MethodSet::of(["GET"]).unwrap(), ..spec("b", "/x/*") };
    let wide = "route b never gets /x/*: route a comes first and takes all its requests";
    assert_eq!(told(Mode::Uri, vec![first.clone(), narrow.clone()]), [wide]);
    // The other way round the narrow one is only an exception.
    let exception = RouteSpec { priority: 2, ..narrow };
    assert_eq!(told(Mode::Uri, vec![first, exception]), Vec::<String>::new());
    let same = "route b never gets /x: route a has the same conditions and was there before";
    assert_eq!(told(Mode::HostUri, vec![spec("a", "/x"), spec("b", "/x")]), [same]);
}

#[test]
fn hosts_addresses_and_vars_count() {
    let hosts = |id: &str, hosts: &[&str]| RouteSpec {
        hosts: hosts.iter().map(|host| (*host).into()).collect(),
        ..spec(id, "/x")
    };
    for mode in [Mode::Uri, Mode::HostUri] {
        assert!(told(mode, vec![hosts("a", &["foo.com"]), hosts("b", &["bar.com"])]).is_empty());
        assert_eq!(told(mode, vec![hosts("a", &["foo.com", "bar.com"]), hosts("b", &["bar.com"])]).len(), 1);
        assert!(told(mode, vec![hosts("a", &["bar.com"]), hosts("b", &["foo.com", "bar.com"])]).is_empty());
    }
    assert_eq!(told(Mode::Uri, vec![hosts("a", &["*.foo.com"]), hosts("b", &["x.foo.com"])]).len(), 1);
    // Here the exact host is asked first.
    assert!(told(Mode::HostUri, vec![hosts("a", &["*.foo.com"]), hosts("b", &["x.foo.com"])]).is_empty());
    let vars = |id: &str, name: &str| RouteSpec {
        vars: Some(Arc::new(Expr::compile(&serde_json::json!([[name, "==", "1"]])).unwrap())),
        ..spec(id, "/x")
    };
    assert!(told(Mode::Uri, vec![vars("a", "arg_a"), vars("b", "arg_b")]).is_empty());
    assert_eq!(told(Mode::Uri, vec![vars("a", "arg_a"), vars("b", "arg_a")]).len(), 1);
    assert!(told(Mode::Uri, vec![vars("a", "arg_a"), spec("b", "/x")]).is_empty());
    let from = |id: &str, net: &str| RouteSpec { remote_addrs: vec![net.parse().unwrap()], ..spec(id, "/x") };
    assert_eq!(told(Mode::Uri, vec![from("a", "10.0.0.0/8"), from("b", "10.1.0.0/16")]).len(), 1);
    assert!(told(Mode::Uri, vec![from("a", "10.1.0.0/16"), from("b", "10.0.0.0/8")]).is_empty());
}

#[test]
fn hosts_that_no_request_has() {
    let hosts = |host: &str| vec![RouteSpec { hosts: vec![host.into()], ..spec("a", "/x") }];
    assert_eq!(told(Mode::Uri, hosts("foo.*.com")), ["route a: no request has the host \"foo.*.com\""]);
    assert_eq!(told(Mode::HostUri, hosts("foo.com:80")), ["route a: no request has the host \"foo.com:80\""]);
    assert!(told(Mode::Uri, hosts("foo.com:80")).is_empty());
    assert!(told(Mode::HostUri, hosts("*.foo.com")).is_empty());
}

#[test]
fn in_strict_priority_a_short_prefix_takes_long_ones() {
    let all = RouteSpec { priority: 9, ..spec("all", "/*") };
    assert_eq!(told(Mode::Priority, vec![all.clone(), spec("b", "/x/y")]).len(), 1);
    assert!(told(Mode::Uri, vec![all, spec("b", "/x/y")]).is_empty());
}

#[test]
fn a_route_is_examined_before_it_is_there() {
    let (router, _) = Router::build(Mode::Uri, vec![spec("a", "/x"), spec("b", "/y")]);
    let new = |uri: &str, priority| RouteSpec { priority, ..spec("c", uri) };
    assert_eq!(router.examine(new("/x", 1)).unwrap()[0].route.as_ref(), "a");
    assert_eq!(router.examine(new("/x", 0)).unwrap()[0].cause, Cause::Same("a".into()));
    assert!(router.examine(new("/z", 0)).unwrap().is_empty());
    // Itself it does not meet.
    assert!(router.examine(spec("a", "/x")).unwrap().is_empty());
}

fn any_spec(index: usize) -> impl Strategy<Value = RouteSpec<()>> {
    let uris = prop::sample::select(vec!["/*", "/a", "/a/*", "/a/b", "/a/b/*", "/ab*"]);
    let hosts = prop::sample::subsequence(vec!["x.com", "y.com", "*.x.com", "a.x.com"], 0..3);
    let methods = prop::sample::subsequence(vec!["GET", "POST"], 0..3);
    (uris, hosts, methods, 0..3_i64).prop_map(move |(uri, hosts, methods, priority)| RouteSpec {
        hosts: hosts.into_iter().map(Into::into).collect(),
        methods: MethodSet::of(methods).unwrap(),
        priority,
        ..spec(&format!("r{index}"), uri)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What is told to get nothing gets nothing.
    #[test]
    fn no_request_reaches_what_is_shadowed(
        specs in (any_spec(0), any_spec(1), any_spec(2), any_spec(3)),
        mode in prop::sample::select(vec![Mode::Uri, Mode::HostUri, Mode::UriWithParameter, Mode::Priority]),
    ) {
        let specs = vec![specs.0, specs.1, specs.2, specs.3];
        let (router, _) = Router::build(mode, specs);
        let findings = router.examine_all();
        for path in ["/", "/a", "/a/", "/a/b", "/a/b/c", "/abc", "/z"] {
            for host in ["x.com", "y.com", "a.x.com", "b.x.com", "z"] {
                for method in ["GET", "POST", "PUT"] {
                    let request = Request { path, host, method, remote_addr: [127, 0, 0, 1].into() };
                    let Some(found) = router.find(&request, &Nothing) else { continue };
                    let told = findings.iter().find(|f| f.route == *found.id && f.uri.as_deref() == Some(found.uri));
                    prop_assert!(told.is_none(), "{request:?}: {told:?}");
                }
            }
        }
    }
}
