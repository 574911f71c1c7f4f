//! debug.yaml, beside config.yaml: what APISIX's debug mode is to do (apisix/debug.lua, conf/debug.yaml).
//! The surprise: a file without `#END` in its last ten bytes is not complete and changes nothing, and a missing one is
//! no error.
use crate::document::{Document, Limits};
use crate::problem::ConfigError;
use crate::standalone::is_complete;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;

/// The content of debug.yaml. All three sections must be there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct DebugConfig {
    pub basic: Basic,
    pub http_filter: HttpFilter,
    pub hook_conf: HookConf,
    /// Lists of functions by name, of which [`HookConf::name`] picks one: module to functions.
    #[serde(flatten)]
    pub lists: Map<String, Value>,
}

/// `basic`: responses name the plugins that ran.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Basic {
    #[serde(default)]
    pub enable: bool,
}

/// `http_filter`: hooks work only for requests with this field.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct HttpFilter {
    #[serde(default)]
    pub enable: bool,
    pub enable_header_name: Option<String>,
}

/// `hook_conf`: calls of certain functions are logged.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct HookConf {
    #[serde(default)]
    pub enable: bool,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub log_level: LogLevel,
    #[serde(default)]
    pub is_print_input_args: bool,
    #[serde(default)]
    pub is_print_return_value: bool,
}

/// nginx's levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Debug,
    Info,
    Notice,
    #[default]
    Warn,
    Error,
    Crit,
    Alert,
    Emerg,
}

impl DebugConfig {
    /// Reads the file; None where there is none, or none that is complete.
    pub fn load(path: &Path) -> Result<Option<DebugConfig>, Vec<ConfigError>> {
        let file: Arc<str> = path.display().to_string().into();
        match std::fs::read(path) {
            Ok(bytes) => Self::parse(&file, &bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(vec![ConfigError::of_file(&file, error.to_string())]),
        }
    }

    fn parse(file: &Arc<str>, bytes: &[u8]) -> Result<Option<DebugConfig>, Vec<ConfigError>> {
        if !is_complete(bytes) {
            tracing::warn!("missing valid end flag in file {file}");
            return Ok(None);
        }
        let document = Document::yaml(file, bytes, Limits::default())?;
        let parsed = DebugConfig::deserialize(document.value);
        let error = |error: serde_json::Error| {
            vec![ConfigError::of_file(file, format!("failed to validate debug config {error}"))]
        };
        parsed.map(Some).map_err(error)
    }

    /// The functions of APISIX's main module that are to be logged, such as `http_access_phase`; and what the list names
    /// besides, of which there is nothing here.
    pub fn hooked(&self) -> (Vec<&str>, Vec<&str>) {
        let list = self.lists.get(&self.hook_conf.name).and_then(Value::as_object).filter(|_| self.hook_conf.enable);
        let (mut main, mut other) = (Vec::new(), Vec::new());
        for (module, functions) in list.into_iter().flatten() {
            if module == "apisix" {
                main.extend(functions.as_array().into_iter().flatten().filter_map(Value::as_str));
            } else {
                other.push(module.as_str());
            }
        }
        (main, other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<DebugConfig>, Vec<ConfigError>> {
        DebugConfig::parse(&"debug.yaml".into(), text.as_bytes())
    }

    #[test]
    fn sections_and_hooks_are_read() {
        let text = "basic: {enable: true}\nhttp_filter: {enable: true, enable_header_name: X-D}\n\
                    hook_conf: {enable: true, name: mine, log_level: error, is_print_input_args: true}\n\
                    mine: {apisix: [http_access_phase], apisix.plugin: [filter]}\n#END\n";
        let config = parse(text).unwrap().unwrap();
        assert!(config.basic.enable && config.http_filter.enable && config.hook_conf.is_print_input_args);
        assert_eq!(config.http_filter.enable_header_name.as_deref(), Some("X-D"));
        assert_eq!(config.hook_conf.log_level, LogLevel::Error);
        assert_eq!(config.hooked(), (vec!["http_access_phase"], vec!["apisix.plugin"]));
        let off = parse(&text.replace("hook_conf: {enable: true", "hook_conf: {enable: false")).unwrap().unwrap();
        assert_eq!(off.hooked(), (vec![], vec![]));
    }

    #[test]
    fn incomplete_files_change_nothing_and_wrong_ones_are_named() {
        assert_eq!(parse("basic: {enable: true}\n").unwrap(), None);
        assert_eq!(DebugConfig::load(Path::new("/nonexistent/debug.yaml")).unwrap(), None);
        let error = parse("basic: {enable: true}\nhook_conf: {}\n#END").unwrap_err();
        assert!(error[0].message.contains("http_filter"), "{error:?}");
    }
}
