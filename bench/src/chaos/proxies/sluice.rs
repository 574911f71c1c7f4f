//! Sluice: standalone on a file, active and passive checks, `retries` not set.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::Kind;
use crate::chaos::dns;
use crate::chaos::setup::{BREAKER_FAILURES, BUDGET_PERCENT, COOL_DOWN, Feature, Setup, TIMEOUT, WORKERS};
use crate::peers::Wanted;
use crate::ports;

pub const KIND: Kind = Kind { name: "sluice", write, command, tell: None };

fn command(wanted: &Wanted, home: &Path) -> Result<Command> {
    let mut command = Command::new(wanted.sluice.as_ref().context("no binary; name it with --sluice")?);
    command.arg("run").arg("-c").arg(home.join("conf/config.yaml")).arg("--data-dir").arg(home.join("data"));
    Ok(command)
}

fn write(home: &Path, port: u16, setup: &Setup) -> Result<()> {
    let config = home.join("conf/config.yaml");
    if !config.exists() {
        std::fs::create_dir_all(home.join("conf"))?;
        std::fs::write(&config, serde_json::to_string_pretty(&settings(port, setup)?)?)?;
    }
    // Replaced as a whole: the gateway is not to read half of it.
    let fresh = home.join("conf/apisix.yaml.new");
    std::fs::write(&fresh, format!("{}\n#END\n", resources(setup)))?;
    std::fs::rename(fresh, home.join("conf/apisix.yaml"))?;
    Ok(())
}

fn settings(port: u16, setup: &Setup) -> Result<Value> {
    Ok(json!({
        "apisix": {
            "node_listen": [{"ip": "127.0.0.1", "port": port}],
            "ssl": {"enable": false},
            "enable_control": false,
            "status": {"ip": "127.0.0.1", "port": ports::free(&[Ipv4Addr::LOCALHOST])?},
            "dns_resolver": [setup.resolver],
        },
        "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "yaml"}},
        "nginx_config": {"worker_processes": WORKERS, "error_log_level": "error",
            "http": {"enable_access_log": false, "keepalive_timeout": "300s"}},
        "plugin_attr": {"prometheus": {"enable_export_server": false}},
    }))
}

fn resources(setup: &Setup) -> Value {
    let timeout = TIMEOUT.as_secs();
    let nodes: Map<String, Value> = match setup.feature {
        Feature::Name => Map::from_iter([(format!("{}:{}", dns::NAME, setup.port()), json!(1))]),
        _ => setup.backends.iter().enumerate().map(|(i, node)| (node.to_string(), json!(setup.weight(i)))).collect(),
    };
    let mut upstream = json!({
        "id": "u",
        "type": "roundrobin",
        "nodes": nodes,
        "timeout": {"connect": timeout, "send": timeout, "read": timeout},
        "checks": {
            "active": {"type": "http", "http_path": "/health", "timeout": timeout,
                "healthy": {"interval": 1, "successes": 1},
                "unhealthy": {"interval": 1, "http_failures": 2, "tcp_failures": 2, "timeouts": 2}},
            // 5xx answers are left to probes: a backend that fails a part of its requests is of use still.
            // With an `interval` every failed try counts, the last of a request and a broken body too; a probe brings the node back.
            "passive": {"unhealthy": {"http_failures": 0, "tcp_failures": 2, "timeouts": 2, "interval": 5}},
        },
    });
    match setup.feature {
        Feature::Plain | Feature::Name => {}
        Feature::Adaptive => upstream["type"] = json!("adaptive"),
        Feature::Retry500 => upstream["retry_on"] = json!(["connection_error", "timeout", "http_500"]),
        Feature::Budget => upstream["retry_budget"] = json!({"percent": BUDGET_PERCENT}),
        Feature::Breaker => {
            upstream["circuit_breaker"] = json!({"max_failures": BREAKER_FAILURES,
                "unhealthy": {"interval": COOL_DOWN.as_secs(), "growth": 1}, "healthy": {"successes": 1}});
        }
    }
    json!({"routes": [{"id": "all", "uri": "/*", "upstream_id": "u", "desc": format!("version {}", setup.version)}],
        "upstreams": [upstream]})
}
