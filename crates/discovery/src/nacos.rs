//! `nacos`: healthy instances of the services that upstreams name, by Nacos' HTTP API v1 (apisix/discovery/nacos).
//!
//! The surprise: only services that somebody follows are asked for, each by itself; one that fails keeps its nodes. A service
//! that is new is asked for at once, not at the next round.
#[cfg(test)]
mod tests;

use crate::Settings;
use crate::catalog::{Catalog, node_json};
use crate::client::{Client, base_url, encoded};
use crate::pause::jittered;
use crate::registry::{Registry, Report, Unusable};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sluice_upstream::{DiscoverError, Following, ServiceNode, ServiceQuery};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;

/// Services asked for at the same time.
const CONCURRENT: usize = 8;
const DEFAULT_NAMESPACE: &str = "public";
const DEFAULT_GROUP: &str = "DEFAULT_GROUP";
/// Of a key's parts; no name has it.
const SEPARATOR: char = '\u{1}';

#[derive(Debug, Deserialize)]
struct Timeout {
    connect: u64,
    send: u64,
    read: u64,
}

#[derive(Debug, Deserialize)]
struct Conf {
    host: Vec<String>,
    fetch_interval: u64,
    prefix: String,
    weight: u32,
    timeout: Timeout,
    access_key: String,
    secret_key: String,
}

impl Conf {
    fn limit(&self) -> Duration {
        Duration::from_millis(self.timeout.connect + self.timeout.send + self.timeout.read)
    }
}

struct Nacos {
    catalog: Arc<Catalog>,
}

pub(crate) fn start(value: &Value, settings: &Settings) -> Result<Arc<dyn Registry>, Unusable> {
    let conf = Conf::deserialize(value).map_err(|error| Unusable(error.to_string()))?;
    let catalog = Catalog::new("nacos");
    if let Some(control) = &settings.control {
        let client = Client::new(settings, Duration::from_millis(conf.timeout.connect), true)?;
        control.spawn(run(Arc::new(conf), client, catalog.clone()));
    }
    Ok(Arc::new(Nacos { catalog }))
}

/// What a key is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    namespace: String,
    group: String,
    name: String,
    grpc: bool,
}

impl Service {
    fn key(&self) -> Arc<str> {
        let grpc = if self.grpc { "grpc" } else { "" };
        [&*self.namespace, &*self.group, &*self.name, grpc].join(&SEPARATOR.to_string()).into()
    }

    fn read(key: &str) -> Option<Service> {
        let mut parts = key.split(SEPARATOR).map(str::to_owned);
        let (namespace, group, name) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Service { namespace, group, name, grpc: parts.next()? == "grpc" })
    }

    /// As APISIX's dump has it.
    fn shown(&self) -> String {
        format!("default/{}/{}/{}", self.namespace, self.group, self.name)
    }
}

async fn run(conf: Arc<Conf>, client: Client, catalog: Arc<Catalog>) {
    let interval = Duration::from_secs(conf.fetch_interval);
    let mut all_at = tokio::time::Instant::now();
    let mut asked: Vec<Arc<str>> = Vec::new();
    loop {
        let followed = catalog.followed();
        let is_round = tokio::time::Instant::now() >= all_at;
        let due: Vec<Arc<str>> = followed.iter().filter(|key| is_round || !asked.contains(key)).cloned().collect();
        if !due.is_empty() {
            match fetch(&conf, &client, &catalog, &due).await {
                Ok(()) => catalog.reached(""),
                Err(error) => catalog.unreached("", &error),
            }
        }
        asked = followed;
        if is_round {
            all_at = tokio::time::Instant::now() + jittered(interval);
        }
        tokio::select! {
            () = tokio::time::sleep_until(all_at) => {}
            () = catalog.wanted() => {}
        }
    }
}

/// Asks one server after another, beginning anywhere, until one answers for at least one service.
async fn fetch(conf: &Arc<Conf>, client: &Client, catalog: &Catalog, keys: &[Arc<str>]) -> Result<(), String> {
    let start = rand::rng().random_range(0..conf.host.len().max(1));
    let mut last = String::new();
    for host in conf.host.iter().cycle().skip(start).take(conf.host.len()) {
        match fetch_from(conf, client, catalog, keys, host).await {
            Ok(()) => return Ok(()),
            Err(error) => last = format!("fetch_from_host: {} err: {error}", crate::client::without_login(host)),
        }
    }
    Err(last)
}

