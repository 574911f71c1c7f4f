//! Rules from text to decision.

use super::*;
use std::sync::Arc;

fn rules(text: &str) -> Arc<Ruleset> {
    Arc::new(compile(text, &Sources::default()).unwrap_or_else(|e| panic!("{e}")))
}
