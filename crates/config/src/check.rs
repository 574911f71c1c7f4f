//! Everything wrong with a configuration, for `sluice check`. The surprise: the standalone file is checked even when
//! config.yaml has errors, so that one run shows all.

use crate::environment::Environment;
use crate::problem::{ConfigError, Notice};
use crate::settings::Settings;
use crate::settings::deployment::ConfigProvider;
use crate::standalone::{RawConfig, StandaloneFile};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// The outcome; serialises to `{"errors": […], "notices": […]}`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Check {
    pub errors: Vec<ConfigError>,
    pub notices: Vec<Notice>,
    /// What was read, for the checks of its objects.
    #[serde(skip)]
    pub settings: Option<Box<Settings>>,
    #[serde(skip)]
    pub config: Option<RawConfig>,
}

/// The standalone file beside config.yaml, if the settings ask for one.
pub fn standalone_path(config_yaml: &Path, settings: &Settings) -> Option<PathBuf> {
    if settings.api_driven() {
        return None;
    }
    match settings.deployment.config_provider {
        ConfigProvider::Yaml => Some(config_yaml.with_file_name("apisix.yaml")),
        ConfigProvider::Json => Some(config_yaml.with_file_name("apisix.json")),
        ConfigProvider::Etcd => None,
    }
}

/// Checks config.yaml and the standalone file beside it.
pub fn check(config_yaml: &Path, environment: &Environment) -> Check {
    let (settings, notices) = Settings::load_with_notices(config_yaml, environment);
    let mut out = Check { notices, ..Check::default() };
    let standalone = match settings {
        Ok(settings) => {
            let path = standalone_path(config_yaml, &settings);
            out.settings = Some(Box::new(settings));
            path
        }
        Err(errors) => {
            out.errors = errors;
            // Which provider is meant is not known for certain: what is there is checked.
            let files = ["apisix.yaml", "apisix.json"].map(|name| config_yaml.with_file_name(name));
            files.into_iter().find(|path| path.exists())
        }
    };
    match standalone.map(|path| StandaloneFile::load(&path, environment)) {
        None => {}
        Some(Ok(config)) => {
            out.errors.extend(config.errors.iter().cloned());
            out.notices.extend(config.notices.iter().cloned());
            out.config = Some(config);
        }
        Some(Err(errors)) => out.errors.extend(errors),
    }
    out
}

impl Check {
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty()
    }
}

/// One line per problem, `error: ` or `notice: ` before it, and a last line of counts.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "error: {error}")?;
        }
        for notice in &self.notices {
            writeln!(f, "notice: {notice}")?;
        }
        writeln!(f, "{} errors, {} notices", self.errors.len(), self.notices.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(config: &str, standalone: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, config).unwrap();
        std::fs::write(folder.path().join("apisix.yaml"), standalone).unwrap();
        (folder, path)
    }

    #[test]
    fn shows_the_problems_of_both_files() {
        let (folder, path) = folder("apisix:\n  enable_http2: 1\n  nonsense: 2\n", "routes: 5\n#END\n");
        let outcome = check(&path, &Environment::fixed([]));
        assert!(!outcome.is_ok());
        let text = outcome.to_string().replace(folder.path().to_str().unwrap(), "conf");
        assert_eq!(
            text,
            "error: conf/config.yaml:2:3: apisix.enable_http2: expected true or false, got number 1\n\
             error: conf/apisix.yaml:1:1: routes: expected a list of objects\n\
             notice: conf/config.yaml:3:3: apisix.nonsense: ignored: unknown key\n\
             2 errors, 1 notices\n"
        );
        let json = serde_json::to_value(&outcome).unwrap();
        assert_eq!(json["errors"][0]["line"], 2);
        assert_eq!(json["errors"][1]["path"], "routes");
        assert_eq!(json["notices"][0]["text"], "ignored: unknown key");
    }

    #[test]
    fn a_sound_configuration_passes_and_missing_files_do_not() {
        let config = "deployment: {role: data_plane, role_data_plane: {config_provider: yaml}}\n";
        let (folder, path) = folder(config, "routes:\n  - uri: /\n#END\n");
        let outcome = check(&path, &Environment::fixed([]));
        assert!(outcome.is_ok(), "{outcome}");
        assert_eq!(outcome.config.unwrap().objects.len(), 1);
        std::fs::remove_file(folder.path().join("apisix.yaml")).unwrap();
        assert!(check(&path, &Environment::fixed([])).to_string().contains("apisix.yaml: cannot be read"));
        assert!(!check(Path::new("/nowhere/config.yaml"), &Environment::fixed([])).is_ok());
    }
}
