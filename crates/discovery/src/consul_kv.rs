//! `consul_kv`: nodes kept as keys of Consul's key-value store, `<prefix>/<service>/<host>:<port>` (apisix/discovery/consul_kv).
//!
//! The surprise: the name of a service is a URL, `http://127.0.0.1:8500/v1/kv/upstreams/webpages/`, so that one gateway can tell
//! the stores of several servers apart. A prefix without any key is answered with 404, which is an answer.
#[cfg(test)]
mod tests;

use crate::Settings;
use crate::catalog::{Catalog, DUMP, Nodes, services_json};
use crate::client::Client;
use crate::consul::{DefaultService, Timeout};
use crate::dump::{self, Dump};
use crate::pause::{Pause, jittered};
use crate::registry::{Registry, Report, Unusable, masked};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foldhash::{HashMap, HashSet};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_upstream::{DiscoverError, Following, ServiceNode, ServiceQuery};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Least time between two questions, after a change and without one.
const PACE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

#[derive(Debug, Deserialize)]
struct Conf {
    servers: Vec<String>,
    token: String,
    fetch_interval: u64,
    keepalive: bool,
    prefix: String,
    weight: u32,
    timeout: Timeout,
    #[serde(default)]
    skip_keys: HashSet<String>,
    dump: Option<Dump>,
    default_service: Option<DefaultService>,
}

struct ConsulKv {
    shared: Arc<Shared>,
    conf: Value,
}

struct Shared {
    conf: Conf,
    catalog: Arc<Catalog>,
    writing: Mutex<()>,
    silent: AtomicUsize,
}

pub(crate) fn start(value: &Value, settings: &Settings) -> Result<Arc<dyn Registry>, Unusable> {
    let mut conf = Conf::deserialize(value).map_err(|error| Unusable(error.to_string()))?;
    conf.dump = conf.dump.map(|dump| dump.below(&settings.prefix));
    let default = conf.default_service.as_ref().and_then(|service| service.node(conf.weight));
    let catalog = Catalog::with_default("consul_kv", default);
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
    Ok(Arc::new(ConsulKv { shared, conf: masked(value) }))
}

async fn run(shared: Arc<Shared>, client: Client, number: usize) {
    let conf = &shared.conf;
    let Some(server) = conf.servers.get(number) else { return };
    let (mut index, mut pause, mut answered) = (0u64, Pause::default(), false);
    loop {
        let begun = Instant::now();
        match turn(conf, &client, server, index).await {
            Ok((now, services)) => {
                pause.reset();
                shared.catalog.reached(server);
                let changed = now != index || now == 0;
                // one that went back has begun anew
                index = if now < index { 0 } else { now };
                if changed {
                    shared.catalog.replace(number, services);
                    if !std::mem::replace(&mut answered, true) && shared.silent.fetch_sub(1, Ordering::AcqRel) == 1 {
                        shared.catalog.replace(DUMP, HashMap::default());
                    }
                    write_dump(&shared).await;
                }
                if conf.keepalive && index > 0 {
                    let pace = if changed { PACE.0 } else { PACE.1 };
                    tokio::time::sleep(pace.saturating_sub(begun.elapsed())).await;
                } else {
                    tokio::time::sleep(jittered(Duration::from_secs(conf.fetch_interval))).await;
                }
            }
            Err(error) => {
                let key = format!("/kv/{}", conf.prefix);
                shared.catalog.unreached(
                    server,
                    &format_args!("connect consul: {server}/v1/kv/ by key: {key}, with error: {error}"),
                );
                let after = pause.next();
                tracing::warn!("retry connecting consul after {} seconds", after.as_secs());
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

/// Reads all keys; with `keepalive` once the store stands elsewhere than at `index`, or Consul has waited long enough.
async fn turn(
    conf: &Conf,
    client: &Client,
    server: &str,
    index: u64,
) -> Result<(u64, HashMap<Arc<str>, Nodes>), String> {
    let mut url = format!("{server}/v1/kv/{}?recurse=true", conf.prefix);
    let mut limit = conf.timeout.read();
    if conf.keepalive && index > 0 {
        url = format!("{url}&index={index}&wait={}s", conf.timeout.wait().as_secs());
        limit = conf.timeout.waiting();
    }
    let mut request = client.get(&url);
    if !conf.token.is_empty() {
        request = request.header("X-Consul-Token", &conf.token);
    }
    let answer = client.send(request, limit).await?;
    let now = answer.index.unwrap_or(0);
    if answer.status == 404 && answer.index.is_some() {
        return Ok((now, HashMap::default()));
    }
    Ok((now, services(conf, server, &answer.json()?)))
}

fn services(conf: &Conf, server: &str, keys: &Value) -> HashMap<Arc<str>, Nodes> {
    let mut found: HashMap<String, Vec<ServiceNode>> = HashMap::default();
    for entry in keys.as_array().into_iter().flatten() {
        let read = entry.get("Key").and_then(Value::as_str).and_then(|key| parse_key(&conf.prefix, key));
        let Some((service, host, port)) = read else {
            tracing::error!(server, "server name parse error, node: {entry}");
            continue;
        };
        if conf.skip_keys.contains(service) {
            continue;
        }
        let value = entry.get("Value").and_then(Value::as_str).filter(|value| !value.is_empty());
        let Some(value) = value else {
            tracing::error!(server, "error: consul_value_empty, node: {entry}");
            continue;
        };
        let decoded = STANDARD.decode(value).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let Some(metadata) = decoded else {
            tracing::error!(server, "invalid upstream value, node: {entry}");
            continue;
        };
        if metadata.get("check_status").is_some_and(|status| *status == false || *status == "false") {
            tracing::error!(server, "server node unhealthy, node: {entry}");
            continue;
        }
        let weight = metadata.get("weight").and_then(Value::as_u64).and_then(|weight| u32::try_from(weight).ok());
        let node = ServiceNode {
            host: host.into(),
            port: Some(port),
            weight: weight.unwrap_or(conf.weight),
            priority: 0,
            metadata: None,
        };
        found.entry(format!("{server}/v1/kv/{service}")).or_default().push(node);
    }
    found.into_iter().map(|(name, nodes)| (name.into(), nodes.into())).collect()
}

/// `upstreams/webpages/127.0.0.1:80` in three: `upstreams/webpages/`, host, port.
fn parse_key<'a>(prefix: &str, key: &'a str) -> Option<(&'a str, &'a str, u16)> {
    let at = key.find(&format!("{prefix}/"))?;
    let key = key.get(at..)?;
    let (service, node) = key.split_at(key.rfind('/')? + 1);
    let inner = service.get(prefix.len() + 1..)?;
    let (host, port) = node.split_once(':')?;
    let digits = port.split(|c: char| !c.is_ascii_digit()).next()?;
    let fits = inner.len() > 1 && !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
    Some((service, host, digits.parse().ok()?)).filter(|_| fits)
}

impl Registry for ConsulKv {
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
