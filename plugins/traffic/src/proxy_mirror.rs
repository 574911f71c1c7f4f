//! Sends a copy of requests to another server, and forgets what that one answers.
//!
//! Use it to try a new version on real traffic. The copy has the method, headers and body that the upstream gets, and the same
//! `Host`. Its path is the request's, or `path` in place of it or before it. `sample_ratio` is the share of requests
//! that are copied. A copy is sent once the whole request has passed to the upstream, on a connection of its own, by threads that
//! serve no requests: the original neither waits for it nor fails with it.
//!
//! What copies may cost is limited, in `plugin_attr.proxy-mirror` of config.yaml: `max_body_size` (8388608) bytes of one body,
//! `max_buffered` (67108864) bytes of all bodies that are held, `max_concurrent` (1024) copies under way. A request
//! beyond a limit is not copied, and counted by `sluice_mirror_dropped_total`. Time-outs are `timeout.connect`,
//! `timeout.send` and `timeout.read` (60 s each).
//!
//! Differences from APISIX: the original does not wait until its body is whole. A request that reaches no node is not copied.
//! The copied path is as the client sent it, where APISIX decodes it. Mirrors by gRPC (`grpc://`, `grpcs://`) are accepted
//! and nothing is sent to them yet.
//
// Read in apisix/plugins/proxy-mirror.lua and apisix/cli/ngx_tpl.lua (`location = /proxy_mirror`).
use crate::answer::{Answers, write_all};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_http::Known;
use sluice_http::h1::{Framing, write};
use sluice_net::{Address, ConnectOptions, connect};
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, RequestTap, UpstreamRef};
use sluice_telemetry::metrics::{Counter, CounterHandle, FamilyOptions};
use sluice_upstream::{PickInput, Tried, Upstream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const NAME: &str = "proxy-mirror";

/// How `path` and the request's path make the copy's.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum PathConcatMode {
    #[default]
    Replace,
    Prefix,
}

/// The plugin's configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Where copies go: `http://host:port`, `https://…`.
    #[schemars(extend("pattern" = r"^(http(s)?|grpc(s)?):\/\/([\da-zA-Z.-]+|\[[\da-fA-F:]+\])(:\d+)?$"))]
    host: String,
    /// Path of the copy instead of, or before, the request's.
    #[schemars(extend("pattern" = "^/[^?&]+$"))]
    path: Option<String>,
    /// `replace`: `path` alone, with the request's query. `prefix`: `path`, then the request's.
    #[serde(default)]
    path_concat_mode: PathConcatMode,
    /// Share of requests that are copied.
    #[serde(default = "all")]
    #[schemars(extend("minimum" = 0.00001, "maximum" = 1, "default" = 1))]
    sample_ratio: f64,
}

fn all() -> f64 {
    1.0
}

/// `plugin_attr.proxy-mirror`.
#[derive(Clone, Debug, PartialEq)]
struct Limits {
    max_body_size: usize,
    max_buffered: usize,
    max_concurrent: usize,
    connect: Duration,
    send: Duration,
    read: Duration,
}

impl Limits {
    fn read(attributes: &Value) -> Result<Limits, BuildError> {
        let number = |name: &str, default: usize| match &attributes[name] {
            Value::Null => Ok(default),
            value => value
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| BuildError(format!("plugin_attr.{NAME}.{name}: {value} is not a number"))),
        };
        let time = |name: &str| match &attributes["timeout"][name] {
            Value::Null => Ok(Duration::from_secs(60)),
            value => nginx_time(value)
                .ok_or_else(|| BuildError(format!("plugin_attr.{NAME}.timeout.{name}: {value} is not a time"))),
        };
        Ok(Limits {
            max_body_size: number("max_body_size", 8 << 20)?,
            max_buffered: number("max_buffered", 64 << 20)?,
            max_concurrent: number("max_concurrent", 1024)?,
            connect: time("connect")?,
            send: time("send")?,
            read: time("read")?,
        })
    }
}

/// A time as nginx's directives take it: `60s`, `2000ms`, `1m`, or seconds.
fn nginx_time(value: &Value) -> Option<Duration> {
    let text = match value {
        Value::String(text) => text.as_str(),
        number => return number.as_u64().map(Duration::from_secs),
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(millis)?))
}

/// What all mirrors of the process hold.
#[derive(Default)]
struct Held {
    bytes: AtomicUsize,
    copies: AtomicUsize,
}

/// Bytes or copies that are held until this is dropped.
struct Share {
    held: Arc<Held>,
    bytes: usize,
    copies: usize,
}

