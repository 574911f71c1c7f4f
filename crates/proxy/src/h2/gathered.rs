//! The socket under a connection of HTTP/2: what is written during one turn of the connection's task leaves in one piece.
//!
//! The surprise: flushing does nothing. The `h2` crate flushes after each DATA frame of 256 bytes and more, which would make every
//! answer a system call (and a TLS record) of its own. So who polls the connection calls [`Gathered::poll_send`] before it waits.
//!
//! Another: closing takes a while. A socket that is closed while the client still sends (it always does: windows, acknowledgements)
//! is reset, and answers that are on their way are lost with it. So what comes is read until the client has closed, too (nginx:
//! lingering_close).
use super::flood::Flood;
use sluice_net::{Stream, Timeout};
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are gathered. A piece that does not fit goes to the socket without being copied, behind what was there.
const MOST: usize = 32 * 1024;
/// How long a client may take to close after us, and how much it may send meanwhile.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 256 * 1024;
/// Buffers that a thread keeps, so that an idle connection has none.
const SPARE: usize = 8;

thread_local!(static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) });

#[derive(Debug)]
struct Inner {
    /// Read before it was known what is spoken.
    first: Vec<u8>,
    stream: Stream,
    out: Vec<u8>,
    /// Bytes of `out` that the socket has taken.
    sent: usize,
    /// What a client sends is watched, and whether it was too much.
    flood: Option<Box<(Flood, Rc<Cell<bool>>)>>,
    /// Our side is closed; bytes that came since.
    lingering: Option<Box<(Timeout, usize)>>,
}

/// Shared by the `h2` connection and the task that polls it.
#[derive(Clone, Debug)]
pub(super) struct Gathered {
    inner: Rc<RefCell<Inner>>,
    /// There is something to send: a look that costs nothing.
    waiting: Rc<Cell<bool>>,
}

impl Gathered {
    /// `first`: bytes that were read of the stream already.
    pub fn new(first: Vec<u8>, stream: Stream) -> Gathered {
        let inner = Inner { first, stream, out: Vec::new(), sent: 0, flood: None, lingering: None };
        Gathered { inner: Rc::new(RefCell::new(inner)), waiting: Rc::default() }
    }

    /// Sets `flooded` once more than `limit` frames were read that are about no request; nothing more is read then.
    pub fn watched(self, limit: u32, flooded: Rc<Cell<bool>>) -> Gathered {
        self.inner.borrow_mut().flood = Some(Box::new((Flood::new(limit), flooded)));
        self
    }

    /// Sends what was gathered. Pending while the socket takes no more of it; the task is woken when it does.
    pub fn poll_send(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waiting.get() {
            return Poll::Ready(Ok(()));
        }
        let mut inner = self.inner.borrow_mut();
        ready!(inner.poll_send(task))?;
        // TLS may hold back records that the socket has refused.
        ready!(Pin::new(&mut inner.stream).poll_flush(task))?;
        self.waiting.set(false);
        Poll::Ready(Ok(()))
    }
}

impl Inner {
    fn poll_send(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.stream).poll_write(task, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        self.emptied();
        Poll::Ready(Ok(()))
    }

    /// Gives the buffer back.
    fn emptied(&mut self) {
        self.sent = 0;
        let mut buffer = std::mem::take(&mut self.out);
        if buffer.capacity() == 0 {
            return;
        }
        buffer.clear();
        BUFFERS.with_borrow_mut(|spare| {
            if spare.len() < SPARE {
                spare.push(buffer);
            }
        });
    }

    fn gather(&mut self, parts: &[IoSlice<'_>]) {
        if self.out.capacity() == 0 {
            self.out = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(MOST));
        }
        for part in parts {
            self.out.extend_from_slice(part);
        }
    }

    /// What was gathered and these, as far as the socket takes them; Ready with the bytes of `parts`.
    fn poll_past(&mut self, task: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let waiting = self.out.get(self.sent..).unwrap_or_default();
            if waiting.is_empty() {
                self.emptied();
                return Pin::new(&mut self.stream).poll_write_vectored(task, parts);
            }
            let [one, two] = [parts.first(), parts.get(1)].map(|part| part.map_or(&[][..], |part| part));
            let pieces = [IoSlice::new(waiting), IoSlice::new(one), IoSlice::new(two)];
            let before = waiting.len();
            let n = ready!(Pin::new(&mut self.stream).poll_write_vectored(task, &pieces))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if n > before {
                self.emptied();
                return Poll::Ready(Ok(n - before));
            }
            self.sent += n;
        }
    }
}

