//! Tests of `real_ip`.
use super::*;
use proptest::prelude::*;
use sluice_plugin::testing::{Harness, check};
use sluice_plugin::{Scope, define};

/// `ADDRESS PORT` as plugins see them after the request passed.
fn seen(config: Value, target: &str, headers: &[(&str, &str)]) -> String {
    let harness = Harness::new(define::<RealIp>(), config).unwrap();
    let mut cx = Context::for_tests("GET", target);
    for (name, value) in headers {
        cx.request.headers.append(name, value);
    }
    assert!(harness.request(&mut cx).is_none());
    let variable = |name: &str| cx.variable(&Variable::parse(name)).unwrap().as_str().into_owned();
    assert_eq!(variable("realip_remote_addr"), "127.0.0.1");
    format!("{} {}", variable("remote_addr"), variable("remote_port"))
}

const UNCHANGED: &str = "127.0.0.1 40000";

#[test]
fn from_a_header() {
    let with = |value: &str| seen(json!({"source": "http_xff"}), "/", &[("XFF", value)]);
    assert_eq!(with("1.1.1.1"), "1.1.1.1 ");
    assert_eq!(with("1.1.1.1:80"), "1.1.1.1 80");
    assert_eq!(with("1.1.1.1:x"), "1.1.1.1 ");
    assert_eq!(with("::2"), "::2 ");
    assert_eq!(with("[::2]"), "::2 ");
    assert_eq!(with("[::2]:80"), "::2 80");
    assert_eq!(with("::ffff:1.2.3.4"), "::ffff:1.2.3.4 ");
    for bad in ["1.1.1.1.1", "1.1.1.1:65536", "1.1.1.1:0", "[::2", "[1.1.1.1]", "localhost", "a:b", ""] {
        assert_eq!(with(bad), UNCHANGED, "{bad}");
    }
    assert_eq!(seen(json!({"source": "http_xff"}), "/", &[]), UNCHANGED);
}

#[test]
fn from_an_argument() {
    assert_eq!(seen(json!({"source": "arg_realip"}), "/?realip=1.2.3.4:9080", &[]), "1.2.3.4 9080");
}

#[test]
fn from_forwarded_for() {
    let config = json!({"source": "http_x_forwarded_for"});
    assert_eq!(seen(config.clone(), "/", &[("X-Forwarded-For", "::1, ::2")]), "::2 ");
    assert_eq!(seen(config.clone(), "/", &[("X-Forwarded-For", "::1"), ("X-Forwarded-For", "::2")]), "::2 ");
    assert_eq!(seen(config.clone(), "/", &[("X-Forwarded-For", "1.1.1.1")]), "1.1.1.1 ");
    assert_eq!(seen(config, "/", &[]), UNCHANGED);
}

#[test]
fn only_trusted_peers() {
    let with = |trusted: Value| {
        let config = json!({"source": "http_x_forwarded_for", "trusted_addresses": trusted});
        seen(config, "/", &[("X-Forwarded-For", "1.1.1.1")])
    };
    assert_eq!(with(json!(["192.128.0.0/16"])), UNCHANGED);
    assert_eq!(with(json!(["192.128.0.0/16", "127.0.0.0/24"])), "1.1.1.1 ");
    assert_eq!(with(json!(["127.0.0.1"])), "1.1.1.1 ");
    assert_eq!(with(json!(["::/0"])), UNCHANGED);
}

#[test]
fn recursive() {
    let config = json!({
        "source": "http_x_forwarded_for", "recursive": true, "trusted_addresses": ["192.128.0.0/16", "127.0.0.0/24"]
    });
    let with = |list: &str| seen(config.clone(), "/", &[("X-Forwarded-For", list)]);
    assert_eq!(with("1.1.1.1, 192.128.1.1, 127.0.0.1"), "1.1.1.1 ");
    assert_eq!(with("9.9.9.9,1.1.1.1,  192.128.1.1"), "1.1.1.1 ");
    assert_eq!(with("192.128.1.2, 192.128.1.1"), "192.128.1.2 ");
    assert_eq!(with("1.1.1.1, bad, 127.0.0.1"), UNCHANGED);
    assert_eq!(with("127.0.0.1"), "127.0.0.1 ");
}

#[test]
fn schema() {
    let refuse = |mut config| check(define::<RealIp>(), Scope::Route, &mut config).unwrap_err().0;
    assert_eq!(refuse(json!({})), r#"property "source" is required"#);
    assert_eq!(
        refuse(json!({"source": "http_xff", "trusted_addresses": ["127.0.0.1/33"]})),
        r#"property "trusted_addresses" validation failed: failed to validate item 1: object matches none of the required"#
    );
    assert_eq!(refuse(json!({"source": "http_xff", "trusted_addresses": ["::1/129"]})), "invalid ip address: ::1/129");
    let mut config = json!({"source": "http_xff"});
    check(define::<RealIp>(), Scope::Route, &mut config).unwrap();
    assert_eq!(config, json!({"source": "http_xff", "recursive": false}));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn addresses_round_trip(ip: IpAddr, port in 1u16..) {
        let with_port = std::net::SocketAddr::new(ip, port).to_string();
        prop_assert_eq!(parse_address(&with_port), Some((ip, port)));
        prop_assert_eq!(parse_address(&ip.to_string()), Some((ip, 0)));
    }
    #[test]
    fn never_panics(text in "[\\[\\]0-9a-f:., ]{0,40}") {
        if let Some((ip, _)) = parse_address(&text) {
            prop_assert!(text.contains(|c: char| c.is_ascii_digit() || c == ':'), "{} from {}", ip, text);
        }
    }
}