impl Share {
    fn new(held: Arc<Held>) -> Share {
        Share { held, bytes: 0, copies: 0 }
    }
    /// Takes more bytes, unless all would be more than `limit`.
    fn grow(&mut self, bytes: usize, limit: usize) -> bool {
        if self.held.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > limit {
            self.held.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }
    /// Counts a copy under way, unless there are `limit`.
    fn begin(&mut self, limit: usize) -> bool {
        if self.held.copies.fetch_add(1, Ordering::Relaxed) >= limit {
            self.held.copies.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.copies = 1;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.held.copies.fetch_sub(self.copies, Ordering::Relaxed);
    }
}

/// Copies that were not sent, by reason.
struct Dropped {
    body: CounterHandle,
    buffered: CounterHandle,
    concurrent: CounterHandle,
    failed: CounterHandle,
}

/// Where copies go and what they may cost.
struct Mirror {
    upstream: Arc<Upstream>,
    limits: Limits,
    held: Arc<Held>,
    dropped: Option<Dropped>,
    control: tokio::runtime::Handle,
}

/// The plugin.
pub struct ProxyMirror {
    /// `None`: nothing is sent.
    mirror: Option<Arc<Mirror>>,
    path: Option<String>,
    mode: PathConcatMode,
    ratio: f64,
}

impl Define for ProxyMirror {
    const INFO: Info = Info::new(NAME, 1010, Phases::REWRITE);
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let limits = Limits::read(env.attribute(NAME))?;
        let mirror = match (config.host.split_once("://"), &env.control) {
            (Some((scheme @ ("http" | "https"), address)), Some(control)) => {
                Some(Arc::new(mirror(scheme, address, limits, control.clone(), env)?))
            }
            (Some(("grpc" | "grpcs", _)), _) => {
                tracing::warn!(resource = %env.resource_key, "proxy-mirror: nothing is sent to {}: gRPC", config.host);
                None
            }
            _ => None,
        };
        Ok(ProxyMirror { mirror, path: config.path, mode: config.path_concat_mode, ratio: config.sample_ratio })
    }
}

fn mirror(
    scheme: &str,
    address: &str,
    limits: Limits,
    control: tokio::runtime::Handle,
    env: &Env,
) -> Result<Mirror, BuildError> {
    // The nodes of an upstream know how to keep names resolved.
    let upstream = json!({"type": "roundrobin", "scheme": scheme, "nodes": [node(scheme, address)]});
    let upstream = match env.upstream(NAME, &upstream).map_err(BuildError)? {
        UpstreamRef::Inline(upstream) => upstream,
        UpstreamRef::Id(_) => return Err(BuildError::new("a mirror has no upstream of its own")),
    };
    let help = "Requests that were not copied to a mirror";
    let family: Option<Counter> =
        env.metrics.counter("sluice_mirror_dropped_total", help, &["reason"], FamilyOptions::default()).ok();
    let dropped = family.map(|family| Dropped {
        body: family.with(&["max_body_size"]),
        buffered: family.with(&["max_buffered"]),
        concurrent: family.with(&["max_concurrent"]),
        failed: family.with(&["failed"]),
    });
    let held = env.shared.get_or_insert(&format!("{NAME}#held"), Held::default);
    Ok(Mirror { upstream, limits, held, dropped, control })
}

/// `host`, `host:port`, `[address]` or `[address]:port` as an upstream's node.
fn node(scheme: &str, address: &str) -> Value {
    let default = if scheme == "https" { 443 } else { 80 };
    let end = if address.starts_with('[') { address.find(']').map_or(0, |i| i + 1) } else { 0 };
    let (host, port) = match address.get(end..).and_then(|rest| rest.find(':')) {
        Some(colon) => address.split_at(end + colon),
        None => (address, ""),
    };
    let port = port.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()).unwrap_or(default);
    json!({"host": host, "port": port, "weight": 1})
}

impl Plugin for ProxyMirror {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if let Some(mirror) = &self.mirror
            && (self.ratio >= 1.0 || rand::rng().random::<f64>() < self.ratio)
        {
            let target = self.target(cx);
            cx.tap = Some(Box::new(Duplicate::new(mirror.clone(), target)));
        }
        Flow::Next
    }
}

