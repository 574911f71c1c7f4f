//! Upstream nodes' names are resolved by `net`; this joins the two crates, which do not know each other's traits.
use sluice_net::dns::{Resolve as _, Resolver};
use sluice_upstream::nodes::Resolving;
use sluice_upstream::{Resolve, ResolveError, Resolved};
use std::sync::Arc;
use std::time::Instant;

/// The process's resolver as upstreams ask for it.
pub struct NodeResolver(pub Arc<Resolver>);

impl Resolve for NodeResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            match self.0.resolve(host).await {
                Ok(found) => Ok(Resolved {
                    addresses: found.records.to_vec(),
                    ttl: found.expires.saturating_duration_since(Instant::now()),
                }),
                Err(e) => Err(ResolveError { host: host.to_string(), reason: e.to_string() }),
            }
        })
    }
}
