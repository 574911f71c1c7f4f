//! Debug mode (apisix/debug.lua): responses name the plugins that ran, and calls of the phases are logged. And those who
//! watch requests, since one look tells a request whether any of this concerns it.
//! The surprise: of APISIX's functions only the phases of its main module have something here that they stand for.
use crate::exchange::Exchange;
use sluice_config::debug::{DebugConfig, LogLevel};
use sluice_plugin::Context;
use sluice_plugin::timings::Timings;
use sluice_telemetry::watch::Watch;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Responses carry `Apisix-Plugins`.
const BASIC: u8 = 1;
/// Calls of some phase are logged.
const HOOKS: u8 = 2;
/// Somebody watches requests.
const WATCHED: u8 = 4;
/// `apisix.tracing`: the parts of requests are timed.
const TIMED: u8 = 8;

type Watchers = Arc<[Arc<dyn Watch>]>;

/// What debug.yaml asks for now. Shared by all workers; a request that it does not concern pays one relaxed load.
#[derive(Default)]
pub struct DebugMode {
    flags: AtomicU8,
    hooks: Mutex<Arc<Hooks>>,
    watchers: Mutex<Watchers>,
}

impl std::fmt::Debug for DebugMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DebugMode({})", self.flags.load(Ordering::Relaxed))
    }
}

/// Who looks at a request; taken at its begin.
pub(crate) struct Observed {
    hooks: Option<Arc<Hooks>>,
    pub(crate) watchers: Option<Watchers>,
}

/// Somebody watches for as long as this is there.
pub struct Watching {
    mode: Arc<DebugMode>,
    watcher: Arc<dyn Watch>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.mode.change(|all| all.retain(|own| !Arc::ptr_eq(own, &self.watcher)));
    }
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
        self.put(BASIC | HOOKS, basic | hooked);
    }

    /// Sets the flags of `mask` to `value`.
    fn put(&self, mask: u8, value: u8) {
        let change = |flags: u8| Some(flags & !mask | value);
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<dyn Watch>>)) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = watchers.to_vec();
        change(&mut all);
        self.put(WATCHED, if all.is_empty() { 0 } else { WATCHED });
        *watchers = all.into();
    }

    /// Times the parts of requests (`apisix.tracing`).
    pub fn time(&self) {
        self.put(TIMED, TIMED);
    }

    /// Shows requests that begin from now on to this watcher.
    pub fn watch(self: &Arc<DebugMode>, watcher: Arc<dyn Watch>) -> Watching {
        self.change(|all| all.push(watcher.clone()));
        Watching { mode: self.clone(), watcher }
    }

    /// Whether anything is to be done for requests.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.flags.load(Ordering::Relaxed) != 0
    }

    /// The request begins: keeps a trace of it, and returns who looks at it.
    #[cold]
    pub(crate) fn begin(&self, cx: &mut Context) -> Option<Box<Observed>> {
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & BASIC != 0 {
            cx.trace.get_or_insert_default().name();
        }
        if flags & TIMED != 0 {
            let mut timings = Box::new(Timings::default());
            timings.begin("apisix.phase.access", true);
            cx.trace.get_or_insert_default().timings = Some(timings);
        }
        let watchers =
            (flags & WATCHED != 0).then(|| self.watchers.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let hooks = self.hooks(flags, cx);
        (hooks.is_some() || watchers.is_some()).then(|| Box::new(Observed { hooks, watchers }))
    }

    fn hooks(&self, flags: u8, cx: &Context) -> Option<Arc<Hooks>> {
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
                LogLevel::Debug => tracing::debug!(always = true, %uri, "{line}"),
                LogLevel::Info | LogLevel::Notice => tracing::info!(always = true, %uri, "{line}"),
                LogLevel::Warn => tracing::warn!(always = true, %uri, "{line}"),
                LogLevel::Error | LogLevel::Crit | LogLevel::Alert | LogLevel::Emerg => {
                    tracing::error!(always = true, %uri, "{line}");
                }
            }
        }
    }
}

impl Observed {
    #[cold]
    fn call(&self, function: &str, cx: &Context) {
        if let Some(hooks) = &self.hooks {
            hooks.call(function, cx);
        }
    }
}

impl Exchange<'_> {
    /// A phase runs; `function` is APISIX's name of it.
    #[inline]
    pub(crate) fn debug_call(&self, function: &str, cx: &Context) {
        if let Some(observed) = &self.observed {
            observed.call(function, cx);
        }
    }

    /// The response's head is ready: names the plugins in it.
    #[inline]
    pub(crate) fn debug_report(&self, cx: &mut Context) {
        if cx.trace.is_some() {
            self.report(cx);
        }
    }

    #[cold]
    fn report(&self, cx: &mut Context) {
        if let Some(trace) = cx.trace.as_mut().filter(|trace| trace.is_named()) {
            let report = trace.report(&self.chain);
            cx.response.headers.set("Apisix-Plugins", report);
        }
        if let Some(timings) = cx.timings() {
            timings.end();
            timings.begin("apisix.phase.body_filter", true);
        }
    }

    /// Logs the plugins that the response's head could not name.
    #[cold]
    pub(crate) fn debug_late(&self, cx: &Context) {
        if let Some(trace) = cx.trace.as_ref().filter(|trace| trace.is_named()) {
            trace.unreported().for_each(|hook| tracing::warn!(always = true, "Apisix-Plugins: {hook}"));
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
        assert!(cx.trace.as_ref().is_some_and(|trace| trace.is_named()));
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
        assert!(cx.trace.is_none());
        value["http_filter"] = json!({"enable": true, "enable_header_name": "X-Debug"});
        assert!(mode(value.clone()).begin(&mut cx).is_none());
        cx.request.headers.append("x-debug", "1");
        assert!(mode(value.clone()).begin(&mut cx).is_some());
        value["http_filter"] = json!({"enable": true});
        assert!(mode(value).begin(&mut cx).is_none());
    }

    struct Nobody;
    impl Watch for Nobody {
        fn passed(&self, _: u16, _: &sluice_telemetry::watch::Passing<'_>) {}
    }

    #[test]
    fn watchers_come_and_go() {
        let mode = Arc::new(DebugMode::default());
        let mut cx = Context::for_tests("GET", "/");
        let (one, two) = (mode.watch(Arc::new(Nobody)), mode.watch(Arc::new(Nobody)));
        assert!(mode.is_on());
        let count = |observed: Option<Box<Observed>>| observed.and_then(|own| own.watchers.map(|all| all.len()));
        assert_eq!(count(mode.begin(&mut cx)), Some(2));
        // Another version of debug.yaml leaves them be.
        mode.set(&DebugConfig::default());
        drop(one);
        assert_eq!(count(mode.begin(&mut cx)), Some(1));
        drop(two);
        assert!(!mode.is_on() && mode.begin(&mut cx).is_none());
    }
}
