//! The Admin API as a whole: access, then dispatch by the path's segments (apisix/admin/init.lua).
use crate::access;
use crate::key_owners::KeyOwners;
use crate::message::{Reply, Request};
use crate::preconditions::Conditions;
use crate::server::{Answer, Handler};
use crate::settings::AdminSettings;
use crate::{beyond, body, configs, control, plugins, schema, writes};
use serde_json::Value;
use sluice_config::{Problem, Snapshot};
use sluice_model::{Kind, Lua};
use sluice_plugin::Registry;
use sluice_store::Store;
use sluice_upstream::NodeStatus;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{RwLock, watch};

/// What is to be removed from a zone of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachePurge {
    All,
    Key(String),
    Prefix(String),
    Tag(String),
}

/// A purge under way.
pub type PurgeAnswer<'a> = Pin<Box<dyn Future<Output = Result<Option<u64>, String>> + Send + 'a>>;

/// What the Admin API needs of the running gateway.
pub trait Gateway: Send + Sync + 'static {
    /// The plugins that may be configured now.
    fn registry(&self) -> Arc<Registry>;
    /// The store's revision that is in force on every worker.
    fn in_force(&self) -> watch::Receiver<u64>;
    /// Reads config.yaml's lists of plugins again and puts them into force.
    fn reload_plugins(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
    /// What is in force; None: there is nothing yet.
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        None
    }
    /// The certificates that clients see, the next to end first: `{id, snis, certificates: [{not_after, …}], …}`.
    fn certificates(&self) -> Vec<Value> {
        Vec::new()
    }
    /// Objects that are left out or kept at their last good form, and why.
    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
    /// The state of all nodes of the upstream that a resource is or has; `None` where it has none in force.
    fn nodes(&self, _kind: Kind, _id: &str) -> Option<Vec<NodeStatus>> {
        None
    }
    /// Removes what a zone of the cache holds; the number of what was removed, where it is known. `None`: there is no such zone.
    fn purge(&self, _zone: &str, _purge: CachePurge) -> Option<PurgeAnswer<'_>> {
        None
    }
    /// The zones of the cache and how full they are.
    fn caches(&self) -> Vec<Value> {
        Vec::new()
    }
    /// A whole configuration was declared, even if it changed nothing (API-driven standalone mode).
    fn taken(&self, _revision: u64) {}
    /// Builds those of a checked body's plugins whose build may refuse what their schema allows (`body` has its defaults).
    /// The error is a whole message.
    fn try_build(&self, _kind: Kind, _id: &str, _body: &Value) -> Result<(), String> {
        Ok(())
    }
    /// Compiles a protobuf definition.
    fn check_proto(&self, _content: &str) -> Result<(), String> {
        Ok(())
    }
    /// Compiles Lua source without running it.
    fn check_lua(&self, _purpose: Lua, _source: &str) -> Result<(), String> {
        Ok(())
    }
}

pub struct Admin {
    pub(crate) settings: AdminSettings,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) gateway: Arc<dyn Gateway>,
    /// In API-driven standalone mode, what was declared.
    pub(crate) declared: Option<tokio::sync::Mutex<configs::Declared>>,
    /// Held by writes from their check to their commit: shared, or alone where what was checked is who else is there.
    pub(crate) writing: RwLock<()>,
    /// The last id that `POST` gave.
    pub(crate) last_id: AtomicU64,
    /// Who has which key among the consumers.
    pub(crate) key_owners: Mutex<KeyOwners>,
}

/// A request that was let in.
pub(crate) struct Call<'a> {
    pub request: &'a Request,
    /// The name of the key.
    pub author: String,
    /// The parsed body, if there is one.
    pub body: Option<Value>,
    /// `If-Match` and what became of it.
    pub conditions: &'a Conditions,
}

impl Admin {
    pub fn new(settings: AdminSettings, store: Arc<dyn Store>, gateway: Arc<dyn Gateway>) -> Admin {
        let declared = settings.api_driven.then(tokio::sync::Mutex::default);
        Admin {
            settings,
            store,
            gateway,
            declared,
            writing: RwLock::default(),
            last_id: AtomicU64::new(0),
            key_owners: Mutex::default(),
        }
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
        let head = request.method == "HEAD" && self.declared.is_some() && rest == ["configs"];
        if !head && !matches!(request.method.as_str(), "GET" | "PUT" | "POST" | "DELETE" | "PATCH") {
            return Reply::empty(404);
        }
        let author = match access::authenticate(&self.settings, request) {
            Ok(author) => author,
            Err(refused) => return refused,
        };
        let method = request.method.as_str();
        if let ["configs", rest @ ..] = rest
            && let Some(reply) = configs::answer(self, rest, request, &author).await
        {
            return reply;
        }
        if let Some(reply) = beyond::answer(self, rest, request, &author).await {
            return reply;
        }
        if self.declared.is_some() {
            return control::not_found();
        }
        match (method, rest) {
            ("GET", ["plugins", "list"]) => return plugins::list(self, request),
            ("PUT", ["plugins", "reload"]) => return plugins::reload(self).await,
            (_, ["plugins", "reload"]) => {
                let message = format!("please use PUT method to reload the plugins, {method} method is not allowed.");
                return Reply::error(405, message);
            }
            _ => {}
        }
        let body = match body::parse(request, self.settings.max_body) {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        let conditions = Conditions::of(request);
        let call = Call { request, author, body, conditions: &conditions };
        match (method, rest) {
            ("POST", ["schema", "validate", kind, ..]) => schema::validate(self, kind, &call),
            ("GET", ["schema", "plugins", name, ..]) => plugins::get(self, Some(name), request),
            ("GET", ["schema", "plugins"]) => plugins::get(self, None, request),
            ("GET", ["schema", name, ..]) => schema::get(name),
            ("GET", ["plugins", rest @ ..]) => plugins::get(self, rest.first().copied(), request),
            (_, ["schema" | "plugins", ..]) => Reply::error(404, "not found"),
            _ => writes::answer(self, rest, call).await,
        }
    }

    /// Waits until a revision is in force, but not for ever: a gateway that ends meanwhile is no reason to call a write
    /// failed.
    pub(crate) async fn in_force(&self, revision: u64) {
        let mut in_force = self.gateway.in_force();
        let reached = in_force.wait_for(|now| *now >= revision);
        let _ = tokio::time::timeout(Duration::from_secs(10), reached).await;
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

    fn max_body(&self, path: &str) -> usize {
        let whole =
            path.ends_with("/configs") || path.ends_with("/configs/validate") || path.ends_with("/transactions");
        if whole { self.settings.max_whole_body } else { self.settings.max_body }
    }
}
