//! Files and folders in the shape of apisix.yaml, merged into one list of objects with their places. The surprise: what
//! the gateway only remarks on when it reads such a file (an id used twice, an object without an id, an unknown key) is an
//! error here, since it would be written to a server. `#END` is not needed.
use crate::object::{Key, Object, Place};
use serde_json::Value;
use sluice_config::document::{Document, Limits};
use sluice_config::environment::Environment;
use sluice_config::position::Children;
use sluice_config::problem::{ConfigError, Notice};
use sluice_config::suggestion::nearest;
use sluice_model::{Kind, id};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most files of one source.
const FILES: usize = 10_000;
/// Deepest folder below the one named.
const DEPTH: usize = 16;

/// What the files say.
#[derive(Debug, Default)]
pub struct Source {
    /// In the order of files and lines.
    pub objects: Vec<Object>,
    pub notices: Vec<Notice>,
    pub errors: Vec<ConfigError>,
    /// Files that were read.
    pub files: Vec<PathBuf>,
}

impl Source {
    /// Reads files and folders (all `*.yaml`, `*.yml`, `*.json` below them, by name; hidden ones are left out).
    pub fn load(paths: &[PathBuf], environment: &Environment) -> Source {
        let mut source = Source::default();
        for path in paths {
            source.collect_files(path, 0);
        }
        for path in std::mem::take(&mut source.files) {
            let file: Arc<str> = path.to_string_lossy().into();
            match std::fs::read(&path) {
                Ok(bytes) => source.add(&file, &bytes, is_json(&path), environment),
                Err(error) => source.errors.push(ConfigError::of_file(&file, format!("cannot be read: {error}"))),
            }
            source.files.push(path);
        }
        source.check_duplicates();
        source
    }

    fn collect_files(&mut self, path: &Path, depth: usize) {
        let file: Arc<str> = path.to_string_lossy().into();
        if !path.is_dir() {
            self.files.push(path.to_owned());
            return;
        }
        if depth > DEPTH {
            self.errors.push(ConfigError::of_file(&file, format!("folders deeper than {DEPTH} are not read")));
            return;
        }
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                self.errors.push(ConfigError::of_file(&file, format!("cannot be read: {error}")));
                return;
            }
        };
        let mut below: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        below.sort();
        for path in below {
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if hidden || !(path.is_dir() || is_configuration(&path)) {
                continue;
            }
            if self.files.len() >= FILES {
                self.errors.push(ConfigError::of_file(&file, format!("more than {FILES} files")));
                return;
            }
            self.collect_files(&path, depth + 1);
        }
    }

    /// Adds the objects of one text; `file` is its name in messages.
    pub fn add(&mut self, file: &Arc<str>, bytes: &[u8], json: bool, environment: &Environment) {
        let document = if json {
            Document::json(file, bytes, Limits::default())
                .and_then(|mut document| document.resolve_environment(environment).map(|()| document))
        } else {
            Document::yaml_with_environment(file, bytes, environment, Limits::default())
        };
        match document {
            Ok(document) => self.collect(document),
            Err(errors) => self.errors.extend(errors),
        }
    }

    fn collect(&mut self, document: Document) {
        let Document { file, value, root, notices, .. } = document;
        self.notices.extend(notices);
        let map = match value {
            Value::Object(map) => map,
            Value::Null => return,
            _ => {
                self.errors.push(ConfigError::at(&file, root.position, "", "expected a mapping of kinds to lists"));
                return;
            }
        };
        let mut nodes: HashMap<Box<str>, _> = match root.children {
            Children::Entries(entries) => entries.into_iter().collect(),
            _ => HashMap::new(),
        };
        for (key, value) in map {
            let node = nodes.remove(key.as_str()).unwrap_or_default();
            let kind = Kind::from_dir(&key).filter(|kind| kind.parent().is_none());
            match (kind, value) {
                (Some(_), Value::Null) => {}
                (Some(kind), Value::Array(items)) => {
                    for (index, (value, node)) in items.into_iter().zip(node.into_items()).enumerate() {
                        let place = Place { file: file.clone(), path: format!("{key}[{index}]"), node };
                        self.push(kind, value, place);
                    }
                }
                (Some(_), Value::Object(empty)) if empty.is_empty() => {}
                (Some(_), _) => {
                    self.errors.push(ConfigError::at(&file, node.position, &key, "expected a list of objects"));
                }
                // A node's own matters, not the cluster's: which plugins it has, and versions the API-driven mode wrote.
                (None, _) if key == "plugins" || key.ends_with("_conf_version") => {
                    self.notices.push(Notice {
                        file: file.clone(),
                        position: Some(node.position),
                        path: key,
                        text: "ignored: not a resource of the Admin API".into(),
                        suggestion: None,
                    });
                }
                (None, _) => {
                    let known = Kind::ALL.into_iter().filter(|kind| kind.parent().is_none()).map(Kind::dir);
                    let error = ConfigError::at(&file, node.position, &key, "unknown kind of resource");
                    self.errors.push(error.suggest(nearest(&key, known)));
                }
            }
        }
    }

    fn push(&mut self, kind: Kind, mut value: Value, place: Place) {
        let Value::Object(fields) = &mut value else {
            self.errors.push(place.error(&Value::Null, "", "expected an object"));
            return;
        };
        let own = fields.shift_remove("id").as_ref().and_then(id::text);
        let name = fields.get("username").and_then(Value::as_str).map(str::to_owned);
        let (kind, id) = match (kind, own) {
            (kind, Some(id)) if kind.of_id(&id) != kind => (kind.of_id(&id), Some(id)),
            (Kind::Consumer, _) => (kind, name),
            (kind, id) => (kind, id),
        };
        let Some(id) = id.filter(|id| !id.is_empty()) else {
            let field = if kind == Kind::Consumer { "username" } else { "id" };
            let why = format!("{field} is missing: an object without one cannot be found again on the server");
            self.errors.push(place.error(&value, "", why));
            return;
        };
        if kind == Kind::Secret && !id.contains('/') {
            self.errors.push(place.error(&value, "/id", "the id of a secret is <manager>/<id>, such as vault/1"));
            return;
        }
        self.objects.push(Object { key: Key::new(kind, id), value, place: Some(place) });
    }

    fn check_duplicates(&mut self) {
        let mut seen: HashMap<&Key, &Place> = HashMap::new();
        for object in &self.objects {
            let Some(place) = &object.place else { continue };
            if let Some(first) = seen.get(&object.key) {
                let message = format!("{} is defined twice; first at {first}", object.key);
                self.errors.push(place.error(&object.value, "/id", message));
            } else {
                seen.insert(&object.key, place);
            }
        }
    }
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

