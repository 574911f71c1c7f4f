//! Signals: drain, end, reopen.

use crate::start::{all_to, gateway, pair};
use serde_json::json;
use sluice_testkit::directory::Scratch;
use sluice_testkit::{Behaviour, Upstream, Wire};
use std::time::{Duration, Instant};

#[test]
fn termination_lets_running_requests_end_and_takes_no_new_ones() {
    let (upstream, mut gateway) = pair();
    upstream.on("/slow", Behaviour::Delay(Duration::from_secs(1), Box::new(Behaviour::answer(200, "done"))));
    let mut idle = gateway.connect().unwrap();
    assert_eq!(idle.get("/").unwrap().status, 200);
    let mut busy = gateway.connect().unwrap();
    busy.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert!(upstream.wait_for(2, Duration::from_secs(5)));
    gateway.terminate().unwrap();
    assert!(idle.closed(), "an idle connection is closed at once");
    let until = Instant::now() + Duration::from_millis(500);
    while Wire::connect(gateway.addr()).is_ok_and(|mut wire| wire.get("/").is_ok()) {
        assert!(Instant::now() < until, "still takes new requests");
    }
    let answer = busy.read_answer(false).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    assert!(gateway.wait(Duration::from_secs(5)).unwrap().success());
}

#[test]
fn the_access_log_is_reopened_on_usr1() {
    let upstream = Upstream::start().unwrap();
    let folder = Scratch::new().unwrap();
    let log = folder.path().join("access.log");
    let settings = json!({"nginx_config": {"http": {"enable_access_log": true, "access_log": log, "access_log_buffer": 0,
        "access_log_format": "$request_method $uri $status", "access_log_format_escape": "default"}}});
    let gateway = gateway(&settings, &all_to(&upstream));
    let mut wire = gateway.connect().unwrap();
    wire.get("/one").unwrap();
    wait_for_line(&log, "GET /one 200");
    let moved = folder.path().join("access.log.1");
    std::fs::rename(&log, &moved).unwrap();
    gateway.reopen_logs().unwrap();
    wait(|| log.exists());
    wire.get("/two").unwrap();
    wait_for_line(&log, "GET /two 200");
    assert!(!std::fs::read_to_string(&moved).unwrap().contains("/two"));
}

fn wait_for_line(file: &std::path::Path, line: &str) {
    wait(|| std::fs::read_to_string(file).is_ok_and(|text| text.lines().any(|l| l == line)));
}

#[track_caller]
fn wait(ready: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(5);
    while !ready() {
        assert!(Instant::now() < until, "not in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}
