//! Compares what came with what was wanted. Every difference is reported, not only the first.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::format::{Expect, UpstreamExpect, Want};
use crate::upstream::Seen;
use crate::wire::Answer;

/// The differences between an answer and the expectation; `turn` counts repetitions from 0.
pub fn answer(want: &Expect, got: &Answer, turn: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let status = want.statuses.as_ref().and_then(|all| all.get(turn)).copied().or(want.status);
    if let Some(status) = status
        && status != got.status
    {
        wrong.push(format!("status: want {status}, got {}", got.status));
    }
    headers(&want.headers, &got.headers, &mut wrong);
    let text = got.text();
    if let Some(body) = &want.body
        && *body != text
    {
        wrong.push(format!("body: want {body:?}, got {text:?}"));
    }
    if let Some(pattern) = &want.body_matches {
        matches("body", pattern, &text, &mut wrong);
    }
    if let Some(value) = &want.body_json {
        match serde_json::from_slice::<Value>(&got.body) {
            Ok(body) => contains("body", value, &body, &mut wrong),
            Err(e) => wrong.push(format!("body: want JSON, got {text:?} ({e})")),
        }
    }
    wrong
}

/// The differences between what an upstream saw in a step and the expectation.
pub fn upstream(want: &UpstreamExpect, got: &[Seen]) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(count) = want.saw
        && count != got.len()
    {
        wrong.push(format!("upstream {}: want {count} requests, saw {}", want.name, got.len()));
    }
    let asked = want.method.is_some() || want.path.is_some() || !want.headers.is_empty() || want.body.is_some();
    if asked && got.is_empty() {
        wrong.push(format!("upstream {}: saw no request to look at", want.name));
    }
    for seen in got {
        let mut here = Vec::new();
        if let Some(method) = &want.method
            && *method != seen.method
        {
            here.push(format!("method: want {method}, got {}", seen.method));
        }
        if let Some(path) = &want.path
            && *path != seen.target
        {
            here.push(format!("path: want {path:?}, got {:?}", seen.target));
        }
        if let Some(body) = &want.body
            && body.as_bytes() != seen.body
        {
            here.push(format!("body: want {body:?}, got {:?}", String::from_utf8_lossy(&seen.body)));
        }
        headers(&want.headers, &seen.headers, &mut here);
        wrong.extend(here.into_iter().map(|w| format!("upstream {}: {w}", want.name)));
    }
    wrong
}

fn headers(want: &BTreeMap<String, Want>, got: &[(String, String)], wrong: &mut Vec<String>) {
    for (name, want) in want {
        let all: Vec<&str> =
            got.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect();
        let label = format!("header {name}");
        match want {
            Want::Text(text) => equal(&label, &[text.as_str()], &all, wrong),
            Want::Number(number) => equal(&label, &[number.to_string().as_str()], &all, wrong),
            Want::List(list) => equal(&label, &list.iter().map(String::as_str).collect::<Vec<_>>(), &all, wrong),
            Want::Rule(rule) => match (&rule.matches, rule.absent, all.as_slice()) {
                (_, true, []) => {}
                (_, true, _) => wrong.push(format!("{label}: want none, got {all:?}")),
                (Some(pattern), _, [one]) => matches(&label, pattern, one, wrong),
                (Some(pattern), ..) => wrong.push(format!("{label}: want one matching {pattern:?}, got {all:?}")),
                (None, false, _) => wrong.push(format!("{label}: the rule says neither `matches` nor `absent`")),
            },
        }
    }
}

fn equal(label: &str, want: &[&str], got: &[&str], wrong: &mut Vec<String>) {
    if want != got {
        wrong.push(format!("{label}: want {want:?}, got {got:?}"));
    }
}

fn matches(label: &str, pattern: &str, text: &str, wrong: &mut Vec<String>) {
    match Regex::new(pattern) {
        Ok(regex) if regex.is_match(text) => {}
        Ok(_) => wrong.push(format!("{label}: want a match of {pattern:?}, got {text:?}")),
        Err(e) => wrong.push(format!("{label}: bad pattern: {e}")),
    }
}

/// Objects: every wanted key; everything else: equal.
fn contains(path: &str, want: &Value, got: &Value, wrong: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            for (key, value) in want {
                match got.get(key) {
                    Some(there) => contains(&format!("{path}.{key}"), value, there, wrong),
                    None => wrong.push(format!("{path}.{key}: want {value}, got nothing")),
                }
            }
        }
        _ if want == got => {}
        _ => wrong.push(format!("{path}: want {want}, got {got}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(yaml: &str) -> Expect {
        serde_saphyr::from_str(yaml).unwrap()
    }

    fn got() -> Answer {
        Answer {
            status: 200,
            headers: vec![
                ("X-A".into(), "1".into()),
                ("Set-Cookie".into(), "a=b".into()),
                ("set-cookie".into(), "c=d".into()),
            ],
            body: br#"{"a": {"b": 1, "c": 2}, "d": [1, 2]}"#.to_vec(),
            ..Answer::default()
        }
    }

    #[test]
    fn an_answer_as_wanted_has_no_differences() {
        let want = expect(
            "status: 200\nheaders: {x-a: 1, set-cookie: [a=b, c=d], x-b: {absent: true}}\nbody_json: {a: {b: 1}, d: [1, 2]}\nbody_matches: '\"b\": \\d'",
        );
        assert_eq!(answer(&want, &got(), 0), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_named() {
        let want = expect(
            "statuses: [200, 503]\nheaders: {x-a: {matches: '^2$'}, set-cookie: {absent: true}, x-b: why}\nbody_json: {a: {b: 2, z: 0}, d: [1]}\nbody: hello",
        );
        let wrong = answer(&want, &got(), 1);
        for part in [
            "want 503, got 200",
            "x-a",
            "set-cookie: want none",
            "x-b",
            "body: want \"hello\"",
            "body.a.b",
            "body.a.z",
            "body.d",
        ] {
            assert!(wrong.iter().any(|w| w.contains(part)), "{part} is missing in {wrong:#?}");
        }
        assert_eq!(wrong.len(), 8);
    }

    #[test]
    fn a_misspelt_expectation_is_an_error() {
        assert!(serde_saphyr::from_str::<Expect>("stauts: 200").is_err());
    }
}
