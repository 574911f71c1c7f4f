//! The Control API (apisix/control/router.lua, v1.lua): what an operator on the machine may look at and trigger. The
//! surprises: endpoints of plugins come first, a method that is not offered is a path that is not there, and an empty list is
//! `{}`, since that is what Lua prints for an empty table.
mod breakers;
mod health;
mod resources;
mod schema;
mod watch;

use crate::message::{Reply, Request};
use crate::server::{Answer, Handler};
use serde_json::{Value, json};
use sluice_model::{Body, Kind};
use sluice_plugin::record::Explained;
use sluice_plugin::reply::ReplyBody;
use sluice_plugin::{ControlRequest, Registry};
use sluice_telemetry::watch::Watch;
use sluice_upstream::NodeStatus;
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A stored resource and the revisions that made and changed it.
#[derive(Clone, Debug)]
pub struct Resource {
    /// As in its key: of a credential `<username>/credentials/<id>`.
    pub id: Arc<str>,
    pub body: Body,
    /// 0 where the source has no such thing.
    pub created: u64,
    pub modified: u64,
}

/// What the Control API needs of the running gateway.
pub trait Running: Send + Sync + 'static {
    /// The plugins that may be configured now.
    fn registry(&self) -> Arc<Registry>;
    /// What stands before `/routes/1` in keys: `/apisix` with a store, nothing with a file.
    fn prefix(&self) -> &str;
    /// The resources of a kind, as stored.
    fn resources(&self, kind: Kind) -> Vec<Resource>;
    fn resource(&self, kind: Kind, id: &str) -> Option<Resource>;
    /// Decrypts the plugins' fields of a stored body.
    fn reveal(&self, kind: Kind, id: &str, body: &mut Value);
    /// The nodes that are checked, of the upstream that a resource is or has: `{ip, port, hostname, status, counter}`.
    fn health(&self, kind: Kind, id: &str) -> Vec<Value>;
    /// The circuit breakers of the process by upstream: `{name, …}`.
    fn circuit_breakers(&self) -> Vec<Value> {
        Vec::new()
    }
    /// The certificates that clients see, the next to end first: `{id, snis, certificates, …}`.
    fn certificates(&self) -> Vec<Value> {
        Vec::new()
    }
    /// The concurrency limits of the process by upstream: `{name, …}`.
    fn concurrency_limits(&self) -> Vec<Value> {
        Vec::new()
    }
    /// The state of all nodes of the upstream that a resource is or has; `None` where it has none in force.
    fn nodes(&self, _kind: Kind, _id: &str) -> Option<Vec<NodeStatus>> {
        None
    }
    /// Lets this see requests as they end, until what is returned is dropped. `None`: nothing passes here.
    fn watch(&self, _watcher: Arc<dyn Watch>) -> Option<Box<dyn Any + Send + Sync>> {
        None
    }
    /// How many workers serve requests.
    fn workers(&self) -> u16 {
        1
    }
    /// What is kept of explained requests.
    fn explained(&self) -> Option<Arc<Explained>> {
        None
    }
    /// What a kind of registry of `discovery` has told; `None` where there is no such page.
    fn discovery_dump(&self, kind: &str) -> Option<Value>;
    /// What stands in its dump file; an error says why it cannot be shown.
    fn discovery_dump_file(&self, kind: &str) -> Option<Result<String, String>>;
    /// Reads config.yaml's lists and attributes of plugins again and puts them into force on this node.
    fn reload_plugins(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
}

/// The Control API as a handler.
pub struct Control {
    running: Arc<dyn Running>,
}

impl Control {
    pub fn new(running: Arc<dyn Running>) -> Control {
        Control { running }
    }

