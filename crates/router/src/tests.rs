//! Tests of the crate.
use std::sync::Arc;

use serde_json::json;
use sluice_expr::{Value, Variable};

use super::*;

mod naive;

/// `arg_v` and the `Host` header.
struct Args<'s>(Option<&'s str>, Option<&'s str>);

impl Lookup for Args<'_> {
    fn variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
        match variable {
            Variable::Arg(name) if **name == *"v" => self.0.map(Value::str),
            Variable::Http(name) if **name == *"host" => self.1.map(Value::str),
            _ => None,
        }
    }
}

fn spec(id: &str, uris: &[&str]) -> RouteSpec<u32> {
    RouteSpec {
        id: id.into(),
        uris: uris.iter().map(|u| (*u).into()).collect(),
        hosts: Vec::new(),
        methods: MethodSet::ANY,
        remote_addrs: Vec::new(),
        vars: None,
        filter: None,
        priority: 0,
        handle: 0,
    }
}

fn hosts(mut spec: RouteSpec<u32>, hosts: &[&str]) -> RouteSpec<u32> {
    spec.hosts = hosts.iter().map(|h| (*h).into()).collect();
    spec
}

fn priority(mut spec: RouteSpec<u32>, priority: i64) -> RouteSpec<u32> {
    spec.priority = priority;
    spec
}

fn vars(mut spec: RouteSpec<u32>, rule: serde_json::Value) -> RouteSpec<u32> {
    spec.vars = Some(Arc::new(Expr::compile(&rule).unwrap()));
    spec
}

fn request<'a>(path: &'a str, host: &'a str) -> Request<'a> {
    Request { path, host, method: "GET", remote_addr: IpAddr::from([10, 0, 0, 1]) }
}

fn build(mode: Mode, specs: Vec<RouteSpec<u32>>) -> Router<u32> {
    let (router, errors) = Router::build(mode, specs);
    assert_eq!(errors, []);
    router
}

fn id(router: &Router<u32>, path: &str, host: &str) -> Option<String> {
    router.find(&request(path, host), &()).map(|f| f.id.to_string())
}

#[test]
fn exact_then_longest_prefix_then_regex() {
    let r = build(
        Mode::Uri,
        vec![
            spec("re", &["~^/a"]),
            spec("all", &["/*"]),
            spec("ab", &["/a/b*"]),
            spec("a", &["/a/*"]),
            spec("x", &["/a/b/c"]),
        ],
    );
    for (path, want) in [("/a/b/c", "x"), ("/a/b/d", "ab"), ("/a/bx", "ab"), ("/a/c", "a"), ("/a", "all"), ("/", "all")]
    {
        assert_eq!(id(&r, path, "h").as_deref(), Some(want), "{path}");
    }
    let (r, _) = r.update(vec![], &["all"]);
    assert_eq!(id(&r, "/a", "h").as_deref(), Some("re"));
    assert_eq!(id(&r, "/b", "h"), None);
    assert_eq!((r.len(), r.get("all"), r.get("a")), (4, None, Some(&0)));
}

#[test]
fn falls_back_when_predicates_fail() {
    let mut post = spec("post", &["/a"]);
    post.methods = MethodSet::of(["POST"]).unwrap();
    let mut far = spec("far", &["/a/*"]);
    far.remote_addrs = vec!["192.168.0.0/16".parse().unwrap()];
    let mut near = spec("near", &["/*"]);
    near.remote_addrs = vec!["10.0.0.0/8".parse().unwrap(), "!10.0.0.2".parse().unwrap()];
    let r = build(Mode::Uri, vec![post, far, near]);
    assert_eq!(id(&r, "/a", "h").as_deref(), Some("near"));
    assert_eq!(id(&r, "/a/b", "h").as_deref(), Some("near"));
    let denied = Request { remote_addr: IpAddr::from([10, 0, 0, 2]), ..request("/a", "h") };
    assert!(r.find(&denied, &()).is_none());
    let unknown = Request { method: "BREW", ..request("/a", "h") };
    assert_eq!(r.find(&unknown, &()).map(|f| f.id.to_string()).as_deref(), Some("near"));
    assert_eq!(MethodSet::of(["GET", "BREW"]), Err("BREW".to_owned()));
    assert!("10.0.0.300".parse::<RemoteAddr>().is_err());
}