fn is_configuration(path: &Path) -> bool {
    let known = |extension: &std::ffi::OsStr| ["yaml", "yml", "json"].iter().any(|e| extension.eq_ignore_ascii_case(e));
    path.extension().is_some_and(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Source {
        let mut source = Source::default();
        source.add(&"f.yaml".into(), text.as_bytes(), false, &Environment::fixed([]));
        source.check_duplicates();
        source
    }

    #[test]
    fn objects_get_their_keys() {
        let source = read(
            "routes:\n- {id: 1, uri: /}\nconsumers:\n- username: anna\n- {id: anna/credentials/one, plugins: {}}\n\
             plugin_metadata:\n- {id: syslog}\nsecrets: [{id: vault/1}]\nplugins: []\n",
        );
        assert!(source.errors.is_empty(), "{:?}", source.errors);
        let paths: Vec<String> = source.objects.iter().map(|o| o.key.path()).collect();
        let expected = [
            "routes/1",
            "consumers/anna",
            "consumers/anna/credentials/one",
            "plugin_metadata/syslog",
            "secrets/vault/1",
        ];
        assert_eq!(paths, expected);
        assert_eq!(source.objects[0].value, serde_json::json!({"uri": "/"}));
        assert_eq!(source.notices.len(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_an_error_with_its_place() {
        let source = read(
            "routes:\n- {uri: /}\n- {id: a, uri: /}\n- {id: a, uri: /}\nservice: []\nupstreams: 4\nsecrets: [{id: one}]\n",
        );
        let errors: Vec<String> = source.errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 5, "{errors:#?}");
        assert!(errors[0].starts_with("f.yaml:2:3: routes[0]: id is missing"));
        assert_eq!(errors[1], "f.yaml:5:1: service: unknown kind of resource (did you mean \"services\"?)");
        assert_eq!(errors[2], "f.yaml:6:1: upstreams: expected a list of objects");
        assert!(errors[3].contains("vault/1"));
        assert_eq!(errors[4], "f.yaml:4:4: routes[2].id: routes/a is defined twice; first at f.yaml:3:3");
    }

    #[test]
    fn a_folder_is_read_whole_and_hidden_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("b/routes.yml", "routes: [{id: 2, uri: /}]");
        write("a.json", r#"{"services": [{"id": "s"}]}"#);
        write(".hidden.yaml", "routes: [{id: 9}]");
        write("README.md", "not: this");
        let source = Source::load(&[folder.path().to_owned()], &Environment::fixed([]));
        assert!(source.errors.is_empty(), "{:?}", source.errors);
        let paths: Vec<String> = source.objects.iter().map(|o| o.key.path()).collect();
        assert_eq!(paths, ["services/s", "routes/2"]);
        let missing = Source::load(&["/nowhere.yaml".into()], &Environment::fixed([]));
        assert!(missing.errors[0].to_string().starts_with("/nowhere.yaml: cannot be read"));
    }
}
