//! How a plugin is defined: its types, its schema, its constructor; erased into a [`Definition`] for the list of plugins.
use crate::control::ControlEndpoint;
use crate::endpoint::EndpointsOf;
use crate::env::Env;
use crate::info::Info;
use crate::plugin::Plugin;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::any::Any;
use std::sync::Arc;

/// Why a configuration cannot be used, in APISIX's wording where APISIX checks the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);

impl BuildError {
    pub fn new(message: impl std::fmt::Display) -> BuildError {
        BuildError(message.to_string())
    }
}

/// What a plugin's file provides beside its hooks.
pub trait Define: Plugin + Sized {
    const INFO: Info;
    /// The plugin's configuration. Doc comments become descriptions in the schema and the reference page.
    type Config: DeserializeOwned + JsonSchema;

    /// The JSON Schema that configurations are checked against and completed from; by default made from `Config`.
    /// Refine it where types cannot say it (`oneOf`, `if`).
    fn schema() -> Value {
        schema_of::<Self::Config>()
    }
    /// Another wording for a violation of the schema, where APISIX's plugin rephrases it.
    fn rephrase(_config: &Value, _message: &str) -> Option<String> {
        None
    }
    /// What the schema cannot say. Runs when a configuration is written and when it is compiled.
    fn check(_config: &Self::Config) -> Result<(), BuildError> {
        Ok(())
    }
    /// Everything that can be done once: regexes, templates, metric handles, shared state by key.
    fn build(config: Self::Config, env: &Env) -> Result<Self, BuildError>;
}

/// What an auth plugin adds: the configuration on a consumer or credential.
pub trait DefineAuth: Define {
    /// The consumer's side (`key`, `secret` …).
    type ConsumerConfig: DeserializeOwned + JsonSchema + Send + Sync + 'static;

    fn consumer_schema() -> Value {
        schema_of::<Self::ConsumerConfig>()
    }
    /// What the consumer schema cannot say; may complete the configuration (a generated secret).
    fn check_consumer(_config: &mut Value) -> Result<(), BuildError> {
        Ok(())
    }
    /// The text by which requests name this consumer (key-auth: the key; basic-auth: the user name).
    fn consumer_key(config: &Self::ConsumerConfig) -> String;
}

/// A consumer configuration parsed by its auth plugin: the lookup key and the typed value.
pub type ParsedConsumer = (String, Arc<dyn Any + Send + Sync>);

/// The erased auth side of a [`Definition`].
#[derive(Clone, Copy)]
pub struct ConsumerDefinition {
    pub schema: fn() -> Value,
    pub check: fn(&mut Value) -> Result<(), BuildError>,
    pub parse: fn(&Value) -> Result<ParsedConsumer, BuildError>,
}

/// A plugin as the registry knows it.
#[derive(Clone, Copy)]
pub struct Definition {
    pub info: Info,
    pub schema: fn() -> Value,
    pub check: fn(&Value) -> Result<(), BuildError>,
    pub rephrase: fn(&Value, &str) -> Option<String>,
    pub build: Build,
    pub consumer: Option<ConsumerDefinition>,
    pub metadata_schema: Option<fn() -> Value>,
    /// Checks and completes configurations of other plugins inside this one's.
    pub nested: Option<NestedCheck>,
    /// Paths that the plugin answers itself; `public-api` exposes them.
    pub endpoints: Option<EndpointsOf>,
    /// Paths on the Control API.
    pub control: &'static [ControlEndpoint],
}

/// Makes a plugin of a configuration that was checked and completed.
pub type Build = fn(&Value, &Env) -> Result<Arc<dyn Plugin>, BuildError>;

/// See [`Definition::nested`].
pub type NestedCheck = fn(&mut Value, &crate::Registry) -> Result<(), BuildError>;

/// Erases a plugin's definition, for a family's `PLUGINS` slice.
pub const fn define<P: Define>() -> Definition {
    Definition {
        info: P::INFO,
        schema: P::schema,
        check: |config| P::check(&parse::<P::Config>(config)?),
        rephrase: P::rephrase,
        build: |config, env| {
            let config = parse::<P::Config>(config)?;
            P::check(&config)?;
            Ok(Arc::new(P::build(config, env)?))
        },
        consumer: None,
        metadata_schema: None,
        nested: None,
        endpoints: None,
        control: &[],
    }
}

impl Definition {
    /// Adds the consumer side of an auth plugin: `define::<KeyAuth>().auth::<KeyAuth>()`.
    pub const fn auth<P: DefineAuth>(self) -> Definition {
        let consumer = ConsumerDefinition {
            schema: P::consumer_schema,
            check: P::check_consumer,
            parse: |config| {
                let config = parse::<P::ConsumerConfig>(config)?;
                Ok((P::consumer_key(&config), Arc::new(config)))
            },
        };
        Definition { consumer: Some(consumer), ..self }
    }
    /// Adds the check of other plugins' configurations inside this one's (`multi-auth`).
    pub const fn nested(self, check: NestedCheck) -> Definition {
        Definition { nested: Some(check), ..self }
    }
    /// Adds `plugin_metadata` of this type; read it at build time with [`Env::metadata`].
    pub const fn metadata<M: JsonSchema>(self) -> Definition {
        Definition { metadata_schema: Some(schema_of::<M>), ..self }
    }
    /// Adds public endpoints (APISIX: `_M.api()`).
    pub const fn endpoints(self, endpoints: EndpointsOf) -> Definition {
        Definition { endpoints: Some(endpoints), ..self }
    }
    /// Adds endpoints of the Control API (APISIX: `_M.control_api()`).
    pub const fn control(self, endpoints: &'static [ControlEndpoint]) -> Definition {
        Definition { control: endpoints, ..self }
    }
    /// Adds `plugin_metadata` with a schema of its own.
    pub const fn metadata_schema(self, schema: fn() -> Value) -> Definition {
        Definition { metadata_schema: Some(schema), ..self }
    }
}

/// Deserialises a configuration that the schema has accepted and completed.
pub fn parse<T: DeserializeOwned>(config: &Value) -> Result<T, BuildError> {
    T::deserialize(config).map_err(BuildError::new)
}

/// The JSON Schema of a type in the plain form that APISIX's schemas have: inlined, without `$schema`, `title`,
/// `format` of numbers and `null` alternatives of optional fields.
pub fn schema_of<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    RecursiveTransform(plain).transform(&mut schema);
    schema.to_value()
}

fn plain(schema: &mut schemars::Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    object.remove("title");
    if object.get("default").is_some_and(Value::is_null) {
        object.remove("default");
    }
    let number_format = object
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|f| f.starts_with("uint") || f.starts_with("int") || f == "float" || f == "double");
    if number_format {
        object.remove("format");
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|t| t != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(any)) = object.get_mut("anyOf") {
        any.retain(|s| s.get("type").is_none_or(|t| t != "null"));
        if let [Value::Object(only)] = any.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|v| !v.is_null());
    }
}