#[test]
fn same_path_by_priority_then_age() {
    let r = build(
        Mode::Uri,
        vec![
            spec("old", &["/a"]),
            spec("new", &["/a"]),
            priority(vars(spec("v", &["/a"]), json!([["arg_v", "==", "1"]])), 5),
            priority(spec("low", &["/a"]), -1),
        ],
    );
    assert_eq!(id(&r, "/a", "h").as_deref(), Some("old"));
    assert_eq!(r.find(&request("/a", "h"), &Args(Some("1"), None)).unwrap().id.as_ref(), "v");
    // A changed route keeps its age; one that was deleted and comes back is young.
    let (r2, _) = r.update(vec![spec("old", &["/a"])], &[]);
    assert_eq!(id(&r2, "/a", "h").as_deref(), Some("old"));
    let (r3, _) = r.update(vec![spec("old", &["/a"])], &["old"]);
    assert_eq!(id(&r3, "/a", "h").as_deref(), Some("new"));
}

#[test]
fn priority_counts_only_within_a_path_but_in_priority_mode() {
    let specs = || {
        vec![
            spec("exact", &["/a/b"]),
            priority(spec("prefix", &["/a/*"]), 10),
            priority(spec("regex", &["~b$"]), 10),
            spec("param", &["/a/:id"]),
        ]
    };
    assert_eq!(id(&build(Mode::Uri, specs()), "/a/b", "h").as_deref(), Some("exact"));
    let strict = build(Mode::Priority, specs());
    assert_eq!(id(&strict, "/a/b", "h").as_deref(), Some("prefix"));
    let (strict, _) = strict.update(vec![], &["prefix"]);
    assert_eq!(id(&strict, "/a/b", "h").as_deref(), Some("regex"));
    let (strict, _) = strict.update(vec![], &["regex"]);
    assert_eq!(id(&strict, "/a/b", "h").as_deref(), Some("exact"));
    assert_eq!(id(&strict, "/a/c", "h").as_deref(), Some("param"));
}

#[test]
fn hosts_as_predicate() {
    let r = build(
        Mode::Uri,
        vec![
            hosts(spec("exact", &["/*"]), &["Foo.com"]),
            hosts(spec("wild", &["/*"]), &["*.foo.com"]),
            hosts(spec("port", &["/*"]), &["bar.com:8080"]),
        ],
    );
    let found = r.find(&request("/x", "foo.com"), &()).unwrap();
    assert_eq!((found.id.as_ref(), found.host, found.uri), ("exact", Some("foo.com"), "/*"));
    let found = r.find(&request("/x", "A.Foo.com"), &()).unwrap();
    assert_eq!((found.id.as_ref(), found.host), ("wild", Some("*.foo.com")));
    assert_eq!(id(&r, "/x", "xfoo.com"), None);
    assert_eq!(id(&r, "/x", "bar.com"), None);
    assert!(r.find(&request("/x", "bar.com"), &Args(None, Some("Bar.com:8080"))).is_some());
}

#[test]
fn host_mode_leads_by_host() {
    let r = build(
        Mode::HostUri,
        vec![
            spec("none", &["/a/b"]),
            hosts(spec("wild", &["/a/b"]), &["*.com"]),
            hosts(spec("wilder", &["/*"]), &["*.foo.com"]),
            hosts(spec("exact", &["/a/*"]), &["www.foo.com"]),
            hosts(spec("never", &["/a/*"]), &["bar.com:80"]),
        ],
    );
    for (path, host, want, matched) in [
        ("/a/b", "www.foo.com", "exact", Some("www.foo.com")),
        ("/b", "www.foo.com", "wilder", Some("*.foo.com")),
        ("/a/b", "x.y.foo.com", "wilder", Some("*.foo.com")),
        ("/a/b", "bar.com", "wild", Some("*.com")),
        ("/a/b", "localhost", "none", None),
    ] {
        let found = r.find(&request(path, host), &()).unwrap();
        assert_eq!((found.id.as_ref(), found.host), (want, matched), "{host}{path}");
    }
    assert_eq!(id(&r, "/a/c", "localhost"), None);
    let (r, _) = r.update(vec![hosts(spec("exact", &["/a/*"]), &["bar.com"])], &[]);
    assert_eq!(id(&r, "/a/b", "www.foo.com").as_deref(), Some("wilder"));
    assert_eq!(id(&r, "/a/b", "bar.com").as_deref(), Some("exact"));
}

#[test]
fn parameters() {
    let r = build(
        Mode::UriWithParameter,
        vec![spec("p", &["/u/:id/posts/:post"]), spec("q", &["/u/:id/*rest"]), spec("r", &["~^/(?<lang>[a-z]{2})$"])],
    );
    let params = |path| r.find(&request(path, "h"), &()).map(|f| (f.id.to_string(), f.params.to_vec()));
    assert_eq!(params("/u/7/posts/x"), Some(("p".into(), vec![("id", "7"), ("post", "x")])));
    assert_eq!(params("/u/7/a/b"), Some(("q".into(), vec![("id", "7"), ("rest", "a/b")])));
    assert_eq!(params("/de"), Some(("r".into(), vec![("lang", "de")])));
    assert_eq!(params("/u/"), None);
}

