//! Reading a record's file, and checking it.
use super::index::Id;
use super::{FileBody, Shared, WHOLE};
use crate::codec::{self, Damaged, FOOTER, Head, PREFIX};
use crate::stored::{Body, Record, Stored};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// Bytes of the first read: most files whole.
const FIRST: usize = 16 * 1024;

enum Trouble {
    Missing,
    Damaged,
}

impl From<io::Error> for Trouble {
    fn from(_: io::Error) -> Trouble {
        Trouble::Damaged
    }
}

impl From<Damaged> for Trouble {
    fn from(_: Damaged) -> Trouble {
        Trouble::Damaged
    }
}

/// The record of a key, if there is one that is whole. Waits for the disk.
pub(super) fn record(shared: &Shared, id: &Id, key: &[u8]) -> Option<Record> {
    match read(&shared.file(id)) {
        // Another key with the same sum.
        Ok(head) if head.key != key => None,
        Ok(head) => Some(head.record),
        Err(Trouble::Missing) => {
            // A file that somebody has removed is no loss but for the index.
            if shared.index().contains(id) && !shared.file(id).exists() {
                shared.index().remove(id);
            }
            None
        }
        Err(Trouble::Damaged) => {
            shared.damaged(id);
            None
        }
    }
}

/// Opens a file and reads its head; gives the file, the head and where the body begins.
pub(super) fn head(path: &Path) -> Option<(File, Head, u64, u64)> {
    open(path).ok().map(|(file, _, head, start, length)| (file, head, start, length))
}

#[allow(clippy::type_complexity, reason = "the parts of one thing that both callers take apart")]
fn open(path: &Path) -> Result<(File, Vec<u8>, Head, u64, u64), Trouble> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Trouble::Missing),
        Err(e) => return Err(e.into()),
    };
    let length = file.metadata()?.len();
    let mut first = vec![0; FIRST.min(usize::try_from(length).unwrap_or(FIRST))];
    file.read_exact_at(&mut first, 0)?;
    let (head_length, crc) = codec::prefix(first.get(..PREFIX).ok_or(Trouble::Damaged)?)?;
    let head = match first.get(PREFIX..PREFIX + head_length) {
        Some(bytes) => codec::read_head(bytes, crc)?,
        None => {
            let mut bytes = vec![0; head_length];
            file.read_exact_at(&mut bytes, PREFIX as u64)?;
            codec::read_head(&bytes, crc)?
        }
    };
    Ok((file, first, head, (PREFIX + head_length) as u64, length))
}

fn read(path: &Path) -> Result<Head, Trouble> {
    let (file, first, mut head, start, length) = open(path)?;
    if first.len() as u64 == length {
        return Ok(codec::decode(&first.into())?);
    }
    let Record::Answer(stored) = &mut head.record else { return Err(Trouble::Damaged) };
    let body = body(file, start, length)?;
    let body = if body.len() <= WHOLE { Body::Whole(body.read()?) } else { Body::File(Arc::new(body)) };
    *stored = Arc::new(Stored { body, ..Stored::clone(stored) });
    Ok(head)
}

/// The body of a file whose head is good, its checksums checked but not yet its bytes.
fn body(file: File, start: u64, length: u64) -> Result<FileBody, Trouble> {
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, length.checked_sub(FOOTER as u64).ok_or(Trouble::Damaged)?)?;
    let (body_length, crc) = footer.split_at(8);
    let body_length = u64::from_le_bytes(body_length.try_into().map_err(|_| Trouble::Damaged)?);
    let crc = u32::from_le_bytes(crc.try_into().map_err(|_| Trouble::Damaged)?);
    let sums_length = codec::blocks(body_length).checked_mul(4).ok_or(Trouble::Damaged)?;
    let whole = start.checked_add(body_length).and_then(|n| n.checked_add(sums_length + FOOTER as u64));
    if whole != Some(length) {
        return Err(Trouble::Damaged);
    }
    // The length is part of what the last checksum covers.
    let mut sums = vec![0; sums_length as usize + 8];
    file.read_exact_at(&mut sums, start + body_length)?;
    if crc32fast::hash(&sums) != crc {
        return Err(Trouble::Damaged);
    }
    let sums = sums.get(..sums_length as usize).unwrap_or_default().chunks_exact(4);
    let sums = sums.map(|c| c.try_into().map_or(0, u32::from_le_bytes)).collect();
    Ok(FileBody { file, start, length: body_length, sums })
}
