//! debug.yaml beside config.yaml, changed while the gateway runs.

use crate::start::{all_to, gateway};
use serde_json::{Value, json};
use sluice_testkit::Upstream;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);

fn debug(basic: bool) -> String {
    format!(
        "basic: {{enable: {basic}}}\nhttp_filter: {{enable: true, enable_header_name: X-Debug}}\n\
         hook_conf: {{enable: true, name: phases, log_level: warn, is_print_input_args: true}}\n\
         phases: {{apisix: [http_access_phase]}}\n#END\n"
    )
}

#[test]
fn responses_name_the_plugins_that_ran() {
    let upstream = Upstream::start().unwrap();
    let mut resources = all_to(&upstream);
    resources["routes"][0]["plugins"] = json!({"proxy-rewrite": {"headers": {"X-A": "1"}}, "cors": {}});
    let gateway = gateway(&Value::Null, &resources);
    let named = |answer: &sluice_testkit::Answer| answer.header("apisix-plugins").map(str::to_owned);
    let mut wire = gateway.connect().unwrap();
    assert_eq!(named(&wire.get("/x").unwrap()), None);
    gateway.dir().write_raw("debug.yaml", &debug(true)).unwrap();
    gateway.wait_until("/x", LIMIT, |answer| answer.header("apisix-plugins").is_some()).unwrap();
    let plugins = named(&wire.get("/x").unwrap()).unwrap();
    assert_eq!(plugins, "cors#rewrite, proxy-rewrite#rewrite, cors#header_filter");
    // The filter lets hooks look at requests with the field only.
    let line = "call require(\"apisix\").http_access_phase() args:{}";
    assert!(!gateway.log_text().contains(line));
    wire.send(b"GET /hooked HTTP/1.1\r\nHost: a\r\nX-Debug: 1\r\n\r\n").unwrap();
    gateway.wait_for_log(line, LIMIT).unwrap();
    gateway.dir().write_raw("debug.yaml", &debug(false)).unwrap();
    gateway.wait_until("/x", LIMIT, |answer| answer.header("apisix-plugins").is_none()).unwrap();
}
