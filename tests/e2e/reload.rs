//! Configuration that changes while requests run, and configuration that is broken.

use crate::start::{all_to, gateway};
use serde_json::{Value, json};
use sluice_testkit::{Behaviour, Gateway, Upstream};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(3);

/// The catch-all route and a marker that says which version of the configuration answers.
fn version(upstream: &Upstream, n: usize) -> Value {
    let mut resources = all_to(upstream);
    let marker = json!({"id": "marker", "uri": format!("/version/{n}"), "priority": 1,
        "upstream": {"type": "roundrobin", "nodes": {upstream.addr().to_string(): 1}}});
    let fallback =
        json!({"id": "old", "uri": "/version/*", "plugins": {"redirect": {"uri": "/gone", "ret_code": 302}}});
    if let Some(routes) = resources["routes"].as_array_mut() {
        routes.extend([marker, fallback]);
    }
    resources
}

/// A gateway on version 0, which must tell a version it does not have from one it has.
fn start(upstream: &Upstream) -> Gateway {
    let gateway = gateway(&Value::Null, &version(upstream, 0));
    let mut wire = gateway.connect().unwrap();
    assert_eq!(wire.get("/version/0").unwrap().status, 200);
    assert_eq!(wire.get("/version/1").unwrap().status, 302);
    gateway
}

fn in_force(gateway: &Gateway, n: usize) -> Duration {
    gateway.wait_until(&format!("/version/{n}"), LIMIT, |a| a.status == 200).unwrap()
}

#[test]
fn no_request_fails_over_a_hundred_reloads_under_load() {
    let upstream = Upstream::start().unwrap();
    upstream.forget_requests().otherwise(Behaviour::answer(200, "ok"));
    let gateway = start(&upstream);
    let url = format!("http://{}/load", gateway.addr());
    let wrk = Command::new("wrk").args(["-t1", "-c32", "-d600s", &url]).stdout(std::process::Stdio::piped()).spawn();
    let mut wrk = wrk.expect("wrk; `cargo xtask test` installs it");
    for n in 1..=100 {
        gateway.dir().write_resources(&version(&upstream, n)).unwrap();
        in_force(&gateway, n);
    }
    // wrk reports what it has when it is interrupted.
    let pid = rustix::process::Pid::from_raw(i32::try_from(wrk.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut report = String::new();
    std::io::Read::read_to_string(&mut wrk.stdout.take().unwrap(), &mut report).unwrap();
    wrk.wait().unwrap();
    assert!(report.contains("Requests/sec"), "{report}");
    for bad in ["Socket errors", "Non-2xx"] {
        assert!(!report.contains(bad), "{report}");
    }
}

#[test]
fn a_change_is_in_force_within_a_second() {
    let upstream = Upstream::start().unwrap();
    let gateway = start(&upstream);
    let start = Instant::now();
    gateway.dir().write_resources(&version(&upstream, 1)).unwrap();
    in_force(&gateway, 1);
    // One second is promised; the rest is the machine.
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
}

#[test]
fn broken_and_half_written_files_leave_the_running_configuration() {
    let upstream = Upstream::start().unwrap();
    let gateway = start(&upstream);
    let whole = format!("{}\n#END\n", version(&upstream, 9));
    let half = whole.get(..whole.len() / 2).unwrap();
    let broken = [
        ("half", half.to_owned()),
        ("half that ends with the mark", format!("{half}\n#END\n")),
        ("whole without the mark", whole.replace("#END", "")),
        ("empty", String::new()),
        ("only the mark", "#END\n".to_owned()),
        ("not a mapping", "- 1\n- 2\n#END\n".to_owned()),
        ("not YAML", "routes: [\n  {\n#END\n".to_owned()),
        ("binary", "\u{0}\u{1}\u{2}\n#END\n".to_owned()),
    ];
    for (n, (what, text)) in broken.iter().enumerate() {
        gateway.dir().write_raw("apisix.yaml", text).unwrap();
        // SIGHUP makes it look at once; then a good change must still get through, and until then the old one serves.
        gateway.hang_up().unwrap();
        assert_eq!(gateway.connect().unwrap().get("/x").unwrap().status, 200, "{what}");
        gateway.dir().write_resources(&version(&upstream, n + 1)).unwrap();
        in_force(&gateway, n + 1);
    }
}

#[test]
fn a_broken_object_is_left_out_and_the_rest_serves() {
    let upstream = Upstream::start().unwrap();
    let gateway = start(&upstream);
    let mut resources = version(&upstream, 1);
    if let Some(routes) = resources["routes"].as_array_mut() {
        routes.push(json!({"id": "broken", "uri": "/broken", "plugins": {"limit-count": {"count": "many"}}}));
    }
    gateway.dir().write_resources(&resources).unwrap();
    in_force(&gateway, 1);
    let line = gateway.wait_for_log("left out", LIMIT).unwrap();
    // The place is where the plugin's name stands in the file, counted from 1.
    let text = std::fs::read_to_string(gateway.dir().path().join("conf/apisix.yaml")).unwrap();
    let (before, _) = text.split_once("\"limit-count\"").unwrap();
    let column = before.rsplit('\n').next().map_or(0, str::len) + 1;
    let place = format!("apisix.yaml:{}:{column}: routes[3].plugins.limit-count: ", before.lines().count());
    let why = "plugin limit-count err: value should match only one schema, but matches none";
    assert!(line.contains(&place) && line.contains(why), "{place}…{why}\n{line}");
}
