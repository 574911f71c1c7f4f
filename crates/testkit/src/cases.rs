//! The YAML case runner: `tests/cases/<plugin>/<case>.yaml` says a configuration, requests, and what the client and the
//! upstream must see. `CONTRIBUTING.md` describes the format for authors; [`format`] is its definition.
//!
//! One gateway process per file: a start takes milliseconds, and no case can be helped or hurt by its neighbour.

pub mod check;
pub mod format;
mod run;

pub use format::Case;
pub use run::{discover, run};
