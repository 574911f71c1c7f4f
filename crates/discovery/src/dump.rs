//! The file that keeps what Consul told over a restart (apisix/discovery/consul/init.lua `write_dump_services`). Its form is
//! APISIX's, so that either gateway reads the other's.
use crate::catalog::{Catalog, DUMP, Nodes, services_json};
use foldhash::HashMap;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_upstream::ServiceNode;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Largest file that is read.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// `dump` of a registry's settings.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dump {
    path: PathBuf,
    load_on_init: bool,
    /// Seconds; 0: never.
    expire: i64,
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A node as registries' JSON has it; a port or weight that is none leaves it out.
pub(crate) fn node(value: &Value) -> Option<ServiceNode> {
    Some(ServiceNode {
        host: value.get("host")?.as_str()?.into(),
        port: match value.get("port") {
            None | Some(Value::Null) => None,
            Some(port) => Some(u16::try_from(port.as_u64()?).ok()?),
        },
        weight: u32::try_from(value.get("weight")?.as_u64()?).ok()?,
        priority: value.get("priority").and_then(Value::as_i64).and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
        metadata: value.get("metadata").filter(|m| m.is_object()).map(|m| Arc::new(m.clone())),
    })
}

impl Dump {
    /// Relative paths start from `prefix`.
    pub fn below(mut self, prefix: &Path) -> Dump {
        self.path = prefix.join(&self.path);
        self
    }

    /// Puts what the file keeps into the catalog, where it holds until the servers have answered.
    pub fn load(&self, catalog: &Catalog) {
        if !self.load_on_init {
            return;
        }
        let text = match self.read() {
            Ok(text) => text,
            // as at the first start
            Err(error) => return tracing::warn!("read dump file get error: {error}"),
        };
        if text.trim().is_empty() {
            return tracing::error!("dump file is empty");
        }
        let entity: Value = match serde_json::from_str(&text) {
            Ok(entity) => entity,
            Err(error) => return tracing::error!("decoded dump data got error: {error}"),
        };
        let (Some(services), Some(last_update)) =
            (entity.get("services").and_then(Value::as_object), entity.get("last_update").and_then(Value::as_i64))
        else {
            return tracing::warn!("decoded dump data miss fields, file content: {}", text.trim());
        };
        if self.expire != 0 && last_update.saturating_add(self.expire) < now() {
            return tracing::warn!("dump file: {} had expired, ignored it", self.path.display());
        }
        let nodes = |list: &Value| -> Nodes { list.as_array().into_iter().flatten().filter_map(node).collect() };
        let known: HashMap<Arc<str>, Nodes> =
            services.iter().map(|(name, list)| (name.as_str().into(), nodes(list))).collect();
        tracing::info!(services = known.len(), "load dump file into memory success");
        catalog.replace(DUMP, known);
    }

    fn read(&self) -> Result<String, String> {
        let name = self.path.display();
        let size = std::fs::metadata(&self.path).map_err(|error| format!("{name}: {error}"))?.len();
        if size > MAX_FILE {
            return Err(format!("{name}: more than {MAX_FILE} bytes"));
        }
        std::fs::read_to_string(&self.path).map_err(|error| format!("{name}: {error}"))
    }

    /// Writes what the catalog knows, in one step.
    pub fn write(&self, catalog: &Catalog) {
        let services = services_json(&catalog.services());
        let text = json!({"services": services, "last_update": now(), "expire": self.expire}).to_string();
        let beside = self.path.with_extension("tmp");
        let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &self.path));
        if let Err(error) = written {
            tracing::error!("write dump into file got error: {}: {error}", self.path.display());
        }
    }
}

/// What the Control API shows of the file.
pub(crate) fn show(dump: Option<&Dump>) -> Result<String, String> {
    dump.ok_or_else(|| "dump params is nil".to_owned())?.read()
}
