//! SecLang, the rule language of ModSecurity and Coraza: directives are read, rules compiled once, and every request is a
//! [`Transaction`] that walks the rules of its five phases.
//!
//! The surprise: most rules are never looked at. Before a phase begins, all regular expressions and word lists that could
//! apply to a value are run over it as one set (`prefilter.rs`), and only the rules that this names are evaluated. A clean
//! request so costs little more than the sets. Values are bytes throughout, as in ModSecurity.

mod action;
mod arena;
mod body;
mod collections;
mod compile;
mod controls;
mod directive;
mod directives;
mod evaluate;
mod expansion;
mod operator;
mod pattern;
mod pool;
mod prefilter;
mod request;
mod rule;
mod ruleset;
mod settings;
mod suggestion;
mod transaction;
mod transformation;
mod update;
mod variable;

pub use action::{Disruption, Severity};
pub use compile::{CompileError, Sources, compile, compile_file};
pub use ruleset::Ruleset;
pub use settings::{AuditEngine, EngineMode, LimitAction, Settings};
pub use transaction::{Hit, Intervention, Transaction};

#[cfg(test)]
mod tests;
