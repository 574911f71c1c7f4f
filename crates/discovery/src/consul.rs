//! `consul`: the services of Consul's catalog, those of their instances that pass their checks (apisix/discovery/consul).
//!
//! The surprise: a change is waited for at two places at once, the catalog and the checks' states; what changed is not said, so
//! all services are read again, a few at a time. Only services whose nodes differ are news to anybody.
#[cfg(test)]
mod tests;

use crate::Settings;
use crate::catalog::{Catalog, DUMP, Nodes, services_json};
use crate::client::{Answer, Client, encoded};
use crate::dump::{self, Dump};
use crate::pause::{Pause, jittered};
use crate::registry::{Registry, Report, Unusable, masked};
use foldhash::{HashMap, HashSet};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_upstream::{DiscoverError, Following, ServiceNode, ServiceQuery};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Services read at the same time.
const CONCURRENT: usize = 8;
/// Least time between two questions, after a change and without one.
const PACE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Consul's own service, which nobody balances to.
const ALWAYS_SKIPPED: &str = "consul";

/// Milliseconds, and seconds for `wait`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Timeout {
    connect: u64,
    read: u64,
    wait: u64,
}

impl Timeout {
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect)
    }
    /// For an answer that does not wait.
    pub fn read(&self) -> Duration {
        Duration::from_millis(self.connect.saturating_add(self.read))
    }
    /// For one that does: Consul adds up to a sixteenth of the time (its docs on blocking queries).
    pub fn waiting(&self) -> Duration {
        self.read() + self.wait() + self.wait() / 16
    }
    pub fn wait(&self) -> Duration {
        Duration::from_secs(self.wait.min(600))
    }
}

#[derive(Clone, Debug, Deserialize)]
enum Sort {
    #[serde(rename = "origin")]
    Origin,
    #[serde(rename = "host_sort")]
    Host,
    #[serde(rename = "port_sort")]
    Port,
    #[serde(rename = "combine_sort")]
    Combined,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DefaultService {
    host: Option<String>,
    port: Option<u16>,
}

impl DefaultService {
    pub fn node(&self, weight: u32) -> Option<ServiceNode> {
        let host = self.host.as_deref()?.into();
        Some(ServiceNode { host, port: self.port, weight, priority: 0, metadata: None })
    }
}

#[derive(Debug, Deserialize)]
struct Conf {
    servers: Vec<String>,
    token: String,
    fetch_interval: u64,
    keepalive: bool,
    weight: u32,
    timeout: Timeout,
    sort_type: Sort,
    #[serde(default)]
    skip_services: HashSet<String>,
    dump: Option<Dump>,
    default_service: Option<DefaultService>,
}

struct Consul {
    shared: Arc<Shared>,
    conf: Value,
}

struct Shared {
    conf: Conf,
    catalog: Arc<Catalog>,
    writing: Mutex<()>,
    /// Servers that have not answered yet: until all have, what the dump file keeps holds.
    silent: AtomicUsize,
}

pub(crate) fn start(value: &Value, settings: &Settings) -> Result<Arc<dyn Registry>, Unusable> {
    let mut conf = Conf::deserialize(value).map_err(|error| Unusable(error.to_string()))?;
    conf.dump = conf.dump.map(|dump| dump.below(&settings.prefix));
    conf.skip_services.insert(ALWAYS_SKIPPED.to_owned());
    let default = conf.default_service.as_ref().and_then(|service| service.node(conf.weight));
    let catalog = Catalog::with_default("consul", default);
    let silent = AtomicUsize::new(conf.servers.len());
    let shared = Arc::new(Shared { conf, catalog, writing: Mutex::default(), silent });
    if let Some(control) = &settings.control {
        if let Some(dump) = &shared.conf.dump {
            dump.load(&shared.catalog);
        }
        let client = Client::new(settings, shared.conf.timeout.connect(), true)?;
        for number in 0..shared.conf.servers.len() {
            control.spawn(run(shared.clone(), client.clone(), number));
        }
    }
    Ok(Arc::new(Consul { shared, conf: masked(value) }))
}

/// Where a server's two lists stood when they were last read; 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Indexes {
    catalog: u64,
    health: u64,
}

