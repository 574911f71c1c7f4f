//! Host, path, predicates and priority → route. Pure: no I/O, no clock, no knowledge of what a route does.
//!
//! Semantics are lua-resty-radixtree's and apisix/http/router/*.lua's: exact paths first, then the longest prefix with
//! fallback to shorter ones when predicates fail; within one path by priority, then the longer URI, then age. New are
//! `~` URIs (regular expressions, tried last), [`Mode::Priority`], `!` in `remote_addrs`, and [`Router::explain`].
//!
//! The surprise: a [`Router`] is persistent. [`Router::update`] copies the path to what changed and shares the rest, so a
//! change among 100,000 routes costs microseconds and readers of the old router are not disturbed.
use std::net::IpAddr;
use std::sync::Arc;

pub mod analysis;
mod hamt;
mod pattern;
mod predicate;
mod radix;
mod router;
mod stream;
mod table;

pub use pattern::{Params, REST};
pub use predicate::{MethodSet, RemoteAddr};
pub use router::{MAX_EXPLAINED, Router};
pub use sluice_expr::{Expr, Lookup, Predicate};
pub use stream::{StreamConditions, StreamRequest, StreamRouter, stream_address};

/// In which order routes are considered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// `radixtree_uri`: the URI leads, hosts are a predicate.
    #[default]
    Uri,
    /// `radixtree_host_uri`: first by host (exact, wildcards, none), then by URI.
    HostUri,
    /// `radixtree_uri_with_parameter`: as [`Mode::Uri`], and `:name` is one segment.
    UriWithParameter,
    /// `priority`, not in APISIX: the highest priority among all routes that match; among equals the more exact URI, then
    /// plain hosts before wildcards before none. `:name` is one segment.
    Priority,
}

impl Mode {
    /// From `apisix.router.http` in config.yaml.
    pub fn parse(name: &str) -> Option<Mode> {
        Some(match name {
            "radixtree_uri" => Mode::Uri,
            "radixtree_host_uri" => Mode::HostUri,
            "radixtree_uri_with_parameter" => Mode::UriWithParameter,
            "priority" => Mode::Priority,
            _ => return None,
        })
    }

    fn has_parameters(self) -> bool {
        matches!(self, Mode::UriWithParameter | Mode::Priority)
    }
}

/// A route as configured. Disabled routes (`status: 0`) do not belong here; hosts of the service have been filled in.
#[derive(Debug, Clone)]
pub struct RouteSpec<T> {
    pub id: Arc<str>,
    /// `/exact`, `/prefix/*`, `/x/:name` where the mode has parameters, `~regex`.
    pub uris: Vec<Box<str>>,
    /// `foo.com`, `*.foo.com`; none means any.
    pub hosts: Vec<Box<str>>,
    pub methods: MethodSet,
    pub remote_addrs: Vec<RemoteAddr>,
    pub vars: Option<Arc<Expr>>,
    /// Asked last (`filter_func`).
    pub filter: Option<Arc<dyn Predicate>>,
    /// Higher first; APISIX's default is 0.
    pub priority: i64,
    /// What the caller gets back; typically an `Arc`.
    pub handle: T,
}

impl<T> RouteSpec<T> {
    /// The same with another handle.
    pub fn with_handle<U>(self, handle: U) -> RouteSpec<U> {
        let RouteSpec { id, uris, hosts, methods, remote_addrs, vars, filter, priority, handle: _ } = self;
        RouteSpec { id, uris, hosts, methods, remote_addrs, vars, filter, priority, handle }
    }
}

/// What is matched.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Normalized, decoded, without query: nginx's `$uri`.
    pub path: &'a str,
    /// Without port, lower-case: nginx's `$host`.
    pub host: &'a str,
    pub method: &'a str,
    pub remote_addr: IpAddr,
}

/// The route of a request.
#[derive(Debug)]
pub struct Found<'a, T> {
    pub id: &'a Arc<str>,
    pub handle: &'a T,
    /// The URI that matched, as configured.
    pub uri: &'a str,
    /// The host that matched, as configured but lower-case; `None` when the route has none.
    pub host: Option<&'a str>,
    /// Values of `:name`, `*name` ([`REST`] for a bare `*`) and named groups, in the order of the URI.
    pub params: Params<'a>,
}

/// A route that was considered for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: Arc<str>,
    /// Which of its URIs.
    pub uri: Box<str>,
    pub outcome: Outcome,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Won,
    Lost { reason: String },
}

/// A route that could not be taken into the router.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("route {id}: {reason}")]
pub struct RouteError {
    pub id: Arc<str>,
    pub reason: String,
}

#[cfg(test)]
mod tests;
