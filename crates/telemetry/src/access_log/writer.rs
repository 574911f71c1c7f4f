//! Buffers of workers, a bounded channel, one writer thread. The surprise: reopening is a flag, not a message, so that it
//! works while the channel is full.
use super::AccessLogFormat;
use sluice_expr::Lookup;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    Off,
    Stdout,
    Stderr,
    File(PathBuf),
}

impl AccessLogTarget {
    /// `off`, `/dev/stdout`, `/dev/stderr` (opened anew they would lose their position), or a path.
    pub fn parse(text: &str) -> AccessLogTarget {
        match text {
            "off" | "" => AccessLogTarget::Off,
            "/dev/stdout" | "stdout" => AccessLogTarget::Stdout,
            "/dev/stderr" | "stderr" => AccessLogTarget::Stderr,
            path => AccessLogTarget::File(path.into()),
        }
    }

    fn open(&self) -> io::Result<Box<dyn Write + Send>> {
        Ok(match self {
            AccessLogTarget::Off => Box::new(io::sink()),
            AccessLogTarget::Stdout => Box::new(io::stdout()),
            AccessLogTarget::Stderr => Box::new(io::stderr()),
            AccessLogTarget::File(path) => {
                let file: File = OpenOptions::new().create(true).append(true).open(path)?;
                Box::new(file)
            }
        })
    }
}

/// Limits of the writer.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogOptions {
    /// A worker hands its buffer over at this size, bytes (`access_log_buffer`).
    pub buffer: usize,
    /// Or at this age (APISIX's nginx.conf: `flush=3`).
    pub flush: Duration,
    /// Full buffers waiting for the writer thread; further ones are dropped.
    pub queue: usize,
}

impl Default for AccessLogOptions {
    fn default() -> Self {
        AccessLogOptions { buffer: 16_384, flush: Duration::from_secs(3), queue: 256 }
    }
}

/// Lines so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccessLogStats {
    pub written: u64,
    /// Lost because the writer thread was behind.
    pub dropped: u64,
    /// Lost because writing failed.
    pub failed: u64,
}

enum Message {
    Lines(Vec<u8>, u64),
    Wake,
    Sync(SyncSender<()>),
}

#[derive(Default)]
struct Shared {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    reopen: AtomicBool,
    /// Empty buffers to use again; at most a few.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// An open access log. Cloning shares it; the writer thread ends with the last clone and [`AccessLogWriter`].
#[derive(Clone)]
pub struct AccessLog {
    off: bool,
    options: AccessLogOptions,
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl AccessLog {
    /// Opens the target and starts the writer thread.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not started.
    pub fn open(target: AccessLogTarget, options: AccessLogOptions) -> io::Result<AccessLog> {
        let sink = target.open()?;
        Self::start(sink, target, options)
    }

    /// Writes to `sink`, which [`AccessLog::reopen`] leaves alone.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn with_sink(sink: Box<dyn Write + Send>, options: AccessLogOptions) -> io::Result<AccessLog> {
        Self::start(sink, AccessLogTarget::Stdout, options)
    }

    fn start(sink: Box<dyn Write + Send>, target: AccessLogTarget, options: AccessLogOptions) -> io::Result<AccessLog> {
        let (sender, receiver) = sync_channel(options.queue.max(1));
        let shared = Arc::new(Shared::default());
        let off = target == AccessLogTarget::Off;
        if !off {
            let thread = Thread { sink, target, shared: shared.clone(), failing: false };
            std::thread::Builder::new().name("access-log".into()).spawn(move || thread.run(receiver))?;
        }
        Ok(AccessLog { off, options, sender, shared })
    }

    /// A buffer for the calling worker.
    pub fn writer(&self) -> AccessLogWriter {
        AccessLogWriter { log: self.clone(), buffer: Vec::new(), lines: 0, since: None }
    }

    /// Opens the file by its name again, for log rotation (USR1). The old file stays in use when that fails.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
        // A full channel needs no waking.
        let _ = self.sender.try_send(Message::Wake);
    }

