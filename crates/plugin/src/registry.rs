//! The plugins that the binary was built with, by name, with their compiled schemas.
use crate::definition::{BuildError, Definition};
use crate::info::Scope;
use crate::stream::StreamDefinition;
use foldhash::HashMap;
use serde_json::{Map, Value, json};
use sluice_model::Schema;
use std::sync::Arc;

struct Entry {
    definition: Definition,
    schema: Schema,
    schema_document: Value,
    consumer_schema: Option<(Schema, Value)>,
    metadata_schema: Option<(Schema, Value)>,
    secrets: SecretPaths,
}

/// Paths of the secret fields, by where the configuration stands.
#[derive(Default)]
struct SecretPaths {
    route: Vec<String>,
    consumer: Vec<String>,
    metadata: Vec<String>,
}

/// `encrypt_fields` of a schema.
fn encrypt_fields(document: &Value) -> Vec<String> {
    let listed = document.get("encrypt_fields").and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl SecretPaths {
    /// What the schemas name, as in APISIX; without a consumer's schema, the plugin's own counts there (apisix/plugin.lua
    /// `get_plugin_schema_for_gde`). A plugin whose schemas name nothing may do so in its [`crate::Info`].
    fn new(definition: &Definition, own: &Value, consumer: Option<&Value>, metadata: Option<&Value>) -> SecretPaths {
        let mut paths = SecretPaths {
            route: encrypt_fields(own),
            consumer: encrypt_fields(consumer.unwrap_or(own)),
            metadata: metadata.map(encrypt_fields).unwrap_or_default(),
        };
        let named: Vec<String> = definition.info.secrets.iter().map(|path| (*path).to_owned()).collect();
        if paths.consumer.is_empty() {
            paths.consumer.clone_from(&named);
        }
        if consumer.is_none() && paths.route.is_empty() {
            paths.route = named;
        }
        paths
    }
}

struct StreamEntry {
    definition: StreamDefinition,
    schema: Schema,
    schema_document: Value,
}

/// All known plugins; only those enabled by the `plugins` list of config.yaml may be configured.
#[derive(Clone)]
pub struct Registry {
    entries: Arc<HashMap<&'static str, Entry>>,
    enabled: Option<Arc<[String]>>,
    stream: Arc<HashMap<&'static str, StreamEntry>>,
    stream_enabled: Option<Arc<[String]>>,
}

fn compile_schema(name: &str, document: &Value) -> Result<Schema, BuildError> {
    Schema::new(document.clone()).map_err(|e| BuildError(format!("schema of {name}: {e}")))
}

impl Registry {
    /// Compiles the schemas of all definitions. An error names the plugin whose definition is wrong.
    pub fn new(families: &[&[Definition]]) -> Result<Registry, BuildError> {
        let mut entries = HashMap::default();
        for definition in families.iter().flat_map(|f| f.iter()) {
            let name = definition.info.name;
            let compile = |document: &Value| compile_schema(name, document);
            let mut schema_document = (definition.schema)();
            sluice_model::inject_meta(&mut schema_document);
            let optional = |f: Option<fn() -> Value>| f.map(|f| f()).map(|d| compile(&d).map(|s| (s, d))).transpose();
            let consumer_schema = optional(definition.consumer.map(|c| c.schema))?;
            let metadata_schema = optional(definition.metadata_schema)?;
            let secrets = SecretPaths::new(
                definition,
                &schema_document,
                consumer_schema.as_ref().map(|(_, document)| document),
                metadata_schema.as_ref().map(|(_, document)| document),
            );
            let entry = Entry {
                definition: *definition,
                schema: compile(&schema_document)?,
                schema_document,
                consumer_schema,
                metadata_schema,
                secrets,
            };
            if entries.insert(name, entry).is_some() {
                return Err(BuildError(format!("plugin {name} is defined twice")));
            }
        }
        Ok(Registry { entries: Arc::new(entries), enabled: None, stream: Arc::default(), stream_enabled: None })
    }

    /// Adds the plugins for stream routes.
    pub fn with_stream(self, families: &[&[StreamDefinition]]) -> Result<Registry, BuildError> {
        let mut stream = HashMap::default();
        for definition in families.iter().flat_map(|f| f.iter()) {
            let name = definition.name;
            let mut schema_document = (definition.schema)();
            sluice_model::inject_meta(&mut schema_document);
            let schema = compile_schema(name, &schema_document)?;
            if stream.insert(name, StreamEntry { definition: *definition, schema, schema_document }).is_some() {
                return Err(BuildError(format!("stream plugin {name} is defined twice")));
            }
        }
        Ok(Registry { stream: Arc::new(stream), ..self })
    }

    /// Lets only these plugins be configured (`plugins` of config.yaml).
    pub fn enable_only(&self, names: &[String]) -> Registry {
        Registry { enabled: Some(names.into()), ..self.clone() }
    }

    /// Lets only these stream plugins be configured (`stream_plugins` of config.yaml).
    pub fn enable_only_stream(&self, names: &[String]) -> Registry {
        Registry { stream_enabled: Some(names.into()), ..self.clone() }
    }

    /// A stream plugin that is known and enabled.
    pub fn get_stream(&self, name: &str) -> Option<&StreamDefinition> {
        let enabled = self.stream_enabled.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        self.stream.get(name).filter(|_| enabled).map(|e| &e.definition)
    }

    /// A plugin that is known and enabled.
    pub fn get(&self, name: &str) -> Option<&Definition> {
        let enabled = self.enabled.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        self.entries.get(name).filter(|_| enabled).map(|e| &e.definition)
    }

    /// Dotted paths of the fields that are encrypted at rest (APISIX: `encrypt_fields`); `None` for a plugin that is not
    /// known or not enabled.
    pub fn secret_fields(&self, name: &str, scope: Scope) -> Option<&[String]> {
        self.get(name)?;
        let secrets = &self.entries.get(name)?.secrets;
        Some(match scope {
            Scope::Route => &secrets.route,
            Scope::Consumer => &secrets.consumer,
            Scope::Metadata => &secrets.metadata,
            // Not in APISIX either (apisix/admin/stream_routes.lua).
            Scope::Stream => &[],
        })
    }

    /// Whether a plugin of this name exists at all, enabled or not.
    pub fn knows(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Enabled plugins, higher priority first.
    pub fn list(&self) -> Vec<&Definition> {
        let mut all: Vec<_> = self.entries.keys().filter_map(|n| self.get(n)).collect();
        all.sort_by_key(|d| (std::cmp::Reverse(d.info.priority), d.info.name));
        all
    }

    /// Checks a configuration and completes it with defaults. The message is APISIX's.
    pub fn check(&self, name: &str, scope: Scope, config: &mut Value) -> Result<(), BuildError> {
        if scope == Scope::Stream {
            return self.check_stream(name, config);
        }
        let Some(definition) = self.get(name) else { return Err(BuildError(format!("unknown plugin [{name}]"))) };
        let Some(entry) = self.entries.get(name) else { return Err(BuildError(format!("unknown plugin [{name}]"))) };
        match scope {
            Scope::Consumer => match (&entry.consumer_schema, definition.consumer) {
                (Some((schema, _)), Some(consumer)) => {
                    schema.check(config).map_err(BuildError::new)?;
                    (consumer.check)(config)
                }
                _ => self.check(name, Scope::Route, config),
            },
            Scope::Metadata => match &entry.metadata_schema {
                Some((schema, _)) => schema.check(config).map_err(BuildError::new),
                None => Ok(()),
            },
            Scope::Route | Scope::Stream => {
                if let Err(violation) = entry.schema.check(config) {
                    return Err(BuildError(
                        (definition.rephrase)(config, &violation.message).unwrap_or(violation.message),
                    ));
                }
                if let Some(filter) = config.pointer("/_meta/filter") {
                    sluice_expr::Expr::compile(filter)
                        .map_err(|e| BuildError(format!("failed to validate the 'vars' expression: {e}")))?;
                }
                if let Some(nested) = definition.nested {
                    nested(config, self)?;
                }
                (definition.check)(config)
            }
        }
    }

    fn check_stream(&self, name: &str, config: &mut Value) -> Result<(), BuildError> {
        let entry = self.get_stream(name).and_then(|_| self.stream.get(name));
        let entry = entry.ok_or_else(|| BuildError(format!("unknown plugin [{name}]")))?;
        entry.schema.check(config).map_err(BuildError::new)?;
        (entry.definition.check)(config)
    }

    /// One stream plugin's schema in the form of `/v1/schema`.
    pub fn stream_document(&self, name: &str) -> Option<Value> {
        let entry = self.stream.get(name)?;
        Some(json!({"priority": entry.definition.priority, "version": 0.1, "schema": entry.schema_document}))
    }

    /// Enabled stream plugins, higher priority first.
    pub fn list_stream(&self) -> Vec<&StreamDefinition> {
        let mut all: Vec<_> = self.stream.keys().filter_map(|n| self.get_stream(n)).collect();
        all.sort_by_key(|d| (std::cmp::Reverse(d.priority), d.name));
        all
    }

    /// All known stream plugins, sorted.
    pub fn stream_names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.stream.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// One plugin's schemas in the form of `/v1/schema`.
    pub fn document(&self, name: &str) -> Option<Value> {
        let entry = self.entries.get(name)?;
        let mut document = Map::new();
        document.insert("priority".into(), entry.definition.info.priority.into());
        document.insert("version".into(), json!(entry.definition.info.version));
        document.insert("schema".into(), entry.schema_document.clone());
        if entry.definition.info.auth {
            document.insert("type".into(), "auth".into());
        } else if entry.definition.info.validation {
            document.insert("type".into(), "validation".into());
        }
        if entry.definition.info.global {
            document.insert("scope".into(), "global".into());
        }
        if let Some((_, consumer)) = &entry.consumer_schema {
            document.insert("consumer_schema".into(), consumer.clone());
        }
        if let Some((_, metadata)) = &entry.metadata_schema {
            document.insert("metadata_schema".into(), metadata.clone());
        }
        Some(Value::Object(document))
    }

    /// All known names, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.entries.keys().copied().collect();
        names.sort_unstable();
        names
    }
}
