//! `syslog`: sends log entries as syslog messages (RFC 5424) over TCP, TLS or UDP.
//!
//! Each entry is one line, `<46>1 TIME HOST apisix PID - - JSON`: facility syslog, severity info, and as `HOST` the request's
//! (apisix/plugins/syslog.lua, apisix/plugins/syslog/init.lua, apisix/utils/rfc5424.lua).
//!
//! Differences from APISIX: a batch is sent when it is due; `flush_limit` is accepted and not needed, as nothing is held back
//! below it (there, messages stay in memory until later ones fill it up). Over UDP each message is a packet. A message above
//! `drop_limit` bytes is dropped and counted. Up to `pool_size` idle TCP connections are kept. What waits is bounded in bytes
//! over all loggers (`sluice.limits.log_pending_bytes`).
use crate::dial::{self, Dial, reason, within};
use crate::log_entry::LogOptions;
use crate::logger::{self, BatchConfig, Logger, PHASES, entry_hooks};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice_net::Stream;
use sluice_net::tls::ClientTls;
use sluice_plugin::{BuildError, Context, Define, Env, Info, Plugin};
use sluice_telemetry::{BatchError, BatchSink};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const NAME: &str = "syslog";
const QUEUE: &str = "sys logger";
/// Facility 5 (syslog) and severity 6 (informational), RFC 5424 section 6.2.1.
const PRIORITY: u32 = 5 * 8 + 6;

/// Sends log entries to a syslog server.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    pub port: i64,
    /// Accepted; messages are sent with their batch.
    #[serde(default = "flush_limit")]
    #[schemars(range(min = 1))]
    pub flush_limit: i64,
    /// Bytes of the largest message; larger ones are dropped.
    #[serde(default = "drop_limit")]
    pub drop_limit: i64,
    /// Milliseconds for connecting, for the handshake and for sending.
    #[serde(default = "three_thousand")]
    #[schemars(range(min = 1))]
    pub timeout: u64,
    /// Transport.
    #[serde(default)]
    pub sock_type: SockType,
    /// Idle connections kept.
    #[serde(default = "five")]
    #[schemars(range(min = 5))]
    pub pool_size: u64,
    /// Speak TLS (TCP only).
    #[serde(default)]
    pub tls: bool,
    #[serde(flatten)]
    pub log: LogOptions,
    #[serde(flatten)]
    pub batch: BatchConfig,
}

fn flush_limit() -> i64 {
    4096
}
fn drop_limit() -> i64 {
    1_048_576
}
fn three_thousand() -> u64 {
    3000
}
fn five() -> u64 {
    5
}

/// Transport of syslog messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SockType {
    #[default]
    Tcp,
    Udp,
}

pub struct Syslog {
    logger: Logger<Vec<u8>>,
    drop_limit: usize,
}

struct Sink {
    dial: Dial,
    kind: SockType,
    tls: Option<ClientTls>,
    timeout: Duration,
    pool_size: usize,
    idle: Mutex<Vec<TcpStream>>,
}

impl Sink {
    /// An idle connection that the server has not closed.
    fn pooled(&self) -> Option<TcpStream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(stream) = idle.pop() {
            // Servers say nothing: whatever can be read means that the connection is over.
            let mut byte = [0; 1];
            if matches!(stream.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock) {
                return Some(stream);
            }
        }
        None
    }

    async fn send_tcp(&self, data: &[u8]) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            let stream = within(self.timeout, self.dial.tcp()).await?;
            let mut stream: Stream = within(self.timeout, dial::encrypt(tls, stream, &self.dial.host)).await?;
            within(self.timeout, async {
                stream.write_all(data).await?;
                stream.flush().await
            })
            .await?;
            let _ = within(self.timeout, stream.shutdown()).await;
            return Ok(());
        }
        let mut stream = match self.pooled() {
            Some(stream) => stream,
            None => within(self.timeout, self.dial.tcp()).await?,
        };
        within(self.timeout, stream.write_all(data)).await?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.pool_size {
            idle.push(stream);
        }
        Ok(())
    }
}

impl BatchSink<Vec<u8>> for Sink {
    async fn deliver(&self, entries: &[Vec<u8>]) -> Result<(), BatchError> {
        let failed = |error: io::Error, delivered: usize| BatchError {
            message: format!(
                "failed to log message: host[{}] port[{}] err: {}",
                self.dial.host,
                self.dial.port,
                reason(&error)
            ),
            delivered,
        };
        match self.kind {
            SockType::Tcp => self.send_tcp(&entries.concat()).await.map_err(|e| failed(e, 0)),
            SockType::Udp => {
                let socket = within(self.timeout, self.dial.udp()).await.map_err(|e| failed(e, 0))?;
                for (delivered, entry) in entries.iter().enumerate() {
                    within(self.timeout, socket.send(entry)).await.map_err(|e| failed(e, delivered))?;
                }
                Ok(())
            }
        }
    }
}

/// RFC 3339 with milliseconds (apisix/utils/log-util.lua `get_rfc3339_zulu_timestamp`).
fn timestamp(now: SystemTime) -> String {
    let at = OffsetDateTime::from(now);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second, milli) = at.to_hms_milli();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// One message of RFC 5424 with its line end.
fn message(now: SystemTime, host: &str, entry: &[u8]) -> Vec<u8> {
    let host = if host.is_empty() { "-" } else { host };
    let head = format!("<{PRIORITY}>1 {} {host} apisix {} - - ", timestamp(now), std::process::id());
    let mut out = Vec::with_capacity(head.len() + entry.len() + 1);
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(entry);
    out.push(b'\n');
    out
}

impl Define for Syslog {
    const INFO: Info = Info::new(NAME, 401, PHASES).request_body();
    type Config = Config;

    fn schema() -> Value {
        logger::schema::<Config>(QUEUE, Self::INFO.secrets)
    }
    fn build(config: Config, env: &Env) -> Result<Syslog, BuildError> {
        logger::warn_insecure(NAME, ("host", &[]), Some(("tls", config.tls)));
        let sink = Sink {
            dial: Dial::new(env, &config.host, config.port),
            kind: config.sock_type,
            tls: if config.tls && config.sock_type == SockType::Tcp { Some(dial::tls(env, false)?) } else { None },
            timeout: Duration::from_millis(config.timeout),
            pool_size: usize::try_from(config.pool_size).unwrap_or(usize::MAX),
            idle: Mutex::default(),
        };
        let drop_limit = usize::try_from(config.drop_limit).unwrap_or(0);
        let logger = Logger::open(env, NAME, QUEUE, &config, (&config.log, &config.batch), || sink)?;
        Ok(Syslog { logger, drop_limit })
    }
}

impl Plugin for Syslog {
    entry_hooks!();
    fn log(&self, cx: &mut Context) {
        let limit = self.drop_limit;
        self.logger.push_within(cx, limit, |cx, entry| message(SystemTime::now(), cx.request.host(), entry));
    }
}
