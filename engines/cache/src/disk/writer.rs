//! The thread that writes: one per store, so that no request waits for a disk to write. What waits to be written is bounded;
//! beyond that answers are not stored.
use super::{PENDING, Shared, id_of, now_ms};
use crate::codec::{self, Sums};
use crate::store::{Done, Fill, StoreError, tags};
use crate::stored::{Body, Record, Stored};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often what nobody uses is looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// Bytes of a body that are passed on to the writer at a time.
const PIECE: usize = 64 * 1024;

pub(super) enum Command {
    Put { key: Box<[u8]>, record: Record, held: u64, done: Done },
    Begin { number: u64, key: Box<[u8]>, record: Record },
    Piece { number: u64, bytes: Vec<u8> },
    End { number: u64, done: Done },
    Drop { number: u64 },
}

/// The way to the thread, which ends with the last of these.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    queue: Sender<Command>,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Writer> {
        let (queue, commands) = channel();
        let own = shared.clone();
        std::thread::Builder::new().name("cache-disk".into()).spawn(move || run(&own, &commands))?;
        Ok(Writer { queue, shared })
    }

    /// `bytes` are held until they are written.
    pub(super) fn send(&self, command: Command, bytes: u64) -> Result<(), StoreError> {
        self.shared.pending.fetch_add(bytes, Ordering::Relaxed);
        self.queue.send(command).map_err(|_| StoreError::Away("the writer has ended".into()))
    }

    pub(super) fn begin(&self, key: &[u8], stored: &Stored) -> Option<FileFill> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let record = Record::Answer(Arc::new(stored.clone()));
        self.send(Command::Begin { number, key: key.into(), record }, 0).ok()?;
        Some(FileFill { writer: self.clone(), number, buffer: Vec::new(), length: 0, open: true })
    }
}

/// A body on its way to its file.
pub(super) struct FileFill {
    writer: Writer,
    number: u64,
    buffer: Vec<u8>,
    length: u64,
    open: bool,
}

impl FileFill {
    fn flush(&mut self) -> bool {
        let bytes = std::mem::take(&mut self.buffer);
        let held = bytes.len() as u64;
        if self.writer.shared.pending.load(Ordering::Relaxed) + held > PENDING {
            return false;
        }
        self.writer.send(Command::Piece { number: self.number, bytes }, held).is_ok()
    }
}

impl Fill for FileFill {
    fn piece(&mut self, bytes: &[u8]) -> bool {
        self.buffer.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
        self.length <= self.writer.shared.settings.limit / 4 && (self.buffer.len() < PIECE || self.flush())
    }
    fn end(mut self: Box<Self>, done: Done) {
        if !self.buffer.is_empty() && !self.flush() {
            return done(Err(StoreError::Busy));
        }
        self.open = false;
        let _ = self.writer.send(Command::End { number: self.number, done }, 0);
    }
}

impl Drop for FileFill {
    fn drop(&mut self) {
        if self.open {
            let _ = self.writer.send(Command::Drop { number: self.number }, 0);
        }
    }
}

/// A file that is being written.
struct Open {
    key: Box<[u8]>,
    record: Record,
    file: File,
    path: PathBuf,
    sums: Sums,
    length: u64,
}

fn run(shared: &Shared, commands: &Receiver<Command>) {
    let mut open: HashMap<u64, Open> = HashMap::new();
    let mut made = 0u64;
    loop {
        let command = match commands.recv_timeout(SWEEP) {
            Ok(command) => command,
            Err(RecvTimeoutError::Timeout) => {
                sweep(shared);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match command {
            Command::Put { key, record, held, done } => {
                made += 1;
                let written = begin(shared, key, record, made).and_then(|mut file| match copy(&mut file) {
                    Ok(()) => commit(shared, file),
                    Err(error) => {
                        discard(file);
                        Err(error)
                    }
                });
                shared.pending.fetch_sub(held, Ordering::Relaxed);
                tell(shared, written, done);
            }
            Command::Begin { number, key, record } => {
                made += 1;
                match begin(shared, key, record, made) {
                    Ok(file) => drop(open.insert(number, file)),
                    Err(error) => complain(shared, &error),
                }
            }
            Command::Piece { number, bytes } => {
                if let Some(file) = open.get_mut(&number)
                    && let Err(error) = file.write(&bytes)
                {
                    complain(shared, &error);
                    open.remove(&number).into_iter().for_each(discard);
                }
                shared.pending.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
            }
            Command::End { number, done } => match open.remove(&number) {
                Some(file) => tell(shared, commit(shared, file), done),
                None => done(Err(StoreError::Away("the file could not be written".into()))),
            },
            Command::Drop { number } => open.remove(&number).into_iter().for_each(discard),
        }
    }
    open.into_values().for_each(discard);
}

impl Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sums.add(bytes);
        self.length += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

fn begin(shared: &Shared, key: Box<[u8]>, record: Record, made: u64) -> io::Result<Open> {
    let path = shared.temporary().join(format!("{}-{made}", std::process::id()));
    let file = match File::create(&path) {
        // Somebody has cleared the folder.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(shared.temporary())?;
            File::create(&path)?
        }
        other => other?,
    };
    let head = codec::head(&key, &record);
    let mut open = Open { key, record, file, path, sums: Sums::default(), length: head.len() as u64 };
    match open.file.write_all(&head) {
        Ok(()) => Ok(open),
        Err(e) => {
            discard(open);
            Err(e)
        }
    }
}

/// Writes the body that the record has already.
fn copy(file: &mut Open) -> io::Result<()> {
    let Record::Answer(stored) = &file.record else { return Ok(()) };
    match stored.body.clone() {
        Body::Whole(bytes) => file.write(&bytes),
        Body::File(body) => (0..body.blocks()).try_for_each(|at| file.write(&body.block(at)?)),
    }
}

fn commit(shared: &Shared, mut open: Open) -> io::Result<()> {
    let footer = std::mem::take(&mut open.sums).finish();
    let length = open.length + footer.len() as u64;
    let id = id_of(&open.key);
    let target = shared.file(&id);
    let placed = (|| -> io::Result<()> {
        open.file.write_all(&footer)?;
        if shared.settings.sync {
            open.file.sync_data()?;
        }
        match std::fs::rename(&open.path, &target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(target.parent().unwrap_or(&target))?;
                std::fs::rename(&open.path, &target)
            }
            other => other,
        }
    })();
    if let Err(error) = placed {
        discard(open);
        return Err(error);
    }
    let gone = shared.index().insert(id, &open.key, &tags(&open.record), length, now_ms());
    for id in gone {
        shared.evictions.fetch_add(1, Ordering::Relaxed);
        let _ = std::fs::remove_file(shared.file(&id));
    }
    Ok(())
}

fn discard(open: Open) {
    let _ = std::fs::remove_file(open.path);
}

fn tell(shared: &Shared, written: io::Result<()>, done: Done) {
    if let Err(error) = &written {
        complain(shared, error);
    }
    done(written.map_err(|error| StoreError::Away(error.to_string())));
}

fn complain(shared: &Shared, error: &io::Error) {
    tracing::warn!(path = %shared.settings.path.display(), %error, "the cache could not be written");
}

fn sweep(shared: &Shared) {
    let since = now_ms().saturating_sub(shared.settings.inactive.as_millis() as u64);
    let unused = shared.index().unused_since(since);
    for id in unused {
        shared.remove(&id);
    }
}
