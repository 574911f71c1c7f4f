//! The sample of CONTRIBUTING.md, "Add a plugin in ten minutes": it compiles, its tests pass, and it is what is printed there.
#![allow(clippy::unwrap_used, reason = "a test, its own functions included")]

#[path = "contributing/require_header.rs"]
mod require_header;

#[test]
fn contributing_shows_this_very_sample() {
    let sample = include_str!("contributing/require_header.rs");
    assert!(include_str!("../../../CONTRIBUTING.md").contains(sample), "CONTRIBUTING.md shows another text");
}
