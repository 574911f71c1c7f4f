//! Defaults and names of `checks`.
use super::*;
use serde_json::json;

fn active(active: Value) -> Active {
    Checks::read(&json!({"active": active})).unwrap().active.unwrap()
}

#[test]
fn a_state_that_is_not_written_is_not_probed() {
    let bare = active(json!({}));
    assert_eq!((bare.healthy_interval, bare.unhealthy_interval), (None, None));
    assert_eq!((bare.kind, bare.timeout, bare.concurrency), (ProbeKind::Http, Duration::from_secs(1), 10));
    assert_eq!(bare.limits, Limits { successes: 2, http_failures: 5, tcp_failures: 2, timeouts: 3 });
    let half = active(json!({"healthy": {}}));
    assert_eq!((half.healthy_interval, half.unhealthy_interval), (Some(Duration::from_secs(1)), None));
    assert!(active(json!({"healthy": {"interval": 0}})).healthy_interval.is_none());
}

#[test]
fn the_guides_names_work_beside() {
    let checks = active(json!({
        "interval": 3, "healthy": {"http_codes": [204]}, "unhealthy": {"interval": 5, "http_codes": [418]}
    }));
    assert_eq!(checks.healthy_interval, Some(Duration::from_secs(3)));
    assert_eq!(checks.unhealthy_interval, Some(Duration::from_secs(5)));
    assert_eq!(checks.statuses.class(204), Some(Report::Success));
    assert_eq!(checks.statuses.class(418), Some(Report::HttpFailure));
    assert_eq!(checks.statuses.class(200), None);
    // the schema has filled in 1
    assert_eq!(
        active(json!({"interval": 3, "healthy": {"interval": 1}})).healthy_interval,
        Some(Duration::from_secs(3))
    );
    let everywhere = active(json!({"interval": 2}));
    assert_eq!(everywhere.healthy_interval, everywhere.unhealthy_interval);
}

#[test]
fn passive_lists_are_heard_only_where_written() {
    let read = |passive: Value| Checks::read(&json!({"active": {}, "passive": passive})).unwrap().passive;
    let only_bad = read(json!({"unhealthy": {"http_statuses": [500], "http_failures": 1}}));
    let statuses = only_bad.statuses.as_ref().unwrap();
    assert_eq!((statuses.class(500), statuses.class(200), statuses.class(99)), (Some(Report::HttpFailure), None, None));
    assert_eq!(only_bad.limits, Limits { successes: 5, http_failures: 1, tcp_failures: 2, timeouts: 7 });
    assert_eq!(only_bad.ejection, None);
    let none = Checks::read(&json!({"active": {}})).unwrap();
    assert_eq!((none.passive.statuses, none.passive.limits.tcp_failures), (None, 2));
    // a status in both lists is a success
    let both = read(json!({"healthy": {"http_statuses": [500]}, "unhealthy": {"http_statuses": [500]}}));
    assert_eq!(both.statuses.unwrap().class(500), Some(Report::Success));
}

#[test]
fn our_own_fields() {
    let checks = Checks::read(&json!({
        "passive": {"unhealthy": {"interval": 10, "ejection_time": 30, "max_ejection_percent": 50}},
        "all_unhealthy": "fail"
    }))
    .unwrap();
    let ejection = Ejection { interval: Some(Duration::from_secs(10)), time: Some(Duration::from_secs(30)) };
    assert_eq!(checks.passive.ejection, Some(ejection));
    assert_eq!((checks.max_ejection_percent, checks.fail_when_none, checks.kind), (50, true, "http"));
}

#[test]
fn mistakes_are_told() {
    for (checks, message) in [
        (json!({"active": {"type": "icmp"}}), "unknown variant `icmp`"),
        (json!({"active": {"redis_role": "boss"}}), "redis_role is master or slave, not boss"),
        (json!({"active": {"req_headers": ["A: b\r\nC: d"]}}), "a line end in req_headers or http_path"),
        (json!({"active": {}, "passive": {"unhealthy": {"ejection_time": -1}}}), "ejection_time is no time: -1"),
        (json!({"active": {}, "all_unhealthy": "perhaps"}), "unknown variant `perhaps`"),
    ] {
        let error = Checks::read(&checks).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}
