//! A folder as the gateway is started on: `conf/config.yaml`, `conf/apisix.yaml` with its `#END`, `data/`.
//!
//! Files are written as JSON, which is YAML; a test that is about YAML itself writes its text with [`ConfigDir::write_raw`].

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::ports::free_port;

/// Removed with all it holds when dropped.
pub struct ConfigDir {
    root: tempfile::TempDir,
    pub port: u16,
    pub tls_port: u16,
    pub control_port: u16,
    pub metrics_port: u16,
    pub status_port: u16,
}

impl ConfigDir {
    /// Standalone mode on free ports, one worker; `changes` is merged over that `config.yaml`, `resources` becomes `apisix.yaml`.
    pub fn new(changes: &Value, resources: &Value) -> anyhow::Result<Self> {
        let root = tempfile::tempdir()?;
        std::fs::create_dir_all(root.path().join("conf"))?;
        std::fs::create_dir_all(root.path().join("data"))?;
        let [port, tls_port, control_port, metrics_port, status_port] = std::array::from_fn(|_| free_port());
        let dir = Self { root, port, tls_port, control_port, metrics_port, status_port };
        let mut config = dir.base();
        merge(&mut config, changes);
        dir.write_atomically("config.yaml", &serde_json::to_string_pretty(&config)?)?;
        dir.write_resources(resources)?;
        Ok(dir)
    }

    fn base(&self) -> Value {
        json!({
            "apisix": {
                "node_listen": [{"ip": "127.0.0.1", "port": self.port}],
                "enable_control": true,
                "control": {"ip": "127.0.0.1", "port": self.control_port},
                "status": {"ip": "127.0.0.1", "port": self.status_port},
                "ssl": {"enable": true, "listen": [{"ip": "127.0.0.1", "port": self.tls_port}]},
            },
            "deployment": {"role": "data_plane", "role_data_plane": {"config_provider": "yaml"}},
            "nginx_config": {"worker_processes": 1, "http": {"enable_access_log": false}},
            "plugin_attr": {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": self.metrics_port}}},
        })
    }

    pub fn path(&self) -> &Path {
        self.root.path()
    }

    pub fn config_file(&self) -> PathBuf {
        self.root.path().join("conf/config.yaml")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// Replaces `apisix.yaml` in one step, `#END` included.
    pub fn write_resources(&self, resources: &Value) -> anyhow::Result<()> {
        self.write_atomically("apisix.yaml", &format!("{}\n#END\n", serde_json::to_string_pretty(resources)?))
    }

    /// Writes a file of `conf/` in place and as it is: for broken and half-written files.
    pub fn write_raw(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.root.path().join("conf").join(name), text)?)
    }

    fn write_atomically(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let target = self.root.path().join("conf").join(name);
        let mut file = tempfile::NamedTempFile::new_in(self.root.path())?;
        file.write_all(text.as_bytes())?;
        file.persist(target)?;
        Ok(())
    }
}

/// Objects are merged key by key, everything else is replaced.
pub fn merge(base: &mut Value, changes: &Value) {
    match (base, changes) {
        (Value::Object(base), Value::Object(changes)) => {
            for (key, value) in changes {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, changes) => *base = changes.clone(),
    }
}

/// An empty folder for whatever a test writes; removed when dropped.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_merged_and_the_resources_end_with_the_mark() {
        let changes = json!({"apisix": {"proxy_mode": "http"}, "nginx_config": {"worker_processes": 2}});
        let dir = ConfigDir::new(&changes, &json!({"routes": []})).unwrap();
        let config: Value = serde_json::from_slice(&std::fs::read(dir.config_file()).unwrap()).unwrap();
        assert_eq!(config["apisix"]["node_listen"][0]["port"], dir.port);
        assert_eq!(config["apisix"]["proxy_mode"], "http");
        assert_eq!(config["nginx_config"]["worker_processes"], 2);
        let text = std::fs::read_to_string(dir.path().join("conf/apisix.yaml")).unwrap();
        assert!(text.ends_with("\n#END\n"));
        let resources: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(resources, json!({"routes": []}));
    }
}
