//! The router against a matcher that sorts and tries everything, and incremental updates against full builds.
use proptest::prelude::*;
use sluice_expr::Regex;

use super::*;

/// Whether the URI matches the path, and (class, prefix length) of its filing.
fn uri_matches(uri: &str, mode: Mode, path: &str) -> Option<(u8, usize)> {
    if let Some(source) = uri.strip_prefix('~') {
        return Regex::new(source, "").unwrap().is_match(path.as_bytes()).then_some((2, 0));
    }
    let with = matches!(mode, Mode::UriWithParameter | Mode::Priority);
    let Some(at) = uri.find(':').filter(|_| with).or_else(|| uri.find('*')) else {
        return (uri == path).then_some((0, 0));
    };
    let mut names = 0;
    let items: Vec<String> = uri
        .split('/')
        .map(|item| match item.chars().next() {
            Some(c @ (':' | '*')) => {
                names += 1;
                if c == ':' { "[^/]+".into() } else { "(?:.|\n)*".into() }
            }
            _ => item.chars().map(|c| format!("\\x{:02x}", c as u32)).collect(),
        })
        .collect();
    let found = path.starts_with(&uri[..at])
        && (names == 0 || Regex::new(&format!("\\A{}\\z", items.join("/")), "").unwrap().is_match(path.as_bytes()));
    found.then_some((1, at))
}

fn others_match(spec: &RouteSpec<u32>, request: &Request<'_>, lookup: &dyn Lookup) -> bool {
    let (no, yes): (Vec<&RemoteAddr>, Vec<_>) = spec.remote_addrs.iter().partition(|a| a.negated);
    spec.methods.allows(request.method)
        && !no.iter().any(|a| a.net.contains(&request.remote_addr))
        && (yes.is_empty() || yes.iter().any(|a| a.net.contains(&request.remote_addr)))
        && spec.vars.as_ref().is_none_or(|v| v.eval(lookup))
}

fn host_matches(pattern: &str, host: &str) -> bool {
    pattern.strip_prefix('*').map_or(pattern == host, |suffix| host.ends_with(suffix))
}

fn naive(specs: &[RouteSpec<u32>], mode: Mode, request: &Request<'_>, lookup: &dyn Lookup) -> Option<(String, String)> {
    let mut candidates = Vec::new();
    for (age, spec) in specs.iter().enumerate() {
        for (n, uri) in spec.uris.iter().enumerate() {
            let Some((class, prefix)) =
                uri_matches(uri, mode, request.path).filter(|_| others_match(spec, request, lookup))
            else {
                continue;
            };
            // Every way in by host: rank, smaller first.
            let ways: Vec<i64> = match mode {
                Mode::HostUri if spec.hosts.is_empty() => vec![i64::MAX],
                Mode::HostUri => spec
                    .hosts
                    .iter()
                    .filter(|h| host_matches(h, request.host))
                    .map(|h| if h.starts_with('*') { 1000 - h.len() as i64 } else { 0 })
                    .collect(),
                _ if spec.hosts.is_empty() || spec.hosts.iter().any(|h| host_matches(h, request.host)) => vec![0],
                _ => vec![],
            };
            let rank = if spec.hosts.is_empty() { 2 } else { i64::from(spec.hosts.iter().any(|h| h.starts_with('*'))) };
            let length = -(uri.len() as i64);
            let filing = [i64::from(class), -(prefix as i64)];
            for way in ways {
                let key = match mode {
                    Mode::Priority => [-spec.priority, filing[0], filing[1], length, rank, age as i64, n as i64],
                    _ => [way, filing[0], filing[1], -spec.priority, length, age as i64, n as i64],
                };
                candidates.push((key, spec.id.to_string(), uri.to_string()));
            }
        }
    }
    candidates.into_iter().min().map(|(_, id, uri)| (id, uri))
}

fn uris() -> impl Strategy<Value = Vec<Box<str>>> {
    let segment = prop::sample::select(vec!["a", "b", "a", "b", ":x", "*", "*y", "a*", "b:"]);
    let uri = prop_oneof![
        6 => prop::collection::vec(segment, 1..4).prop_map(|s| format!("/{}", s.join("/"))),
        1 => prop::sample::select(vec!["~^/a", "~b$", "~/(?<n>[ab])/", "/", "*"]).prop_map(str::to_owned),
    ];
    prop::collection::vec(uri.prop_map(|u| u.into_boxed_str()), 1..3)
}

