//! The Admin API as a whole: access, then dispatch by the path's segments (apisix/admin/init.lua).
use crate::access;
use crate::message::{Reply, Request};
use crate::server::{Answer, Handler};
use crate::settings::AdminSettings;
use crate::{plugins, resource, schema};
use serde_json::{Value, json};
use sluice_model::Lua;
use sluice_plugin::Registry;
use sluice_store::Store;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;

/// What the Admin API needs of the running gateway.
pub trait Gateway: Send + Sync + 'static {
    /// The plugins that may be configured now.
    fn registry(&self) -> Arc<Registry>;
    /// The store's revision that is in force on every worker.
    fn in_force(&self) -> watch::Receiver<u64>;
    /// Reads config.yaml's lists of plugins again and puts them into force.
    fn reload_plugins(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
    /// Compiles Lua source without running it.
    fn check_lua(&self, _purpose: Lua, _source: &str) -> Result<(), String> {
        Ok(())
    }
}

pub struct Admin {
    pub(crate) settings: AdminSettings,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) gateway: Arc<dyn Gateway>,
}

/// A request that was let in.
pub(crate) struct Call<'a> {
    pub request: &'a Request,
    /// The name of the key.
    pub author: String,
    /// The parsed body, if there is one.
    pub body: Option<Value>,
}

impl Admin {
    pub fn new(settings: AdminSettings, store: Arc<dyn Store>, gateway: Arc<dyn Gateway>) -> Admin {
        Admin { settings, store, gateway }
    }

    async fn dispatch(&self, request: &Request) -> Reply {
        let segments = request.segments();
        if segments.first() != Some(&"apisix") || segments.get(1) != Some(&"admin") {
            return Reply::empty(404);
        }
        let rest = segments.get(2..).unwrap_or_default();
        if rest.is_empty() {
            return if request.method == "HEAD" { Reply::empty(200) } else { Reply::empty(404) };
        }
        if !matches!(request.method.as_str(), "GET" | "PUT" | "POST" | "DELETE" | "PATCH") {
            return Reply::empty(404);
        }
        let author = match access::authenticate(&self.settings, request) {
            Ok(author) => author,
            Err(refused) => return refused,
        };
        let method = request.method.as_str();
        match (method, rest) {
            ("GET", ["plugins", "list"]) => return plugins::list(self, request),
            ("PUT", ["plugins", "reload"]) => return plugins::reload(self).await,
            (_, ["plugins", "reload"]) => {
                let message = format!("please use PUT method to reload the plugins, {method} method is not allowed.");
                return Reply::error(405, message);
            }
            _ => {}
        }
        let body = match body(request) {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        let call = Call { request, author, body };
        match (method, rest) {
            ("POST", ["schema", "validate", kind, ..]) => schema::validate(self, kind, &call),
            ("GET", ["schema", "plugins", name, ..]) => plugins::get(self, Some(name), request),
            ("GET", ["schema", "plugins"]) => plugins::get(self, None, request),
            ("GET", ["schema", name, ..]) => schema::get(name),
            ("GET", ["plugins", rest @ ..]) => plugins::get(self, rest.first().copied(), request),
            (_, ["schema" | "plugins", ..]) => Reply::error(404, "not found"),
            _ => resource::answer(self, rest, call).await,
        }
    }

    fn cors(&self, request: &Request, reply: Reply) -> Reply {
        if !self.settings.cors {
            return reply;
        }
        if request.method == "OPTIONS" {
            let preflight = [
                ("Access-Control-Allow-Origin", "*"),
                ("Access-Control-Allow-Methods", "POST, GET, PUT, OPTIONS, DELETE, PATCH"),
                ("Access-Control-Max-Age", "3600"),
                ("Access-Control-Allow-Headers", "*"),
                ("Access-Control-Allow-Credentials", "true"),
                ("Content-Type", "text/plain"),
            ];
            return preflight
                .into_iter()
                .fold(Reply::empty(200), |reply, (name, value)| reply.with_header(name, value));
        }
        reply
            .with_header("Access-Control-Allow-Origin", "*")
            .with_header("Access-Control-Allow-Credentials", "true")
            .with_header("Access-Control-Expose-Headers", "*")
            .with_header("Access-Control-Max-Age", "3600")
    }
}

/// The body as JSON; None where there is none.
fn body(request: &Request) -> Result<Option<Value>, Reply> {
    if request.too_large {
        return Err(Reply::error(413, "invalid request body: it is larger than the maximum size limit"));
    }
    if request.body.is_empty() {
        return Ok(None);
    }
    crate::lenient::parse(&request.body).map(Some).map_err(|error| {
        let text = String::from_utf8_lossy(&request.body);
        tracing::error!("invalid request body: {error}");
        Reply::json(400, &json!({"error_msg": format!("invalid request body: {error}"), "req_body": text}))
    })
}

impl Handler for Admin {
    fn answer(&self, request: Request) -> Answer<'_> {
        Box::pin(async move {
            if !access::address_allowed(&self.settings, &request) {
                return Reply::text(
                    403,
                    "<html>\n<head><title>403 Forbidden</title></head>\n<body>\n<center><h1>403 Forbidden</h1></center>\n</body>\n</html>\n",
                );
            }
            let preflight = request.method == "OPTIONS" && self.settings.cors;
            let reply = if preflight { Reply::empty(200) } else { self.dispatch(&request).await };
            let typed = reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
            let reply = if typed { reply } else { reply.with_header("Content-Type", "application/json") };
            self.cors(&request, reply).with_header("Server", self.settings.server.clone())
        })
    }

    fn max_body(&self) -> usize {
        self.settings.max_body
    }
}
