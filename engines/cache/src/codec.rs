//! How records are written on disk and into Redis and Memcached.
//!
//! ```text
//! "SLCACHE1" | head length u32 | head crc u32 | head | body | crc u32 of every 64 KiB of body | body length u64 | crc u32 of these
//! ```
//! Numbers are little-endian. The surprise: the checksums of the body stand behind it, so that it can be written while it comes,
//! and every block can be checked before it is sent.
use crate::stored::{Body, Freshness, Record, Stored};
use crate::vary::Vary;
use bytes::Bytes;
use std::sync::Arc;

pub const MAGIC: &[u8; 8] = b"SLCACHE1";
/// Bytes before the head.
pub const PREFIX: usize = 16;
/// Bytes of body under one checksum.
pub const BLOCK: usize = 64 * 1024;
/// Bytes after the checksums of the body.
pub const FOOTER: usize = 12;
/// Longest head that is believed.
pub const MAX_HEAD: usize = 4 << 20;

/// A record is damaged or cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is damaged")]
pub struct Damaged;

/// A head as read: the key it was stored under, and the record without its body.
#[derive(Debug)]
pub struct Head {
    pub key: Vec<u8>,
    pub record: Record,
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }
    fn u64(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }
    fn u8(&mut self) -> Result<u8, Damaged> {
        self.take(1)?.first().copied().ok_or(Damaged)
    }
    fn u32(&mut self) -> Result<u32, Damaged> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| Damaged)?))
    }
    fn u64(&mut self) -> Result<u64, Damaged> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Damaged)?))
    }
    fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let n = self.u32()?;
        self.take(n as usize)
    }
    fn text(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damaged)
    }
}

/// What comes before the body: magic, lengths and the head.
pub fn head(key: &[u8], record: &Record) -> Vec<u8> {
    let mut w = Writer::default();
    w.bytes(key);
    match record {
        Record::Vary(vary) => {
            w.0.push(2);
            w.u64(vary.generation);
            w.u32(vary.names.len() as u32);
            vary.names.iter().for_each(|name| w.bytes(name.as_bytes()));
        }
        Record::Answer(stored) => {
            let f = &stored.freshness;
            w.0.push(1);
            w.u32(u32::from(stored.status));
            for n in
                [f.received, f.initial_age, f.lifetime, f.stale_while_revalidate, f.stale_if_error.unwrap_or(u64::MAX)]
            {
                w.u64(n);
            }
            w.0.push(u8::from(f.ask_always) | u8::from(f.never_stale) << 1);
            w.u32(stored.fields.len() as u32);
            for (name, value) in stored.fields.iter() {
                w.bytes(name.as_bytes());
                w.bytes(value);
            }
            w.u32(stored.tags.len() as u32);
            stored.tags.iter().for_each(|tag| w.bytes(tag.as_bytes()));
        }
    }
    let head = w.0;
    let mut out = Vec::with_capacity(PREFIX + head.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    out.extend_from_slice(&head);
    out
}

/// Length and checksum of the head, from the first [`PREFIX`] bytes.
pub fn prefix(bytes: &[u8]) -> Result<(usize, u32), Damaged> {
    let mut r = Reader(bytes);
    if r.take(8)? != MAGIC {
        return Err(Damaged);
    }
    let (length, crc) = (r.u32()? as usize, r.u32()?);
    if length > MAX_HEAD { Err(Damaged) } else { Ok((length, crc)) }
}

/// Reads a head; the record's body is empty.
pub fn read_head(bytes: &[u8], crc: u32) -> Result<Head, Damaged> {
    if crc32fast::hash(bytes) != crc {
        return Err(Damaged);
    }
    let mut r = Reader(bytes);
    let key = r.bytes()?.to_vec();
    let record = match r.u8()? {
        2 => {
            let generation = r.u64()?;
            let count = r.u32()?;
            let names = (0..count.min(64)).map(|_| r.text().map(Arc::from)).collect::<Result<_, _>>()?;
            Record::Vary(Arc::new(Vary { names, generation }))
        }
        1 => {
            let status = u16::try_from(r.u32()?).map_err(|_| Damaged)?;
            let (received, initial_age, lifetime, swr, sie) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?, r.u64()?);
            let flags = r.u8()?;
            let mut fields = Vec::new();
            for _ in 0..r.u32()? {
                let name = r.text()?;
                fields.push((name.into(), r.bytes()?.into()));
            }
            let mut tags = Vec::new();
            for _ in 0..r.u32()? {
                tags.push(r.text()?.into());
            }
            let freshness = Freshness {
                received,
                initial_age,
                lifetime,
                stale_while_revalidate: swr,
                stale_if_error: (sie != u64::MAX).then_some(sie),
                ask_always: flags & 1 != 0,
                never_stale: flags & 2 != 0,
            };
            let body = Body::Whole(Bytes::new());
            Record::Answer(Arc::new(Stored { status, freshness, fields: fields.into(), body, tags: tags.into() }))
        }
        _ => return Err(Damaged),
    };
    if r.0.is_empty() { Ok(Head { key, record }) } else { Err(Damaged) }
}

