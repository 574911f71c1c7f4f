//! An upstream's `checks` as they run: every default filled in.
//!
//! The surprise: defaults stand in two places (apisix/schema_def.lua, lua-resty-healthcheck's `defaults`). Where `healthy` or
//! `unhealthy` of the active check is absent, nodes in that state are not probed (interval 0); where it is present without
//! an interval, each second. Passive thresholds hold even where only active checks are configured: a failed try counts.
use super::machine::Report;
use crate::grpc_status::GrpcStatuses;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How nodes are probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    #[default]
    Http,
    Https,
    Tcp,
    /// `PING`; ours.
    Redis,
    /// `grpc.health.v1.Health/Check`; ours.
    Grpc,
}

impl ProbeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Http => "http",
            ProbeKind::Https => "https",
            ProbeKind::Tcp => "tcp",
            ProbeKind::Redis => "redis",
            ProbeKind::Grpc => "grpc",
        }
    }
}

/// How many results in a row decide; 0: never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub successes: u8,
    pub http_failures: u8,
    pub tcp_failures: u8,
    pub timeouts: u8,
}

impl Limits {
    pub fn of(&self, report: Report) -> u8 {
        match report {
            Report::Success => self.successes,
            Report::HttpFailure => self.http_failures,
            Report::TcpFailure => self.tcp_failures,
            Report::Timeout => self.timeouts,
        }
    }
}

/// What an HTTP status says; a table, so that a request pays one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Box<[Option<Report>]>);

const FIRST: u16 = 200;
const LAST: u16 = 599;

impl Statuses {
    /// A status in both lists is a success, as the healthy list is asked first. Only statuses for which `heard` holds count.
    fn new(healthy: &[u16], unhealthy: &[u16], heard: impl Fn(u16) -> bool) -> Statuses {
        let class = |status: u16| match status {
            _ if !heard(status) => None,
            _ if healthy.contains(&status) => Some(Report::Success),
            _ if unhealthy.contains(&status) => Some(Report::HttpFailure),
            _ => None,
        };
        Statuses((FIRST..=LAST).map(class).collect())
    }

    #[inline]
    pub fn class(&self, status: u16) -> Option<Report> {
        *self.0.get(usize::from(status.checked_sub(FIRST)?))?
    }
}

/// `checks.active`.
#[derive(Clone, Debug, PartialEq)]
pub struct Active {
    pub kind: ProbeKind,
    /// Of connecting, and of the exchange after it.
    pub timeout: Duration,
    /// Probes of the upstream at a time.
    pub concurrency: usize,
    pub host: Option<Arc<str>>,
    pub port: Option<u16>,
    pub http_method: String,
    pub http_path: String,
    pub http_req_body: String,
    /// Whole lines (`Name: value`), without line ends.
    pub req_headers: Vec<String>,
    pub https_verify_certificate: bool,
    pub redis_username: Option<String>,
    pub redis_password: Option<String>,
    /// The role that a Redis node must have: `master` or `slave`.
    pub redis_role: Option<String>,
    /// What a gRPC server is asked for; empty: the server itself.
    pub grpc_service: String,
    /// Between probes of nodes that are up; `None`: these are not probed.
    pub healthy_interval: Option<Duration>,
    pub unhealthy_interval: Option<Duration>,
    pub statuses: Statuses,
    pub limits: Limits,
}

/// Ours: nodes that fail live traffic sit out for a time, whatever probes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures count within this time; `None`: in a row.
    pub interval: Option<Duration>,
    /// How long a node is out; `None`: until probes bring it back.
    pub time: Option<Duration>,
}

/// `checks.passive`.
#[derive(Clone, Debug, PartialEq)]
pub struct Passive {
    /// What a response's status counts as; `None` where passive checks are not configured.
    pub statuses: Option<Statuses>,
    /// Ours: calls of gRPC that ended so are failures, whatever the status of HTTP.
    pub grpc: GrpcStatuses,
    pub limits: Limits,
    pub ejection: Option<Ejection>,
}

/// See the file's head.
#[derive(Clone, Debug, PartialEq)]
pub struct Checks {
    pub active: Option<Active>,
    pub passive: Passive,
    /// `type` as the Control API shows it.
    pub kind: &'static str,
    /// Ours: without any healthy node there is none to choose (APISIX uses all).
    pub fail_when_none: bool,
    /// Ours: at most this share of the nodes is out by ejection; one always may be, unless it is 0.
    pub max_ejection_percent: u8,
}

