//! Credentials in the query: finding one argument, and taking it out before the request goes on.
//!
//! An argument that is repeated, or has no `=`, is no credential: in APISIX such an argument is not a string
//! (ngx.req.get_uri_args), so it matches no consumer.
use sluice_http::target;
use sluice_plugin::Context;
use std::borrow::Cow;

/// What a query says of one argument.
#[derive(Debug, PartialEq)]
pub enum Argument<'a> {
    Missing,
    /// Repeated or without `=`.
    Unusable,
    /// The decoded value.
    Value(Cow<'a, [u8]>),
}

fn split(part: &[u8]) -> (&[u8], Option<&[u8]>) {
    match part.iter().position(|b| *b == b'=') {
        Some(i) => (part.get(..i).unwrap_or_default(), part.get(i + 1..)),
        None => (part, None),
    }
}

fn is_named(part: &[u8], name: &str) -> bool {
    target::decode(split(part).0).as_ref() == name.as_bytes()
}

/// Looks an argument up in a query.
pub fn find<'a>(query: Option<&'a str>, name: &str) -> Argument<'a> {
    let Some(query) = query else { return Argument::Missing };
    let mut parts = query.as_bytes().split(|b| *b == b'&').filter(|part| !part.is_empty() && is_named(part, name));
    match (parts.next(), parts.next()) {
        (None, _) => Argument::Missing,
        (Some(part), None) => split(part).1.map_or(Argument::Unusable, |value| Argument::Value(target::decode(value))),
        (Some(_), Some(_)) => Argument::Unusable,
    }
}

/// The query without every argument of this name; the others stay byte for byte.
fn without(query: &[u8], name: &str) -> Vec<u8> {
    let mut kept = Vec::with_capacity(query.len());
    for part in query.split(|b| *b == b'&').filter(|part| !is_named(part, name)) {
        if !kept.is_empty() {
            kept.push(b'&');
        }
        kept.extend_from_slice(part);
    }
    kept
}

/// Takes every argument of this name out of `$args` and of what the upstream gets.
pub fn hide(cx: &mut Context, name: &str) {
    let Some(query) = cx.request.query().filter(|query| query.split('&').any(|part| is_named(part.as_bytes(), name)))
    else {
        return;
    };
    let kept = without(query.as_bytes(), name);
    let (path, upstream_query) = target::split(cx.upstream_target());
    let upstream_query = without(upstream_query.unwrap_or_default(), name);
    let mut upstream = path.to_vec();
    if !upstream_query.is_empty() {
        upstream.push(b'?');
        upstream.extend_from_slice(&upstream_query);
    }
    cx.upstream.target = Some(upstream);
    cx.request.set_query(Some(kept.as_slice()).filter(|kept| !kept.is_empty()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_argument_is_found_once_and_with_a_value() {
        let value = |text: &'static str| Argument::Value(Cow::Borrowed(text.as_bytes()));
        for (query, expected) in [
            (None, Argument::Missing),
            (Some(""), Argument::Missing),
            (Some("b=1&keys=2"), Argument::Missing),
            (Some("b=1&key=2"), value("2")),
            (Some("key="), value("")),
            (Some("k%65y=a%20b+c"), value("a b c")),
            (Some("key"), Argument::Unusable),
            (Some("key=1&key=1"), Argument::Unusable),
        ] {
            assert_eq!(find(query, "key"), expected, "{query:?}");
        }
    }

    #[test]
    fn a_hidden_argument_leaves_query_and_target() {
        let mut cx = Context::for_tests("GET", "/a%20b?x=1&key=s&y=%20&k%65y=t");
        hide(&mut cx, "key");
        assert_eq!(cx.request.query(), Some("x=1&y=%20"));
        assert_eq!(cx.upstream_target(), b"/a%20b?x=1&y=%20");
        assert_eq!(cx.request.target(), "/a%20b?x=1&key=s&y=%20&k%65y=t");

        let mut cx = Context::for_tests("GET", "/a?key=s");
        cx.upstream.target = Some(b"/b?key=s".to_vec());
        hide(&mut cx, "key");
        assert_eq!((cx.request.query(), cx.upstream_target()), (None, &b"/b"[..]));
    }

    proptest! {
        #[test]
        fn nothing_of_that_name_is_left(query in "[a-c%1-6=&+]{0,40}", name in "[a-c]{1,2}") {
            let kept = String::from_utf8(without(query.as_bytes(), &name)).unwrap();
            prop_assert_eq!(find(Some(&kept), &name), Argument::Missing);
            prop_assert!(kept.len() <= query.len());
        }
    }
}