struct Server<'a> {
    shared: &'a Shared,
    client: &'a Client,
    /// `http://127.0.0.1:8500`.
    url: &'a str,
}

/// Follows one server for ever.
async fn run(shared: Arc<Shared>, client: Client, number: usize) {
    let conf = &shared.conf;
    let Some(url) = conf.servers.get(number) else { return };
    let server = Server { shared: &shared, client: &client, url };
    let (mut indexes, mut pause, mut answered) = (Indexes::default(), Pause::default(), false);
    loop {
        let begun = Instant::now();
        match server.turn(&mut indexes).await {
            Ok(services) => {
                let changed = services.is_some();
                pause.reset();
                shared.catalog.reached(url);
                if let Some(services) = services {
                    shared.catalog.replace(number, services);
                    if !std::mem::replace(&mut answered, true) && shared.silent.fetch_sub(1, Ordering::AcqRel) == 1 {
                        shared.catalog.replace(DUMP, HashMap::default());
                    }
                    write_dump(&shared).await;
                }
                if !conf.keepalive || indexes.catalog == 0 || indexes.health == 0 {
                    tokio::time::sleep(jittered(Duration::from_secs(conf.fetch_interval))).await;
                } else {
                    // a server that does not wait, or whose checks change all the time, is not asked all the time
                    let pace = if changed { PACE.0 } else { PACE.1 };
                    tokio::time::sleep(pace.saturating_sub(begun.elapsed())).await;
                }
            }
            Err(error) => {
                shared.catalog.unreached(url, &format_args!("connect consul: {url}/v1 {error}"));
                let after = pause.next();
                tracing::warn!("get all svcs got err, retry connecting consul after {} seconds", after.as_secs());
                tokio::time::sleep(after).await;
            }
        }
    }
}

async fn write_dump(shared: &Arc<Shared>) {
    if shared.conf.dump.is_none() {
        return;
    }
    let shared = shared.clone();
    let task = tokio::task::spawn_blocking(move || {
        let _turn = shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dump) = &shared.conf.dump {
            dump.write(&shared.catalog);
        }
    });
    let _ = task.await;
}

/// A server whose index went back has begun anew (Consul's docs on blocking queries).
fn forward(before: u64, now: u64) -> u64 {
    if now < before { 0 } else { now }
}

