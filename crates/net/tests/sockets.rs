//! Listeners, plain streams, PROXY protocol headers, connecting and draining on real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test, its own functions included")]
use sluice_net::proxy_protocol::{self, ReadError, read_header};
use sluice_net::worker::spawn_connection;
use sluice_net::{
    Address, BoundListener, ConnectErrorKind, ConnectOptions, Drain, ListenConfig, Listener, Socket, Stream, Timeout,
    WorkerSettings, Workers, connect, timer,
};
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

fn local() -> ListenConfig {
    ListenConfig::new("127.0.0.1:0".parse::<Address>().unwrap())
}

fn bind(c: &ListenConfig) -> Listener {
    BoundListener::bind(c, 1).unwrap().remove(0).listen().unwrap()
}

async fn pair(l: &Listener) -> (Stream, Socket, Address) {
    let o = ConnectOptions { timeout: Duration::from_secs(10), keepalive: Some(Duration::from_secs(30)) };
    let (a, b) = tokio::join!(connect(l.address(), &o, None), l.accept());
    let (b, peer) = b.unwrap();
    (a.unwrap(), b, peer)
}

#[tokio::test]
async fn tcp_v6_and_unix_carry_bytes_and_know_their_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let v6 = ListenConfig::new("[::1]:0".parse::<Address>().unwrap());
    for c in [local(), v6, ListenConfig::new(Address::unix(&path))] {
        let l = bind(&c);
        let (mut a, b, peer) = pair(&l).await;
        assert_eq!(&a.peer_addr().unwrap(), l.address());
        if peer.ip().is_some() {
            assert_eq!(a.local_addr().unwrap(), peer);
            let Socket::Tcp(s) = &b else { panic!() };
            assert!(s.nodelay().unwrap());
        }
        let mut b = Stream::from(b);
        assert!(!b.is_tls() && b.tls_info().is_none() && b.alpn().is_none());
        let n =
            poll_fn(|cx| Pin::new(&mut a).poll_write_vectored(cx, &[IoSlice::new(b"hello "), IoSlice::new(b"world")]));
        assert_eq!(n.await.unwrap(), 11);
        a.shutdown().await.unwrap();
        let mut got = String::new();
        b.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "hello world");
    }
    assert!(!path.exists(), "the socket file goes with its listener");
}

#[tokio::test]
async fn a_quiet_connection_is_told_from_a_closed_or_talking_one() {
    use sluice_net::Readable;
    let l = bind(&local());
    let (mut a, b, _) = pair(&l).await;
    let mut b = Stream::from(b);
    assert!(a.is_quiet());
    b.write_all(b"ab").await.unwrap();
    assert_eq!(poll_fn(|cx| a.poll_readable(cx)).await, Readable::Data);
    assert!(!a.is_quiet());
    // Nothing was taken; a read that fills its buffer exactly leaves tokio's flag set, which must not fool us.
    let mut buf = [0; 2];
    a.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"ab");
    assert!(a.is_quiet());
    drop(b);
    assert_eq!(poll_fn(|cx| a.poll_readable(cx)).await, Readable::Eof);
    assert!(!a.is_quiet());
}

#[test]
fn bind_errors_name_the_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let c = ListenConfig::new(taken.local_addr().unwrap());
    let e = BoundListener::bind(&c, 2).unwrap_err().to_string();
    assert!(e.starts_with(&format!("cannot listen on {}: ", taken.local_addr().unwrap())), "{e}");
    let e = BoundListener::bind(&ListenConfig::new(Address::unix("/nonexistent/x.sock")), 1).unwrap_err();
    assert!(e.to_string().contains("unix:/nonexistent/x.sock"), "{e}");
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let c = ListenConfig::new(Address::unix(&path));
    let live = BoundListener::bind(&c, 2).unwrap();
    assert_eq!(live.len(), 2);
    assert!(BoundListener::bind(&c, 1).is_err());
    assert!(path.exists());
    drop(live);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(BoundListener::bind(&c, 1).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn v6only_leaves_v4_alone_or_not() {
    for v6only in [true, false] {
        let c = ListenConfig { v6only, ..ListenConfig::new("[::]:0".parse::<Address>().unwrap()) };
        let l = bind(&c);
        let v4 = Address::Ip(([127, 0, 0, 1], l.address().port()).into());
        let r = connect(&v4, &ConnectOptions::default(), None).await;
        assert_eq!(r.is_err(), v6only);
        if let Err(e) = r {
            assert_eq!(e.kind, ConnectErrorKind::Refused);
            assert!(e.to_string().contains(&v4.to_string()), "{e}");
        }
    }
}

#[tokio::test]
async fn connect_errors_have_their_kind() {
    let o = ConnectOptions { timeout: Duration::from_millis(50), keepalive: None };
    let missing = connect(&Address::unix("/nonexistent/x.sock"), &o, None).await.unwrap_err();
    assert_eq!(missing.kind, ConnectErrorKind::Refused);
    // A listener that takes the connection and never speaks TLS.
    let l = bind(&local());
    let tls = sluice_net::tls::ClientTls::new(&Default::default()).unwrap();
    let slow = connect(l.address(), &o, Some((&tls, "x.test"))).await.unwrap_err();
    assert_eq!(slow.kind, ConnectErrorKind::Timeout);
    let o = ConnectOptions::default();
    let (r, b) = tokio::join!(connect(l.address(), &o, Some((&tls, "x.test"))), async {
        // The first in the queue is the connection that timed out.
        drop(l.accept().await.unwrap());
        let (mut s, _) = l.accept().await.unwrap();
        let mut hello = [0; 64];
        let n = s.read(&mut hello).await.unwrap();
        s.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        n
    });
    assert!(b > 0);
    assert_eq!(r.unwrap_err().kind, ConnectErrorKind::Tls);
}

#[tokio::test]
async fn proxy_headers_are_taken_and_nothing_more() {
    let source: Address = "192.0.2.9:1234".parse().unwrap();
    let dest: Address = "198.51.100.1:443".parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (v2, c) in [(false, local()), (true, local()), (true, ListenConfig::new(Address::unix(dir.path().join("p"))))] {
        let l = bind(&c);
        let (mut a, mut b, _) = pair(&l).await;
        let mut head = Vec::new();
        if v2 {
            proxy_protocol::write_v2(&source, &dest, &mut head);
        } else {
            proxy_protocol::write_v1(&source, &dest, &mut head);
        }
        head.extend_from_slice(b"GET /");
        let (first, rest) = head.split_at(20);
        let write = async {
            a.write_all(first).await.unwrap();
            tokio::task::yield_now().await;
            a.write_all(rest).await.unwrap();
        };
        let (h, ()) = tokio::join!(read_header(&mut b), write);
        let addresses = h.unwrap().addresses.unwrap();
        assert_eq!((addresses.source, addresses.destination), (source.clone(), dest.clone()));
        let mut buf = [0; 5];
        b.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"GET /");
    }
}