/// Checksums of a body that comes in pieces.
#[derive(Default)]
pub struct Sums {
    sums: Vec<u8>,
    block: crc32fast::Hasher,
    filled: usize,
    length: u64,
}

impl Sums {
    pub fn add(&mut self, mut piece: &[u8]) {
        self.length += piece.len() as u64;
        while !piece.is_empty() {
            let (now, rest) = piece.split_at((BLOCK - self.filled).min(piece.len()));
            self.block.update(now);
            self.filled += now.len();
            piece = rest;
            if self.filled == BLOCK {
                self.close();
            }
        }
    }
    fn close(&mut self) {
        let block = std::mem::take(&mut self.block);
        self.sums.extend_from_slice(&block.finalize().to_le_bytes());
        self.filled = 0;
    }
    /// What stands after the body.
    pub fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.close();
        }
        self.sums.extend_from_slice(&self.length.to_le_bytes());
        let crc = crc32fast::hash(&self.sums);
        self.sums.extend_from_slice(&crc.to_le_bytes());
        self.sums
    }
}

/// Number of checksums of a body.
pub fn blocks(length: u64) -> u64 {
    length.div_ceil(BLOCK as u64)
}

/// A whole record in one piece; none where its body is in a file.
pub fn encode(key: &[u8], record: &Record) -> Option<Vec<u8>> {
    let mut out = head(key, record);
    let mut sums = Sums::default();
    if let Record::Answer(stored) = record {
        let Body::Whole(body) = &stored.body else { return None };
        out.extend_from_slice(body);
        sums.add(body);
    }
    out.extend_from_slice(&sums.finish());
    Some(out)
}

/// Reads what [`encode`] has made, and checks all of it.
pub fn decode(bytes: &Bytes) -> Result<Head, Damaged> {
    let (length, crc) = prefix(bytes.get(..PREFIX).ok_or(Damaged)?)?;
    let mut head = read_head(bytes.get(PREFIX..PREFIX + length).ok_or(Damaged)?, crc)?;
    let start = PREFIX + length;
    let end = bytes.len().checked_sub(FOOTER).ok_or(Damaged)?;
    let body_length = usize::try_from(Reader(bytes.get(end..).ok_or(Damaged)?).u64()?).map_err(|_| Damaged)?;
    let body_end = start.checked_add(body_length).ok_or(Damaged)?;
    let body = bytes.get(start..body_end).ok_or(Damaged)?;
    let mut sums = Sums::default();
    sums.add(body);
    if bytes.get(body_end..) != Some(&sums.finish()[..]) {
        return Err(Damaged);
    }
    if let Record::Answer(stored) = &mut head.record {
        let body = Body::Whole(bytes.slice(start..body_end));
        *stored = Arc::new(Stored { body, ..Stored::clone(stored) });
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(body: Vec<u8>) -> Record {
        let fields = vec![("A".into(), b"1".as_slice().into()), ("B".into(), b"".as_slice().into())];
        Record::Answer(Arc::new(Stored {
            status: 200,
            freshness: Freshness { received: 5, stale_if_error: Some(0), never_stale: true, ..Freshness::default() },
            fields: fields.into(),
            body: Body::Whole(body.into()),
            tags: vec!["t".into()].into(),
        }))
    }

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, BLOCK, BLOCK + 1] {
            let bytes = Bytes::from(encode(b"key", &record(vec![7; length])).unwrap());
            let head = decode(&bytes).unwrap();
            assert_eq!(head.key, b"key");
            let Record::Answer(read) = head.record else { panic!("an answer") };
            assert_eq!((read.body.len(), read.status, read.tags.len()), (length as u64, 200, 1));
            assert!(read.freshness.never_stale && read.freshness.stale_if_error == Some(0));
            assert_eq!(crate::fields::get(&read.fields, "a"), Some(&b"1"[..]));
        }
        let vary = Vary { names: vec!["x".into()], generation: 9 };
        let bytes = Bytes::from(encode(b"k", &Record::Vary(Arc::new(vary.clone()))).unwrap());
        assert!(matches!(decode(&bytes).unwrap().record, Record::Vary(read) if *read == vary));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn damage_is_seen(at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
            let bytes = encode(b"key", &record(b"hello world".to_vec())).unwrap();
            let mut flipped = bytes.clone();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(decode(&Bytes::from(flipped)).is_err());
            prop_assert!(decode(&Bytes::from(bytes[..cut.index(bytes.len())].to_vec())).is_err());
        }
    }
}
