//! Tests of `template`.
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::Regex;

struct Map(HashMap<String, String>);

impl Lookup for Map {
    fn variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
        self.0.get(&variable.to_string()).map(|v| Value::str(v))
    }
}

fn map() -> Map {
    Map([("you", "John"), ("me", "David"), ("a.b", "dot")].map(|(k, v)| (k.into(), v.into())).into())
}

fn render(text: &str) -> (String, usize) {
    let mut out = Vec::new();
    let n = Template::compile(text).render_into(&map(), "", &mut out);
    (String::from_utf8(out).unwrap(), n)
}

#[test]
fn resolve_var() {
    for (text, want, n) in [
        ("", "", 0),
        ("xx", "xx", 0),
        ("$me", "David", 1),
        ("tell $me to", "tell David to", 1),
        ("$eva and $me", " and David", 1),
        ("$you and \\$me", "John and \\$me", 1),
        ("${you}_${me}", "John_David", 2),
        ("${you}$me", "JohnDavid", 2),
        ("${you??}$me", "JohnDavid", 2),
        ("${she??}$me", "David", 1),
        ("${she??Rose}$me", "RoseDavid", 2),
        ("${ she   ??  Rose }$me", "RoseDavid", 2),
        ("${she ?? a b ?? c}", "a b", 1),
        ("${you ?? Rose}$he??Jack", "John??Jack", 1),
        ("$a.b $me.", "dot ", 1),
        ("$ ${} ${me", "$ ${} ${me", 0),
        ("$-$$me", "$-$David", 1),
    ] {
        assert_eq!(render(text), (want.to_owned(), n), "{text}");
    }
}

#[test]
fn parts_are_known() {
    let t = Template::compile("a ${uri} $http_x_y");
    assert_eq!(t.variables().cloned().collect::<Vec<_>>(), [Variable::Uri, Variable::Http("x-y".into())]);
    assert_eq!(t.constant(), None);
    assert_eq!(Template::compile("plain \\$x").constant(), Some("plain \\$x"));
    assert_eq!(Template::compile("").constant(), Some(""));
    assert_eq!(Template::compile("$uri").single_variable(), Some(&Variable::Uri));
    let mut out = Vec::new();
    t.render_into(&(), "-", &mut out);
    assert_eq!(out, b"a - -");
}

#[test]
fn escaper_sees_values_only() {
    let mut out = Vec::new();
    Template::compile("a&$me&${x ?? &}").render_escaped(&map(), "?", &|v, out| out.extend(v.iter().rev()), &mut out);
    assert_eq!(out, b"a&divaD&&");
}

#[test]
fn log_format() {
    let t = Template::compile_log_format(r#"$remote_addr - "${me}x" \$you $you.log ${me $ "#);
    assert_eq!(t.render(&map(), "-"), br#"- - "Davidx" \John John.log ${me $ "#);
}

#[test]
fn captures() {
    let r = Regex::new("^/(a+)/(b)?", "").unwrap();
    let mut c = Captures::default();
    assert!(r.captures_into(b"/aa/", &mut c));
    let mut out = Vec::new();
    CaptureTemplate::compile("/x$1/${1}y/$2/\\$1/$9/$a").render_into(b"/aa/", &c, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "/xaa/aay//\\$1//$a");
}

/// Character by character, without parts.
fn naive(text: &str, vars: &Map) -> String {
    let (chars, mut i, mut out) = (text.chars().collect::<Vec<_>>(), 0, String::new());
    let get = |name: &str| vars.0.get(&Variable::parse(name).to_string()).cloned().unwrap_or("?".into());
    while i < chars.len() {
        if chars[i] == '$' && (i == 0 || chars[i - 1] != '\\') && i + 1 < chars.len() {
            if chars[i + 1] == '{' {
                if let Some(len) = chars[i + 2..].iter().position(|c| *c == '}').filter(|n| *n > 0) {
                    out += &get(&chars[i + 2..i + 2 + len].iter().collect::<String>());
                    i += len + 3;
                    continue;
                }
            } else {
                let name: String = chars[i + 1..]
                    .iter()
                    .take_while(|c| c.is_ascii_alphanumeric() || **c == '_' || **c == '.')
                    .collect();
                if !name.is_empty() {
                    out += &get(&name);
                    i += 1 + name.len();
                    continue;
                }
            }
        }
        out.push(chars[i]);
        i += 1;
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn as_naive(pieces in prop::collection::vec(prop::sample::select(vec!["$", "{", "}", "\\", "me", "you", "x", ".", "é", "$me", "${you}"]), 0..12)) {
        let text = pieces.concat();
        prop_assert_eq!(String::from_utf8(Template::compile(&text).render(&map(), "?")).unwrap(), naive(&text, &map()), "{}", text);
    }
}
