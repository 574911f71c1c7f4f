//! A body in a file, read block by block. The file stays readable when it is replaced or removed meanwhile.
use crate::codec::BLOCK;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// See the file's head.
#[derive(Debug)]
pub struct FileBody {
    pub(super) file: File,
    /// Where it begins.
    pub(super) start: u64,
    pub(super) length: u64,
    /// One per block.
    pub(super) sums: Box<[u32]>,
}

impl FileBody {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.length
    }
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.sums.len()
    }
    /// The bytes of a block that is whole and undamaged. Waits for the disk.
    pub fn block(&self, at: usize) -> io::Result<Bytes> {
        let begin = at as u64 * BLOCK as u64;
        let length = self.length.saturating_sub(begin).min(BLOCK as u64) as usize;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, self.start + begin)?;
        if self.sums.get(at) != Some(&crc32fast::hash(&bytes)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a damaged block"));
        }
        Ok(bytes.into())
    }
    /// The whole. Waits for the disk.
    pub fn read(&self) -> io::Result<Bytes> {
        let mut all = Vec::with_capacity(self.length as usize);
        for at in 0..self.blocks() {
            all.extend_from_slice(&self.block(at)?);
        }
        Ok(all.into())
    }
}
