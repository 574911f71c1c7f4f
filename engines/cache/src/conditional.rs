//! Conditional and range requests answered from what is stored (RFC 9110 sections 13 and 14), and the conditions by which the
//! upstream is asked whether it still holds.
use crate::fields;
use crate::stored::Stored;

/// The conditional fields of a request, where it has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    pub if_match: Option<&'a [u8]>,
    pub if_none_match: Option<&'a [u8]>,
    pub if_modified_since: Option<&'a [u8]>,
    pub if_unmodified_since: Option<&'a [u8]>,
    pub range: Option<&'a [u8]>,
    pub if_range: Option<&'a [u8]>,
}

/// What part of a stored answer the client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// First and last byte.
    Range(u64, u64),
    /// 304
    NotModified,
    /// 412
    Failed,
    /// 416
    Unsatisfiable,
}

/// Which part of a stored 200 a `GET` or `HEAD` asks for. `date` is the answer's own, in milliseconds.
pub fn part(stored: &Stored, conditions: &Conditions<'_>, get: bool) -> Part {
    if stored.status != 200 {
        return Part::Whole;
    }
    let modified = stored.last_modified().and_then(fields::date);
    if let Some(list) = conditions.if_match {
        if !matches(list, stored.etag(), true) {
            return Part::Failed;
        }
    } else if let Some(since) = conditions.if_unmodified_since.and_then(fields::date)
        && modified.is_some_and(|modified| modified > since)
    {
        return Part::Failed;
    }
    if let Some(list) = conditions.if_none_match {
        if matches(list, stored.etag(), false) {
            return Part::NotModified;
        }
    } else if let Some(since) = conditions.if_modified_since.and_then(fields::date) {
        // Without a date of its last change, when it was made is what counts (RFC 9111 section 4.3.2).
        let date = || fields::get(&stored.fields, "date").and_then(fields::date);
        if modified.or_else(date).unwrap_or(stored.freshness.received) <= since {
            return Part::NotModified;
        }
    }
    match conditions.range {
        Some(range) if get && if_range_holds(stored, conditions.if_range) => slice(range, stored.body.len()),
        _ => Part::Whole,
    }
}

fn if_range_holds(stored: &Stored, if_range: Option<&[u8]>) -> bool {
    let Some(value) = if_range.map(<[u8]>::trim_ascii) else { return true };
    if value.starts_with(b"\"") || value.starts_with(b"W/") {
        return stored.etag().is_some_and(|etag| !etag.starts_with(b"W/") && etag == value);
    }
    stored.last_modified().is_some_and(|modified| modified.trim_ascii() == value)
}

/// Whether an entity tag is in a list of them. `strong`: weak ones match nothing.
fn matches(list: &[u8], etag: Option<&[u8]>, strong: bool) -> bool {
    let list = list.trim_ascii();
    if list == b"*" {
        return true;
    }
    let Some(etag) = etag else { return false };
    let bare = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let own = bare(etag);
    let weak = etag.starts_with(b"W/");
    let mut rest = list;
    while !rest.is_empty() {
        let (tag, next) = next_tag(rest);
        rest = next;
        let fits = bare(tag) == own && !tag.is_empty();
        if fits && !(strong && (weak || tag.starts_with(b"W/"))) {
            return true;
        }
    }
    false
}

/// The first tag of a list, and what follows it. A comma inside quotes is the tag's own.
fn next_tag(list: &[u8]) -> (&[u8], &[u8]) {
    let list = list.trim_ascii_start();
    let mut quoted = false;
    let end = list.iter().position(|b| {
        if *b == b'"' {
            quoted = !quoted;
        }
        *b == b',' && !quoted
    });
    match end {
        Some(end) => (list.get(..end).unwrap_or_default().trim_ascii(), list.get(end + 1..).unwrap_or_default()),
        None => (list.trim_ascii(), &[]),
    }
}

