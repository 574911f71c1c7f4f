//! Cells: process-wide numbered 64-bit numbers, one copy per worker shard, plus a shared copy for other threads.
//!
//! A cell holds a wrapping `u64`, or the bits of an `f64`; its owner knows which. The surprise: a freed cell is never
//! zeroed, since only its shard's thread may write it; the next owner subtracts what it found (see `series.rs`).
use std::cell::Cell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

const CHUNK_BITS: u32 = 12;
/// Cells per chunk (32 KiB); a block of cells never crosses a chunk.
pub(super) const CHUNK: usize = 1 << CHUNK_BITS;
/// 16.7 million cells in all. When they are used up, new series fold into the sink.
const CHUNKS: usize = 4096;
/// Cell 0 starts a block that swallows updates of series that could not be created.
pub(super) const SINK: u32 = 0;

type Chunk = [AtomicU64; CHUNK];

pub(super) struct Shard {
    chunks: Box<[OnceLock<Box<Chunk>>]>,
}

impl Shard {
    fn new() -> Shard {
        Shard { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }

    #[inline]
    fn cell(&self, index: u32) -> Option<&AtomicU64> {
        let slot = self.chunks.get((index >> CHUNK_BITS) as usize)?;
        let chunk = match slot.get() {
            Some(chunk) => chunk,
            None => new_chunk(slot),
        };
        chunk.get(index as usize & (CHUNK - 1))
    }

    /// The value without creating the chunk.
    fn peek(&self, index: u32) -> u64 {
        let chunk = self.chunks.get((index >> CHUNK_BITS) as usize).and_then(OnceLock::get);
        chunk.and_then(|chunk| chunk.get(index as usize & (CHUNK - 1))).map_or(0, |cell| cell.load(Relaxed))
    }
}

#[cold]
fn new_chunk(slot: &OnceLock<Box<Chunk>>) -> &Chunk {
    slot.get_or_init(|| {
        let cells: Box<[AtomicU64]> = (0..CHUNK).map(|_| AtomicU64::new(0)).collect();
        // The length is CHUNK by construction; the array form only spares the bounds check.
        cells.try_into().unwrap_or_else(|_| Box::new([const { AtomicU64::new(0) }; CHUNK]))
    })
}

#[derive(Default)]
struct Shards {
    /// Never shrinks: bounded by the largest number of workers alive at once.
    all: Vec<&'static Shard>,
    free: Vec<&'static Shard>,
}

static SHARDS: Mutex<Shards> = Mutex::new(Shards { all: Vec::new(), free: Vec::new() });

fn shared() -> &'static Shard {
    static SHARED: OnceLock<Shard> = OnceLock::new();
    SHARED.get_or_init(Shard::new)
}

thread_local! {
    static OWN: Cell<Option<&'static Shard>> = const { Cell::new(None) };
}

/// The calling thread's right to its own shard; give it back by dropping it on the same thread.
pub struct WorkerShard {
    shard: Option<&'static Shard>,
    _this_thread: PhantomData<*const ()>,
}

/// Gives the calling thread its own shard, so that its updates cost no atomic operation. Call once when a worker starts
/// and keep the guard while it runs. A second call on the same thread changes nothing. The shard's counts outlive the
/// worker and a later worker goes on with them.
#[must_use = "the shard is given back when the guard is dropped"]
pub fn register_worker() -> WorkerShard {
    if OWN.get().is_some() {
        return WorkerShard { shard: None, _this_thread: PhantomData };
    }
    let mut shards = SHARDS.lock().unwrap_or_else(PoisonError::into_inner);
    let shard = shards.free.pop().unwrap_or_else(|| {
        let shard: &'static Shard = Box::leak(Box::new(Shard::new()));
        shards.all.push(shard);
        shard
    });
    OWN.set(Some(shard));
    WorkerShard { shard: Some(shard), _this_thread: PhantomData }
}

impl Drop for WorkerShard {
    fn drop(&mut self) {
        if let Some(shard) = self.shard {
            OWN.set(None);
            SHARDS.lock().unwrap_or_else(PoisonError::into_inner).free.push(shard);
        }
    }
}

/// Adds `n` (wrapping; two's complement for negative numbers).
#[inline]
pub(super) fn add(index: u32, n: u64) {
    match OWN.get() {
        Some(shard) => {
            if let Some(cell) = shard.cell(index) {
                cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
            }
        }
        None => add_shared(index, n),
    }
}

#[cold]
fn add_shared(index: u32, n: u64) {
    if let Some(cell) = shared().cell(index) {
        cell.fetch_add(n, Relaxed);
    }
}

/// Adds to a cell that holds an `f64`.
#[inline]
pub(super) fn add_float(index: u32, value: f64) {
    match OWN.get() {
        Some(shard) => {
            if let Some(cell) = shard.cell(index) {
                cell.store((f64::from_bits(cell.load(Relaxed)) + value).to_bits(), Relaxed);
            }
        }
        None => {
            if let Some(cell) = shared().cell(index) {
                let sum = |bits| Some((f64::from_bits(bits) + value).to_bits());
                // The closure never refuses, so there is no error to handle.
                let _ = cell.fetch_update(Relaxed, Relaxed, sum);
            }
        }
    }
}

/// All shards at one time, for a reader that sums many cells.
pub(super) struct Reader {
    shards: Vec<&'static Shard>,
}

impl Reader {
    pub(super) fn new() -> Reader {
        let mut shards = SHARDS.lock().unwrap_or_else(PoisonError::into_inner).all.clone();
        shards.push(shared());
        Reader { shards }
    }
    pub(super) fn sum(&self, index: u32) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.wrapping_add(shard.peek(index)))
    }
    pub(super) fn sum_float(&self, index: u32) -> f64 {
        self.shards.iter().map(|shard| f64::from_bits(shard.peek(index))).sum()
    }
}

/// Which cells are in use.
struct Allocator {
    next: usize,
    /// Free blocks by length. A length always holds the same kinds of cells.
    free: HashMap<usize, Vec<u32>>,
}

static ALLOCATOR: OnceLock<Mutex<Allocator>> = OnceLock::new();

fn allocator() -> &'static Mutex<Allocator> {
    // The first chunk's head is the sink.
    ALLOCATOR.get_or_init(|| Mutex::new(Allocator { next: CHUNK, free: HashMap::new() }))
}

/// Reserves `length` (≤ [`CHUNK`]) neighbouring cells; `None` when the cells are used up. `true` when used before.
pub(super) fn allocate(length: usize) -> Option<(u32, bool)> {
    let mut allocator = allocator().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(first) = allocator.free.get_mut(&length).and_then(Vec::pop) {
        return Some((first, true));
    }
    let mut first = allocator.next;
    if first / CHUNK != (first + length.max(1) - 1) / CHUNK {
        first = first.next_multiple_of(CHUNK);
    }
    if length > CHUNK || first + length > CHUNK * CHUNKS {
        return None;
    }
    allocator.next = first + length;
    u32::try_from(first).ok().map(|first| (first, false))
}

/// Gives a block back. Nobody may write to it any more.
pub(super) fn release(first: u32, length: usize) {
    if first != SINK {
        let mut allocator = allocator().lock().unwrap_or_else(PoisonError::into_inner);
        allocator.free.entry(length).or_default().push(first);
    }
}
