//! A file that many threads append lines to without waiting for it. The surprise: no signal is needed after log rotation.
//! The writer looks before each write whether its path still leads to the file it has open, and opens it anew if not.
//!
//! What it guarantees: [`LineFile::push`] never waits for the file. Lines of one thread keep their order, and a line is never
//! split or mixed with another. At most `max_pending` bytes wait, and what waits counts against the memory of all loggers
//! ([`crate::batch`]: the newest lines of who holds most go when others need room); further lines are dropped and counted.
use crate::batch::budget::{Holder, Room, Share};
use crate::{Account, Draining};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that may wait for a file unless the owner says otherwise.
pub const DEFAULT_MAX_PENDING: usize = 16 * 1024 * 1024;

/// What became of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineFileStats {
    pub written: u64,
    /// Came while too much was waiting.
    pub dropped: u64,
    /// The file could not be opened or written.
    pub failed: u64,
}

/// Lines on their way into one file; the last owner's going ends the writer thread once all is written.
pub struct LineFile {
    state: Arc<State>,
    max_pending: usize,
}

#[derive(Default)]
struct State {
    share: Option<Share>,
    queue: Mutex<Queue>,
    more: Condvar,
    /// What was waiting is written.
    idle: Condvar,
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The lines in `bytes`, by their lengths.
    lines: Vec<usize>,
    writing: bool,
    closed: bool,
}

impl Queue {
    /// Moves the first lines into an empty buffer, `most` bytes or one line.
    fn take(&mut self, bytes: &mut Vec<u8>, lines: &mut Vec<usize>, most: usize) {
        std::mem::swap(&mut self.bytes, bytes);
        std::mem::swap(&mut self.lines, lines);
        if bytes.len() <= most {
            return;
        }
        let (mut count, mut length) = (0, 0);
        for line in lines.iter() {
            if count > 0 && length + line > most {
                break;
            }
            (count, length) = (count + 1, length + line);
        }
        self.bytes.extend_from_slice(bytes.get(length..).unwrap_or_default());
        bytes.truncate(length);
        self.lines.extend(lines.drain(count..));
    }
}

/// What is on its way into the file cannot give way.
fn most(share: &Share) -> usize {
    usize::try_from(share.flight().bytes).unwrap_or(usize::MAX)
}

impl State {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Draining for State {
    /// Lines may still come; the writer is always at work.
    fn close(&self) {}
    fn left(&self) -> u64 {
        let queue = self.queue();
        queue.lines.len() as u64 + u64::from(queue.writing)
    }
}

impl Holder for State {
    fn share(&self) -> Option<&Share> {
        self.share.as_ref()
    }
    fn give_way(&self, wanted: Room) {
        let Some(share) = &self.share else { return };
        let mut queue = self.queue();
        let before = queue.bytes.len();
        let mut room = Room::default();
        while !room.covers(wanted) {
            let Some(length) = queue.lines.pop() else { break };
            room.entries += 1;
            room.bytes += length as u64;
        }
        queue.bytes.truncate(before.saturating_sub(room.bytes as usize));
        drop(queue);
        self.dropped.fetch_add(room.entries, Relaxed);
        share.gave_way(room);
    }
}

impl LineFile {
    /// Starts the writer of `path`. The file is opened with the first line, and made if it does not exist.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(path: PathBuf, max_pending: usize, account: Option<Arc<Account>>) -> io::Result<LineFile> {
        let state = Arc::new(State { share: account.map(Share::new), ..State::default() });
        if let Some(share) = &state.share {
            let holder: Arc<dyn Holder> = state.clone();
            share.join(Arc::downgrade(&holder));
        }
        let writer = Writer { path, file: None, state: state.clone(), failing: false };
        std::thread::Builder::new().name("line-file".into()).stack_size(128 * 1024).spawn(move || writer.run())?;
        Ok(LineFile { state, max_pending })
    }

    /// Hands over a line; the line feed is added. Never waits for the file.
    pub fn push(&self, line: &[u8]) {
        let share = self.state.share.as_ref();
        if share.is_some_and(|share| !share.admit(line.len() + 1)) {
            self.state.dropped.fetch_add(1, Relaxed);
            return;
        }
        let mut queue = self.state.queue();
        if queue.bytes.len() + line.len() >= self.max_pending {
            drop(queue);
            self.state.dropped.fetch_add(1, Relaxed);
            if let Some(share) = share {
                share.discard(line.len() + 1);
            }
            return;
        }
        let wake = queue.bytes.is_empty();
        queue.bytes.extend_from_slice(line);
        queue.bytes.push(b'\n');
        queue.lines.push(line.len() + 1);
        drop(queue);
        if wake {
            self.state.more.notify_one();
        }
    }

