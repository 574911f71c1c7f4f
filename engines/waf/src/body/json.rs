//! JSON: every scalar is an argument named by its path, `json.user.roles.0`, and every list by its own with its length, as
//! Coraza has them.
//!
//! The surprise: nothing is built from the text. An object may name a member twice, and readers differ in which of the two they
//! take: rules see both.

use super::Body;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

pub(crate) fn read(text: &[u8], depth: usize, limit: usize) -> Result<Body, String> {
    let mut body = Body::default();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let place = Place { path: &mut "json".to_owned(), depth, limit, body: &mut body };
    let done = place.deserialize(&mut reader).and_then(|()| reader.end());
    match done {
        Ok(()) => Ok(body),
        Err(error) => Err(format!("the JSON body is malformed: {error}")),
    }
}

/// A value within the text.
struct Place<'a> {
    path: &'a mut String,
    /// Levels that may follow.
    depth: usize,
    /// Arguments at most.
    limit: usize,
    body: &'a mut Body,
}

impl Place<'_> {
    fn take<E: Error>(self, text: impl Into<Vec<u8>>) -> Result<(), E> {
        if self.body.arguments.len() >= self.limit {
            return Err(E::custom(format_args!("more than {} values", self.limit)));
        }
        self.body.arguments.push((self.path.as_bytes().to_vec(), text.into()));
        Ok(())
    }

    fn deeper<E: Error>(&self) -> Result<usize, E> {
        self.depth.checked_sub(1).ok_or_else(|| E::custom("too many levels"))
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.take(value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.take(value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.take(value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.take(value.to_string())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.take(value)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.take("")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        let Place { path, limit, body, .. } = self;
        let end = path.len();
        let mut count = 0usize;
        loop {
            path.truncate(end);
            path.push_str(&format!(".{count}"));
            let place = Place { path: &mut *path, depth, limit, body: &mut *body };
            if items.next_element_seed(place)?.is_none() {
                break;
            }
            count += 1;
        }
        path.truncate(end);
        Place { path, depth, limit, body }.take(count.to_string())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        let Place { path, limit, body, .. } = self;
        let end = path.len();
        while let Some(name) = members.next_key::<String>()? {
            path.truncate(end);
            path.push('.');
            path.push_str(&name);
            members.next_value_seed(Place { path: &mut *path, depth, limit, body: &mut *body })?;
        }
        path.truncate(end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str, depth: usize, limit: usize) -> Result<String, String> {
        let body = read(text.as_bytes(), depth, limit)?;
        let shown =
            |(n, v): &(Vec<u8>, Vec<u8>)| format!("{}={}", String::from_utf8_lossy(n), String::from_utf8_lossy(v));
        Ok(body.arguments.iter().map(shown).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn every_scalar_is_seen_a_member_named_twice_both_times() {
        let text = r#"{"a": 1, "a": "x", "l": [true, {"b": null}], "e": {}, "f": 1.5}"#;
        let seen = arguments(text, 3, 100).unwrap();
        assert_eq!(seen, "json.a=1 json.a=x json.l.0=true json.l.1.b= json.l=2 json.f=1.5");
        assert_eq!(arguments("[]", 3, 9).unwrap(), "json=0");
    }

    #[test]
    fn limits_and_mistakes_are_errors() {
        assert!(arguments("[[[1]]]", 3, 9).is_ok());
        assert!(arguments("[[[1]]]", 2, 9).unwrap_err().contains("too many levels"));
        assert!(arguments("[1,2,3]", 2, 2).unwrap_err().contains("more than 2 values"));
        assert!(arguments("{\"a\":1} x", 2, 2).unwrap_err().contains("malformed"));
        assert!(read(b"[\"\xff\"]", 2, 2).is_err());
    }
}