fn routes() -> impl Strategy<Value = RouteSpec<u32>> {
    let hosts = prop_oneof![
        2 => Just(vec![]),
        3 => prop::collection::vec(prop::sample::select(vec!["x.com", "a.x.com", "*.x.com", "*.com", "*x.com"]), 1..3),
    ];
    let methods = prop::sample::select(vec![vec![], vec![], vec![], vec!["GET"], vec!["POST", "PUT"]]);
    let addrs = prop::sample::select(vec![
        vec![],
        vec![],
        vec!["10.0.0.0/8"],
        vec!["!10.0.0.1"],
        vec!["1.1.1.1", "10.0.0.1"],
        vec!["10.0.0.0/8", "!10.0.0.2"],
    ]);
    let vars = prop::sample::select(vec![None, None, None, Some("1"), Some("2")]);
    (0..30u32, uris(), hosts, methods, addrs, vars, -1..3i64, any::<u32>()).prop_map(
        |(id, uris, hosts, methods, addrs, vars, priority, handle)| RouteSpec {
            id: id.to_string().into(),
            uris,
            hosts: hosts.into_iter().map(Into::into).collect(),
            methods: MethodSet::of(methods).unwrap(),
            remote_addrs: addrs.into_iter().map(|a| a.parse().unwrap()).collect(),
            vars: vars.map(|v| Arc::new(Expr::compile(&json!([["arg_v", "==", v]])).unwrap())),
            filter: None,
            priority,
            handle,
        },
    )
}

type Batch = (Vec<RouteSpec<u32>>, Vec<u32>);

fn check(
    mode: Mode,
    batches: &[Batch],
    requests: &[(String, &str, &str, u8, Option<&str>)],
) -> Result<(), TestCaseError> {
    let mut router = Router::new(mode);
    let mut specs: Vec<RouteSpec<u32>> = Vec::new();
    for (upserts, deletes) in batches {
        let deletes: Vec<String> = deletes.iter().map(u32::to_string).collect();
        let deletes: Vec<&str> = deletes.iter().map(String::as_str).collect();
        router = router.update(upserts.clone(), &deletes).0;
        specs.retain(|s| !deletes.contains(&&*s.id));
        for spec in upserts {
            match specs.iter_mut().find(|s| s.id == spec.id) {
                Some(old) => *old = spec.clone(),
                None => specs.push(spec.clone()),
            }
        }
        prop_assert_eq!(router.len(), specs.len());
        let (full, errors) = Router::build(mode, specs.clone());
        prop_assert!(errors.is_empty());
        for (path, host, method, last, arg) in requests {
            let request = Request { path, host, method, remote_addr: IpAddr::from([10, 0, 0, *last]) };
            let lookup = Args(*arg, None);
            let want = naive(&specs, mode, &request, &lookup);
            for router in [&router, &full] {
                let found = router.find(&request, &lookup);
                let got = found.as_ref().map(|f| (f.id.to_string(), f.uri.to_owned()));
                prop_assert_eq!(&got, &want, "{:?} {:?}", mode, request);
                let explained = router.explain(&request, &lookup);
                let won: Vec<_> = explained
                    .iter()
                    .filter(|c| c.outcome == Outcome::Won)
                    .map(|c| (c.id.to_string(), c.uri.to_string()))
                    .collect();
                prop_assert_eq!(won, got.into_iter().collect::<Vec<_>>());
                if let Some(found) = found {
                    let spec = specs.iter().find(|s| s.id == *found.id).unwrap();
                    prop_assert_eq!(*found.handle, spec.handle);
                    prop_assert_eq!(found.host.is_some(), !spec.hosts.is_empty());
                    prop_assert!(found.host.is_none_or(|h| host_matches(h, host)));
                }
            }
        }
    }
    Ok(())
}

fn requests() -> impl Strategy<Value = Vec<(String, &'static str, &'static str, u8, Option<&'static str>)>> {
    let path = prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "", "*", ":x", "b:"]), 1..5)
        .prop_map(|s| format!("/{}", s.join("/")));
    let one = (
        path,
        prop::sample::select(vec!["x.com", "a.x.com", "b.x.com", "y.com", "", "z"]),
        prop::sample::select(vec!["GET", "POST", "BREW"]),
        1..3u8,
        prop::sample::select(vec![None, Some("1"), Some("2")]),
    );
    prop::collection::vec(one, 1..16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn as_naive(
        mode in prop::sample::select(vec![Mode::Uri, Mode::HostUri, Mode::UriWithParameter, Mode::Priority]),
        batches in prop::collection::vec((prop::collection::vec(routes(), 0..25), prop::collection::vec(0..30u32, 0..4)), 1..4),
        requests in requests(),
    ) {
        check(mode, &batches, &requests)?;
    }

    /// Few paths, many routes: the buckets that are indexed by host.
    #[test]
    fn crowded_paths(
        mode in prop::sample::select(vec![Mode::Uri, Mode::HostUri, Mode::Priority]),
        batches in prop::collection::vec((prop::collection::vec(routes().prop_map(|r| RouteSpec { uris: vec!["/a".into(), "/*".into()], ..r }), 0..40), prop::collection::vec(0..30u32, 0..6)), 1..5),
        requests in requests(),
    ) {
        check(mode, &batches, &requests)?;
    }
}
