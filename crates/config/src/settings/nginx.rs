//! The `nginx_config` section: what of it has a meaning outside nginx. The surprise: the rest is named in notices only
//! when it says something; an empty snippet, or one of comments (as in APISIX's example file), says nothing.

use super::http::{self, Http};
use crate::environment::Environment;
use crate::section::Section;
use serde::Serialize;
use std::time::Duration;

#[derive(Clone, Debug, Serialize)]
pub struct Nginx {
    /// Path, relative to the working directory, or "stderr".
    pub error_log: String,
    /// An nginx level: debug, info, notice, warn, error, crit, alert, emerg.
    pub error_log_level: String,
    /// None: one per core ("auto").
    pub worker_processes: Option<usize>,
    pub enable_cpu_affinity: bool,
    pub worker_rlimit_nofile: u64,
    /// How long old connections may finish after a stop.
    pub worker_shutdown_timeout: Duration,
    /// `event.worker_connections`: connections per worker.
    pub worker_connections: u64,
    pub http: Http,
}

pub(super) fn read(s: Section<'_>, environment: &Environment) -> Nginx {
    const LEVELS: [(&str, &str); 8] = [
        ("debug", "debug"),
        ("info", "info"),
        ("notice", "notice"),
        ("warn", "warn"),
        ("error", "error"),
        ("crit", "crit"),
        ("alert", "alert"),
        ("emerg", "emerg"),
    ];
    let workers = s.field("worker_processes");
    let mut worker_processes = match workers.as_ref().map(|field| field.value) {
        Some(serde_json::Value::String(text)) if text.parse::<usize>().is_ok_and(|n| n > 0) => text.parse().ok(),
        Some(serde_json::Value::String(text)) if text == "auto" => None,
        Some(value) => {
            let number = value.as_u64().filter(|number| (1..=1024).contains(number));
            if let (None, Some(field)) = (number, &workers) {
                field.expected("auto or an integer from 1 to 1024");
            }
            number.and_then(|number| usize::try_from(number).ok())
        }
        None => None,
    };
    if let Some(number) = environment.get("APISIX_WORKER_PROCESSES").and_then(|text| text.trim().parse().ok()) {
        worker_processes = Some(number).filter(|number| *number > 0);
    }
    let event = s.section("event");
    let worker_connections = event.integer("worker_connections", 1..=u64::MAX, 10_620);
    event.finish();
    let nginx = Nginx {
        error_log: s.string("error_log", "logs/error.log"),
        error_log_level: s.choice("error_log_level", &LEVELS, "warn").to_owned(),
        worker_processes,
        enable_cpu_affinity: s.boolean("enable_cpu_affinity", false),
        worker_rlimit_nofile: s.integer("worker_rlimit_nofile", 1..=u64::MAX, 20_480),
        worker_shutdown_timeout: s.time("worker_shutdown_timeout", Duration::from_secs(240)),
        worker_connections,
        http: http::read(s.section("http")),
    };
    s.ignore(
        &[
            "main_configuration_snippet",
            "http_configuration_snippet",
            "http_server_configuration_snippet",
            "http_server_location_configuration_snippet",
            "http_admin_configuration_snippet",
            "http_end_configuration_snippet",
            "stream_configuration_snippet",
        ],
        "nginx snippets are not supported",
    );
    s.ignore(&["user"], "workers run as the user that starts the gateway");
    s.ignore(&["max_pending_timers", "max_running_timers"], "Lua timers do not exist here");
    s.ignore(&["meta"], "Lua shared dictionaries have no meaning here");
    s.ignore(&["stream"], "connections on stream routes have no access log yet");
    s.ignore(&["envs"], "every variable of the environment can be used");
    s.finish();
    nginx
}
