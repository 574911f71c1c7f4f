//! config.yaml as typed settings, over APISIX's defaults (apisix/cli/config.lua). The surprise: an absent key and an
//! empty mapping both mean the defaults; `null` removes a default that can be absent, as in APISIX.

pub mod apisix;
pub mod deployment;
pub mod discovery;
pub mod http;
pub mod http2;
pub mod key;
pub mod listen;
pub mod nginx;
pub mod plugins;
pub mod sluice;
pub mod stream;
#[cfg(test)]
mod tests;

use crate::document::{Document, Limits};
use crate::environment::Environment;
use crate::problem::{ConfigError, Notice};
use crate::section::{Report, Section};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Everything config.yaml says.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    pub apisix: apisix::Apisix,
    pub deployment: deployment::Deployment,
    pub nginx: nginx::Nginx,
    pub plugins: plugins::Plugins,
    pub sluice: sluice::Sluice,
    /// `graphql.max_size` in bytes.
    pub graphql_max_size: u64,
    /// `xrpc.protocols`: names that stream routes may have as their protocol. Such routes are stored, not served.
    pub xrpc_protocols: Vec<String>,
    pub discovery: discovery::Discovery,
    /// What has no effect; by line.
    #[serde(skip)]
    pub notices: Vec<Notice>,
}

impl Settings {
    /// APISIX's API-driven standalone mode: no file and no store, the Admin API brings the configuration as a whole
    /// (apisix/core/config_yaml.lua `is_use_admin_api`).
    pub fn api_driven(&self) -> bool {
        let deployment = &self.deployment;
        self.apisix.enable_admin
            && deployment.role == deployment::Role::Traditional
            && deployment.config_provider == deployment::ConfigProvider::Yaml
    }

    /// Reads and checks a file; all errors at once.
    pub fn load(path: &Path, environment: &Environment) -> Result<Settings, Vec<ConfigError>> {
        Self::load_with_notices(path, environment).0
    }

    /// As `load`; the notices also when there are errors.
    pub fn load_with_notices(
        path: &Path,
        environment: &Environment,
    ) -> (Result<Settings, Vec<ConfigError>>, Vec<Notice>) {
        let file: Arc<str> = path.to_string_lossy().into();
        match std::fs::read(path) {
            Ok(bytes) => Self::parse(&file, &bytes, environment),
            Err(error) => (Err(vec![ConfigError::of_file(&file, format!("cannot be read: {error}"))]), Vec::new()),
        }
    }

    /// The settings without any file.
    pub fn defaults(environment: &Environment) -> Settings {
        let document = Document {
            file: "(defaults)".into(),
            value: Value::Null,
            root: crate::position::Node::default(),
            notices: Vec::new(),
            outline: crate::document::Outline::default(),
        };
        let report = Report::new(document.file.clone());
        read(&document, &report, environment)
    }

    /// Reads a text; `file` is its name in messages.
    pub fn parse(
        file: &Arc<str>,
        bytes: &[u8],
        environment: &Environment,
    ) -> (Result<Settings, Vec<ConfigError>>, Vec<Notice>) {
        let mut document = match Document::yaml(file, bytes, Limits::default()) {
            Ok(document) => document,
            Err(errors) => return (Err(errors), Vec::new()),
        };
        let report = Report::new(file.clone());
        if let Err(errors) = document.resolve_environment(environment) {
            report.errors.borrow_mut().extend(errors);
        }
        report.notices.borrow_mut().append(&mut document.notices);
        let mut settings = read(&document, &report, environment);
        let mut errors = report.errors.into_inner();
        let mut notices = report.notices.into_inner();
        // A missing variable leaves its text behind, which then is of the wrong type too: one error per place.
        errors.sort_by_key(|error| error.position);
        errors.dedup_by_key(|error| (error.position, error.path.clone()));
        notices.sort_by_key(|notice| notice.position);
        settings.notices.clone_from(&notices);
        (if errors.is_empty() { Ok(settings) } else { Err(errors) }, notices)
    }
}

fn read(document: &Document, report: &Report, environment: &Environment) -> Settings {
    let root = Section::root(&document.value, &document.root, report);
    let deployment = deployment::read(&root.section("deployment"), environment);
    let plugins = plugins::read(&root);
    let settings = Settings {
        apisix: apisix::read(root.section("apisix"), &deployment),
        nginx: nginx::read(root.section("nginx_config"), environment),
        graphql_max_size: {
            let graphql = root.section("graphql");
            let size = graphql.size("max_size", 1_048_576);
            graphql.finish();
            size
        },
        discovery: discovery::read(&root),
        sluice: sluice::read(root.section("sluice")),
        deployment,
        xrpc_protocols: read_protocols(&root),
        plugins,
        notices: Vec::new(),
    };
    root.ignore(&["ext-plugin"], "external plugin runners are not supported");
    root.ignore(&["wasm"], "WebAssembly plugins are not supported");
    root.ignore(&["etcd"], "etcd is configured under deployment.etcd");
    root.ignore(&["http"], "Lua shared dictionaries have no meaning here");
    root.finish();
    listen::check_conflicts(&settings, document, report);
    settings
}

fn read_protocols(root: &Section<'_>) -> Vec<String> {
    let xrpc = root.section("xrpc");
    let mut names = Vec::new();
    for item in xrpc.items("protocols").unwrap_or_default() {
        let protocol = item.section();
        names.extend(protocol.optional_string("name"));
        protocol.finish();
    }
    if let Some(field) = xrpc.field("protocols").filter(|_| !names.is_empty()) {
        let text = "protocols are not spoken: stream routes that name one are stored and not served";
        field.report.notice(field.node.position, &field.path, text, None);
    }
    xrpc.finish();
    names
}
