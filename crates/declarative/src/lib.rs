//! Configuration as files in a repository: read, compared with what an Admin API has, planned, applied, written back,
//! checked for weak spots, made from other formats. The surprise: nothing here is of the gateway itself; everything goes
//! through the Admin API's plain verbs, so the same commands work on APISIX.
pub mod apply;
pub mod client;
pub mod convert;
pub mod dump;
pub mod lint;
pub mod normal;
pub mod object;
pub mod plan;
pub mod secrets;
pub mod show;
pub mod source;
pub mod target;
pub mod yaml;

pub use apply::{Applied, ApplyError, apply};
pub use client::{Client, ClientError, ClientSettings};
pub use object::{Key, Object, Place, Selection};
pub use plan::{Action, Change, Field, Plan, PlanError};
pub use source::Source;
