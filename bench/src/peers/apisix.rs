//! APISIX: `--apisix DIR` with `openresty/` and `apisix/` (a checkout with its Lua dependencies in `deps/`), standalone on
//! files in a folder of its own that links to that checkout.

use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Peer, Site, UPSTREAM, Wanted, pinned};
use crate::setup::{Setup, resources};

pub fn start(wanted: &Wanted, setup: Setup, site: &Site) -> Result<Peer> {
    let peer = wanted.apisix.as_ref().context("no --apisix given")?.canonicalize()?;
    let home = site.home("apisix")?;
    for entry in std::fs::read_dir(peer.join("apisix")).context("apisix/")? {
        let entry = entry?;
        let name = entry.file_name();
        if !["conf", "logs"].iter().any(|own| name == *own) {
            symlink(entry.path(), home.join(&name))?;
        }
    }
    std::fs::create_dir_all(home.join("conf"))?;
    std::fs::create_dir_all(home.join("logs"))?;
    for entry in std::fs::read_dir(peer.join("apisix/conf"))? {
        let entry = entry?;
        let own = ["config.yaml", "apisix.yaml", "nginx.conf"].iter().any(|own| entry.file_name() == *own);
        if !own && entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), home.join("conf").join(entry.file_name()))?;
        }
    }
    let config = json!({
        "apisix": {"node_listen": [{"ip": "127.0.0.1", "port": 8016}],
            "ssl": {"enable": true, "listen": [{"ip": "127.0.0.1", "port": 8416}]},
            "control": {"ip": "127.0.0.1", "port": 8616}, "status": {"ip": "127.0.0.1", "port": 8617}},
        "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "yaml"}},
        "nginx_config": {"worker_processes": 1, "error_log_level": "error",
            "http": {"enable_access_log": false, "keepalive_timeout": "300s"}},
        "plugin_attr": {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": 8618}}},
    });
    std::fs::write(home.join("conf/config.yaml"), serde_json::to_string_pretty(&config)?)?;
    let resources = resources(setup, UPSTREAM, &site.cert, &site.key);
    std::fs::write(home.join("conf/apisix.yaml"), format!("{resources}\n#END\n"))?;
    let bin = peer.join("openresty/bin");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let init = Command::new(peer.join("openresty/luajit/bin/luajit"))
        .args(["./apisix/cli/apisix.lua", "init"])
        .current_dir(&home)
        .env("PATH", &path)
        .output()
        .context("openresty/luajit/bin/luajit")?;
    ensure!(init.status.success(), "apisix init: {}", String::from_utf8_lossy(&init.stderr));
    let mut command = pinned(&bin.join("openresty"));
    command
        .arg("-p")
        .arg(&home)
        .arg("-c")
        .arg(home.join("conf/nginx.conf"))
        .args(["-g", "daemon off;"])
        .env("PATH", path);
    Peer::start("apisix", &home, 8016, 8416, command)?.count_children()
}
