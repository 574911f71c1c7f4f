//! Which answers are stored and for how long, by all three sets of rules.
use super::*;
use proptest::prelude::*;

const NOW: u64 = 784_111_777_000;
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

const RFC: Rules =
    Rules { ttl: Ttl::Rfc, set_cookie: false, keyed_by_user: false, stale_while_revalidate: 0, stale_if_error: None };

fn fields(list: &[(&str, &str)]) -> Vec<Field> {
    list.iter().map(|(n, v)| ((*n).into(), v.as_bytes().into())).collect()
}

fn of(rules: Rules, status: u16, list: &[(&str, &str)]) -> Option<Freshness> {
    judge(&rules, &Exchange { status, fields: &fields(list), authorized: false, requested: NOW, received: NOW }).ok()
}

fn seconds(list: &[(&str, &str)]) -> Option<u64> {
    of(RFC, 200, list).map(|f| f.lifetime / 1000)
}

#[test]
fn lifetimes_come_from_the_most_precise_word() {
    assert_eq!(seconds(&[("Cache-Control", "max-age=10, s-maxage=20"), ("Expires", DATE)]), Some(20));
    let later = "Sun, 06 Nov 1994 08:50:37 GMT";
    assert_eq!(seconds(&[("Expires", later), ("Date", DATE)]), Some(60));
    assert_eq!(seconds(&[("Expires", "0"), ("Cache-Control", "max-age=5")]), Some(5));
    assert_eq!(seconds(&[("Expires", "0")]), None);
    assert_eq!(seconds(&[("Expires", later), ("Expires", DATE)]), None);
    assert_eq!(seconds(&[("Last-Modified", "Sun, 06 Nov 1994 08:32:57 GMT")]), Some(100));
    assert_eq!(seconds(&[]), None);
    assert_eq!(seconds(&[("CDN-Cache-Control", "max-age=9"), ("Cache-Control", "no-store")]), Some(9));
}

#[test]
fn what_may_not_be_stored_is_not() {
    for control in ["no-store, max-age=9", "private, max-age=9"] {
        assert_eq!(seconds(&[("Cache-Control", control)]), None, "{control}");
    }
    assert_eq!(seconds(&[("Cache-Control", "max-age=9"), ("Set-Cookie", "a=b")]), None);
    assert_eq!(seconds(&[("Cache-Control", "max-age=9, no-store, must-understand")]), Some(9));
    let own = fields(&[("Cache-Control", "max-age=9")]);
    let exchange = Exchange { status: 200, fields: &own, authorized: true, requested: NOW, received: NOW };
    assert!(judge(&RFC, &exchange).unwrap_err().contains("Authorization"));
    assert!(judge(&Rules { keyed_by_user: true, ..RFC }, &exchange).is_ok());
    let own = fields(&[("Cache-Control", "max-age=9, public")]);
    assert!(judge(&RFC, &Exchange { fields: &own, ..exchange }).is_ok());
}

#[test]
fn stale_answers_are_kept_to_be_asked_about() {
    let kept = of(RFC, 200, &[("Cache-Control", "no-cache"), ("ETag", "\"a\"")]).unwrap();
    assert!(kept.ask_always);
    assert_eq!(of(RFC, 200, &[("Cache-Control", "no-cache")]), None);
    assert!(of(RFC, 200, &[("Cache-Control", "max-age=0"), ("ETag", "\"a\"")]).is_some());
    let fixed = Rules { ttl: Ttl::Fixed(300), ..RFC };
    assert_eq!(of(fixed, 200, &[("Cache-Control", "no-cache"), ("ETag", "\"a\"")]), None);
}

#[test]
fn ages_add_up() {
    let aged = of(RFC, 200, &[("Cache-Control", "max-age=100"), ("Age", "30")]).unwrap();
    assert_eq!(aged.left(NOW), 70_000);
    assert_eq!(of(RFC, 200, &[("Cache-Control", "max-age=100"), ("Age", "100")]), None);
    let dated = of(RFC, 200, &[("Cache-Control", "max-age=100"), ("Date", "Sun, 06 Nov 1994 08:49:17 GMT")]).unwrap();
    assert_eq!(dated.initial_age, 20_000);
}

#[test]
fn nginx_and_apisix_have_rules_of_their_own() {
    let nginx = Rules { ttl: Ttl::Upstream(10), ..RFC };
    assert_eq!(of(nginx, 200, &[]).unwrap().lifetime, 10_000);
    assert_eq!(of(nginx, 200, &[("X-Accel-Expires", "3"), ("Cache-Control", "max-age=9")]).unwrap().lifetime, 3000);
    assert_eq!(of(nginx, 200, &[("X-Accel-Expires", "0")]), None);
    assert_eq!(of(nginx, 200, &[("Cache-Control", "max-age=9")]).unwrap().lifetime, 9000);
    let apisix = Rules { ttl: Ttl::Fixed(300), ..RFC };
    assert_eq!(of(apisix, 200, &[("Cache-Control", "max-age=9")]).unwrap().lifetime, 300_000);
    assert_eq!(of(apisix, 200, &[("Cache-Control", "private")]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_words_are_judged(control in "(max-age|s-maxage|no-store|private|public|no-cache|=|,| |\"|[0-9]{1,12}){0,12}", age in "\\PC{0,6}") {
        let own = fields(&[("Cache-Control", &control), ("Age", &age), ("ETag", "\"x\"")]);
        let exchange = Exchange { status: 200, fields: &own, authorized: false, requested: NOW, received: NOW };
        if let Ok(freshness) = judge(&RFC, &exchange) {
            let control = ResponseControl::parse([control.as_bytes()].into_iter());
            prop_assert!(!control.no_store && !control.private);
            prop_assert!(freshness.lifetime <= crate::control::MAX_DELTA * 1000);
        }
    }
}
