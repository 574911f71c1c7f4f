//! Debug mode (apisix/debug.lua): responses name the plugins that ran, and calls of the phases are logged.
//! The surprise: of APISIX's functions only the phases of its main module have something here that they stand for.
use crate::exchange::Exchange;
use sluice_config::debug::{DebugConfig, LogLevel};
use sluice_plugin::{Context, Trace};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Responses carry `Apisix-Plugins`.
const BASIC: u8 = 1;
/// Calls of some phase are logged.
const HOOKS: u8 = 2;

/// What debug.yaml asks for now. Shared by all workers; a request that it does not concern pays one relaxed load.
#[derive(Debug, Default)]
pub struct DebugMode {
    flags: AtomicU8,
    hooks: Mutex<Arc<Hooks>>,
}

/// Which calls are logged, how, and for which requests.
#[derive(Debug, Default)]
pub(crate) struct Hooks {
    functions: Vec<Box<str>>,
    /// Only for requests with this field.
    header: Option<Box<str>>,
    level: LogLevel,
    arguments: bool,
    results: bool,
}

impl DebugMode {
    /// Puts a version of debug.yaml into force.
    pub fn set(&self, config: &DebugConfig) {
        let (functions, others) = config.hooked();
        if !others.is_empty() {
            tracing::warn!("debug.yaml: only functions of module apisix can be logged, not of {}", others.join(", "));
        }
        let (conf, filter) = (&config.hook_conf, &config.http_filter);
        // A filter without a name lets no request through.
        let header = filter.enable.then(|| filter.enable_header_name.as_deref().unwrap_or_default().into());
        let hooks = Hooks {
            functions: functions.into_iter().map(Into::into).collect(),
            header,
            level: conf.log_level,
            arguments: conf.is_print_input_args,
            results: conf.is_print_return_value,
        };
        let basic = if config.basic.enable { BASIC } else { 0 };
        let hooked = if hooks.functions.is_empty() { 0 } else { HOOKS };
        *self.hooks.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(hooks);
        self.flags.store(basic | hooked, Ordering::Relaxed);
    }

    /// Whether anything is to be done for requests.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.flags.load(Ordering::Relaxed) != 0
    }

    /// The request begins: keeps a trace of it, and returns the hooks that concern it.
    #[cold]
    pub(crate) fn begin(&self, cx: &mut Context) -> Option<Arc<Hooks>> {
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & BASIC != 0 {
            cx.trace = Some(Box::new(Trace::default()));
        }
        if flags & HOOKS == 0 {
            return None;
        }
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wanted = hooks.header.as_ref().is_none_or(|name| !name.is_empty() && cx.request.headers.contains(name));
        wanted.then_some(hooks)
    }
}

impl Hooks {
    /// Logs the call of a phase. Phases have neither arguments nor results: the line says that they ran.
    fn call(&self, function: &str, cx: &Context) {
        if !self.functions.iter().any(|known| **known == *function) {
            return;
        }
        let uri = String::from_utf8_lossy(cx.request.target_bytes());
        for (what, _) in [("args", self.arguments), ("return", self.results)].into_iter().filter(|(_, on)| *on) {
            let line = format!("call require(\"apisix\").{function}() {what}:{{}}");
            match self.level {
                LogLevel::Debug => tracing::debug!(%uri, "{line}"),
                LogLevel::Info | LogLevel::Notice => tracing::info!(%uri, "{line}"),
                LogLevel::Warn => tracing::warn!(%uri, "{line}"),
                LogLevel::Error | LogLevel::Crit | LogLevel::Alert | LogLevel::Emerg => {
                    tracing::error!(%uri, "{line}");
                }
            }
        }
    }
}

impl Exchange<'_> {
    /// A phase runs; `function` is APISIX's name of it.
    #[inline]
    pub(crate) fn debug_call(&self, function: &str, cx: &Context) {
        if let Some(hooks) = &self.hooks {
            hooks.call(function, cx);
        }
    }

    /// Names the plugins in the response's head.
    #[inline]
    pub(crate) fn debug_report(&self, cx: &mut Context) {
        if let Some(trace) = &mut cx.trace {
            let report = trace.report(&self.chain);
            cx.response.headers.set("Apisix-Plugins", report);
        }
    }

    /// Logs the plugins that the response's head could not name.
    #[inline]
    pub(crate) fn debug_late(&self, cx: &Context) {
        if let Some(trace) = &cx.trace {
            trace.unreported().for_each(|hook| tracing::warn!("Apisix-Plugins: {hook}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mode(value: serde_json::Value) -> DebugMode {
        let mode = DebugMode::default();
        mode.set(&serde_json::from_value(value).unwrap());
        mode
    }

    #[test]
    fn basic_keeps_a_trace() {
        let mut cx = Context::for_tests("GET", "/");
        assert!(!DebugMode::default().is_on());
        let mode = mode(json!({"basic": {"enable": true}, "http_filter": {}, "hook_conf": {}}));
        assert!(mode.is_on());
        assert!(mode.begin(&mut cx).is_none());
        assert_eq!(cx.trace.as_deref(), Some(&Trace::default()));
        mode.set(&DebugConfig::default());
        assert!(!mode.is_on());
    }

    #[test]
    fn the_filter_asks_for_a_field() {
        let mut cx = Context::for_tests("GET", "/");
        let hooks = json!({"enable": true, "name": "all", "is_print_input_args": true});
        let mut value =
            json!({"basic": {}, "http_filter": {}, "hook_conf": hooks, "all": {"apisix": ["http_log_phase"]}});
        assert!(mode(value.clone()).begin(&mut cx).is_some());
        assert_eq!(cx.trace, None);
        value["http_filter"] = json!({"enable": true, "enable_header_name": "X-Debug"});
        assert!(mode(value.clone()).begin(&mut cx).is_none());
        cx.request.headers.append("x-debug", "1");
        assert!(mode(value.clone()).begin(&mut cx).is_some());
        value["http_filter"] = json!({"enable": true});
        assert!(mode(value).begin(&mut cx).is_none());
    }
}