    async fn dispatch(&self, request: &Request) -> Reply {
        if let Some(reply) = self.plugin_endpoint(request) {
            return reply;
        }
        let segments = request.segments();
        let Some((&"v1", path)) = segments.split_first() else { return not_found() };
        let running = self.running.as_ref();
        match (request.method.as_str(), path) {
            ("GET", ["schema"]) => schema::all(&running.registry()),
            ("GET", ["healthcheck"]) => health::all(running, request),
            ("GET", ["healthcheck", rest @ ..]) => health::one(running, request, rest),
            ("GET", ["circuit_breakers", rest @ ..]) => breakers::answer(running.circuit_breakers(), rest),
            ("GET", ["concurrency_limits", rest @ ..]) => breakers::answer(running.concurrency_limits(), rest),
            ("GET", ["certificates"]) => {
                let all = running.certificates();
                Reply::json(200, &all.into()).with_header("Content-Type", "application/json")
            }
            ("GET", ["requests" | "traffic", ..]) | ("GET", ["explain", ..]) if !is_local(request) => {
                Reply::error(403, "only for this machine").with_header("Content-Type", "application/json")
            }
            ("GET", ["requests"]) => watch::requests(running, request),
            ("GET", ["traffic"]) => watch::traffic(&self.running, request),
            ("GET", ["explain", rest @ ..]) => watch::explained(running, rest),
            ("POST", ["gc"]) => Reply::empty(200),
            ("GET", ["routes"]) => resources::all(running, Kind::Route, request),
            ("GET", ["services"]) => resources::all(running, Kind::Service, request),
            ("GET", ["upstreams"]) => resources::all(running, Kind::Upstream, request),
            ("GET", ["route", rest @ ..]) => resources::one(running, Kind::Route, rest, request),
            ("GET", ["service", rest @ ..]) => resources::one(running, Kind::Service, rest, request),
            ("GET", ["upstream", rest @ ..]) => resources::one(running, Kind::Upstream, rest, request),
            ("GET", ["plugin_metadatas"]) => resources::metadata(running),
            ("GET", ["plugin_metadata", rest @ ..]) => resources::metadata_of(running, rest),
            ("GET", ["discovery", kind, "dump"]) => match running.discovery_dump(kind) {
                Some(dump) => Reply::json(200, &dump).with_header("Content-Type", "application/json"),
                None => not_found(),
            },
            ("GET", ["discovery", kind, "show_dump_file"]) => match running.discovery_dump_file(kind) {
                Some(Ok(text)) => Reply::text(200, text),
                Some(Err(why)) => Reply::text(503, why),
                None => not_found(),
            },
            ("PUT", ["plugins", "reload"]) => match running.reload_plugins().await {
                Ok(()) => Reply::text(200, "done"),
                Err(message) => Reply::error(503, message).with_header("Content-Type", "application/json"),
            },
            _ => not_found(),
        }
    }

    fn plugin_endpoint(&self, request: &Request) -> Option<Reply> {
        let registry = self.running.registry();
        let endpoints = registry.list().into_iter().flat_map(|definition| definition.control);
        let endpoint = endpoints.into_iter().find(|own| own.matches(&request.method, &request.path))?;
        let answer = (endpoint.handler)(&ControlRequest { args: &request.query });
        let body = match answer.body {
            ReplyBody::Bytes(bytes) => bytes,
            ReplyBody::Shared(bytes) => bytes.to_vec(),
            ReplyBody::Default | ReplyBody::Streamed(_) => Vec::new(),
        };
        let typed = answer.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let mut reply = Reply::text(answer.status, body);
        if let Some((_, value)) = typed {
            reply = reply.with_header("Content-Type", String::from_utf8_lossy(value).into_owned());
        }
        Some(reply)
    }
}

impl Handler for Control {
    fn answer(&self, request: Request) -> Answer<'_> {
        Box::pin(async move {
            let reply = self.dispatch(&request).await;
            let typed = reply.headers.iter().any(|(name, _)| *name == "Content-Type");
            if typed { reply } else { reply.with_header("Content-Type", "text/plain") }
        })
    }

    /// Bodies are not read; this much is taken from the connection and dropped.
    fn max_body(&self, _path: &str) -> usize {
        64 * 1024
    }
}

/// Whether the request comes from this machine: what requests say is for nobody else.
fn is_local(request: &Request) -> bool {
    request.peer.is_some_and(|peer| peer.to_canonical().is_loopback())
}

/// A table as Lua prints it.
fn table(status: u16, body: &Value) -> Reply {
    let body = if body.as_array().is_some_and(Vec::is_empty) { &json!({}) } else { body };
    Reply::json(status, body).with_header("Content-Type", "application/json")
}

/// nginx's page: the body of everything that is not there.
pub(crate) fn not_found() -> Reply {
    const PAGE: &str = "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not Found</h1></center>\r\n<hr><center>openresty</center>\r\n</body>\r\n</html>\r\n";
    Reply::text(404, PAGE).with_header("Content-Type", "text/html")
}

#[cfg(test)]
mod tests;
