//! Upstreams: which node answers a request, and what is remembered about every node.
//!
//! The surprise: nothing here locks on the request path. A [`Balancer`] is immutable; what moves (counters, load,
//! health) are atomics, and the part that outlives a configuration change sits in [`NodeState`].

pub mod adaptive;
pub mod balancer;
pub mod breaker;
pub mod chash;
pub mod concurrency;
pub mod endpoint;
pub mod ewma;
pub mod grpc_status;
pub mod hash_key;
pub mod health;
pub mod host_header;
pub mod least_conn;
pub mod load_report;
mod measured;
pub mod nodes;
pub mod p2c;
pub mod pool;
pub mod priority;
pub mod random;
pub mod registry;
pub mod retry;
pub mod roundrobin;
pub mod service;
pub mod slow_start;
pub mod status;
pub mod sticky;
pub mod tried;
pub mod upstream;
pub mod zone;

pub use balancer::{Algorithm, Balancer, BalancerError, BalancerSettings, Held, Outcome, PickInput, Picked};
pub use endpoint::{Endpoint, NodeState};
pub use grpc_status::GrpcStatuses;
pub use hash_key::{HashKey, HashOn, hash_key};
pub use health::{Checker, CheckerSettings, Checks, HealthReport};
pub use host_header::{HostHeader, PassHost};
pub use load_report::LoadReport;
pub use nodes::{NodeConfig, NodeSet, NodeSetSettings, Resolve, ResolveError, Resolved};
pub use registry::NodeStates;
pub use retry::{Attempt, Failure, FailureKind, FailureSource, RetryDecision, RetryOn, RetryPolicy};
pub use service::{Discover, DiscoverError, Following, Service, ServiceNode, ServiceNodes, ServiceQuery};
pub use slow_start::SlowStart;
pub use status::NodeStatus;
pub use sticky::{Sticky, StickySettings};
pub use tried::Tried;
pub use upstream::{Scheme, Timeouts, Tls, Upstream};
pub use zone::ZonePreference;
