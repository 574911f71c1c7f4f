//! Clients that are slow on purpose.

use crate::start::{all_to, gateway};
use serde_json::json;
use sluice_testkit::Upstream;
use std::time::{Duration, Instant};

#[test]
fn a_client_that_never_ends_its_head_is_dropped_and_hurts_nobody() {
    let upstream = Upstream::start().unwrap();
    let settings = json!({"nginx_config": {"http": {"client_header_timeout": "1s"}}});
    let gateway = gateway(&settings, &all_to(&upstream));
    let start = Instant::now();
    let mut slow: Vec<_> = (0..200).map(|_| gateway.connect().unwrap()).collect();
    for wire in &mut slow {
        wire.send("GET / HTTP/1.1\r\nHost: h\r\nX-A").unwrap();
    }
    assert_eq!(gateway.connect().unwrap().get("/").unwrap().status, 200);
    // A byte now and then does not buy time: the limit is for the whole head.
    while start.elapsed() < Duration::from_millis(700) {
        std::thread::sleep(Duration::from_millis(100));
        for wire in &mut slow {
            // It may be gone already.
            let _ = wire.send("a");
        }
    }
    for wire in &mut slow {
        let rest = wire.read_to_end().expect("closed by the gateway");
        let text = String::from_utf8_lossy(&rest);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn a_client_that_stops_in_its_body_is_dropped() {
    let upstream = Upstream::start().unwrap();
    let settings = json!({"nginx_config": {"http": {"client_body_timeout": "1s"}}});
    let gateway = gateway(&settings, &all_to(&upstream));
    let mut wire = gateway.connect().unwrap();
    wire.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhello").unwrap();
    let rest = wire.read_to_end().unwrap();
    let text = String::from_utf8_lossy(&rest);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    assert_eq!(upstream.requests(), 0, "no complete request came");
    assert_eq!(gateway.connect().unwrap().get("/").unwrap().status, 200);
}

#[test]
fn a_body_beyond_the_limit_is_413() {
    let upstream = Upstream::start().unwrap();
    let settings = json!({"nginx_config": {"http": {"client_max_body_size": "1k"}}});
    let gateway = gateway(&settings, &all_to(&upstream));
    let request = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n{}", "x".repeat(2000));
    assert_eq!(gateway.connect().unwrap().request(request).unwrap().status, 413);
    assert_eq!(upstream.requests(), 0);
}
