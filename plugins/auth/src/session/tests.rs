//! Sessions in cookies, with a clock that stands still; in Redis they are tested end to end.
use super::*;
use crate::testing::bare;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_plugin::testing::block_on;
use std::time::Duration;

fn sessions(more: Value, realm: &str, env: &Env) -> Sessions {
    let mut all = json!({"secret": "0123456789abcdef"});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Sessions::new(serde_json::from_value(all).unwrap(), realm, env).unwrap()
}

/// The cookies that a response sets, and a request that brings them.
fn returned(cx: &Context) -> (Vec<String>, Context) {
    let set: Vec<String> = cx.early_headers().map(|(_, v)| String::from_utf8(v.to_vec()).unwrap()).collect();
    let pairs: Vec<&str> = set.iter().map(|line| line.split(';').next().unwrap()).collect();
    let next = bare("GET", "/", &[("Cookie", &pairs.join("; "))]);
    (set, next)
}

fn opened(sessions: &Sessions, cx: &Context) -> Option<Value> {
    match sessions.open::<Value>(cx) {
        Opened::Session(session) => Some(session.data),
        _ => None,
    }
}

fn saved(sessions: &Sessions, data: Value) -> (Vec<String>, Context) {
    let mut cx = bare("GET", "/", &[]);
    let mut session = sessions.begin::<Value>();
    session.data = data;
    block_on(sessions.save(&mut cx, &mut session)).unwrap();
    returned(&cx)
}

#[test]
fn a_session_is_good_for_its_secret_and_realm_alone() {
    let env = Env::for_tests();
    let ours = sessions(json!({}), "idp", &env);
    let (set, cx) = saved(&ours, json!({"user": "anna"}));
    assert!(set.len() == 1 && set[0].starts_with("session=") && set[0].ends_with("; Path=/; SameSite=Lax; HttpOnly"));
    assert_eq!(opened(&ours, &cx), Some(json!({"user": "anna"})));
    assert_eq!(opened(&sessions(json!({}), "other", &env), &cx), None);
    assert_eq!(opened(&sessions(json!({"secret": "0123456789abcdeg"}), "idp", &env), &cx), None);
    assert!(matches!(sessions(json!({"storage": "redis"}), "idp", &env).open::<Value>(&cx), Opened::None));
    let more = json!({"cookie_name": "s", "cookie_path": "/a", "cookie_domain": "b.test", "cookie_secure": true,
        "cookie_http_only": false, "cookie_same_site": "None"});
    let (set, _) = saved(&sessions(more, "idp", &env), json!(1));
    assert!(set[0].starts_with("s=") && set[0].ends_with("; Path=/a; Domain=b.test; SameSite=None; Secure"), "{set:?}");
}

#[test]
fn large_sessions_take_several_cookies_and_too_large_ones_are_refused() {
    let (env, mut cx) = (Env::for_tests(), bare("GET", "/", &[]));
    let ours = sessions(json!({}), "idp", &env);
    let data = json!("x".repeat(10_000));
    let (set, next) = saved(&ours, data.clone());
    let names: Vec<&str> = set.iter().map(|line| line.split('=').next().unwrap()).collect();
    assert_eq!(names, ["session", "session2", "session3", "session4"]);
    assert!(set.iter().all(|line| line.split(';').next().unwrap().len() <= 4096));
    assert_eq!(opened(&ours, &next), Some(data));
    // Smaller again: the cookies that are too many go.
    let Opened::Session(mut session) = ours.open::<Value>(&next) else { panic!("no session") };
    let mut cx2 = next;
    session.data = json!(1);
    block_on(ours.save(&mut cx2, &mut session)).unwrap();
    let (set, _) = returned(&cx2);
    assert!(set.len() == 4 && set[3].starts_with("session4=; ") && set[3].ends_with("; Max-Age=0"), "{set:?}");
    let mut session = ours.begin::<Value>();
    session.data = json!("x".repeat(40_000));
    assert!(matches!(block_on(ours.save(&mut cx, &mut session)), Err(SessionError::TooLarge)));
}

#[test]
fn sessions_end_when_unused_not_renewed_or_old() {
    let env = Env::for_tests();
    let more = json!({"idling_timeout": 100, "rolling_timeout": 400, "absolute_timeout": 1000});
    let ours = sessions(more, "idp", &env);
    let step = |cx: Context, seconds: u64| -> Option<Context> {
        env.clock.advance(Duration::from_secs(seconds));
        let Opened::Session(mut session) = ours.open::<Value>(&cx) else { return None };
        let mut cx = cx;
        let due = ours.is_due(&session);
        block_on(ours.refresh(&mut cx, &mut session)).unwrap();
        assert_eq!(due, cx.early_headers().count() > 0);
        Some(if due { returned(&cx).1 } else { cx })
    };
    let start = || saved(&ours, json!(1)).1;
    assert!(step(start(), 99).is_some() && step(start(), 100).is_none());
    // Used every 90 s it lives on, until it is old.
    let (mut cx, mut lived) = (Some(start()), 0);
    while let Some(next) = cx.take().and_then(|cx| step(cx, 90)) {
        (cx, lived) = (Some(next), lived + 90);
    }
    assert_eq!(lived, 990);
    // 0 is no limit.
    let endless = sessions(json!({"idling_timeout": 0, "rolling_timeout": 0, "absolute_timeout": 0}), "idp", &env);
    let (_, cx) = saved(&endless, json!(1));
    env.clock.advance(Duration::from_secs(1_000_000_000));
    assert!(opened(&endless, &cx).is_some());
}

#[test]
fn cookies_are_checked_when_configured() {
    for more in [json!({"cookie_name": "a b"}), json!({"cookie_path": "/;x"}), json!({"cookie_domain": "a\r\n"})] {
        let mut all = json!({"secret": "0123456789abcdef"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert!(Sessions::new(serde_json::from_value(all).unwrap(), "", &Env::for_tests()).is_err(), "{more}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_changed_cookie_is_no_session(at in 0usize..120, bit in 0u8..6, cut in any::<bool>()) {
        let env = Env::for_tests();
        let ours = sessions(json!({}), "idp", &env);
        let (set, _) = saved(&ours, json!({"user": "anna"}));
        let value = set[0].split(';').next().unwrap().strip_prefix("session=").unwrap();
        let mut bytes = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, value).unwrap();
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        let text = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, bytes);
        let cx = bare("GET", "/", &[("Cookie", &format!("session={text}"))]);
        prop_assert_eq!(opened(&ours, &cx), None);
    }
}
