//! The `sluice` section: settings APISIX does not have. The surprise: APISIX ignores the section, so one config.yaml can
//! serve both.

use crate::section::{Field, Section};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, Serialize)]
pub struct Sluice {
    /// How long a worker gathers events when its last turn was small; zero: not at all. Written in microseconds.
    pub wakeup_batching: Duration,
    /// Each worker stays on one core.
    pub workers_pinned: bool,
    /// Unix sockets on which plain HTTP is served beside the ports of `apisix.node_listen`.
    pub listen_unix: Vec<UnixListen>,
    pub limits: RequestLimits,
    pub lua: Lua,
    /// Where snapshots and state are kept; none: nothing is kept.
    pub data_dir: Option<PathBuf>,
    /// Where this gateway runs, for `zone_preference` of upstreams; without, the environment's `SLUICE_ZONE`.
    pub zone: Option<String>,
}

/// A Unix socket that is listened on. It is made at the start and removed at the end; one that a dead process left is replaced.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnixListen {
    /// A relative one stands below the folder above `conf`.
    pub path: PathBuf,
    /// Permissions of the file: who may write may connect.
    pub mode: u32,
    /// A PROXY protocol header is expected.
    pub proxy_protocol: bool,
}

/// Bounds on one request, beside the time-outs of `nginx_config.http`.
#[derive(Clone, Debug, Serialize)]
pub struct RequestLimits {
    /// Bytes; beyond it 414.
    pub request_line_bytes: u64,
    /// Bytes of all headers; beyond it 431.
    pub header_bytes: u64,
    /// Beyond it 431.
    pub header_count: u64,
    /// Requests on one connection before it is closed (nginx `keepalive_requests`).
    pub requests_per_connection: u64,
    /// Bytes of an answer's head.
    pub response_header_bytes: u64,
    /// Bytes of a connection that plugins on stream routes may wait for (nginx `preread_buffer_size`).
    pub stream_preread_bytes: u64,
    /// How long they may wait, in all (nginx `preread_timeout`).
    pub stream_preread_timeout: Duration,
    /// Probes of health checks at a time, of all upstreams together; `concurrency` bounds those of one.
    pub health_probes: u64,
    /// Bytes of log entries that wait for their sinks, of all loggers together; further entries are discarded and counted.
    pub log_pending_bytes: u64,
}

/// Bounds on Lua of the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Lua {
    /// Instructions of one call before it is ended. 0: no bound, and LuaJIT compiles hot loops, which it does not do while
    /// it counts.
    pub instruction_limit: u64,
    /// Bytes of the machine of one worker.
    pub memory_limit: u64,
    /// Bytes of one shared dictionary (`ngx.shared`).
    pub shared_dict_limit: u64,
    /// Scripts may read the process's environment (`os.getenv`).
    pub environment: bool,
}

pub(super) fn read(s: Section<'_>) -> Sluice {
    let limits = s.section("limits");
    let lua = s.section("lua");
    let sluice = Sluice {
        wakeup_batching: Duration::from_micros(s.integer("wakeup_batching", 0..=10_000, 0)),
        workers_pinned: s.boolean("workers_pinned", false),
        listen_unix: s.items("listen_unix").unwrap_or_default().iter().filter_map(unix_listen).collect(),
        limits: RequestLimits {
            request_line_bytes: limits.size("request_line_bytes", 8 << 10).clamp(64, 1 << 20),
            header_bytes: limits.size("header_bytes", 32 << 10).clamp(256, 1 << 20),
            header_count: limits.integer("header_count", 1..=1024, 100),
            requests_per_connection: limits.integer("requests_per_connection", 1..=u64::MAX, 1_000_000),
            response_header_bytes: limits.size("response_header_bytes", 64 << 10).clamp(1024, 1 << 20),
            stream_preread_bytes: limits.size("stream_preread_bytes", 16 << 10).clamp(64, 1 << 20),
            stream_preread_timeout: limits.time("stream_preread_timeout", Duration::from_secs(30)),
            health_probes: limits.integer("health_probes", 1..=65_536, 256),
            log_pending_bytes: limits.size("log_pending_bytes", 64 << 20).clamp(64 << 10, 1 << 40),
        },
        lua: Lua {
            instruction_limit: lua.integer("instruction_limit", 0..=u64::MAX, 10_000_000),
            memory_limit: lua.size("memory_limit", 64 << 20).clamp(2 << 20, 2 << 30),
            shared_dict_limit: lua.size("shared_dict_limit", 10 << 20).clamp(4096, 1 << 30),
            environment: lua.boolean("environment", false),
        },
        data_dir: s.optional_string("data_dir").map(PathBuf::from),
        zone: s.optional_string("zone").filter(|zone| !zone.is_empty()),
    };
    limits.finish();
    lua.finish();
    s.finish();
    sluice
}

/// nginx's permissions of a socket that it listens on.
const SOCKET_MODE: u32 = 0o666;

/// `/path`, `unix:/path` as in nginx, or a mapping.
fn unix_listen(item: &Field<'_>) -> Option<UnixListen> {
    let path_of = |field: &Field<'_>| {
        let text = field.value.as_str().map(|text| text.strip_prefix("unix:").unwrap_or(text)).unwrap_or_default();
        // The system's limit, with the byte that ends it.
        if text.is_empty() || text.len() > 107 {
            field.expected("the path of a socket, at most 107 bytes");
            return None;
        }
        Some(PathBuf::from(text))
    };
    match item.value {
        serde_json::Value::Object(_) => {
            let section = item.section();
            let path = section.field("path").map(|field| path_of(&field));
            if path.is_none() {
                item.expected("a path or {path, mode, proxy_protocol}");
            }
            let mode = section.field("mode").and_then(|field| {
                let mode = field.value.as_str().and_then(|text| u32::from_str_radix(text, 8).ok());
                let mode = mode.filter(|mode| *mode <= 0o777);
                if mode.is_none() {
                    field.expected("permissions in octal, as text such as \"0660\"");
                }
                mode
            });
            let proxy_protocol = section.boolean("proxy_protocol", false);
            section.finish();
            Some(UnixListen { path: path??, mode: mode.unwrap_or(SOCKET_MODE), proxy_protocol })
        }
        _ => Some(UnixListen { path: path_of(item)?, mode: SOCKET_MODE, proxy_protocol: false }),
    }
}
