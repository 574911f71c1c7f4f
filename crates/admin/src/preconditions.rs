//! `If-Match` and `If-None-Match: *` on writes (RFC 9110, 13.1). The surprise: the condition is checked by the store in the
//! same transaction that writes, so that nobody can come between.
use crate::message::{Reply, Request};
use sluice_store::{Committed, Expect, Key, Op, State, StoreError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The tag of an object: the revision that wrote it last.
pub(crate) fn etag(modified: u64) -> String {
    format!("\"{modified}\"")
}

enum Wanted {
    /// `If-Match`: written last by one of these revisions.
    AnyOf(Vec<u64>),
    /// `If-Match: *`
    Present,
    /// `If-None-Match: *`
    Absent,
}

/// The conditions of a call, and what became of them.
#[derive(Default)]
pub(crate) struct Conditions {
    wanted: Option<Wanted>,
    unmet: AtomicBool,
    /// The revision that the call wrote; 0: none.
    written: AtomicU64,
}

impl Conditions {
    /// Of a write to one object. `POST` has no object yet.
    pub fn of(request: &Request) -> Conditions {
        let applies = matches!(request.method.as_str(), "PUT" | "PATCH" | "DELETE");
        let wanted = applies.then(|| wanted(request)).flatten();
        Conditions { wanted, ..Conditions::default() }
    }

    /// Adds the condition to the operations; the first put or delete among them is the object's own.
    pub fn guard(&self, state: &State, ops: &mut Vec<Op>) -> Result<(), StoreError> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        let Some(key) = ops.iter().find(|op| !matches!(op, Op::Check { .. })).map(|op| op.key().clone()) else {
            return Ok(());
        };
        let current = state.get(&key).map(|entry| entry.modified);
        let expect = match (wanted, current) {
            (Wanted::AnyOf(revisions), Some(current)) if revisions.contains(&current) => Expect::Revision(current),
            (Wanted::Present, Some(_)) => Expect::Present,
            (Wanted::Absent, None) => Expect::Absent,
            _ => return Err(self.refused(key)),
        };
        // Met now: a conflict in the store is tried again, and found out here.
        self.unmet.store(false, Ordering::Relaxed);
        ops.push(Op::Check { key, expect });
        Ok(())
    }

    fn refused(&self, key: Key) -> StoreError {
        self.unmet.store(true, Ordering::Relaxed);
        StoreError::Conflict { key, reason: "does not meet the condition" }
    }

    pub fn done(&self, committed: &Committed) {
        let written = committed.written.first().map_or(0, |entry| entry.modified);
        self.written.store(written, Ordering::Relaxed);
    }

    /// The answer with the object's new tag, or the refusal.
    pub fn finish(&self, reply: Reply) -> Reply {
        if self.unmet.load(Ordering::Relaxed) {
            let message = "precondition failed: the object is not what If-Match or If-None-Match asks for";
            return Reply::error(412, message);
        }
        match self.written.load(Ordering::Relaxed) {
            written if written > 0 && reply.status < 300 => reply.with_header("ETag", etag(written)),
            _ => reply,
        }
    }
}

fn wanted(request: &Request) -> Option<Wanted> {
    if request.header("if-none-match").is_some_and(|text| text.trim() == "*") {
        return Some(Wanted::Absent);
    }
    let text = request.header("if-match")?.trim();
    if text == "*" {
        return Some(Wanted::Present);
    }
    let tags = text.split(',').map(|tag| tag.trim().trim_start_matches("W/").trim_matches('"'));
    // A tag that no object has matches none.
    Some(Wanted::AnyOf(tags.filter_map(|tag| tag.parse().ok()).collect()))
}
