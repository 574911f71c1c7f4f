//! `tcp-logger`: sends batches of log entries as JSON over TCP, with TLS where wanted.
//!
//! Each batch has a connection of its own, which is closed after it: a JSON array, or with `batch_max_size: 1` one object
//! (apisix/plugins/tcp-logger.lua). The server's certificate is not checked; `tls_options` is the server name that TLS asks
//! for.
//!
//! Differences from APISIX: a batch is sent exactly when it is due; what waits is bounded in bytes over all loggers
//! (`sluice.limits.log_pending_bytes`); `timeout` bounds connecting, handshake and sending each.
use crate::dial::{self, Dial, reason, within};
use crate::log_entry::LogOptions;
use crate::logger::{self, BatchConfig, Logger, PHASES, entry_hooks};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_net::tls::ClientTls;
use sluice_plugin::{BuildError, Context, Define, Env, Info, Plugin};
use sluice_telemetry::{BatchError, BatchSink};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const NAME: &str = "tcp-logger";
const QUEUE: &str = "tcp logger";

/// Sends log entries to a TCP server.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    #[schemars(range(min = 0))]
    pub port: i64,
    /// Speak TLS.
    #[serde(default)]
    pub tls: bool,
    /// The server name for TLS.
    pub tls_options: Option<String>,
    /// Milliseconds for connecting, for the handshake and for sending.
    #[serde(default = "thousand")]
    #[schemars(range(min = 1))]
    pub timeout: u64,
    #[serde(flatten)]
    pub log: LogOptions,
    #[serde(flatten)]
    pub batch: BatchConfig,
}

fn thousand() -> u64 {
    1000
}

pub struct TcpLogger {
    logger: Logger<Vec<u8>>,
}

struct Sink {
    dial: Dial,
    tls: Option<(ClientTls, String)>,
    timeout: Duration,
    single: bool,
}

impl BatchSink<Vec<u8>> for Sink {
    async fn deliver(&self, entries: &[Vec<u8>]) -> Result<(), BatchError> {
        let data = logger::array(entries, self.single);
        let failed = |what: &str, error: std::io::Error| {
            let (host, port) = (&self.dial.host, self.dial.port);
            BatchError::new(format!("failed to {what} TCP server: host[{host}] port[{port}] err: {}", reason(&error)))
        };
        let stream = within(self.timeout, self.dial.tcp()).await.map_err(|e| failed("connect to", e))?;
        let mut stream = match &self.tls {
            None => sluice_net::Socket::Tcp(stream).into(),
            Some((tls, name)) => within(self.timeout, dial::encrypt(tls, stream, name))
                .await
                .map_err(|e| failed("perform TLS handshake to", e))?,
        };
        let send = async {
            stream.write_all(&data).await?;
            stream.flush().await
        };
        within(self.timeout, send).await.map_err(|e| failed("send data to", e))?;
        // The data is handed over; how the other side closes is its own affair.
        let _ = within(self.timeout, stream.shutdown()).await;
        Ok(())
    }
}

impl Define for TcpLogger {
    const INFO: Info = Info::new(NAME, 405, PHASES).request_body();
    type Config = Config;

    fn schema() -> Value {
        logger::schema::<Config>(QUEUE, Self::INFO.secrets)
    }
    fn build(config: Config, env: &Env) -> Result<TcpLogger, BuildError> {
        logger::warn_insecure(NAME, ("host", &[]), Some(("tls", config.tls)));
        let name = config.tls_options.clone().unwrap_or_else(|| config.host.clone());
        let sink = Sink {
            dial: Dial::new(env, &config.host, config.port),
            tls: if config.tls { Some((dial::tls(env, false)?, name)) } else { None },
            timeout: Duration::from_millis(config.timeout),
            single: config.batch.single(),
        };
        let logger = Logger::open(env, NAME, QUEUE, &config, (&config.log, &config.batch), || sink)?;
        Ok(TcpLogger { logger })
    }
}

impl Plugin for TcpLogger {
    entry_hooks!();
    fn log(&self, cx: &mut Context) {
        self.logger.push(cx, None, |_, entry| entry.to_vec());
    }
}
