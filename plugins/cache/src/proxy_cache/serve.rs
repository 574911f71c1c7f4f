//! A stored answer as a reply: whole, a part of it, or that the client has it already.
use super::{Cache, Told};
use sluice_engine_cache::codec::BLOCK;
use sluice_engine_cache::conditional::{Conditions, Part, part};
use sluice_engine_cache::disk::FileBody;
use sluice_engine_cache::{Body, Status, Stored};
use sluice_http::Method;
use sluice_plugin::answer_tap::Piece;
use sluice_plugin::reply::ReplyBody;
use sluice_plugin::{BodySource, Context, Reply};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Cache {
    /// Answers from what is stored; counts it.
    pub(super) fn reply(&self, cx: &mut Context, stored: &Stored, status: Status, now: u64) -> Reply {
        let headers = &cx.request.headers;
        // One look at all fields spares most requests six.
        let begins = |name: &[u8]| matches!(name.first(), Some(b'i' | b'I' | b'r' | b'R'));
        if !headers.iter().any(|(name, _)| begins(name)) {
            return self.part(cx, stored, Part::Whole, status, now);
        }
        let conditions = Conditions {
            if_match: headers.get("if-match"),
            if_none_match: headers.get("if-none-match"),
            if_modified_since: headers.get("if-modified-since"),
            if_unmodified_since: headers.get("if-unmodified-since"),
            range: headers.get("range"),
            if_range: headers.get("if-range"),
        };
        let is_get = cx.request.method == Method::Get && !cx.client_sent_head();
        let part = part(stored, &conditions, is_get);
        self.part(cx, stored, part, status, now)
    }

    /// The same for a part that is decided already.
    pub(super) fn part(&self, cx: &mut Context, stored: &Stored, part: Part, status: Status, now: u64) -> Reply {
        self.zone.counts.count(status);
        cx.insert(Told { status, hide: self.hide });
        let mut age = itoa::Buffer::new();
        let age = age.format(stored.freshness.age(now) / 1000);
        let base = Reply {
            status: stored.status,
            shared: Some(stored.fields.clone()),
            headers: vec![("Age".into(), age.into())],
            body: ReplyBody::Bytes(Vec::new()),
        };
        let length = stored.body.len();
        match part {
            Part::Whole => {
                self.zone.counts.served_bytes.fetch_add(length, Ordering::Relaxed);
                let body = match &stored.body {
                    Body::Whole(bytes) => ReplyBody::Shared(bytes.clone()),
                    Body::File(file) => stream(cx, file, 0, length),
                };
                Reply { body, ..base }
            }
            Part::Range(first, last) => {
                let count = last + 1 - first;
                self.zone.counts.served_bytes.fetch_add(count, Ordering::Relaxed);
                let body = match &stored.body {
                    Body::Whole(bytes) => ReplyBody::Shared(bytes.slice(first as usize..last as usize + 1)),
                    Body::File(file) => stream(cx, file, first, count),
                };
                let reply = Reply { status: 206, body, ..base };
                reply.header("Content-Range", format!("bytes {first}-{last}/{length}"))
            }
            Part::NotModified => Reply { status: 304, ..base },
            Part::Failed => Reply::status(412),
            Part::Unsatisfiable => Reply::status(416).header("Content-Range", format!("bytes */{length}")),
        }
    }
}

fn stream(cx: &mut Context, file: &Arc<FileBody>, first: u64, count: u64) -> ReplyBody {
    cx.body_source = Some(Box::new(FromFile { file: file.clone(), at: first, left: count }));
    ReplyBody::Streamed(count)
}

/// A body, or a part of it, from its file.
struct FromFile {
    file: Arc<FileBody>,
    at: u64,
    left: u64,
}

impl BodySource for FromFile {
    fn next(&mut self) -> Piece<'_> {
        Box::pin(async move {
            if self.left == 0 {
                return Ok(None);
            }
            let (file, block) = (self.file.clone(), (self.at / BLOCK as u64) as usize);
            let bytes = tokio::task::spawn_blocking(move || file.block(block)).await??;
            let from = (self.at % BLOCK as u64) as usize;
            let to = bytes.len().min(from.saturating_add(usize::try_from(self.left).unwrap_or(usize::MAX)));
            let piece = bytes.slice(from.min(to)..to);
            self.at += piece.len() as u64;
            self.left -= piece.len() as u64;
            Ok(Some(piece))
        })
    }
}
