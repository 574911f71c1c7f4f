//! Tests of `elasticsearch-logger`'s own parts; its way to a server is tested end to end.
use super::*;

#[test]
fn indexes_hold_times_and_variables() {
    let cx = Context::for_tests("GET", "/hello");
    let render = |text: &str| String::from_utf8(Index::compile(text).render(&cx)).unwrap();
    let year = TimeFormat::compile("%Y").render(std::time::SystemTime::now());
    assert_eq!(render("services"), "services");
    assert_eq!(render("services-{%Y}-$host"), format!("services-{year}-localhost"));
    assert_eq!(render("a-${host}-{%Y}"), format!("a-localhost-{year}"));
    assert_eq!(render("{*t}x{"), "x{");
}
