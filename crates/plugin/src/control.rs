//! Endpoints of plugins on the Control API (APISIX: a plugin's `_M.control_api()`, apisix/control/router.lua). The surprise:
//! they are plain functions; the port is for operators on the machine and never waits for anything.
use crate::reply::Reply;

/// What a control endpoint may look at.
#[derive(Clone, Copy, Debug)]
pub struct ControlRequest<'a> {
    /// Name and value, decoded, in order.
    pub args: &'a [(String, String)],
}

/// One endpoint on the Control API.
#[derive(Clone, Copy, Debug)]
pub struct ControlEndpoint {
    /// Methods in capitals.
    pub methods: &'static [&'static str],
    /// The exact path, or a prefix that ends in `*`.
    pub uri: &'static str,
    /// A reply whose body is JSON names its own type.
    pub handler: fn(&ControlRequest<'_>) -> Reply,
}

impl ControlEndpoint {
    /// Whether a request is for this endpoint.
    pub fn matches(&self, method: &str, path: &str) -> bool {
        let path_matches = match self.uri.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == self.uri,
        };
        path_matches && self.methods.contains(&method)
    }
}
