//! Public endpoints of plugins: paths that a plugin answers itself (APISIX: a plugin's `_M.api()`, apisix/api_router.lua).
//! The surprise: declaring one does not expose it. A request reaches it only through a route with `public-api`.
use crate::context::Context;
use crate::env::Env;
use crate::plugin::Flow;
use std::sync::Arc;

/// Answers a request. `Flow::Next` means that the endpoint declined, which the client sees as 404.
pub type EndpointHandler = Arc<dyn for<'a> Fn(&'a mut Context) -> Flow<'a> + Send + Sync>;

/// One public endpoint.
#[derive(Clone)]
pub struct Endpoint {
    /// Methods in capitals. Other ones do not match.
    pub methods: &'static [&'static str],
    /// The exact path, or a prefix that ends in `*`.
    pub uri: String,
    /// The handler reads the request's body, up to so many bytes: one that is known to be longer is not read. 0 where it
    /// reads none.
    pub body_limit: u64,
    pub handler: EndpointHandler,
}

impl Endpoint {
    /// Whether a request is for this endpoint.
    pub fn matches(&self, method: &str, path: &[u8]) -> bool {
        let path_matches = match self.uri.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix.as_bytes()),
            None => path == self.uri.as_bytes(),
        };
        path_matches && self.methods.contains(&method)
    }
}

/// Makes the endpoints of a plugin in this environment, as `plugin_attr` may name their paths.
pub type EndpointsOf = fn(&Env) -> Vec<Endpoint>;

impl Env {
    /// The public endpoints of all enabled plugins, those of higher priority first.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let Some(registry) = self.registry() else { return Vec::new() };
        registry.list().iter().filter_map(|d| d.endpoints).flat_map(|endpoints| endpoints(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching() {
        let mut endpoint =
            Endpoint { methods: &["GET"], uri: "/a/b".into(), body_limit: 0, handler: Arc::new(|_| Flow::Next) };
        assert!(endpoint.matches("GET", b"/a/b"));
        assert!(!endpoint.matches("POST", b"/a/b"));
        assert!(!endpoint.matches("GET", b"/a/b/"));
        endpoint.uri = "/a/*".into();
        assert!(endpoint.matches("GET", b"/a/b/c"));
        assert!(!endpoint.matches("GET", b"/a"));
    }
}