#[test]
fn errors_leave_the_last_good_form() {
    let (r, errors) = Router::build(Mode::Uri, vec![spec("bad", &["~("]), spec("empty", &[]), spec("ok", &["/a"])]);
    assert_eq!(errors.iter().map(|e| e.id.as_ref()).collect::<Vec<_>>(), ["bad", "empty"]);
    assert!(errors[0].to_string().starts_with("route bad: uri ~(: "));
    let (r, errors) = r.update(vec![spec("ok", &["/b", "~("])], &["absent"]);
    assert_eq!((errors.len(), r.len()), (1, 1));
    assert_eq!(id(&r, "/a", "h").as_deref(), Some("ok"));
}

#[test]
fn many_hosts_on_one_path() {
    let one = |i: usize| hosts(spec(&i.to_string(), &["/*"]), &[&format!("h{i}.com")]);
    let mut specs: Vec<_> = (0..200).map(one).collect();
    specs.push(priority(spec("top", &["/*"]), 1));
    specs.push(spec("rest", &["/*"]));
    let r = build(Mode::Uri, specs);
    assert_eq!(id(&r, "/", "h7.com").as_deref(), Some("top"));
    let (r, _) = r.update(vec![], &["top"]);
    assert_eq!(id(&r, "/", "h7.com").as_deref(), Some("7"));
    assert_eq!(id(&r, "/", "other").as_deref(), Some("rest"));
    let (r, _) = r.update(vec![hosts(spec("7", &["/*"]), &["new.com"])], &[]);
    assert_eq!(id(&r, "/", "h7.com").as_deref(), Some("rest"));
    assert_eq!(id(&r, "/", "new.com").as_deref(), Some("7"));
}

#[test]
fn old_router_is_not_disturbed() {
    let old = build(
        Mode::Uri,
        (0..1000).map(|i| spec(&format!("r{i}"), &[&format!("/p{i}"), &format!("/q{i}/*")])).collect(),
    );
    let (new, _) = old.update(vec![spec("r500", &["/moved"])], &["r501"]);
    for i in [0, 500, 501, 999] {
        assert_eq!(id(&old, &format!("/p{i}"), "h"), Some(format!("r{i}")));
        assert_eq!(id(&old, &format!("/q{i}/x"), "h"), Some(format!("r{i}")));
    }
    assert_eq!(id(&new, "/moved", "h").as_deref(), Some("r500"));
    assert_eq!(id(&new, "/p500", "h"), None);
    assert_eq!(id(&new, "/q501/x", "h"), None);
    assert_eq!(id(&new, "/q999/x", "h").as_deref(), Some("r999"));
    let all: Vec<String> = (0..1000).map(|i| format!("r{i}")).collect();
    let (empty, _) = new.update(vec![], &all.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(empty.is_empty() && id(&empty, "/moved", "h").is_none());
}

#[test]
fn explains_in_order() {
    let mut post = spec("post", &["/a"]);
    post.methods = MethodSet::of(["POST", "PUT"]).unwrap();
    let mut addr = spec("addr", &["/a"]);
    addr.remote_addrs = vec!["127.0.0.1".parse().unwrap()];
    let r = build(
        Mode::Uri,
        vec![
            spec("star", &["/*"]),
            spec("tail", &["/*/z"]),
            addr,
            priority(post, 1),
            hosts(spec("host", &["/a"]), &["x.com"]),
            vars(spec("vars", &["/a"]), json!([["arg_v", "==", "1"]])),
            spec("none", &["/b"]),
            spec("re", &["~a"]),
        ],
    );
    let lines: Vec<String> = r
        .explain(&request("/a", "h"), &())
        .into_iter()
        .map(|c| match c.outcome {
            Outcome::Won => format!("{} won by {}", c.id, c.uri),
            Outcome::Lost { reason } => format!("{}: {reason}", c.id),
        })
        .collect();
    assert_eq!(
        lines,
        [
            "post: method GET is not one of POST, PUT",
            "addr: remote address 10.0.0.1 is not allowed",
            "host: host h is not one of x.com",
            "vars: vars: arg_v == \"1\": arg_v is nil",
            "tail: path does not match /*/z",
            "star won by /*",
            "re: matches too, but comes after star",
        ]
    );
}
