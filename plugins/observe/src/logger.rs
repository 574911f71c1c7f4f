//! What loggers that send batches have in common: the settings of the batch queue, the schema, and the way of an entry from
//! a request into its queue. The surprise: an entry is text when it enters the queue, so that what waits is counted exactly
//! and a sink only joins texts.
use crate::log_entry::{LogEntry, LogOptions};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_plugin::{BuildError, Context, Env, schema_of};
use sluice_telemetry::{BatchEntry, BatchOptions, BatchQueue, BatchSink};
use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// Settings of the queue (apisix/utils/batch-processor.lua).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct BatchConfig {
    /// Names the queue in logs and in the metric `batch_process_entries`.
    pub name: Option<String>,
    /// Deliveries after the first before entries are dropped.
    #[serde(default)]
    pub max_retry_count: u32,
    /// Seconds between deliveries of the same entries.
    #[serde(default = "one")]
    pub retry_delay: u64,
    /// Seconds after which a batch is sent whatever is in it.
    #[serde(default = "sixty")]
    #[schemars(range(min = 1))]
    pub buffer_duration: u64,
    /// Seconds without a new entry after which a batch is sent.
    #[serde(default = "five")]
    #[schemars(range(min = 1))]
    pub inactive_timeout: u64,
    /// Entries of a full batch; 1 sends each at once.
    #[serde(default = "thousand")]
    #[schemars(range(min = 1))]
    pub batch_max_size: u64,
}

fn one() -> u64 {
    1
}
fn five() -> u64 {
    5
}
fn sixty() -> u64 {
    60
}
fn thousand() -> u64 {
    1000
}

impl BatchConfig {
    /// Whether each entry is sent alone.
    pub fn single(&self) -> bool {
        self.batch_max_size == 1
    }

    fn options(&self, default_name: &str) -> BatchOptions {
        BatchOptions {
            name: self.name.clone().unwrap_or_else(|| default_name.to_owned()),
            batch_max_size: usize::try_from(self.batch_max_size).unwrap_or(usize::MAX),
            inactive_timeout: seconds(self.inactive_timeout),
            buffer_duration: seconds(self.buffer_duration),
            max_retry_count: self.max_retry_count,
            retry_delay: seconds(self.retry_delay),
            ..BatchOptions::default()
        }
    }
}

/// Seconds of a configuration, at most a century: clocks cannot add more.
pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n.min(3_200_000_000))
}

/// The schema of a logger's configuration: the queue's default name is its own, and `match` is file-logger's alone. `secrets`
/// are its fields that are encrypted.
pub fn schema<C: JsonSchema>(default_name: &str, secrets: &[&str]) -> Value {
    let mut schema = schema_of::<C>();
    if !secrets.is_empty() {
        schema["encrypt_fields"] = json!(secrets);
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.remove("match");
        if let Some(name) = properties.get_mut("name").and_then(Value::as_object_mut) {
            name.insert("default".into(), json!(default_name));
        }
    }
    schema
}

/// Schema of `plugin_metadata`, the same for all that send batches.
pub fn metadata_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "log_format": {"type": "object"},
            "log_format_extra": {"type": "object"},
            "max_pending_entries": {
                "type": "integer",
                "minimum": 1,
                "default": 8192,
                "description": "entries of all queues of the plugin that may wait; further ones are discarded",
            },
        },
    })
}

/// Entries of one configuration on their way to a sink.
pub struct Logger<T: BatchEntry> {
    pub entry: LogEntry,
    /// None in a command that only looks at configurations.
    queue: Option<Arc<BatchQueue<T>>>,
}

impl<T: BatchEntry> Logger<T> {
    /// `config` is the plugin's whole configuration: an equal one of the same object finds its queue again after a reload.
    pub fn open<S: BatchSink<T>>(
        env: &Env,
        plugin: &'static str,
        default_name: &str,
        config: &dyn Debug,
        (log, batch): (&LogOptions, &BatchConfig),
        sink: impl FnOnce() -> S,
    ) -> Result<Logger<T>, BuildError> {
        let metadata = env.metadata(plugin);
        let entry = LogEntry::compile(log, metadata)?;
        if let Some(limit) = metadata.and_then(|m| m.get("max_pending_entries")).and_then(Value::as_u64) {
            env.logs.account(plugin).set_limit(limit);
        }
        let key = format!("{plugin}#{}#{config:?}", env.resource_key);
        let queue = env.control.as_ref().map(|c| env.logs.open(c, plugin, &key, batch.options(default_name), sink));
        Ok(Logger { entry, queue })
    }

