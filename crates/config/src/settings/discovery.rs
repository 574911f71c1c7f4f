//! `discovery`: the registries that upstreams with `discovery_type` are looked up in, checked by APISIX's schemas
//! (apisix/cli/schema.lua). The surprise: a kind of registry that APISIX knows and Sluice does not is a notice, one that
//! nobody knows is an error, as APISIX does not start with it.

use crate::section::{Field, Section};
use crate::suggestion::nearest;
use serde::Serialize;
use serde_json::{Map, Value};
use sluice_model::schemas::discovery::{self, TYPES};

/// `discovery`, defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Discovery {
    /// By kind: a mapping, or the list of clusters of `kubernetes`.
    pub registries: Map<String, Value>,
}

pub(super) fn read(root: &Section<'_>) -> Discovery {
    let mut out = Discovery::default();
    let Some(field) = root.field("discovery") else { return out };
    let Value::Object(kinds) = field.value else {
        if !field.value.is_null() {
            field.expected("a mapping");
        }
        return out;
    };
    for (kind, conf) in kinds {
        let node = field.node.child(kind).unwrap_or(field.node);
        let here = Field { value: conf, node, path: format!("{}.{kind}", field.path), report: field.report };
        if kind == "tars" {
            field.report.notice(node.position, &here.path, "ignored: tars is not supported", None);
            continue;
        }
        if !TYPES.contains(&kind.as_str()) {
            let known = TYPES.iter().copied();
            field.report.error(node.position, &here.path, "unknown discovery type", nearest(kind, known));
            continue;
        }
        // `dns: {}` and `dns:` are the same to Lua
        let conf = if conf.is_null() { Value::Object(Map::new()) } else { conf.clone() };
        if let Some(conf) = checked(kind, conf, &here) {
            out.registries.insert(kind.clone(), conf);
        }
    }
    out
}

fn checked(kind: &str, conf: Value, field: &Field<'_>) -> Option<Value> {
    if let ("kubernetes", Value::Array(clusters)) = (kind, &conf)
        && !clusters.is_empty()
    {
        let mut out = Vec::new();
        for (item, mut cluster) in field.items().into_iter().zip(clusters.clone()) {
            port_as_text(&mut cluster);
            let duplicate = out.iter().any(|other: &Value| other["id"] == cluster["id"]);
            if duplicate {
                item.error("duplicate id value");
                return None;
            }
            match discovery::kubernetes_of_several().check(&mut cluster) {
                Ok(()) => out.push(cluster),
                Err(violation) => {
                    refuse(kind, &item, &violation.path, &violation.message);
                    return None;
                }
            }
        }
        return Some(Value::Array(out));
    }
    let mut conf = conf;
    if kind == "kubernetes" {
        port_as_text(&mut conf);
    }
    let outcome = discovery::registry(kind)?.check(&mut conf);
    if let Err(violation) = outcome {
        refuse(kind, field, &violation.path, &violation.message);
        return None;
    }
    // apisix/discovery/consul/client.lua `format_consul_params`
    let servers = conf.get("servers").and_then(Value::as_array).filter(|_| kind.starts_with("consul"));
    for server in servers.into_iter().flatten().filter_map(Value::as_str) {
        if let Err(message) = check_consul(server) {
            refuse(kind, field, "/servers", message);
            return None;
        }
    }
    Some(conf)
}

fn check_consul(server: &str) -> Result<(), &'static str> {
    let Some(rest) = server.strip_prefix("http://") else {
        return Err("only support consul http schema address, eg: http://address:port");
    };
    if rest.is_empty() || rest.contains(['/', '?', '#']) {
        return Err("invalid consul server address, the valid format: http://address:port");
    }
    Ok(())
}

/// A variable of the environment arrives as a number.
fn port_as_text(cluster: &mut Value) {
    if let Some(port) = cluster.pointer_mut("/service/port")
        && let Some(number) = port.as_u64()
    {
        *port = number.to_string().into();
    }
}

/// Names the line of what is wrong, in APISIX's words.
fn refuse(kind: &str, field: &Field<'_>, pointer: &str, message: &str) {
    let (mut node, mut path) = (field.node, field.path.clone());
    for part in pointer.split('/').skip(1) {
        let Some(child) = node.child(part) else { break };
        node = child;
        path = match part.parse::<usize>() {
            Ok(index) => format!("{path}[{index}]"),
            Err(_) => format!("{path}.{part}"),
        };
    }
    let message = format!("invalid discovery {kind} configuration: {message}");
    field.report.error(node.position, &path, message, None);
}

#[cfg(test)]
mod tests {
    use crate::environment::Environment;
    use crate::settings::Settings;
    use serde_json::json;

    fn errors(text: &str) -> Vec<String> {
        let (settings, _) = Settings::parse(&"config.yaml".into(), text.as_bytes(), &Environment::fixed([]));
        settings.err().into_iter().flatten().map(|error| error.to_string()).collect()
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let text = "discovery:\n  dns:\n    servers: [\"127.0.0.1:53\"]\n    order: [A, A]\n  consul:\n    servers:\n      - http://127.0.0.1:8500/v1\n  consuls: {}\n  kubernetes:\n    - id: a\n";
        let found = errors(text);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].starts_with("config.yaml:4:") && found[0].contains("discovery.dns.order"), "{}", found[0]);
        assert!(found[0].contains("invalid discovery dns configuration: property \"order\" validation failed"));
        assert!(found[1].contains("the valid format: http://address:port"), "{}", found[1]);
        assert!(found[2].contains("unknown discovery type") && found[2].contains("consul"), "{}", found[2]);
        assert!(
            found[3].contains("invalid discovery kubernetes configuration: property \"client\" is required")
                || found[3].contains("is required"),
            "{}",
            found[3]
        );
    }

    #[test]
    fn defaults_are_filled_in_and_clusters_kept_apart() {
        let text = "discovery:\n  eureka: {host: [\"http://127.0.0.1:8761\"]}\n  tars: {}\n  kubernetes:\n    - {id: a, service: {host: k8s, port: 6443}, client: {token: x}}\n";
        let (settings, notices) = Settings::parse(&"c".into(), text.as_bytes(), &Environment::fixed([]));
        let registries = settings.unwrap().discovery.registries;
        assert_eq!(registries["eureka"], json!({"host": ["http://127.0.0.1:8761"], "fetch_interval": 30}));
        assert_eq!(registries["kubernetes"][0]["service"], json!({"host": "k8s", "port": "6443", "schema": "https"}));
        assert!(notices.iter().any(|notice| notice.path == "discovery.tars"), "{notices:?}");
    }
}