impl Checks {
    /// Reads `checks` of a body that its schema has checked.
    pub fn read(checks: &Value) -> Result<Checks, String> {
        let raw = Raw::deserialize(checks).map_err(|e| format!("invalid checks: {e}"))?;
        let passive_kind = raw.passive.as_ref().map(|p| p.kind.as_str());
        let kind = raw.active.as_ref().map(|a| a.kind.as_str()).or(passive_kind).unwrap_or("http");
        let fail_when_none = raw.all_unhealthy == AllUnhealthy::Fail;
        let max_ejection_percent = raw
            .passive
            .as_ref()
            .and_then(|p| p.unhealthy.as_ref())
            .and_then(|u| u.max_ejection_percent)
            .unwrap_or(100)
            .min(100);
        let active = raw.active.map(RawActive::fill).transpose()?;
        let passive = raw.passive.map_or_else(|| Ok(Passive::unheard()), RawPassive::fill)?;
        Ok(Checks { active, passive, kind, fail_when_none, max_ejection_percent })
    }
}

const ACTIVE_HEALTHY: &[u16] = &[200, 302];
const ACTIVE_UNHEALTHY: &[u16] = &[429, 404, 500, 501, 502, 503, 504, 505];
const PASSIVE_HEALTHY: &[u16] =
    &[200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];
const PASSIVE_UNHEALTHY: &[u16] = &[429, 500, 503];

#[derive(Deserialize)]
struct Raw {
    active: Option<RawActive>,
    passive: Option<RawPassive>,
    #[serde(default)]
    all_unhealthy: AllUnhealthy,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AllUnhealthy {
    #[default]
    UseAll,
    Fail,
}

#[derive(Deserialize)]
struct RawActive {
    #[serde(default, rename = "type")]
    kind: ProbeKind,
    timeout: Option<f64>,
    concurrency: Option<i64>,
    host: Option<Arc<str>>,
    port: Option<u16>,
    http_method: Option<String>,
    http_path: Option<String>,
    #[serde(default)]
    http_req_body: String,
    #[serde(default)]
    req_headers: Vec<String>,
    https_verify_certificate: Option<bool>,
    redis_username: Option<String>,
    redis_password: Option<String>,
    redis_role: Option<String>,
    #[serde(default)]
    grpc_service: String,
    /// Of healthy and unhealthy nodes, where their own say nothing else.
    interval: Option<f64>,
    healthy: Option<RawHealthy>,
    unhealthy: Option<RawUnhealthy>,
}

#[derive(Default, Deserialize)]
struct RawHealthy {
    interval: Option<f64>,
    http_statuses: Option<Vec<u16>>,
    http_codes: Option<Vec<u16>>,
    successes: Option<u8>,
}

#[derive(Default, Deserialize)]
struct RawUnhealthy {
    interval: Option<f64>,
    http_statuses: Option<Vec<u16>>,
    http_codes: Option<Vec<u16>>,
    http_failures: Option<u8>,
    tcp_failures: Option<u8>,
    timeouts: Option<u8>,
    ejection_time: Option<f64>,
    grpc_statuses: Option<Vec<String>>,
    max_ejection_percent: Option<u8>,
}

#[derive(Deserialize)]
struct RawPassive {
    #[serde(default, rename = "type")]
    kind: ProbeKind,
    healthy: Option<RawHealthy>,
    unhealthy: Option<RawUnhealthy>,
}

fn seconds(field: &str, seconds: f64) -> Result<Option<Duration>, String> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time.is_zero() => Ok(None),
        // finer than this is a typing error, or an attack on the nodes
        Ok(time) => Ok(Some(time.max(Duration::from_millis(10)))),
        Err(_) => Err(format!("invalid checks: {field} is no time: {seconds}")),
    }
}

/// The interval of one state. Its default of 1 may have been filled in by the schema, so that another one stands before it.
fn interval(own: Option<Option<f64>>, common: Option<f64>) -> Result<Option<Duration>, String> {
    let chosen = match (own, common) {
        (None, None) => return Ok(None),
        (None | Some(None), Some(common)) => common,
        (Some(Some(1.0)), Some(common)) => common,
        (Some(own), _) => own.unwrap_or(1.0),
    };
    seconds("interval", chosen)
}

fn statuses(codes: Option<Vec<u16>>, statuses: Option<Vec<u16>>, default: &[u16]) -> Vec<u16> {
    codes.or(statuses).unwrap_or_else(|| default.to_vec())
}

