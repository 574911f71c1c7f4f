//! Kubernetes' objects as nodes by port (apisix/discovery/kubernetes/core.lua `create_endpoint_callbacks`). The surprise: a
//! service has one Endpoints object but many slices; its nodes are those of all of them.
use crate::catalog::Nodes;
use foldhash::HashMap;
use serde_json::Value;
use sluice_upstream::ServiceNode;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label that names a slice's service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Nodes by the name of their port.
type Ports = BTreeMap<String, Vec<ServiceNode>>;

/// What one object says.
#[derive(Debug)]
pub(super) struct Object {
    /// `namespace/name` of the service.
    pub service: String,
    pub namespace: String,
    /// Its own name, which tells slices of a service apart.
    name: String,
    ports: Ports,
}

/// The objects of a cluster.
#[derive(Debug, Default)]
pub(super) struct Known {
    slices: bool,
    weight: u32,
    /// By service, then by the object's own name.
    objects: HashMap<String, BTreeMap<String, Ports>>,
    /// Ports that were told of, by service: what is gone has to be told, too.
    told: HashMap<String, Vec<Arc<str>>>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str)
}

fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// What a port is called in service names: its name, else its number.
fn port_name(port: &Value) -> Option<String> {
    if let Some(name) = port.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) {
        return Some(name.to_owned());
    }
    let number = port.get("targetPort").filter(|port| !port.is_null()).or_else(|| port.get("port"))?;
    Some(number.as_str().map_or_else(|| number.to_string(), str::to_owned))
}

fn sorted(ports: &mut Ports) {
    for nodes in ports.values_mut() {
        nodes.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
        nodes.dedup_by(|a, b| (&a.host, a.port) == (&b.host, b.port));
    }
}

impl Known {
    /// `slices`: the objects are endpoint slices.
    pub fn new(slices: bool, weight: u32) -> Known {
        Known { slices, weight, ..Known::default() }
    }

    /// An empty one of the same kind, to list into; what was told of stays known.
    pub fn anew(&self) -> Known {
        Known { told: self.told.clone(), ..Known::new(self.slices, self.weight) }
    }

    /// Reads an object; `None`, and a line in the log, where it is not whole.
    pub fn read(&self, object: &Value) -> Option<Object> {
        let (Some(namespace), Some(name)) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"))
        else {
            tracing::warn!("skipping endpoint with missing metadata: {object}");
            return None;
        };
        let (service, ports) = if self.slices {
            let Some(service) =
                object.pointer("/metadata/labels").and_then(|labels| labels.get(SERVICE_NAME)?.as_str())
            else {
                tracing::warn!("endpoint_slice has no service-name: {namespace}/{name}");
                return None;
            };
            (service, self.of_slice(object))
        } else {
            (name, self.of_endpoints(object))
        };
        Some(Object {
            service: format!("{namespace}/{service}"),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ports,
        })
    }

    fn add(&self, ports: &mut Ports, list: &[Value], host: &str) {
        for port in list {
            let number = port.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
            let (Some(name), Some(number)) = (port_name(port), number) else { continue };
            ports.entry(name).or_default().push(ServiceNode {
                host: host.into(),
                port: Some(number),
                weight: self.weight,
                priority: 0,
                metadata: None,
            });
        }
    }

    fn of_endpoints(&self, object: &Value) -> Ports {
        let mut ports = Ports::new();
        for subset in list(object, "subsets") {
            for ip in list(subset, "addresses").iter().filter_map(|address| text(address, "/ip")) {
                self.add(&mut ports, list(subset, "ports"), ip);
            }
        }
        sorted(&mut ports);
        ports
    }

    fn of_slice(&self, object: &Value) -> Ports {
        let mut ports = Ports::new();
        let ready = |endpoint: &&Value| endpoint.pointer("/conditions/ready").and_then(Value::as_bool) == Some(true);
        for endpoint in list(object, "endpoints").iter().filter(ready) {
            for ip in list(endpoint, "addresses").iter().filter_map(Value::as_str) {
                self.add(&mut ports, list(object, "ports"), ip);
            }
        }
        ports
    }

    /// An object is new or changed.
    pub fn put(&mut self, object: Object) {
        self.objects.entry(object.service).or_default().insert(object.name, object.ports);
    }

    /// An object is gone.
    pub fn remove(&mut self, object: &Object) {
        if let Some(objects) = self.objects.get_mut(&object.service) {
            objects.remove(&object.name);
            if objects.is_empty() {
                self.objects.remove(&object.service);
            }
        }
    }

