//! `udp-logger`: sends batches of log entries as JSON in UDP packets.
//!
//! A batch is one packet: a JSON array, or with `batch_max_size: 1` one object (apisix/plugins/udp-logger.lua). Nobody tells
//! whether it arrived.
//!
//! Differences from APISIX: a batch that is larger than a packet may be (65,507 bytes) is split into arrays that fit, where
//! APISIX loses it; an entry that does not fit alone is dropped and counted. What waits is bounded in bytes over all loggers
//! (`sluice.limits.log_pending_bytes`).
use crate::dial::{Dial, reason, within};
use crate::log_entry::LogOptions;
use crate::logger::{self, BatchConfig, Logger, PHASES, entry_hooks, seconds};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_plugin::{BuildError, Context, Define, Env, Info, Plugin};
use sluice_telemetry::{BatchError, BatchSink};
use std::time::Duration;

const NAME: &str = "udp-logger";
const QUEUE: &str = "udp logger";
/// Bytes of the largest packet over IPv4 (RFC 768, RFC 791).
const MAX_PACKET: usize = 65_507;

/// Sends log entries to a UDP server.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    #[schemars(range(min = 0))]
    pub port: i64,
    /// Seconds for resolving the name and sending.
    #[serde(default = "three")]
    #[schemars(range(min = 1))]
    pub timeout: u64,
    #[serde(flatten)]
    pub log: LogOptions,
    #[serde(flatten)]
    pub batch: BatchConfig,
}

fn three() -> u64 {
    3
}

pub struct UdpLogger {
    logger: Logger<Vec<u8>>,
}

struct Sink {
    dial: Dial,
    timeout: Duration,
    single: bool,
}

/// How many entries from the start fit into one packet; at least one.
fn fitting(entries: &[Vec<u8>]) -> usize {
    let mut bytes = 1;
    entries
        .iter()
        .take_while(|entry| {
            bytes += entry.len() + 1;
            bytes <= MAX_PACKET
        })
        .count()
        .max(1)
}

impl BatchSink<Vec<u8>> for Sink {
    async fn deliver(&self, entries: &[Vec<u8>]) -> Result<(), BatchError> {
        let (host, port) = (&self.dial.host, self.dial.port);
        let mut delivered = 0;
        let failed = |what: &str, error: std::io::Error, delivered: usize| BatchError {
            message: format!("failed to {what} UDP server: host[{host}] port[{port}] err: {}", reason(&error)),
            delivered,
        };
        let socket = within(self.timeout, self.dial.udp()).await.map_err(|e| failed("connect to", e, 0))?;
        while let Some(rest) = entries.get(delivered..).filter(|rest| !rest.is_empty()) {
            let count = fitting(rest);
            let packet = logger::array(rest.get(..count).unwrap_or(rest), self.single);
            within(self.timeout, socket.send(&packet)).await.map_err(|e| failed("send data to", e, delivered))?;
            delivered += count;
        }
        Ok(())
    }
}

impl Define for UdpLogger {
    const INFO: Info = Info::new(NAME, 400, PHASES).request_body();
    type Config = Config;

    fn schema() -> Value {
        logger::schema::<Config>(QUEUE, Self::INFO.secrets)
    }
    fn build(config: Config, env: &Env) -> Result<UdpLogger, BuildError> {
        let sink = Sink {
            dial: Dial::new(env, &config.host, config.port),
            timeout: seconds(config.timeout),
            single: config.batch.single(),
        };
        let logger = Logger::open(env, NAME, QUEUE, &config, (&config.log, &config.batch), || sink)?;
        Ok(UdpLogger { logger })
    }
}

impl Plugin for UdpLogger {
    entry_hooks!();
    fn log(&self, cx: &mut Context) {
        self.logger.push(cx, None, |_, entry| entry.to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::testing::check;
    use sluice_plugin::{Scope, define};

    #[tokio::test]
    async fn what_does_not_fit_into_a_packet_is_split() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = i64::from(server.local_addr().unwrap().port());
        let dial = Dial::new(&Env::for_tests(), "127.0.0.1", port);
        let sink = Sink { dial, timeout: Duration::from_secs(3), single: false };
        let entry = |n: usize| format!("\"{}\"", "x".repeat(n)).into_bytes();
        sink.deliver(&[entry(30_000), entry(30_000), entry(30_000)]).await.unwrap();
        let mut packet = vec![0; 70_000];
        let sizes = [0; 2].map(|_: usize| server.recv(&mut packet).unwrap());
        assert_eq!(sizes, [60_007, 30_004]);
        let error = sink.deliver(&[entry(1), entry(70_000)]).await.unwrap_err();
        assert_eq!(error.delivered, 1, "the second fits nowhere");
    }

    #[test]
    fn the_schema_has_apisix_s_defaults() {
        let mut config = json!({"host": "a", "port": 1});
        check(define::<UdpLogger>(), Scope::Route, &mut config).unwrap();
        assert_eq!((&config["timeout"], &config["name"]), (&json!(3), &json!("udp logger")));
        let error = check(define::<UdpLogger>(), Scope::Route, &mut json!({"port": 1})).unwrap_err();
        assert_eq!(error.0, "property \"host\" is required");
    }
}