impl AsyncRead for Gathered {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner.borrow_mut();
        if inner.flood.as_ref().is_some_and(|own| own.1.get()) {
            return Poll::Pending;
        }
        let before = out.filled().len();
        if inner.first.is_empty() {
            ready!(Pin::new(&mut inner.stream).poll_read(task, out))?;
        } else {
            let n = inner.first.len().min(out.remaining());
            out.put_slice(inner.first.get(..n).unwrap_or_default());
            crate::client::consume(&mut inner.first, n);
        }
        if let Some((flood, flooded)) = inner.flood.as_deref_mut()
            && flood.is_reached(out.filled().get(before..).unwrap_or_default())
        {
            flooded.set(true);
            task.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(task, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.inner.borrow_mut();
        let all: usize = parts.iter().map(|part| part.len()).sum();
        self.waiting.set(true);
        if inner.out.len() + all <= MOST {
            inner.gather(parts);
            return Poll::Ready(Ok(all));
        }
        inner.poll_past(task, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// See the file's head.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner.borrow_mut();
        let (timeout, total) = &mut **match &mut inner.lingering {
            Some(lingering) => lingering,
            None => {
                ready!(inner.poll_send(task))?;
                ready!(Pin::new(&mut inner.stream).poll_shutdown(task))?;
                let lingering = Box::new((Timeout::new(), 0));
                lingering.0.arm(LINGER);
                inner.lingering.insert(lingering)
            }
        };
        loop {
            let mut bytes = [0; 4096];
            let mut part = ReadBuf::new(&mut bytes);
            match Pin::new(&mut inner.stream).poll_read(task, &mut part) {
                Poll::Ready(Ok(())) if !part.filled().is_empty() && *total < LINGER_BYTES => {
                    *total += part.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return timeout.poll(task).map(Ok),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (Gathered, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Gathered::new(b"first".to_vec(), Stream::Tcp(ours.unwrap())), theirs.unwrap().0)
    }

    fn run(work: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    }

    #[test]
    fn what_is_written_leaves_when_it_is_sent() {
        run(async {
            let (mut ours, mut theirs) = pair().await;
            let mut first = [0; 5];
            ours.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"first");
            for part in [&b"a"[..], b"bc"] {
                ours.write_all(part).await.unwrap();
                ours.flush().await.unwrap();
            }
            let mut got = [0; 8];
            assert!(theirs.try_read(&mut got).is_err(), "nothing yet");
            poll_fn(|task| ours.poll_send(task)).await.unwrap();
            assert_eq!(theirs.read(&mut got).await.unwrap(), 3);
            assert_eq!(&got[..3], b"abc");
            assert_eq!(ours.inner.borrow().out.capacity(), 0, "an idle connection has no buffer");
        });
    }

    #[test]
    fn large_pieces_keep_their_order_and_a_full_socket_holds_the_writer_back() {
        run(async {
            let (mut ours, mut theirs) = pair().await;
            let large: Vec<u8> = (0..MOST + 7).map(|i| (i % 251) as u8).collect();
            let mut written = Vec::new();
            // Until nothing is taken any more.
            let mut round = 0;
            loop {
                let part = if round % 2 == 0 { &large[..5] } else { &large[..] };
                let parts = [IoSlice::new(&part[..2]), IoSlice::new(&part[2..])];
                round += 1;
                let taken = poll_fn(|task| Poll::Ready(Pin::new(&mut ours).poll_write_vectored(task, &parts))).await;
                match taken {
                    Poll::Ready(n) => written.extend_from_slice(&part[..n.unwrap()]),
                    Poll::Pending => break,
                }
                assert!(round < 10_000);
            }
            assert!(ours.inner.borrow().out.len() <= MOST);
            let mut got = vec![0; written.len()];
            let sent = poll_fn(|task| ours.poll_send(task));
            let (sent, read) = tokio::join!(sent, theirs.read_exact(&mut got));
            sent.unwrap();
            read.unwrap();
            assert!(got == written);
        });
    }

    #[test]
    fn an_end_takes_along_what_was_gathered() {
        run(async {
            let (mut ours, mut theirs) = pair().await;
            ours.write_all(b"bye").await.unwrap();
            // What still comes is read, until the other side closes.
            theirs.write_all(b"windows").await.unwrap();
            let reading = async {
                let mut got = Vec::new();
                theirs.read_to_end(&mut got).await.unwrap();
                theirs.write_all(b"more").await.unwrap();
                drop(theirs);
                got
            };
            let (ended, got) = tokio::join!(ours.shutdown(), reading);
            ended.unwrap();
            assert_eq!(got, b"bye");
        });
    }
}
