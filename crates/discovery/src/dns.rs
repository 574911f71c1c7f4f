//! `dns`: a service is a name with A, AAAA or SRV records (apisix/discovery/dns/init.lua, apisix/core/dns/client.lua).
//!
//! The surprise: each followed name is asked for again when its records end, not when a request comes; so a request never
//! waits for a name server, and a name server that is away costs nothing but news. A name that the server denies has no nodes.
mod lookup;
#[cfg(test)]
mod tests;

use crate::Settings;
use crate::catalog::Catalog;
use crate::registry::{Registry, Report, Unusable};
use lookup::{Answer, Client};
use serde::Deserialize;
use serde_json::Value;
use sluice_model::node::split_address;
use sluice_upstream::{DiscoverError, Following, ServiceQuery};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How soon a name is asked for again, whatever its records say.
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(3600);
/// How soon a name that has no records is asked for again.
const EMPTY_TTL: Duration = Duration::from_secs(1);
/// How soon a failed look-up is tried again, at first and at last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

#[derive(Deserialize)]
struct Conf {
    servers: Option<Vec<String>>,
    resolv_conf: Option<String>,
    order: Option<Vec<String>>,
}

/// What one look-up may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whatever was found the last time.
    Last,
    Srv,
    A,
    Aaaa,
}

fn order(names: Option<&[String]>, ipv6: bool) -> Vec<Kind> {
    let kind = |name: &str| match name {
        "last" => Some(Kind::Last),
        "SRV" => Some(Kind::Srv),
        "A" => Some(Kind::A),
        "AAAA" => Some(Kind::Aaaa).filter(|_| ipv6),
        // followed wherever they lead; nothing to ask for by themselves
        _ => None,
    };
    match names {
        Some(names) => names.iter().filter_map(|name| kind(name)).collect(),
        None => ["last", "SRV", "A", "AAAA"].into_iter().filter_map(kind).collect(),
    }
}

/// `127.0.0.1`, `127.0.0.1:53`, `[::1]:53`, `::1`.
fn server(text: &str) -> Result<SocketAddr, Unusable> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    address.or_else(|_| text.parse()).map_err(|_| Unusable(format!("servers: {text} is no address")))
}

struct Dns {
    catalog: Arc<Catalog>,
    client: Option<Arc<Client>>,
    control: Option<Handle>,
}

pub(crate) fn start(conf: &Value, settings: &Settings) -> Result<Arc<dyn Registry>, Unusable> {
    let conf = Conf::deserialize(conf).map_err(|error| Unusable(error.to_string()))?;
    let servers: Vec<SocketAddr> = conf.servers.iter().flatten().map(|text| server(text)).collect::<Result<_, _>>()?;
    let order = order(conf.order.as_deref(), settings.ipv6);
    let client = match &settings.control {
        Some(control) => {
            // sockets and timers belong to the runtime that the resolver is made in
            let _in = control.enter();
            Some(Arc::new(Client::new(&servers, conf.resolv_conf.as_deref(), order)?))
        }
        None => None,
    };
    Ok(Arc::new(Dns { catalog: Catalog::new("dns"), client, control: settings.control.clone() }))
}

/// Keeps one name fresh until nobody follows it.
async fn keep(client: Arc<Client>, catalog: Arc<Catalog>, key: Arc<str>) {
    let (host, port) = split_address(&key);
    let port = port.and_then(|port| u16::try_from(port).ok());
    let mut last = None;
    let mut failures = 0u32;
    loop {
        let again = match client.ask(host, port, last).await {
            Ok(Answer { nodes, kind, ttl }) => {
                last = kind;
                failures = 0;
                let empty = nodes.is_empty();
                if empty {
                    tracing::debug!(name = host, "no such name, or no records");
                }
                catalog.reached(&key);
                catalog.set(&key, nodes.into());
                if empty { EMPTY_TTL } else { ttl.clamp(MIN_TTL, MAX_TTL) }
            }
            Err(error) => {
                failures += 1;
                catalog.unreached(&key, &format_args!("{host}: {error}"));
                catalog.unanswered(&key);
                RETRY.0.saturating_mul(1 << (failures - 1).min(8)).min(RETRY.1)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(again) => {}
            () = catalog.abandoned(&key) => {
                if catalog.release(&key) {
                    return;
                }
            }
        }
    }
}

impl Registry for Dns {
    fn key(&self, query: &ServiceQuery) -> Result<Arc<str>, DiscoverError> {
        if query.name.is_empty() {
            return Err(DiscoverError::Name("service_name of a dns discovery is empty".to_owned()));
        }
        Ok(query.name.clone())
    }

    fn follow(&self, query: &ServiceQuery) -> Result<Following, DiscoverError> {
        let key = self.key(query)?;
        let (following, fresh) = self.catalog.follow(&key);
        if let (Some(client), Some(control), true) = (&self.client, &self.control, fresh) {
            control.spawn(keep(client.clone(), self.catalog.clone(), key));
        }
        Ok(following)
    }

    fn dump(&self) -> Option<Value> {
        None
    }

    fn reports(&self) -> Vec<Report> {
        vec![self.catalog.report()]
    }
}
