//! Sluice with one worker, standalone on files.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Peer, Site, UPSTREAM, Wanted, pinned};
use crate::setup::{Setup, resources};

pub fn start(wanted: &Wanted, setup: Setup, site: &Site) -> Result<Peer> {
    let program = wanted.sluice.as_ref().context("no binary; `cargo xtask bench` builds it")?;
    let home = site.home("sluice")?;
    write(&home, &resources(setup, UPSTREAM, &site.cert, &site.key))?;
    let mut command = pinned(program);
    command.arg("run").arg("-c").arg(home.join("conf/config.yaml")).arg("--data-dir").arg(home.join("data"));
    Peer::start("sluice", &home, 8014, 8414, command)
}

/// With the Admin API and the embedded store, both empty at first.
pub fn start_with_admin(wanted: &Wanted, home: &Path, admin: u16) -> Result<Peer> {
    let program = wanted.sluice.as_ref().context("no binary; `cargo xtask bench` builds it")?;
    write(home, &json!({}))?;
    let path = home.join("conf/config.yaml");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    config["deployment"] = json!({"role": "traditional", "admin": {
        "admin_listen": {"ip": "127.0.0.1", "port": admin},
        "admin_key": [{"name": "admin", "key": "key-of-the-benchmark", "role": "admin"}],
    }});
    std::fs::write(&path, serde_json::to_string_pretty(&config)?)?;
    let mut command = pinned(program);
    command.arg("run").arg("-c").arg(path).arg("--data-dir").arg(home.join("data"));
    Peer::start("sluice", home, 8014, 8414, command)
}

/// Writes `conf/config.yaml` and `conf/apisix.yaml`.
pub fn write(home: &Path, resources: &Value) -> Result<()> {
    std::fs::create_dir_all(home.join("conf"))?;
    let config = json!({
        "apisix": {
            "node_listen": [{"ip": "127.0.0.1", "port": 8014}],
            "ssl": {"enable": true, "listen": [{"ip": "127.0.0.1", "port": 8414}]},
            "control": {"ip": "127.0.0.1", "port": 8514},
            "status": {"ip": "127.0.0.1", "port": 8515},
        },
        "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "yaml"}},
        "nginx_config": {"worker_processes": 1, "http": {
            "enable_access_log": false, "keepalive_timeout": "300s",
            "upstream": {"keepalive": 256, "keepalive_requests": 100_000_000, "keepalive_timeout": "300s"},
        }},
        "sluice": {"limits": {"requests_per_connection": 100_000_000}},
        "plugin_attr": {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": 8516}}},
    });
    std::fs::write(home.join("conf/config.yaml"), serde_json::to_string_pretty(&config)?)?;
    std::fs::write(home.join("conf/apisix.yaml"), format!("{resources}\n#END\n"))?;
    Ok(())
}