    fn ports(&self, service: &str) -> BTreeMap<String, Nodes> {
        let mut all = Ports::new();
        for ports in self.objects.get(service).into_iter().flat_map(BTreeMap::values) {
            for (port, nodes) in ports {
                all.entry(port.clone()).or_default().extend(nodes.iter().cloned());
            }
        }
        sorted(&mut all);
        all.into_iter().map(|(port, nodes)| (port, nodes.into())).collect()
    }

    /// A service's nodes by `namespace/name:port`; `None` for ports that are gone.
    pub fn of(&mut self, service: &str) -> Vec<(Arc<str>, Option<Nodes>)> {
        let now: Vec<(Arc<str>, Nodes)> =
            self.ports(service).into_iter().map(|(port, nodes)| (format!("{service}:{port}").into(), nodes)).collect();
        let keys: Vec<Arc<str>> = now.iter().map(|(key, _)| key.clone()).collect();
        let before = self.told.remove(service).unwrap_or_default();
        let gone = before.into_iter().filter(|key| !keys.contains(key)).map(|key| (key, None));
        let mut all: Vec<(Arc<str>, Option<Nodes>)> = gone.collect();
        if !keys.is_empty() {
            self.told.insert(service.to_owned(), keys);
        }
        all.extend(now.into_iter().map(|(key, nodes)| (key, Some(nodes))));
        all
    }

    /// All nodes by `namespace/name:port`.
    pub fn services(&mut self) -> HashMap<Arc<str>, Nodes> {
        self.told.clear();
        let names: Vec<String> = self.objects.keys().cloned().collect();
        let all = names.iter().flat_map(|service| self.of(service));
        let mut out = HashMap::default();
        for (key, nodes) in all.collect::<Vec<_>>() {
            if let Some(nodes) = nodes {
                out.insert(key, nodes);
            }
        }
        out
    }

    /// All nodes by service and port.
    pub fn by_port(&self) -> Vec<(String, BTreeMap<String, Nodes>)> {
        self.objects.keys().map(|service| (service.clone(), self.ports(service))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(known: &mut Known, service: &str) -> Vec<String> {
        let one = |(key, nodes): (Arc<str>, Option<Nodes>)| {
            let nodes = nodes.map(|nodes| nodes.iter().map(|n| format!("{}:{}", n.host, n.port.unwrap())).collect());
            format!("{key} {}", nodes.map_or_else(|| "-".to_owned(), |nodes: Vec<String>| nodes.join(",")))
        };
        known.of(service).into_iter().map(one).collect()
    }

    #[test]
    fn endpoints_are_nodes_by_port() {
        let mut known = Known::new(false, 50);
        let object = json!({"metadata": {"namespace": "ns", "name": "api"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.2"}, {"ip": "10.0.0.1"}], "ports": [{"name": "http", "port": 80}, {"port": 81}]},
            {"notReadyAddresses": [{"ip": "10.0.0.9"}], "ports": [{"name": "http", "port": 80}]}]});
        known.put(known.read(&object).unwrap());
        assert_eq!(
            shown(&mut known, "ns/api"),
            ["ns/api:81 10.0.0.1:81,10.0.0.2:81", "ns/api:http 10.0.0.1:80,10.0.0.2:80"]
        );
        let none = json!({"metadata": {"namespace": "ns", "name": "api"}});
        known.put(known.read(&none).unwrap());
        assert_eq!(shown(&mut known, "ns/api"), ["ns/api:81 -", "ns/api:http -"]);
        assert!(known.read(&json!({"metadata": {"name": "x"}})).is_none());
    }

    #[test]
    fn slices_of_a_service_are_put_together() {
        let mut known = Known::new(true, 1);
        let slice = |name: &str, ip: &str, ready: bool| {
            json!({"metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": "api"}},
                "ports": [{"name": "p", "port": 1}],
                "endpoints": [{"addresses": [ip], "conditions": {"ready": ready}}]})
        };
        known.put(known.read(&slice("a", "10.0.0.2", true)).unwrap());
        known.put(known.read(&slice("b", "10.0.0.1", true)).unwrap());
        known.put(known.read(&slice("c", "10.0.0.3", false)).unwrap());
        assert_eq!(shown(&mut known, "ns/api"), ["ns/api:p 10.0.0.1:1,10.0.0.2:1"]);
        let gone = known.read(&slice("b", "", true)).unwrap();
        known.remove(&gone);
        assert_eq!(shown(&mut known, "ns/api"), ["ns/api:p 10.0.0.2:1"]);
        assert!(known.read(&json!({"metadata": {"namespace": "n", "name": "x"}, "endpoints": null})).is_none());
    }
}