    /// Queues what `make` makes of the request's entry, if it is to be logged. `unmatched`: see [`LogEntry::write`].
    pub fn push(&self, cx: &mut Context, unmatched: Option<&str>, make: impl FnOnce(&Context, &[u8]) -> T) {
        let Some(queue) = &self.queue else { return };
        let entry = with_scratch(|text| self.entry.write(cx, unmatched, text).then(|| make(cx, text)));
        if let Some(entry) = entry {
            self.send(queue, cx, entry);
        }
    }

    /// As [`Logger::push`]; an entry of more than `limit` bytes is discarded and counted.
    pub fn push_within(&self, cx: &mut Context, limit: usize, make: impl FnOnce(&Context, &[u8]) -> T) {
        let Some(queue) = &self.queue else { return };
        let entry = with_scratch(|text| self.entry.write(cx, None, text).then(|| make(cx, text)));
        match entry {
            Some(entry) if entry.bytes() > limit => queue.refuse(),
            Some(entry) => self.send(queue, cx, entry),
            None => {}
        }
    }

    /// Queues an entry that is not made of the request's own.
    pub fn push_own(&self, cx: &Context, entry: T) {
        if let Some(queue) = &self.queue {
            self.send(queue, cx, entry);
        }
    }

    fn send(&self, queue: &BatchQueue<T>, cx: &Context, entry: T) {
        queue.label(|| {
            let route = cx.route.as_ref().map(|r| &*r.route_id).unwrap_or_default();
            (route.into(), cx.connection.local.ip().to_canonical().to_string().into())
        });
        queue.push(entry);
    }
}

/// Lends the thread's memory for one entry's text.
pub fn with_scratch<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    /// What a large body needed is given back.
    const KEPT: usize = 64 * 1024;
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let mut text = SCRATCH.take();
    text.clear();
    let result = write(&mut text);
    text.shrink_to(KEPT);
    SCRATCH.set(text);
    result
}

/// `[a,b]` of entries that are JSON, or the only one where each is sent alone.
pub fn array(entries: &[Vec<u8>], single: bool) -> Vec<u8> {
    match entries {
        [only] if single => only.clone(),
        _ => {
            let mut out = Vec::with_capacity(entries.iter().map(|e| e.len() + 1).sum::<usize>() + 2);
            out.push(b'[');
            out.extend_from_slice(&entries.join(&b','));
            out.push(b']');
            out
        }
    }
}

/// The hooks that only the entry needs.
macro_rules! entry_hooks {
    () => {
        fn wants_request_body(&self, cx: &sluice_plugin::Context) -> bool {
            self.logger.entry.wants_request_body(cx)
        }
        fn header_filter(&self, cx: &mut sluice_plugin::Context) {
            self.logger.entry.header_filter(cx);
        }
        fn body_filter(&self, cx: &mut sluice_plugin::Context, chunk: &mut sluice_plugin::BodyChunk) {
            self.logger.entry.body_filter(cx, chunk);
        }
    };
}
pub(crate) use entry_hooks;

/// The phases of all loggers.
pub const PHASES: sluice_plugin::Phases = sluice_plugin::Phases::ACCESS
    .and(sluice_plugin::Phases::HEADER_FILTER)
    .and(sluice_plugin::Phases::BODY_FILTER)
    .and(sluice_plugin::Phases::LOG);

/// `uri_def` of apisix/schema_def.lua.
pub fn uri(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "pattern": r"^[^\/]+:\/\/([\da-zA-Z.-]+|\[[\da-fA-F:]+\])(:\d+)?"})
}

/// Warns of what APISIX warns of (apisix/core/utils.lua `check_https`, `check_tls_bool`): addresses of `field` without TLS,
/// and a switch that is off.
pub fn warn_insecure(plugin: &str, (field, uris): (&str, &[String]), switch: Option<(&str, bool)>) {
    if uris.iter().any(|uri| !uri.starts_with("https")) {
        tracing::warn!("Using {plugin} {field} with no TLS is a security risk");
    }
    if let Some((name, false)) = switch {
        tracing::warn!("Keeping {name} disabled in {plugin} configuration is a security risk");
    }
}