    /// Waits until all that was handed over before is written or given up. For tests and shutdown, not for workers.
    pub fn sync(&self) {
        let mut queue = self.state.queue();
        while !queue.bytes.is_empty() || queue.writing {
            queue = self.state.idle.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// For the end of the process.
    pub fn draining(&self) -> Arc<dyn Draining> {
        self.state.clone()
    }

    pub fn stats(&self) -> LineFileStats {
        LineFileStats {
            written: self.state.written.load(Relaxed),
            dropped: self.state.dropped.load(Relaxed),
            failed: self.state.failed.load(Relaxed),
        }
    }
}

impl Drop for LineFile {
    fn drop(&mut self) {
        self.state.queue().closed = true;
        self.state.more.notify_one();
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    state: Arc<State>,
    /// An error was reported and nothing was written since.
    failing: bool,
}

impl Writer {
    fn run(mut self) {
        let state = self.state.clone();
        let mut batch = Vec::new();
        let mut lines = Vec::new();
        loop {
            let mut queue = state.queue();
            queue.writing = false;
            state.idle.notify_all();
            while queue.bytes.is_empty() && !queue.closed {
                queue = state.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.bytes.is_empty() {
                return;
            }
            queue.writing = true;
            queue.take(&mut batch, &mut lines, state.share.as_ref().map_or(usize::MAX, most));
            drop(queue);
            let count = lines.len() as u64;
            let written = self.write(&batch, count);
            if let Some(share) = &state.share {
                share.gone(count, batch.len(), written);
            }
            batch.clear();
            lines.clear();
            // What a burst needed is given back.
            batch.shrink_to(256 * 1024);
            lines.shrink_to(4 * 1024);
        }
    }

    fn write(&mut self, batch: &[u8], lines: u64) -> bool {
        // The wording is apisix/plugins/file-logger.lua's, as operators watch for it.
        let (what, error) = match self.file() {
            Err(error) => ("open", error),
            Ok(mut file) => match file.write_all(batch) {
                Err(error) => ("write", error),
                Ok(()) => {
                    self.failing = false;
                    self.state.written.fetch_add(lines, Relaxed);
                    return true;
                }
            },
        };
        self.state.failed.fetch_add(lines, Relaxed);
        if !self.failing {
            tracing::error!("failed to {what} file: {}, error info: {error}", self.path.display());
        }
        self.failing = true;
        self.file = None;
        false
    }

    /// The file that the path leads to now.
    fn file(&mut self) -> io::Result<&File> {
        if let Some(file) = &self.file
            && !same(file, &self.path)
        {
            self.file = None;
        }
        if self.file.is_none() {
            self.file = Some(OpenOptions::new().create(true).append(true).open(&self.path)?);
        }
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogQueues;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).expect("file")
    }

    #[test]
    fn appends_and_follows_rotation() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("a.log");
        std::fs::write(&path, "before\n").expect("write");
        let file = LineFile::start(path.clone(), DEFAULT_MAX_PENDING, None).expect("starts");
        file.push(b"one");
        file.push(b"two");
        file.sync();
        assert_eq!(read(&path), "before\none\ntwo\n");
        let moved = dir.path().join("a.log.1");
        std::fs::rename(&path, &moved).expect("rename");
        file.push(b"three");
        file.sync();
        assert_eq!(read(&moved), "before\none\ntwo\n");
        assert_eq!(read(&path), "three\n");
        assert_eq!(file.stats(), LineFileStats { written: 3, dropped: 0, failed: 0 });
    }

    #[test]
    fn counts_what_cannot_be_written() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("missing/a.log");
        let file = LineFile::start(path.clone(), DEFAULT_MAX_PENDING, None).expect("starts");
        file.push(b"lost");
        file.sync();
        assert_eq!(file.stats().failed, 1);
        std::fs::create_dir(dir.path().join("missing")).expect("directory");
        file.push(b"kept");
        file.sync();
        assert_eq!(read(&path), "kept\n");
    }

    #[test]
    fn a_file_takes_lines_in_parts_and_gives_the_newest_back() {
        let share = Share::new(LogQueues::new(1000).account("files"));
        let state = State { share: Some(share), ..State::default() };
        let share = state.share.as_ref().expect("share");
        for line in ["one\n", "three\n", "four\n"] {
            assert!(share.admit(line.len()));
            let mut queue = state.queue();
            queue.bytes.extend_from_slice(line.as_bytes());
            queue.lines.push(line.len());
        }
        state.give_way(Room { entries: 0, bytes: 3 });
        let (mut bytes, mut lines) = (Vec::new(), Vec::new());
        state.queue().take(&mut bytes, &mut lines, 5);
        assert_eq!((&*bytes, &*lines), (&b"one\n"[..], &[4][..]));
        share.gone(1, 4, true);
        bytes.clear();
        lines.clear();
        state.queue().take(&mut bytes, &mut lines, 5);
        assert_eq!((&*bytes, &*lines), (&b"three\n"[..], &[6][..]), "a line that is too long goes alone");
        state.give_way(Room { entries: 9, bytes: 9 });
        assert_eq!(state.dropped.load(Relaxed), 1, "what is being written is not taken back");
    }

    #[test]
    fn drops_what_is_too_much() {
        let dir = tempfile::tempdir().expect("directory");
        let file = LineFile::start(dir.path().join("a.log"), 10, None).expect("starts");
        file.push(b"0123456789");
        file.push(b"012345678");
        file.sync();
        assert_eq!(file.stats(), LineFileStats { written: 1, dropped: 1, failed: 0 });
    }

    #[test]
    fn lines_of_many_threads_stay_whole() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("a.log");
        let file = LineFile::start(path.clone(), DEFAULT_MAX_PENDING, None).expect("starts");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let file = &file;
                scope.spawn(move || (0..500).for_each(|i| file.push(format!("{thread}-{i:04}").as_bytes())));
            }
        });
        file.sync();
        let text = read(&path);
        let mut seen = [0; 4];
        for line in text.lines() {
            let (thread, i) = line.split_once('-').expect("whole line");
            let next = &mut seen[thread.parse::<usize>().expect("thread")];
            assert_eq!(i.parse::<usize>().ok(), Some(*next));
            *next += 1;
        }
        assert_eq!(seen, [500; 4]);
    }
}
