//! Services: nodes that a registry tells of, instead of a list that stands in the upstream.
//!
//! The surprise: a change of a service's nodes is no change of the configuration. The set of nodes that follows the service
//! swaps its balancer; the upstream, its routes and the snapshot stay as they are.
use crate::nodes::NodeConfig;
use serde_json::Value;
use std::net::Ipv6Addr;
use std::sync::Arc;
use tokio::sync::watch;

/// A service as an upstream names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceQuery {
    /// `discovery_type`: the kind of registry.
    pub registry: Arc<str>,
    /// `service_name`; its form is the registry's.
    pub name: Arc<str>,
    /// `discovery_args.namespace_id`.
    pub namespace_id: Option<Arc<str>>,
    /// `discovery_args.group_name`.
    pub group_name: Option<Arc<str>>,
    /// The upstream speaks gRPC: some registries have another port for that.
    pub grpc: bool,
}

/// A node as a registry tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceNode {
    /// An address or a name.
    pub host: Arc<str>,
    /// `None`: the usual one of the upstream's scheme; a scheme without one leaves the node out.
    pub port: Option<u16>,
    pub weight: u32,
    pub priority: i32,
    pub metadata: Option<Arc<Value>>,
}

/// What is known of a service now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceNodes {
    /// The registry was asked, with or without success.
    pub asked: bool,
    /// Empty where the registry does not know the service.
    pub nodes: Arc<[ServiceNode]>,
}

/// The nodes of a service and their changes. Who drops it does not follow any more.
pub type Following = watch::Receiver<ServiceNodes>;

/// Where a set's nodes come from, other than its configuration.
#[derive(Clone, Debug)]
pub struct Service {
    pub query: ServiceQuery,
    pub following: Following,
    /// Of nodes that come without one; without it they are left out.
    pub default_port: Option<u16>,
}

impl Service {
    /// The nodes as the registry tells now, as if they had been configured.
    pub(crate) fn nodes(&self, known: &ServiceNodes) -> Vec<NodeConfig> {
        let node = |node: &ServiceNode| {
            // as in lists of nodes (apisix/upstream.lua `needs_ipv6_bracket`)
            let bare = node.host.parse::<Ipv6Addr>().is_ok();
            Some(NodeConfig {
                host: if bare { format!("[{}]", node.host).into() } else { node.host.clone() },
                port: node.port.or(self.default_port)?,
                weight: node.weight,
                priority: node.priority,
                metadata: node.metadata.clone(),
            })
        };
        known.nodes.iter().filter_map(node).collect()
    }
}

/// Why a service cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoverError {
    /// APISIX's wording (apisix/upstream.lua `set_by_route`).
    #[error("discovery {0} is uninitialized")]
    Uninitialized(Arc<str>),
    /// config.yaml has no `discovery`; APISIX's wording.
    #[error("discovery is uninitialized")]
    Nothing,
    /// The name has not the form that the registry asks for.
    #[error("{0}")]
    Name(String),
}

/// The registries of the process.
pub trait Discover: Send + Sync + 'static {
    /// Whether the service could be followed; nothing is asked.
    fn check(&self, query: &ServiceQuery) -> Result<(), DiscoverError>;
    /// Follows a service. Never waits: what is not known yet comes as a change. Outside a running process nothing ever comes.
    fn follow(&self, query: &ServiceQuery) -> Result<Following, DiscoverError>;
}
