//! What a plugin may use of the world: clock, randomness, metrics, shared state, other resources. Never globals, so that
//! tests can drive everything.
use crate::context::UpstreamRef;
use crate::http_client::{FakeHttp, HttpClient, HttpClients, HttpOptions};
use crate::record::Explained;
use foldhash::HashMap;
use serde_json::Value;
use sluice_telemetry::LogQueues;
use sluice_upstream::Resolve;
use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time, real or set by a test.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Milliseconds since the epoch, where a test sets them.
    fake: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// A clock that stands still until [`Clock::advance`].
    pub fn fake(millis: u64) -> Clock {
        Clock { fake: Some(Arc::new(AtomicU64::new(millis))) }
    }
    /// Moves a fake clock on.
    pub fn advance(&self, by: Duration) {
        if let Some(fake) = &self.fake {
            fake.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
        }
    }
    /// Milliseconds since the epoch.
    pub fn millis(&self) -> u64 {
        match &self.fake {
            Some(fake) => fake.load(Ordering::SeqCst),
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64),
        }
    }
    /// Seconds since the epoch.
    pub fn seconds(&self) -> u64 {
        self.millis() / 1000
    }
    /// Waits. With a fake clock it returns at once and moves the clock on.
    pub async fn sleep(&self, duration: Duration) {
        match &self.fake {
            Some(_) => self.advance(duration),
            None => tokio::time::sleep(duration).await,
        }
    }
}

/// State that outlives a plugin's instance: counters by key, queues. The same key and type gives the same value as long
/// as somebody holds it or it was asked for by the current configuration.
#[derive(Clone, Default)]
pub struct Shared {
    values: Arc<Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>>,
}

impl Shared {
    /// The value of this key, made on first use. A key that holds another type is a programming error: the new value
    /// is returned and not kept.
    pub fn get_or_insert<T: Send + Sync + 'static>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = values.get(key) {
            return match found.clone().downcast::<T>() {
                Ok(found) => found,
                Err(_) => Arc::new(make()),
            };
        }
        let value = Arc::new(make());
        values.insert(key.to_string(), value.clone());
        value
    }

    /// Forgets what nobody else holds; called after a new configuration is in force.
    pub fn collect(&self) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.retain(|_, v| Arc::strong_count(v) > 1);
    }
}

/// Compiles an upstream that stands in a plugin's configuration (implemented by the configuration compiler).
pub trait UpstreamCompiler: Send + Sync {
    /// `key` names it for pools and counters, so that they survive reloads.
    fn compile(&self, key: &str, upstream: &Value) -> Result<UpstreamRef, String>;
}

/// What `build` gets.
#[derive(Clone)]
pub struct Env {
    pub clock: Clock,
    pub shared: Shared,
    pub metrics: sluice_telemetry::Registry,
    /// The control runtime, for what runs beside requests: queues, timers, clients.
    pub control: Option<tokio::runtime::Handle>,
    /// The stored object in which this configuration stands: `routes/1`. Keys of shared state start with it.
    pub resource_key: Arc<str>,
    /// Changes whenever the stored object changes.
    pub version: u64,
    /// Directory against which relative paths of configuration are resolved (the gateway's prefix).
    pub prefix: Arc<std::path::Path>,
    /// Ports that serve TLS (`apisix.ssl.listen`); empty where TLS is off.
    pub https_ports: Arc<[u16]>,
    /// Where loggers queue what they send: one memory budget for all of them.
    pub logs: Arc<LogQueues>,
    /// Records of explained requests that are kept for the Control API.
    pub explained: Arc<Explained>,
    http: HttpClients,
    resolver: Option<Arc<dyn Resolve>>,
    /// The field in which trusted peers name the client (`nginx_config.http.real_ip_header`).
    pub real_ip_header: Arc<str>,
    /// `apisix.ssl.ssl_trusted_certificate`, PEM: what servers that plugins speak TLS to are checked against. The system's
    /// authorities where there is none.
    pub trusted_certificates: Option<Arc<str>>,
    attributes: Arc<Value>,
    metadata: Arc<HashMap<String, Value>>,
    upstreams: Option<Arc<dyn UpstreamCompiler>>,
    registry: Option<Arc<crate::Registry>>,
    scripts: Option<Arc<dyn crate::Scripts>>,
    parts: Arc<Vec<Arc<dyn Any + Send + Sync>>>,
}

impl Env {
    /// An environment for tests: fake clock at a fixed time, nothing else configured.
    pub fn for_tests() -> Env {
        Env::new(Clock::fake(1_700_000_000_000), sluice_telemetry::Registry::default())
    }

