//! Fuzz targets as plain functions over bytes, so that the stable driver (`src/bin/driver.rs`) and cargo-fuzz
//! (`fuzz_targets/any_target.rs`) run the same code. A target fails by panicking; a new one is a function and a line here.

mod expressions;
mod firewall;
mod messages;

/// Name of the target (also of its folder in `seeds/`) and the function.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("template", expressions::template),
    ("expression", expressions::expression),
    ("request_head", messages::request_head),
    ("chunked_body", messages::chunked_body),
    ("seclang", firewall::seclang),
    ("firewall", firewall::firewall),
];

/// The target of this name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(n, _)| *n == name).map(|(_, run)| *run)
}