impl RawActive {
    fn fill(self) -> Result<Active, String> {
        if let Some(role) = self.redis_role.as_deref()
            && !matches!(role, "master" | "slave")
        {
            return Err(format!("invalid checks: redis_role is master or slave, not {role}"));
        }
        let broken = |text: &str| text.contains(['\r', '\n', '\0']);
        if self.req_headers.iter().any(|line| broken(line)) || self.http_path.as_deref().is_some_and(broken) {
            return Err("invalid checks: a line end in req_headers or http_path".into());
        }
        let healthy_interval = interval(self.healthy.as_ref().map(|h| h.interval), self.interval)?;
        let unhealthy_interval = interval(self.unhealthy.as_ref().map(|u| u.interval), self.interval)?;
        let (healthy, unhealthy) = (self.healthy.unwrap_or_default(), self.unhealthy.unwrap_or_default());
        let good = statuses(healthy.http_codes, healthy.http_statuses, ACTIVE_HEALTHY);
        let bad = statuses(unhealthy.http_codes, unhealthy.http_statuses, ACTIVE_UNHEALTHY);
        Ok(Active {
            kind: self.kind,
            timeout: seconds("timeout", self.timeout.unwrap_or(1.0))?.unwrap_or(Duration::from_secs(1)),
            concurrency: self.concurrency.and_then(|n| usize::try_from(n).ok()).unwrap_or(10).clamp(1, 1000),
            host: self.host,
            port: self.port,
            http_method: self.http_method.unwrap_or_else(|| "GET".into()),
            http_path: self.http_path.unwrap_or_else(|| "/".into()),
            http_req_body: self.http_req_body,
            req_headers: self.req_headers,
            https_verify_certificate: self.https_verify_certificate.unwrap_or(true),
            redis_username: self.redis_username,
            redis_password: self.redis_password,
            redis_role: self.redis_role,
            grpc_service: self.grpc_service,
            healthy_interval,
            unhealthy_interval,
            statuses: Statuses::new(&good, &bad, |_| true),
            limits: Limits {
                successes: healthy.successes.unwrap_or(2),
                http_failures: unhealthy.http_failures.unwrap_or(5),
                tcp_failures: unhealthy.tcp_failures.unwrap_or(2),
                timeouts: unhealthy.timeouts.unwrap_or(3),
            },
        })
    }
}

impl Passive {
    /// Without `passive`: failed tries count by the defaults, responses do not.
    fn unheard() -> Passive {
        let limits = Limits { successes: 5, http_failures: 5, tcp_failures: 2, timeouts: 7 };
        Passive { statuses: None, grpc: GrpcStatuses::default(), limits, ejection: None }
    }
}

impl RawPassive {
    fn fill(self) -> Result<Passive, String> {
        let Passive { limits, .. } = Passive::unheard();
        let heard_healthy = self.healthy.is_some();
        let heard_unhealthy = self.unhealthy.is_some();
        let (healthy, unhealthy) = (self.healthy.unwrap_or_default(), self.unhealthy.unwrap_or_default());
        let good = statuses(healthy.http_codes, healthy.http_statuses, PASSIVE_HEALTHY);
        let bad = statuses(unhealthy.http_codes, unhealthy.http_statuses, PASSIVE_UNHEALTHY);
        // a list that is not written is not listened to (apisix/init.lua `healthcheck_passive`)
        let heard = |s| (heard_healthy && good.contains(&s)) || (heard_unhealthy && bad.contains(&s));
        let grpc = unhealthy.grpc_statuses.unwrap_or_default();
        let grpc = GrpcStatuses::parse(&grpc).ok_or("invalid checks: passive.unhealthy.grpc_statuses")?;
        let interval = unhealthy.interval.map_or(Ok(None), |s| seconds("passive.unhealthy.interval", s))?;
        let time = unhealthy.ejection_time.map_or(Ok(None), |s| seconds("ejection_time", s))?;
        Ok(Passive {
            statuses: Some(Statuses::new(&good, &bad, heard)),
            grpc,
            limits: Limits {
                successes: healthy.successes.unwrap_or(limits.successes),
                http_failures: unhealthy.http_failures.unwrap_or(limits.http_failures),
                tcp_failures: unhealthy.tcp_failures.unwrap_or(limits.tcp_failures),
                timeouts: unhealthy.timeouts.unwrap_or(limits.timeouts),
            },
            ejection: (interval.is_some() || time.is_some()).then_some(Ejection { interval, time }),
        })
    }
}

#[cfg(test)]
mod tests;
