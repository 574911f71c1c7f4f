//! cargo-fuzz's entry: runs the target that the environment variable `SLUICE_FUZZ_TARGET` names.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("SLUICE_FUZZ_TARGET").unwrap_or_default();
    sluice_fuzz::target(&name).unwrap_or_else(|| panic!("SLUICE_FUZZ_TARGET names no target: {name:?}"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
