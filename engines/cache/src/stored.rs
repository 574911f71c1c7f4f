//! A stored answer: head, body, and what was known of its freshness when it came.
use crate::control::ResponseControl;
use crate::disk::FileBody;
use crate::fields::{self, Field};
use crate::vary::Vary;
use bytes::Bytes;
use std::sync::Arc;

/// What stands under a key.
#[derive(Clone, Debug)]
pub enum Record {
    Answer(Arc<Stored>),
    /// The resource has variants: the key to look at is another one.
    Vary(Arc<Vary>),
}

impl Record {
    /// Bytes that it takes in memory, roughly.
    pub fn weight(&self) -> usize {
        match self {
            Record::Answer(stored) => stored.weight(),
            Record::Vary(vary) => 64 + vary.names.iter().map(|n| n.len() + 16).sum::<usize>(),
        }
    }
}

/// When an answer was given and how long it is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// When the answer came, milliseconds since the epoch.
    pub received: u64,
    /// Milliseconds: its age when it came (RFC 9111 section 4.2.3, `corrected_initial_age`).
    pub initial_age: u64,
    /// Milliseconds of freshness from the beginning.
    pub lifetime: u64,
    /// Seconds after that in which it may be used while it is fetched anew (RFC 5861).
    pub stale_while_revalidate: u64,
    /// Seconds in which it may be used where nothing better can be had; none: nothing was said.
    pub stale_if_error: Option<u64>,
    /// Not to be used without asking, however fresh (`no-cache`).
    pub ask_always: bool,
    /// Not to be used stale (`must-revalidate` and its like).
    pub never_stale: bool,
}

impl Freshness {
    /// Milliseconds (RFC 9111 section 4.2.3, `current_age`).
    pub fn age(&self, now: u64) -> u64 {
        self.initial_age.saturating_add(now.saturating_sub(self.received))
    }
    /// Milliseconds of freshness that are left.
    pub fn left(&self, now: u64) -> u64 {
        self.lifetime.saturating_sub(self.age(now))
    }
    /// Milliseconds for which it has been stale.
    pub fn staleness(&self, now: u64) -> u64 {
        self.age(now).saturating_sub(self.lifetime)
    }
    pub fn is_fresh(&self, now: u64) -> bool {
        self.lifetime > self.age(now)
    }
    /// Seconds from now after which it is of no use to anybody, where `keep` seconds are given for asking whether it still holds.
    pub fn useful(&self, now: u64, keep: u64) -> u64 {
        let extra = self.stale_while_revalidate.max(self.stale_if_error.unwrap_or(0)).max(keep);
        (self.left(now) / 1000).saturating_add(extra).saturating_add(1)
    }
}

/// An answer as it is kept.
#[derive(Clone, Debug)]
pub struct Stored {
    pub status: u16,
    pub freshness: Freshness,
    /// End-to-end fields in order, without `Content-Length`.
    pub fields: Arc<[Field]>,
    pub body: Body,
    /// `Cache-Tag` and `Surrogate-Key` of the answer.
    pub tags: Arc<[Box<str>]>,
}

/// Where a body is.
#[derive(Clone, Debug)]
pub enum Body {
    Whole(Bytes),
    File(Arc<FileBody>),
}

impl Body {
    /// Bytes.
    pub fn len(&self) -> u64 {
        match self {
            Body::Whole(bytes) => bytes.len() as u64,
            Body::File(file) => file.len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Stored {
    pub fn etag(&self) -> Option<&[u8]> {
        fields::get(&self.fields, "etag")
    }
    pub fn last_modified(&self) -> Option<&[u8]> {
        fields::get(&self.fields, "last-modified")
    }
    /// Whether the upstream can be asked if it still holds.
    pub fn has_validator(&self) -> bool {
        self.etag().is_some() || self.last_modified().is_some()
    }
    pub fn weight(&self) -> usize {
        let fields: usize = self.fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        let tags: usize = self.tags.iter().map(|tag| tag.len() + 16).sum();
        let body = match &self.body {
            Body::Whole(bytes) => bytes.len(),
            Body::File(_) => 0,
        };
        160 + fields + tags + body
    }
    /// What its `Cache-Control` said.
    pub fn control(&self) -> ResponseControl {
        ResponseControl::parse(fields::all(&self.fields, "cache-control"))
    }

    /// The answer after a `304` with these fields (RFC 9111 section 3.2): they replace those of the same name.
    pub fn updated(&self, with: &[Field], freshness: Freshness) -> Stored {
        let kept = |name: &str| {
            fields::is_hop_by_hop(name)
                || ["content-encoding", "content-type", "content-range"]
                    .iter()
                    .any(|own| own.eq_ignore_ascii_case(name))
        };
        let new: Vec<Field> = with.iter().filter(|(name, _)| !kept(name)).cloned().collect();
        let replaced = |name: &str| new.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let mut fields: Vec<Field> = self.fields.iter().filter(|(name, _)| !replaced(name)).cloned().collect();
        fields.extend(new);
        // The age it came with belonged to the old answer.
        if !with.iter().any(|(name, _)| name.eq_ignore_ascii_case("age")) {
            fields.retain(|(name, _)| !name.eq_ignore_ascii_case("age"));
        }
        Stored { freshness, fields: fields.into(), ..self.clone() }
    }
}

/// Tags of an answer: `Cache-Tag` is split at commas, `Surrogate-Key` at white space. At most 64 of at most 256 bytes.
pub fn tags(fields: &[Field]) -> Arc<[Box<str>]> {
    let by_comma = fields::all(fields, "cache-tag").flat_map(|v| v.split(|b| *b == b','));
    let by_space = fields::all(fields, "surrogate-key").flat_map(|v| v.split(u8::is_ascii_whitespace));
    let clean = |tag: &[u8]| std::str::from_utf8(tag.trim_ascii()).ok().map(Box::<str>::from);
    by_comma.chain(by_space).filter_map(clean).filter(|t| !t.is_empty() && t.len() <= 256).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, value: &str) -> Field {
        (name.into(), value.as_bytes().into())
    }

    #[test]
    fn age_and_freshness_follow_the_clock() {
        let freshness = Freshness { received: 10_000, initial_age: 2000, lifetime: 5000, ..Freshness::default() };
        assert_eq!((freshness.age(11_000), freshness.left(11_000)), (3000, 2000));
        assert!(freshness.is_fresh(12_999) && !freshness.is_fresh(13_000));
        assert_eq!(freshness.staleness(14_000), 1000);
        assert_eq!(freshness.useful(11_000, 60), 63);
    }

    #[test]
    fn a_304_replaces_fields_but_not_what_describes_the_body() {
        let stored = Stored {
            status: 200,
            freshness: Freshness::default(),
            fields: vec![field("A", "1"), field("Content-Type", "x"), field("Age", "9"), field("B", "2")].into(),
            body: Body::Whole(Bytes::from_static(b"b")),
            tags: Arc::default(),
        };
        let new = [field("a", "7"), field("Content-Type", "y"), field("Content-Length", "0")];
        let updated = stored.updated(&new, Freshness { lifetime: 3, ..Freshness::default() });
        assert_eq!(&*updated.fields, &[field("Content-Type", "x"), field("B", "2"), field("a", "7")]);
        assert_eq!((updated.freshness.lifetime, updated.body.len()), (3, 1));
    }

    #[test]
    fn tags_come_from_two_fields() {
        let read = tags(&[field("Cache-Tag", "a, b,,"), field("surrogate-key", "c  d")]);
        assert_eq!(read.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a", "b", "c", "d"]);
    }
}
