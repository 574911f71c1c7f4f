//! What every store can do. The surprise: writing tells its end by a callback, so that requests that wait for an answer to be
//! stored wait exactly until it can be found.
use crate::stored::{Record, Stored};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Something to wait for, on any thread.
pub type Wait<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A store could not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Away(String),
    #[error("the record is larger than the store takes")]
    TooLarge,
    #[error("too much is being written already")]
    Busy,
}

/// What a look-up comes to.
pub enum Look {
    Now(Option<Record>),
    Later(Wait<Result<Option<Record>, StoreError>>),
}

/// Called once, when the record can be found, or why it cannot.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What is to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    All,
    /// A resource with all its variants, for all users.
    Key(Vec<u8>),
    /// Resources whose keys begin so.
    Prefix(Vec<u8>),
    /// Answers that carry this tag.
    Tag(String),
}

/// Ends a resource's key; what follows tells users and variants apart.
pub const USER: u8 = 1;
pub const VARIANT: u8 = 0;

impl Purge {
    /// Whether a record under this key is meant. A tag is looked for in `tags`.
    pub fn hits<'a>(&self, key: &[u8], mut tags: impl Iterator<Item = &'a str>) -> bool {
        match self {
            Purge::All => true,
            Purge::Key(wanted) => key
                .strip_prefix(wanted.as_slice())
                .is_some_and(|rest| matches!(rest.first(), None | Some(&USER | &VARIANT))),
            Purge::Prefix(prefix) => key.starts_with(prefix),
            Purge::Tag(tag) => tags.any(|own| own == tag),
        }
    }
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes, where the store knows them.
    pub bytes: u64,
    pub entries: u64,
    /// Bytes that it may take; 0 where another process decides.
    pub limit: u64,
    pub evictions: u64,
}

/// A body that is written while it comes. Dropped before its end it leaves nothing behind.
pub trait Fill {
    /// False: the store gives up on it.
    fn piece(&mut self, bytes: &[u8]) -> bool;
    fn end(self: Box<Self>, done: Done);
}

/// Where records are kept.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    fn look(&self, key: &[u8]) -> Look;
    /// Replaces what is there. `keep` is in seconds from now: after it the record is of no use.
    fn put(&self, key: &[u8], record: Record, keep: u64, done: Done);
    /// Begins a record whose body is still to come, where the store does not want it in one piece. `stored` has no body.
    fn begin(&self, _key: &[u8], _stored: &Stored) -> Option<Box<dyn Fill>> {
        None
    }
    /// Removes the record under exactly this key; says whether there was one.
    fn remove(&self, key: &[u8]) -> Wait<Result<bool, StoreError>>;
    /// How many records were removed; none where the store cannot tell.
    fn purge(&self, purge: Purge) -> Wait<Result<Option<u64>, StoreError>>;
    fn usage(&self) -> Usage;
    /// Bytes of the largest record.
    fn max_record(&self) -> u64;
}

/// A ready future.
pub fn now<T: Send + 'static>(value: T) -> Wait<T> {
    Box::pin(std::future::ready(value))
}

/// The record's tags.
pub fn tags(record: &Record) -> Arc<[Box<str>]> {
    match record {
        Record::Answer(stored) => stored.tags.clone(),
        Record::Vary(_) => Arc::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::Purge;

    #[test]
    fn purges_hit_what_they_name() {
        let hits = |purge: Purge, key: &str| purge.hits(key.as_bytes(), ["t"].into_iter());
        let key = || Purge::Key(b"h/a".to_vec());
        assert!(hits(key(), "h/a") && hits(key(), "h/a\u{1}bob") && hits(key(), "h/a\u{0}v") && !hits(key(), "h/ab"));
        assert!(hits(Purge::Prefix(b"h/".to_vec()), "h/a\u{1}bob") && !hits(Purge::Prefix(b"h/b".to_vec()), "h/a"));
        assert!(hits(Purge::Tag("t".into()), "x") && !hits(Purge::Tag("u".into()), "x") && hits(Purge::All, "x"));
    }
}
