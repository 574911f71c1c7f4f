//! Clients of HTTP/2 that mean harm, frame by frame: the gateway's memory stays bounded, others are served, and whoever goes too
//! far is sent away.

use super::{LIMIT, connect, get, run};
use crate::start::pair;
use sluice_testkit::{Behaviour, Gateway};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET /` of `http` at `a`, in HPACK.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A connection that has said hello.
fn hello(gateway: &Gateway, settings: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(gateway.addr()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    socket.write_all(&frame(SETTINGS, 0, 0, settings)).unwrap();
    socket
}

/// Sends until the gateway takes no more: true where it closed, false where it just does not read on.
fn flood(socket: &mut TcpStream, frames: &[u8], times: usize) -> bool {
    for _ in 0..times {
        match socket.write_all(frames) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(_) => return true,
        }
    }
    false
}

/// The error of the GOAWAY that comes, if one does before the connection ends.
fn goaway(socket: &mut TcpStream) -> Option<u32> {
    let mut head = [0; 9];
    loop {
        socket.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).ok()?;
        if head[3] == GOAWAY {
            return payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
        }
    }
}

fn others_are_served(gateway: &Gateway) {
    let begun = Instant::now();
    run(async {
        let client = connect(gateway.addr()).await;
        assert_eq!(super::ask(&client, get(gateway, "/")).await.0, 200);
    });
    assert_eq!(gateway.connect().unwrap().get("/").unwrap().status, 200);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// Resident memory must not have grown by more than this.
fn bounded(gateway: &Gateway, before: u64, kib: u64) {
    let grown = gateway.resident_kib().unwrap().saturating_sub(before);
    assert!(grown < kib, "{grown} KiB");
}

#[test]
fn rapid_resets_end_the_connection() {
    let (_upstream, gateway) = pair();
    let before = gateway.resident_kib().unwrap();
    let mut socket = hello(&gateway, &[]);
    for i in 0..20_000u32 {
        let id = 2 * i + 1;
        let both =
            [frame(HEADERS, END_STREAM | END_HEADERS, id, GET), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat();
        if socket.write_all(&both).is_err() {
            break;
        }
    }
    // ENHANCE_YOUR_CALM, unless the reset of the socket was faster.
    assert!(matches!(goaway(&mut socket), Some(11) | None));
    assert!(socket.write_all(&frame(PING, 0, 0, &[0; 8])).is_err() || goaway(&mut socket).is_none());
    others_are_served(&gateway);
    bounded(&gateway, before, 32 * 1024);
}

#[test]
fn continuations_without_end_are_cut() {
    let (_upstream, gateway) = pair();
    let before = gateway.resident_kib().unwrap();
    let mut socket = hello(&gateway, &[]);
    socket.write_all(&frame(HEADERS, END_STREAM, 1, GET)).unwrap();
    // A literal field of 16 KiB without indexing, over and over.
    let mut field = vec![0x00, 0x01, b'x', 0x7f, 0x80, 0x7f];
    field.extend(std::iter::repeat_n(b'y', 16_000));
    flood(&mut socket, &frame(CONTINUATION, 0, 1, &field), 4_000);
    others_are_served(&gateway);
    bounded(&gateway, before, 32 * 1024);
    assert!(goaway(&mut socket).is_none_or(|code| code != 0));
}

#[test]
fn pings_and_settings_do_not_pile_up() {
    for (kind, payload) in [(PING, &[0; 8][..]), (SETTINGS, &[])] {
        let (_upstream, gateway) = pair();
        let before = gateway.resident_kib().unwrap();
        let mut socket = hello(&gateway, &[]);
        // The answers are not read.
        let many = frame(kind, 0, 0, payload).repeat(1_000);
        flood(&mut socket, &many, 3_000);
        others_are_served(&gateway);
        bounded(&gateway, before, 32 * 1024);
    }
}

#[test]
fn a_window_that_stays_shut_holds_little() {
    let (upstream, gateway) = pair();
    upstream.on("/", Behaviour::answer(200, vec![b'x'; 4 << 20]));
    let before = gateway.resident_kib().unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE 0: no byte of a body may be sent.
    let mut socket = hello(&gateway, &[0, 4, 0, 0, 0, 0]);
    for i in 0..50u32 {
        socket.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * i + 1, GET)).unwrap();
    }
    assert!(upstream.wait_for(50, LIMIT));
    std::thread::sleep(Duration::from_millis(300));
    upstream.on("/", Behaviour::answer(200, "ok"));
    others_are_served(&gateway);
    // What was read of each answer is at most one read and what the socket's buffers hold.
    bounded(&gateway, before, 24 * 1024);
    // A window of more than 2^31-1 is an error of the connection.
    socket.write_all(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])).unwrap();
    assert_eq!(goaway(&mut socket), Some(3));
}

#[test]
fn a_preface_that_does_not_come_is_not_waited_for() {
    let upstream = sluice_testkit::Upstream::start().unwrap();
    let settings = serde_json::json!({"nginx_config": {"http": {"client_header_timeout": "1s"}}});
    let gateway = crate::start::gateway(&settings, &crate::start::all_to(&upstream));
    let mut socket = TcpStream::connect(gateway.addr()).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n").unwrap();
    let mut rest = Vec::new();
    let begun = Instant::now();
    let _ = socket.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(10));
    others_are_served(&gateway);
}

#[test]
fn heads_beyond_the_limits_are_refused() {
    let (_upstream, gateway) = pair();
    run(async {
        let client = connect(gateway.addr()).await;
        let mut many = get(&gateway, "/");
        for i in 0..101 {
            let name: http::HeaderName = format!("x{i}").parse().unwrap();
            many.headers_mut().insert(name, "y".parse().unwrap());
        }
        assert_eq!(super::ask(&client, many).await.0, 431);
        assert_eq!(super::ask(&client, get(&gateway, &format!("/{}", "x".repeat(9_000)))).await.0, 414);
        assert_eq!(super::ask(&client, get(&gateway, "/")).await.0, 200);
    });
}

#[test]
fn frames_about_no_request_are_bounded() {
    let upstream = sluice_testkit::Upstream::start().unwrap();
    let settings = serde_json::json!({"sluice": {"http2": {"max_control_frames": 100, "max_concurrent_streams": 3}}});
    let gateway = crate::start::gateway(&settings, &crate::start::all_to(&upstream));
    let mut socket = hello(&gateway, &[]);
    let mut told = [0; 9];
    socket.read_exact(&mut told).unwrap();
    let mut theirs = vec![0; usize::from(told[2])];
    socket.read_exact(&mut theirs).unwrap();
    assert_eq!(told[3], SETTINGS);
    assert!(theirs.chunks(6).any(|one| one == [0, 3, 0, 0, 0, 3]), "SETTINGS_MAX_CONCURRENT_STREAMS: {theirs:?}");
    // Unlike a flood that does not read, this one reads every answer.
    let mut reader = socket.try_clone().unwrap();
    let code = std::thread::spawn(move || goaway(&mut reader));
    for _ in 0..200 {
        if socket.write_all(&frame(PING, 0, 0, &[0; 8])).is_err() {
            break;
        }
    }
    assert!(matches!(code.join().unwrap(), Some(11) | None));
    others_are_served(&gateway);
    // Requests make up for them.
    let mut socket = hello(&gateway, &[]);
    for i in 0..60u32 {
        socket.write_all(&[frame(PING, 0, 0, &[0; 8]), frame(PING, 0, 0, &[1; 8])].concat()).unwrap();
        socket.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * i + 1, GET)).unwrap();
        let mut head = [0; 9];
        loop {
            socket.read_exact(&mut head).unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            socket.read_exact(&mut payload).unwrap();
            if head[3] == 0 && head[4] & END_STREAM != 0 {
                break;
            }
        }
    }
}
