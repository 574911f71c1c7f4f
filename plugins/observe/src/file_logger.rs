//! `file-logger`: appends a line of JSON for each request to a file.
//!
//! The line holds the whole request and response head, or what `log_format` says; without a `path` of its own the plugin
//! uses the one of its metadata (apisix/plugins/file-logger.lua, apisix/utils/log-util.lua). A path is opened once for
//! all routes; a relative one starts from the working directory, as in APISIX.
//!
//! Differences from APISIX: a request never waits for the file; at most `plugin_attr.file-logger.max_pending_bytes` (16 MiB)
//! wait for each file, and `sluice.limits.log_pending_bytes` for all loggers together; further lines are dropped and counted
//! (`sluice_file_logger_lines_total`). A moved or deleted file is
//! noticed without a signal: the next line goes into a new one. Bytes that are not UTF-8 are replaced, so that each
//! line is JSON.
use crate::log_entry::{LogEntry, LogOptions};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Info, Phases, Plugin};
use sluice_telemetry::Registry;
use sluice_telemetry::line_file::{DEFAULT_MAX_PENDING, LineFile};
use sluice_telemetry::metrics::Kind;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Logs requests to a file.
#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// The file. Without it, the one of the plugin's metadata.
    pub path: Option<String>,
    #[serde(flatten)]
    pub log: LogOptions,
}

/// Schema of `plugin_metadata`.
pub fn metadata_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "log_format": {"type": "object"},
            "log_format_extra": {"type": "object"},
        },
    })
}

pub struct FileLogger {
    entry: LogEntry,
    file: Arc<LineFile>,
    /// Held so that the next configuration finds the open files.
    _files: Arc<Files>,
}

/// The open files by path, for all instances. Files that no instance uses any more are closed.
#[derive(Default)]
struct Files(Mutex<BTreeMap<String, Weak<LineFile>>>);

impl Files {
    fn open(&self, path: &str, env: &Env) -> Result<Arc<LineFile>, BuildError> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(path).and_then(Weak::upgrade) {
            return Ok(file);
        }
        files.retain(|_, file| file.strong_count() > 0);
        let limit = env.attribute("file-logger").get("max_pending_bytes").and_then(Value::as_u64);
        let limit = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(DEFAULT_MAX_PENDING);
        let account = env.logs.account("file-logger");
        // Bytes are its bound, not lines.
        account.set_limit(u64::MAX);
        let file = LineFile::start(path.into(), limit, Some(account)).map_err(BuildError::new)?;
        env.logs.drain_at_end(&file.draining());
        let file = Arc::new(file);
        files.insert(path.into(), Arc::downgrade(&file));
        Ok(file)
    }
}

fn report(registry: &Registry, files: &Arc<Files>) -> Result<(), BuildError> {
    let files = Arc::downgrade(files);
    let help = "Lines of file-logger by what became of them";
    registry
        .callback("sluice_file_logger_lines_total", help, &["path", "result"], Kind::Counter, move |samples| {
            let Some(files) = files.upgrade() else { return };
            let open: Vec<_> = {
                let files = files.0.lock().unwrap_or_else(PoisonError::into_inner);
                files.iter().filter_map(|(path, file)| Some((path.clone(), file.upgrade()?))).collect()
            };
            for (path, file) in open {
                let stats = file.stats();
                samples.push(&[&path, "written"], stats.written as f64);
                samples.push(&[&path, "dropped"], stats.dropped as f64);
                samples.push(&[&path, "failed"], stats.failed as f64);
            }
        })
        .map_err(BuildError::new)
}

impl Define for FileLogger {
    const INFO: Info = Info::new(
        "file-logger",
        399,
        Phases::ACCESS.and(Phases::HEADER_FILTER).and(Phases::BODY_FILTER).and(Phases::LOG),
    )
    .request_body();
    type Config = Config;

    fn check(config: &Config) -> Result<(), BuildError> {
        config.log.check_match()
    }

    fn build(config: Config, env: &Env) -> Result<FileLogger, BuildError> {
        let metadata = env.metadata("file-logger");
        let path = config.path.as_deref().or_else(|| metadata.and_then(|m| m.get("path")).and_then(Value::as_str));
        let Some(path) = path else {
            let message = r#"property "path" is not set in either the plugin conf or the metadata"#;
            return Err(BuildError::new(message));
        };
        let mut fresh = false;
        let files = env.shared.get_or_insert("file-logger", || {
            fresh = true;
            Files::default()
        });
        if fresh {
            report(&env.metrics, &files)?;
        }
        let file = files.open(path, env)?;
        Ok(FileLogger { entry: LogEntry::compile(&config.log, metadata)?, file, _files: files })
    }
}

impl Plugin for FileLogger {
    fn wants_request_body(&self, cx: &Context) -> bool {
        self.entry.wants_request_body(cx)
    }
    fn header_filter(&self, cx: &mut Context) {
        self.entry.header_filter(cx);
    }
    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        self.entry.body_filter(cx, chunk);
    }
    fn log(&self, cx: &mut Context) {
        crate::logger::with_scratch(|line| {
            if self.entry.write(cx, None, line) {
                self.file.push(line);
            }
        });
    }
}

#[cfg(test)]
mod tests;