    /// Waits until what was handed over is written, at most `limit`; for shutdown, not for workers. `false`: not in time.
    pub fn sync(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let (done, wait) = sync_channel(1);
        let mut message = Message::Sync(done);
        if self.off {
            return true;
        }
        loop {
            match self.sender.try_send(message) {
                Ok(()) => return wait.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok(),
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) => {
                    if Instant::now() >= deadline {
                        return false;
                    }
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    pub fn stats(&self) -> AccessLogStats {
        let shared = &self.shared;
        AccessLogStats {
            written: shared.written.load(Relaxed),
            dropped: shared.dropped.load(Relaxed),
            failed: shared.failed.load(Relaxed),
        }
    }
}

/// One worker's buffer. Dropping it hands over the rest.
pub struct AccessLogWriter {
    log: AccessLog,
    buffer: Vec<u8>,
    lines: u64,
    since: Option<Instant>,
}

impl AccessLogWriter {
    /// Logs a request. Never blocks.
    pub fn log(&mut self, format: &AccessLogFormat, lookup: &dyn Lookup, wall: SystemTime, now: Instant) {
        if self.log.off {
            return;
        }
        format.render(lookup, wall, &mut self.buffer);
        self.lines += 1;
        let since = *self.since.get_or_insert(now);
        if self.buffer.len() >= self.log.options.buffer
            || now.saturating_duration_since(since) >= self.log.options.flush
        {
            self.flush();
        }
    }

    /// Hands the buffer over when it is old enough; call from a timer, about once a second.
    pub fn flush_due(&mut self, now: Instant) {
        if self.since.is_some_and(|since| now.saturating_duration_since(since) >= self.log.options.flush) {
            self.flush();
        }
    }

    /// Hands the buffer over now.
    pub fn flush(&mut self) {
        self.since = None;
        if self.buffer.is_empty() {
            return;
        }
        let spare = self.log.shared.spare.try_lock().ok().and_then(|mut spare| spare.pop()).unwrap_or_default();
        let full = std::mem::replace(&mut self.buffer, spare);
        let lines = std::mem::take(&mut self.lines);
        if let Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) =
            self.log.sender.try_send(Message::Lines(full, lines))
        {
            self.log.shared.dropped.fetch_add(lines, Relaxed);
            if let Message::Lines(mut buffer, _) = message {
                buffer.clear();
                self.buffer = buffer;
            }
        }
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

struct Thread {
    sink: Box<dyn Write + Send>,
    target: AccessLogTarget,
    shared: Arc<Shared>,
    /// An error was reported and nothing was written since.
    failing: bool,
}

impl Thread {
    fn run(mut self, receiver: Receiver<Message>) {
        while let Ok(message) = receiver.recv() {
            if self.shared.reopen.swap(false, Relaxed) && matches!(self.target, AccessLogTarget::File(_)) {
                match self.target.open() {
                    Ok(sink) => self.sink = sink,
                    Err(error) => tracing::error!(%error, target = ?self.target, "cannot reopen the access log"),
                }
            }
            match message {
                Message::Lines(buffer, lines) => self.write(buffer, lines),
                Message::Wake => {}
                Message::Sync(done) => drop(done.try_send(())),
            }
        }
    }

    fn write(&mut self, mut buffer: Vec<u8>, lines: u64) {
        match self.sink.write_all(&buffer).and_then(|()| self.sink.flush()) {
            Ok(()) => {
                self.failing = false;
                self.shared.written.fetch_add(lines, Relaxed);
            }
            Err(error) => {
                self.shared.failed.fetch_add(lines, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, target = ?self.target, "cannot write the access log");
                }
            }
        }
        buffer.clear();
        let mut spare = self.shared.spare.lock().unwrap_or_else(PoisonError::into_inner);
        // An outsize buffer is given back to the system.
        if spare.len() < 16 && buffer.capacity() <= 1 << 20 {
            spare.push(buffer);
        }
    }
}
