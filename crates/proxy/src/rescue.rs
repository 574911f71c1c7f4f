//! The one place that invents responses: what the gateway says when a request cannot be served.
use crate::client::BodyError;
use sluice_http::status;
use sluice_plugin::Reply;
use sluice_upstream::Failure;
use std::sync::Arc;

/// Why there is no answer from an upstream.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// No route matched.
    NoRoute,
    /// The route names a service that does not exist (apisix/init.lua answers 404).
    MissingService,
    /// The route names a plugin config that does not exist.
    MissingPluginConfig,
    /// The consumer names a group that does not exist.
    MissingConsumerGroup,
    /// The route has no upstream at all.
    NoUpstream,
    /// `upstream_id` names none.
    MissingUpstream,
    /// A plugin chose an upstream by an id that names none (apisix/plugins/traffic-split.lua).
    MissingChoice(Arc<str>),
    /// The upstream has no node.
    NoNode,
    /// Its nodes' names do not resolve.
    Unresolved,
    /// All nodes were tried.
    Exhausted,
    /// A circuit breaker lets nothing pass.
    Broken,
    /// A node failed.
    Upstream(Failure),
    /// The request's body could not be read.
    Body(BodyError),
    /// mTLS: the client's certificate is missing or not accepted.
    ClientCertificate,
    /// The request's host wants a client certificate that was shown to another name; a connection of its own will do.
    Misdirected,
}

/// The response to a trouble; `None` where the client is gone and nobody listens.
pub fn reply(trouble: &Trouble) -> Option<Reply> {
    Some(match trouble {
        Trouble::NoRoute => Reply::error_msg(404, "404 Route Not Found"),
        Trouble::MissingService => Reply::status(404),
        Trouble::MissingPluginConfig | Trouble::MissingConsumerGroup => Reply::status(503),
        Trouble::NoUpstream | Trouble::NoNode | Trouble::Unresolved | Trouble::Broken => Reply::status(503),
        Trouble::MissingChoice(id) => Reply::text(500, format!("failed to fetch upstream info by upstream id: {id}")),
        Trouble::MissingUpstream | Trouble::Exhausted => Reply::status(502),
        Trouble::Upstream(failure) => Reply::status(failure.status()),
        Trouble::Body(BodyError::TooLarge) => Reply::status(413),
        Trouble::Body(BodyError::Malformed) => Reply::text(400, "malformed request body\n"),
        Trouble::Body(BodyError::Timeout) => Reply::status(408),
        Trouble::Body(BodyError::Closed) => return None,
        Trouble::ClientCertificate => Reply::status(400),
        Trouble::Misdirected => Reply::status(421),
    })
}

/// nginx's page for a status without a body of its own (ngx_http_special_response.c), with our name.
pub fn page(status: u16) -> Vec<u8> {
    let reason = status::reason(status);
    format!(
        "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n<center><h1>{status} {reason}</h1></center>\r\n<hr><center>Sluice</center>\r\n</body>\r\n</html>\r\n"
    )
    .into_bytes()
}
