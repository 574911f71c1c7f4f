//! Ports for processes that cannot be told to bind port 0.
//!
//! The range lies below the kernel's ephemeral ports (32768 and up): a port taken from there could be
//! handed to somebody's outgoing connection between our look and the process's bind.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 10_240;
const COUNT: u32 = 22_000;

/// A TCP port of 127.0.0.1 on which nobody listens. Tests run as many processes: each starts at its own place.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + start.wrapping_add(step) % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_ports_differ_and_can_be_bound() {
        let (a, b) = (super::free_port(), super::free_port());
        assert_ne!(a, b);
        std::net::TcpListener::bind(("127.0.0.1", a)).unwrap();
        std::net::TcpListener::bind(("127.0.0.1", b)).unwrap();
    }
}