/// One range of bytes; several, or another unit, give the whole.
pub fn slice(range: &[u8], length: u64) -> Part {
    let Ok(text) = std::str::from_utf8(range) else { return Part::Whole };
    let text = text.trim();
    let Some(spec) = text.get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes=")).and(text.get(6..)) else {
        return Part::Whole;
    };
    if spec.contains(',') {
        return Part::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::Whole };
    let number = |text: &str| -> Option<Option<u64>> {
        match text.trim() {
            "" => Some(None),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => Some(Some(digits.parse().unwrap_or(u64::MAX))),
            _ => None,
        }
    };
    match (number(first), number(last)) {
        (Some(Some(first)), Some(last)) => {
            if last.is_some_and(|last| last < first) {
                return Part::Whole;
            }
            if first >= length {
                return Part::Unsatisfiable;
            }
            Part::Range(first, last.unwrap_or(u64::MAX).min(length - 1))
        }
        (Some(None), Some(Some(suffix))) => match (suffix, length) {
            (0, _) | (_, 0) => Part::Unsatisfiable,
            _ => Part::Range(length - suffix.min(length), length - 1),
        },
        _ => Part::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::{Body, Freshness};
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn stored(list: &[(&str, &str)]) -> Stored {
        Stored {
            status: 200,
            freshness: Freshness::default(),
            fields: list.iter().map(|(n, v)| ((*n).into(), v.as_bytes().into())).collect(),
            body: Body::Whole(Bytes::from_static(b"0123456789")),
            tags: Arc::default(),
        }
    }

    #[test]
    fn tags_are_compared_as_the_field_wants() {
        let own = stored(&[("ETag", "\"a,b\"")]);
        let none = |list: &'static str| {
            part(&own, &Conditions { if_none_match: Some(list.as_bytes()), ..Conditions::default() }, true)
        };
        assert_eq!(none("\"x\", W/\"a,b\""), Part::NotModified);
        assert_eq!((none("*"), none("\"a\", \"b\"")), (Part::NotModified, Part::Whole));
        let both = Conditions { if_match: Some(b"W/\"a,b\""), ..Conditions::default() };
        assert_eq!(part(&own, &both, true), Part::Failed);
    }

    #[test]
    fn dates_count_where_there_is_no_tag() {
        let own = stored(&[("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let since = |date: &'static str| {
            part(&own, &Conditions { if_modified_since: Some(date.as_bytes()), ..Conditions::default() }, true)
        };
        assert_eq!(since("Sun, 06 Nov 1994 08:49:37 GMT"), Part::NotModified);
        assert_eq!(since("Sun, 06 Nov 1994 08:49:36 GMT"), Part::Whole);
        assert_eq!(since("yesterday"), Part::Whole);
    }

    #[test]
    fn one_range_is_cut_out() {
        let of = |range: &str| slice(range.as_bytes(), 10);
        assert_eq!(
            (of("bytes=2-4"), of("bytes=2-"), of("bytes=-3")),
            (Part::Range(2, 4), Part::Range(2, 9), Part::Range(7, 9))
        );
        assert_eq!((of("bytes=10-"), of("bytes=-0")), (Part::Unsatisfiable, Part::Unsatisfiable));
        assert_eq!((of("bytes=4-2"), of("bytes=0-1,3-4"), of("lines=1-2")), (Part::Whole, Part::Whole, Part::Whole));
    }

    #[test]
    fn if_range_guards_the_range() {
        let own = stored(&[("ETag", "\"a\"")]);
        let of = |if_range: &'static str| {
            let conditions =
                Conditions { range: Some(b"bytes=0-0"), if_range: Some(if_range.as_bytes()), ..Conditions::default() };
            part(&own, &conditions, true)
        };
        assert_eq!((of("\"a\""), of("\"b\""), of("W/\"a\"")), (Part::Range(0, 0), Part::Whole, Part::Whole));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn a_range_is_within_the_body(range in "(bytes=)?[0-9,-]{0,12}", length in 0u64..50) {
            if let Part::Range(first, last) = slice(range.as_bytes(), length) {
                prop_assert!(first <= last && last < length);
            }
        }
    }
}
