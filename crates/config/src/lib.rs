//! Configuration files: config.yaml into typed settings, apisix.yaml and apisix.json into raw resources with their
//! places in the file, and the watching of both. The surprise: nothing here fails at the first error; every load
//! returns all problems of the file.

pub mod check;
pub mod compile;
pub mod debug;
pub mod document;
pub mod environment;
pub mod explain;
pub mod position;
pub mod problem;
pub mod rules;
mod section;
pub mod settings;
pub mod snapshot;
pub mod standalone;
pub mod suggestion;
pub mod unit;
pub mod watch;

pub use compile::{
    Applied, ChangeSet, CompileSettings, Compiler, Enabled, Object, PluginSecrets, Problem, accepted, predicates,
};
pub use snapshot::{
    CompiledRoute, CompiledStreamRoute, ConsumerChain, MissingGroup, Published, RouteTrouble, RouteUpstream, Snapshot,
    StreamPluginEntry, Upstreams,
};
