//! `eureka`: the instances that Eureka has as UP (apisix/discovery/eureka/init.lua).
//!
//! The surprise: Eureka is asked for everything each time, as APISIX does; its deltas save bytes and lose changes when one is
//! missed. Of several servers any one is asked, another where that fails.
#[cfg(test)]
mod tests;

use crate::Settings;
use crate::catalog::{Catalog, Nodes, services_json};
use crate::client::{Client, base_url};
use crate::pause::jittered;
use crate::registry::{Registry, Report, Unusable, masked};
use foldhash::HashMap;
use rand::Rng as _;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_upstream::{DiscoverError, Following, ServiceNode, ServiceQuery};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Deserialize)]
struct Timeout {
    connect: Option<u64>,
    send: Option<u64>,
    read: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Conf {
    host: Vec<String>,
    fetch_interval: u64,
    prefix: Option<String>,
    weight: Option<u32>,
    timeout: Option<Timeout>,
}

impl Conf {
    fn times(&self) -> (Duration, Duration) {
        let given = |pick: fn(&Timeout) -> Option<u64>, default| {
            Duration::from_millis(self.timeout.as_ref().and_then(pick).unwrap_or(default))
        };
        let (connect, send) = (given(|t| t.connect, 2000), given(|t| t.send, 2000));
        (connect, connect + send + given(|t| t.read, 5000))
    }
}

struct Eureka {
    catalog: Arc<Catalog>,
    conf: Value,
}

pub(crate) fn start(value: &Value, settings: &Settings) -> Result<Arc<dyn Registry>, Unusable> {
    let conf = Conf::deserialize(value).map_err(|error| Unusable(error.to_string()))?;
    let catalog = Catalog::new("eureka");
    if let Some(control) = &settings.control {
        // as APISIX, which checks no certificate of Eureka's
        let client = Client::new(settings, conf.times().0, false)?;
        control.spawn(run(conf, client, catalog.clone()));
    }
    Ok(Arc::new(Eureka { catalog, conf: masked(value) }))
}

async fn run(conf: Conf, client: Client, catalog: Arc<Catalog>) {
    loop {
        match fetch(&conf, &client).await {
            Ok(services) => {
                catalog.reached("");
                catalog.replace(0, services);
            }
            Err(error) => catalog.unreached("", &error),
        }
        tokio::time::sleep(jittered(Duration::from_secs(conf.fetch_interval))).await;
    }
}

/// Asks one server after another, beginning anywhere.
async fn fetch(conf: &Conf, client: &Client) -> Result<HashMap<Arc<str>, Nodes>, String> {
    let start = rand::rng().random_range(0..conf.host.len().max(1));
    let mut last = String::new();
    for host in conf.host.iter().cycle().skip(start).take(conf.host.len()) {
        let (url, login) = base_url(host, conf.prefix.as_deref());
        let mut request = client.get(&format!("{url}apps"));
        if let Some((user, password)) = login {
            request = request.basic_auth(user, Some(password));
        }
        let answer = client.send(request, conf.times().1).await.and_then(|answer| answer.json());
        match answer.and_then(|body| services(conf, &body)) {
            Ok(services) => return Ok(services),
            Err(error) => last = format!("failed to fetch registry from {url}: {error}"),
        }
    }
    Err(format!("{last}; tried {} host(s)", conf.host.len()))
}

/// A list that Eureka's JSON may have folded: one member stands for itself.
fn list(value: Option<&Value>) -> &[Value] {
    match value {
        Some(Value::Array(all)) => all,
        Some(one @ Value::Object(_)) => std::slice::from_ref(one),
        _ => &[],
    }
}

fn services(conf: &Conf, body: &Value) -> Result<HashMap<Arc<str>, Nodes>, String> {
    let applications = body.get("applications").ok_or("no applications in the answer")?;
    let mut services = HashMap::default();
    for app in list(applications.get("application")) {
        let Some(name) = app.get("name").and_then(Value::as_str) else { continue };
        let nodes: Vec<ServiceNode> =
            list(app.get("instance")).iter().filter_map(|instance| node(conf, instance)).collect();
        if !nodes.is_empty() {
            services.insert(name.into(), nodes.into());
        }
    }
    Ok(services)
}

/// A number, or text that is one: Eureka's own XML roots show.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn enabled_port(port: Option<&Value>) -> Option<u16> {
    let port = port?;
    let enabled = port.get("@enabled")?;
    let is_enabled = *enabled == true || *enabled == "true";
    port.get("$").and_then(number).filter(|_| is_enabled).and_then(|port| u16::try_from(port).ok())
}

fn node(conf: &Conf, instance: &Value) -> Option<ServiceNode> {
    let text = |name: &str| instance.get(name).and_then(Value::as_str);
    let overridden = text("overriddenstatus").or_else(|| text("overriddenStatus"));
    let status = overridden.filter(|status| *status != "UNKNOWN").or_else(|| text("status"))?;
    if status != "UP" {
        return None;
    }
    let port = enabled_port(instance.get("securePort")).or_else(|| enabled_port(instance.get("port")))?;
    let mut metadata = instance.get("metadata").filter(|metadata| metadata.is_object()).cloned();
    let own = metadata.as_mut().and_then(|metadata| metadata.as_object_mut()?.shift_remove("weight"));
    let weight = own.as_ref().and_then(number).and_then(|weight| u32::try_from(weight).ok());
    Some(ServiceNode {
        // a name is resolved with the nodes' other names
        host: text("ipAddr")?.into(),
        port: Some(port),
        weight: weight.or(conf.weight).unwrap_or(100),
        priority: 0,
        metadata: metadata.map(Arc::new),
    })
}

impl Registry for Eureka {
    fn key(&self, query: &ServiceQuery) -> Result<Arc<str>, DiscoverError> {
        Ok(query.name.clone())
    }
    fn follow(&self, query: &ServiceQuery) -> Result<Following, DiscoverError> {
        Ok(self.catalog.follow(&query.name).0)
    }
    fn dump(&self) -> Option<Value> {
        Some(json!({"config": self.conf, "services": services_json(&self.catalog.services())}))
    }
    fn reports(&self) -> Vec<Report> {
        vec![self.catalog.report()]
    }
}