#[tokio::test]
async fn a_missing_or_cut_proxy_header_is_an_error() {
    let l = bind(&local());
    let (mut a, mut b, _) = pair(&l).await;
    a.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert!(matches!(read_header(&mut b).await, Err(ReadError::Parse(_))));
    let (mut a, mut b, _) = pair(&l).await;
    a.write_all(b"PROXY TCP4 1.2.3.4").await.unwrap();
    a.shutdown().await.unwrap();
    assert!(matches!(read_header(&mut b).await, Err(ReadError::Io(_))));
}

/// Two workers with a socket each serve one port; a drain ends idle connections at once and waits for busy ones.
#[test]
fn workers_serve_and_drain() {
    let listeners = BoundListener::bind(&local(), 2).unwrap();
    let address = listeners[0].address().clone();
    assert!(listeners.iter().all(|l| *l.address() == address) && address.port() != 0);
    let mut listeners = listeners.into_iter();
    let drain = Drain::new();
    let (ended, order) = mpsc::channel();
    let workers = Workers::spawn(2, &WorkerSettings::default(), |_| {
        let (l, drain, ended) = (listeners.next().unwrap(), drain.clone(), ended.clone());
        move || async move {
            let l = l.listen().unwrap();
            l.serve(&drain, |socket, _| {
                let (d, ended) = (drain.clone(), ended.clone());
                spawn_connection(&drain, async move { ended.send(echo(socket.into(), d).await).unwrap() });
            })
            .await;
            timer::wake_all();
            drain.wait_idle(Duration::from_secs(20)).await;
        }
    })
    .unwrap();

    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let o = ConnectOptions::default();
        let mut idle = Vec::new();
        for _ in 0..8 {
            let mut s = connect(&address, &o, None).await.unwrap();
            s.write_all(b"x\n").await.unwrap();
            assert_eq!(s.read_u8().await.unwrap(), b'x');
            assert_eq!(s.read_u8().await.unwrap(), b'\n');
            idle.push(s);
        }
        assert_eq!(drain.open(), 8);
        let mut busy = idle.pop().unwrap();
        busy.write_all(b"half").await.unwrap();
        assert_eq!(busy.read_u8().await.unwrap(), b'h');
        drain.start_drain();
        for mut s in idle {
            assert_eq!(s.read(&mut [0]).await.unwrap(), 0, "idle connections are closed");
        }
        // The count follows the closing by a moment.
        while drain.open() > 1 {
            tokio::task::yield_now().await;
        }
        busy.write_all(b"\n").await.unwrap();
        let mut rest = String::new();
        busy.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "alf\n", "a running request is finished");
    });
    workers.join().unwrap();
    let refused = rt.block_on(connect(&address, &ConnectOptions::default(), None));
    assert!(refused.is_err(), "the port is closed");
    assert_eq!(order.try_iter().collect::<Vec<_>>(), [1, 1, 1, 1, 1, 1, 1, 2]);
}

/// Echoes lines byte by byte; between lines it may be drained. Returns the lines served.
async fn echo(mut s: Stream, drain: Drain) -> usize {
    let timeout = Timeout::new();
    let mut lines = 0;
    loop {
        let mut mid = false;
        loop {
            timeout.arm(Duration::from_secs(30));
            let readable = poll_fn(|cx| {
                if !mid && drain.is_draining() {
                    return Poll::Ready(false);
                }
                if timeout.poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                s.poll_readable(cx).map(|_| true)
            });
            if !readable.await {
                return lines;
            }
            let mut b = [0];
            if s.read(&mut b).await.unwrap_or(0) == 0 {
                return lines;
            }
            s.write_all(&b).await.unwrap();
            if b[0] == b'\n' {
                break;
            }
            mid = true;
        }
        lines += 1;
    }
}