    pub fn new(clock: Clock, metrics: sluice_telemetry::Registry) -> Env {
        Env {
            clock,
            shared: Shared::default(),
            metrics,
            control: None,
            resource_key: "".into(),
            version: 0,
            prefix: std::path::Path::new(".").into(),
            https_ports: Arc::default(),
            logs: Arc::default(),
            explained: Arc::default(),
            http: HttpClients::default(),
            resolver: None,
            real_ip_header: "X-Real-IP".into(),
            trusted_certificates: None,
            attributes: Arc::new(Value::Null),
            metadata: Arc::default(),
            upstreams: None,
            registry: None,
            scripts: None,
            parts: Arc::default(),
        }
    }
    pub fn with_control(self, control: tokio::runtime::Handle) -> Env {
        Env { control: Some(control), ..self }
    }
    /// `plugin_attr` of config.yaml.
    pub fn with_attributes(self, attributes: Value) -> Env {
        Env { attributes: Arc::new(attributes), ..self }
    }
    /// Ports of `apisix.ssl.listen`.
    pub fn with_https_ports(self, ports: impl Into<Arc<[u16]>>) -> Env {
        Env { https_ports: ports.into(), ..self }
    }
    pub fn with_logs(self, logs: Arc<LogQueues>) -> Env {
        Env { logs, ..self }
    }
    pub fn with_explained(self, explained: Arc<Explained>) -> Env {
        Env { explained, ..self }
    }
    /// The gateway's resolver of names, for what plugins connect to.
    pub fn with_resolver(self, resolver: Arc<dyn Resolve>) -> Env {
        Env { resolver: Some(resolver), ..self }
    }
    /// Answers all HTTP requests of plugins, for tests.
    pub fn with_http(self, fake: impl FakeHttp + 'static) -> Env {
        let http = HttpClients { fake: Some(Arc::new(fake)), ..self.http };
        Env { http, ..self }
    }
    /// `nginx_config.http.real_ip_header`.
    pub fn with_real_ip_header(self, name: &str) -> Env {
        Env { real_ip_header: name.into(), ..self }
    }
    /// All `plugin_metadata` by plugin name.
    pub fn with_metadata(self, metadata: Arc<HashMap<String, Value>>) -> Env {
        Env { metadata, ..self }
    }
    pub fn with_upstreams(self, upstreams: Arc<dyn UpstreamCompiler>) -> Env {
        Env { upstreams: Some(upstreams), ..self }
    }
    pub fn with_registry(self, registry: Arc<crate::Registry>) -> Env {
        Env { registry: Some(registry), ..self }
    }
    /// A part of the gateway that a family of plugins shares with the binary, known by its type.
    pub fn with_part<T: Send + Sync + 'static>(self, part: Arc<T>) -> Env {
        let mut parts = (*self.parts).clone();
        parts.push(part);
        Env { parts: Arc::new(parts), ..self }
    }
    /// What [`Env::with_part`] was given.
    pub fn part<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.parts.iter().find_map(|part| part.clone().downcast::<T>().ok())
    }
    pub fn with_scripts(self, scripts: Arc<dyn crate::Scripts>) -> Env {
        Env { scripts: Some(scripts), ..self }
    }
    /// The same environment for the plugins of another stored object.
    pub fn for_resource(&self, key: &str, version: u64) -> Env {
        Env { resource_key: key.into(), version, ..self.clone() }
    }

    /// The HTTP client for these options; equal ones share connections.
    pub fn http_client(&self, options: &HttpOptions) -> HttpClient {
        self.http.get(options, self.control.as_ref(), self.resolver.as_ref(), self.trusted_certificates.as_deref())
    }
    /// The gateway's resolver, where there is one.
    pub fn resolver(&self) -> Option<&Arc<dyn Resolve>> {
        self.resolver.as_ref()
    }

    /// `plugin_attr.NAME` of config.yaml; null where it is not set.
    pub fn attribute(&self, plugin: &str) -> &Value {
        &self.attributes[plugin]
    }
    /// `plugin_metadata` of a plugin.
    pub fn metadata(&self, plugin: &str) -> Option<&Value> {
        self.metadata.get(plugin)
    }
    /// Compiles an upstream of the plugin's own configuration. `name` tells it from others of the same object.
    pub fn upstream(&self, name: &str, upstream: &Value) -> Result<UpstreamRef, String> {
        match &self.upstreams {
            Some(compiler) => compiler.compile(&format!("{}#{name}", self.resource_key), upstream),
            None => Err("no upstreams can be compiled here".into()),
        }
    }
    /// The engine for Lua, where there is one.
    pub fn scripts(&self) -> Option<&Arc<dyn crate::Scripts>> {
        self.scripts.as_ref()
    }
    /// All plugins, where they are known.
    pub fn registry(&self) -> Option<&Arc<crate::Registry>> {
        self.registry.as_ref()
    }
    /// Builds another plugin from a plugin's configuration (`workflow`, `multi-auth`).
    pub fn plugin(&self, name: &str, config: &Value) -> Result<Arc<dyn crate::Plugin>, String> {
        let registry = self.registry.as_ref().ok_or("no plugins can be built here")?;
        let definition = registry.get(name).ok_or_else(|| format!("unknown plugin [{name}]"))?;
        (definition.build)(config, self).map_err(|e| e.0)
    }
}

/// 16 random bytes in hexadecimal, as nginx's `$request_id`.
pub fn random_hex_16() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
