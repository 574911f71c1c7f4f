//! Health checks of an upstream's nodes: active (probes) and passive (what requests met), as APISIX's `checks`
//! (apisix/healthcheck_manager.lua and lua-resty-healthcheck), and ejections of our own.
//!
//! The surprise: a node without a [`Target`] is not checked and always up; checks that are taken away take their verdicts
//! with them, while targets, found again in [`crate::NodeStates`], outlive every other change.
mod checker;
mod checks;
mod machine;
mod probe;
mod report;
mod run;
mod target;
mod window;

pub use checker::{Checker, CheckerSettings, Member};
pub use checks::{Active, Checks, Ejection, Limits, Passive, ProbeKind, Statuses};
pub use machine::{Counted, Counters, Machine, Report, Status};
pub use report::{Counter, HealthReport, NodeReport};
pub use target::Target;