impl ProxyMirror {
    /// The copy's path and query: what the upstream gets as far as it is known here, or made with `path`.
    fn target(&self, cx: &Context) -> Vec<u8> {
        let Some(path) = &self.path else { return cx.upstream_target().to_vec() };
        let mut target = path.as_bytes().to_vec();
        match (self.mode, cx.request.query()) {
            (PathConcatMode::Prefix, _) => target.extend_from_slice(cx.upstream_target()),
            (PathConcatMode::Replace, Some(query)) => {
                target.push(b'?');
                target.extend_from_slice(query.as_bytes());
            }
            (PathConcatMode::Replace, None) => {}
        }
        target
    }
}

/// A copy while the request passes.
struct Duplicate {
    mirror: Arc<Mirror>,
    target: Vec<u8>,
    head: Vec<u8>,
    /// For TLS.
    host: String,
    to_head: bool,
    has_body: bool,
    body: Vec<u8>,
    share: Share,
    given_up: bool,
}

impl Duplicate {
    fn new(mirror: Arc<Mirror>, target: Vec<u8>) -> Duplicate {
        let share = Share::new(mirror.held.clone());
        let (head, host, body) = (Vec::new(), String::new(), Vec::new());
        Duplicate { mirror, target, head, host, to_head: false, has_body: false, body, share, given_up: false }
    }

    fn give_up(&mut self, reason: impl Fn(&Dropped) -> &CounterHandle) {
        self.given_up = true;
        self.body = Vec::new();
        self.share = Share::new(self.mirror.held.clone());
        if let Some(dropped) = &self.mirror.dropped {
            reason(dropped).inc();
        }
    }
}

impl RequestTap for Duplicate {
    fn head(&mut self, cx: &Context, host: &[u8]) {
        let out = &mut self.head;
        write::request_line(&cx.request, &self.target, out);
        write::field(b"Host", host, out);
        cx.request.headers.write_to(out, |known| matches!(known, Known::Host | Known::ContentLength));
        out.extend_from_slice(b"Connection: close\r\n");
        let bare = sluice_http::target::host_name(host).unwrap_or(host);
        self.host = String::from_utf8_lossy(bare).into_owned();
        self.to_head = cx.request.method_text() == "HEAD";
        self.has_body = cx.request.framing != Framing::None || cx.upstream.body.is_some();
    }

    fn body(&mut self, payload: &[u8]) {
        if self.given_up {
            return;
        }
        if self.body.len() + payload.len() > self.mirror.limits.max_body_size {
            return self.give_up(|dropped| &dropped.body);
        }
        if !self.share.grow(payload.len(), self.mirror.limits.max_buffered) {
            return self.give_up(|dropped| &dropped.buffered);
        }
        self.body.extend_from_slice(payload);
    }

    fn end(mut self: Box<Self>) {
        if self.given_up {
            return;
        }
        if !self.share.begin(self.mirror.limits.max_concurrent) {
            return self.give_up(|dropped| &dropped.concurrent);
        }
        if self.has_body {
            self.head.extend_from_slice(b"Content-Length: ");
            write::number(self.body.len() as u64, &mut self.head);
            self.head.extend_from_slice(b"\r\n");
        }
        self.head.extend_from_slice(b"\r\n");
        let control = self.mirror.control.clone();
        control.spawn(async move {
            if let Err(error) = self.send().await {
                tracing::warn!(mirror = %self.mirror.upstream.key, "a request was not copied: {error}");
                if let Some(dropped) = &self.mirror.dropped {
                    dropped.failed.inc();
                }
            }
        });
    }
}

/// Why a copy did not get there.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the mirror's name has no address")]
    Unresolved,
    #[error(transparent)]
    Connect(#[from] sluice_net::ConnectError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Duplicate {
    async fn send(&mut self) -> Result<(), SendError> {
        let Mirror { upstream, limits, .. } = &*self.mirror;
        let address = {
            let balancer = upstream.nodes.balancer();
            let input = PickInput { hash_key: None, random: 0, now_ms: 0, worker: 0, sticky: None };
            balancer.pick(&input, &Tried::new()).and_then(|picked| picked.endpoint.address)
        };
        let address = Address::Ip(address.ok_or(SendError::Unresolved)?);
        let options = ConnectOptions { timeout: limits.connect, ..ConnectOptions::default() };
        let tls = upstream.scheme.is_tls().then_some((&upstream.tls.client, self.host.as_str()));
        let mut stream = connect(&address, &options, tls).await?;
        self.head.append(&mut self.body);
        write_all(&mut stream, &self.head, limits.send).await?;
        // Its answer is read to its end so that the mirror sees a client that stays, and forgotten.
        Answers::default().next(&mut stream, self.to_head, limits.read, 0).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
