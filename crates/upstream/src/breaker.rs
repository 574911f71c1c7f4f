//! Circuit breakers of an upstream or of its nodes: closed, open, half-open.
//!
//! The surprise: a [`Breaker`] is state alone. Its [`Limits`] belong to the compiled upstream and are handed in, so that the
//! state lives on over every change of the configuration, thresholds included. No locks; time is handed in, too.
mod machine;
mod report;
mod settings;
mod window;

pub use machine::{Breaker, Permit, Phase, Refusal, Seen, Transition};
pub use report::{BreakerReport, Counts};
pub use settings::{BreakResponse, Breaking, Fallback, Limits, Ratio, Scope, StatusSet};