async fn fetch_from(
    conf: &Arc<Conf>,
    client: &Client,
    catalog: &Catalog,
    keys: &[Arc<str>],
    host: &str,
) -> Result<(), String> {
    let (base, login) = base_url(host, Some(&conf.prefix));
    let token = match login {
        Some((user, password)) => Some(log_in(conf, client, &base, &user, &password).await?),
        None => None,
    };
    let (mut answered, mut last) = (false, String::new());
    for some in keys.chunks(CONCURRENT) {
        let mut asking = JoinSet::new();
        for (key, service) in some.iter().filter_map(|key| Some((key.clone(), Service::read(key)?))) {
            let url = instances(conf, &base, &service, token.as_deref());
            let (client, limit) = (client.clone(), conf.limit());
            asking.spawn(async move {
                let answer = client.send(client.get(&url), limit).await.and_then(|answer| answer.json());
                (key, service, answer)
            });
        }
        while let Some(done) = asking.join_next().await {
            let Ok((key, service, answer)) = done else { continue };
            match answer {
                Ok(body) => {
                    answered = true;
                    let hosts = body.get("hosts").and_then(Value::as_array).into_iter().flatten();
                    let nodes = hosts.filter_map(|host| node(conf, &service, host)).collect();
                    catalog.set(&key, nodes);
                }
                Err(error) => {
                    catalog.unanswered(&key);
                    tracing::debug!(service = service.shown(), %error, "nacos did not tell of a service");
                    last = format!("{}: {error}", service.shown());
                }
            }
        }
    }
    if answered { Ok(()) } else { Err(format!("all nacos services fetch failed: {last}")) }
}

async fn log_in(conf: &Conf, client: &Client, base: &str, user: &str, password: &str) -> Result<String, String> {
    let url = format!("{base}auth/login?username={}&password={}", encoded(user), encoded(password));
    let answer = client.send(client.post(&url), conf.limit()).await.and_then(|answer| answer.json());
    let answer = answer.map_err(|error| format!("nacos login fail:{user} desc:{error}"))?;
    let token = answer.get("accessToken").and_then(Value::as_str).filter(|token| !token.is_empty());
    token.map(str::to_owned).ok_or_else(|| "nacos login response missing accessToken".to_owned())
}

fn instances(conf: &Conf, base: &str, service: &Service, token: Option<&str>) -> String {
    let mut url = format!("{base}ns/instance/list?healthyOnly=true&serviceName={}", encoded(&service.name));
    let mut add = |name: &str, value: &str| url.push_str(&format!("&{name}={}", encoded(value)));
    if let Some(token) = token {
        add("accessToken", token);
    }
    add("namespaceId", &service.namespace);
    add("groupName", &service.group);
    if !conf.access_key.is_empty() && !conf.secret_key.is_empty() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let data = format!("{now}@@{}@@{}", service.group, service.name);
        // what Nacos asks for (apisix/discovery/nacos/client.lua `get_signed_param`)
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, conf.secret_key.as_bytes());
        let signature = STANDARD.encode(hmac::sign(&key, data.as_bytes()));
        add("ak", &conf.access_key);
        add("data", &data);
        add("signature", &signature);
    }
    url
}

fn node(conf: &Conf, service: &Service, host: &Value) -> Option<ServiceNode> {
    let port = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let grpc = host.pointer("/metadata/gRPC_port").filter(|_| service.grpc).and_then(port);
    let port = grpc.or_else(|| host.get("port").and_then(port))?;
    // Nacos' weights are fractions; a node with any weight takes part
    let weight = match host.get("weight").and_then(Value::as_f64) {
        None => conf.weight,
        Some(weight) if weight <= 0.0 => 0,
        Some(weight) => weight.round().clamp(1.0, f64::from(u32::MAX)) as u32,
    };
    Some(ServiceNode {
        host: host.get("ip")?.as_str()?.into(),
        port: Some(u16::try_from(port).ok()?),
        weight,
        priority: 0,
        metadata: None,
    })
}

impl Registry for Nacos {
    fn key(&self, query: &ServiceQuery) -> Result<Arc<str>, DiscoverError> {
        let or = |given: &Option<Arc<str>>, default: &str| given.as_deref().unwrap_or(default).to_owned();
        let service = Service {
            namespace: or(&query.namespace_id, DEFAULT_NAMESPACE),
            group: or(&query.group_name, DEFAULT_GROUP),
            name: query.name.to_string(),
            grpc: query.grpc,
        };
        Ok(service.key())
    }
    fn follow(&self, query: &ServiceQuery) -> Result<Following, DiscoverError> {
        Ok(self.catalog.follow(&self.key(query)?).0)
    }
    fn dump(&self) -> Option<Value> {
        let mut services = Map::new();
        for (key, nodes) in self.catalog.services() {
            let Some(service) = Service::read(&key) else { continue };
            let nodes: Vec<Value> = nodes.iter().map(node_json).collect();
            services.insert(service.shown(), json!({"nodes": nodes}));
        }
        Some(json!({"services": services}))
    }
    fn reports(&self) -> Vec<Report> {
        vec![self.catalog.report()]
    }
}