impl Server<'_> {
    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.get(&format!("{}/v1{path}", self.url));
        let token = &self.shared.conf.token;
        if token.is_empty() { request } else { request.header("X-Consul-Token", token) }
    }

    async fn read(&self, path: &str) -> Result<Answer, String> {
        let answer = self.client.send(self.get(path), self.shared.conf.timeout.read()).await;
        answer.map_err(|error| format!("{path}: {error}"))
    }

    /// Returns when a list stands elsewhere than at `index`, or when Consul has waited long enough.
    async fn wait(&self, path: &str, index: u64) -> Result<u64, String> {
        let timeout = &self.shared.conf.timeout;
        let request = self.get(&format!("{path}?index={index}&wait={}s", timeout.wait().as_secs()));
        let answer = self.client.send(request, timeout.waiting()).await.map_err(|error| format!("{path}: {error}"))?;
        if answer.status != 200 {
            return Err(format!("{path}: status = {}", answer.status));
        }
        answer.index.ok_or_else(|| format!("{path}: no X-Consul-Index"))
    }

    /// Waits for a change, then reads all services; `None`: nothing changed.
    async fn turn(&self, indexes: &mut Indexes) -> Result<Option<HashMap<Arc<str>, Nodes>>, String> {
        if self.shared.conf.keepalive && indexes.catalog > 0 && indexes.health > 0 {
            let (moved, list) = tokio::select! {
                moved = self.wait("/catalog/services", indexes.catalog) => (moved?, &mut indexes.catalog),
                moved = self.wait("/health/state/any", indexes.health) => (moved?, &mut indexes.health),
            };
            if moved == *list {
                return Ok(None);
            }
            *list = forward(*list, moved);
        }
        let catalog = self.read("/catalog/services").await?;
        let names = catalog.json().map_err(|error| format!("/catalog/services: {error}"))?;
        let names = names.as_object().ok_or("/catalog/services: no object")?;
        let health = self.read("/health/state/any").await?;
        if health.status != 200 {
            return Err(format!("/health/state/any: status = {}", health.status));
        }
        let now = Indexes { catalog: catalog.index.unwrap_or(0), health: health.index.unwrap_or(0) };
        if now == *indexes && now.catalog > 0 && !self.shared.conf.keepalive {
            return Ok(None);
        }
        let wanted = names.keys().filter(|name| !self.shared.conf.skip_services.contains(*name));
        let services = self.services(wanted.cloned().collect()).await?;
        *indexes = now;
        Ok(Some(services))
    }

    async fn services(&self, names: Vec<String>) -> Result<HashMap<Arc<str>, Nodes>, String> {
        let known = self.shared.catalog.services();
        let mut services = HashMap::default();
        for some in names.chunks(CONCURRENT) {
            let mut reading = JoinSet::new();
            for name in some {
                let (client, limit) = (self.client.clone(), self.shared.conf.timeout.read());
                let request = self.get(&format!("/health/service/{}?passing=true", encoded(name)));
                let name = name.clone();
                reading.spawn(async move {
                    let answer = client.send(request, limit).await.and_then(|answer| answer.json());
                    (name, answer)
                });
            }
            while let Some(done) = reading.join_next().await {
                let Ok((name, answer)) = done else { continue };
                match answer {
                    Ok(body) => {
                        let nodes = self.nodes(&body);
                        if !nodes.is_empty() {
                            services.insert(name.into(), nodes);
                        }
                    }
                    // one that fails keeps its nodes (APISIX forgets them)
                    Err(error) => {
                        tracing::error!("connect consul: {}/v1, by service url: {name}, with error: {error}", self.url);
                        if let Some((name, nodes)) = known.get_key_value(name.as_str()) {
                            services.insert(name.clone(), nodes.clone());
                        }
                    }
                }
            }
        }
        Ok(services)
    }

    /// The instances of a service, each address once, in the configured order.
    fn nodes(&self, body: &Value) -> Nodes {
        let conf = &self.shared.conf;
        let mut nodes: Vec<ServiceNode> = Vec::new();
        let mut seen: HashSet<(Arc<str>, u16)> = HashSet::default();
        for entry in body.as_array().into_iter().flatten() {
            let Some(service) = entry.get("Service").filter(|service| service.is_object()) else {
                tracing::warn!("invalid consul service entry without Service field, skip it: {entry}");
                continue;
            };
            // Consul leaves the address open where it is the agent's
            let own = service.get("Address").and_then(Value::as_str).filter(|address| !address.is_empty());
            let agent = || entry.pointer("/Node/Address").and_then(Value::as_str);
            let Some(host) = own.or_else(agent).filter(|host| !host.is_empty()) else { continue };
            let port = service.get("Port").and_then(Value::as_u64).filter(|port| *port != 0).unwrap_or(80);
            let Ok(port) = u16::try_from(port) else { continue };
            let host: Arc<str> = host.into();
            if seen.insert((host.clone(), port)) {
                nodes.push(ServiceNode { host, port: Some(port), weight: conf.weight, priority: 0, metadata: None });
            }
        }
        match conf.sort_type {
            Sort::Origin => {}
            Sort::Host => nodes.sort_by(|a, b| a.host.cmp(&b.host)),
            Sort::Port => nodes.sort_by_key(|node| node.port),
            Sort::Combined => nodes.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port))),
        }
        nodes.into()
    }
}

impl Registry for Consul {
    fn key(&self, query: &ServiceQuery) -> Result<Arc<str>, DiscoverError> {
        Ok(query.name.clone())
    }
    fn follow(&self, query: &ServiceQuery) -> Result<Following, DiscoverError> {
        Ok(self.shared.catalog.follow(&query.name).0)
    }
    fn dump(&self) -> Option<Value> {
        Some(json!({"config": self.conf, "services": services_json(&self.shared.catalog.services())}))
    }
    fn dump_file(&self) -> Option<Result<String, String>> {
        Some(dump::show(self.shared.conf.dump.as_ref()))
    }
    fn reports(&self) -> Vec<Report> {
        vec![self.shared.catalog.report()]
    }
}
