//! `kafka-logger`: sends batches of log entries to a topic of Apache Kafka.
//!
//! A batch is one message: a JSON array, or with `batch_max_size: 1` the entry alone. `meta_format: origin` logs the request as
//! it came instead of an entry. Messages with a `key` go to one partition, by the key's CRC-32; others to all in turn. SASL
//! (`PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`) and TLS as configured (apisix/plugins/kafka-logger.lua).
//!
//! Differences from APISIX: a batch counts as delivered when the broker has acknowledged it, also with `producer_type: async`
//! (there it counts when it is in the producer's memory and may still be lost); so `producer_batch_num`,
//! `producer_batch_size`, `producer_max_buffering`, `producer_time_linger`, `cluster_name` and `api_version` are accepted and
//! not needed. Messages always carry their time. Brokers from Kafka 0.11 on. What waits is bounded in bytes over all loggers
//! (`sluice.limits.log_pending_bytes`).
use crate::dial::{self, Dial};
use crate::log_entry::{LogEntry, LogOptions, write_text};
use crate::logger::{self, BatchConfig, Logger, PHASES, entry_hooks, seconds};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_engine_kafka::{
    Broker as KafkaBroker, Connect, Connecting, Mechanism, Producer, ProducerOptions, Sasl, Wire,
};
use sluice_expr::{Lookup, Variable};
use sluice_net::tls::ClientTls;
use sluice_plugin::{BuildError, Context, Define, Env, Info, Plugin};
use sluice_telemetry::{BatchError, BatchSink};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAME: &str = "kafka-logger";
const QUEUE: &str = "kafka logger";

fn broker_list(_: &mut SchemaGenerator) -> Schema {
    let port = json!({"description": "the port of kafka broker", "type": "integer", "minimum": 1, "maximum": 65535});
    json_schema!({"type": "object", "minProperties": 1, "patternProperties": {".*": port}})
}
fn brokers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {
                "host": {"type": "string", "description": "the host of kafka broker"},
                "port": {
                    "type": "integer", "minimum": 1, "maximum": 65535, "description": "the port of kafka broker",
                },
                "sasl_config": {
                    "type": "object",
                    "description": "sasl config",
                    "properties": {
                        "mechanism": {
                            "type": "string",
                            "default": "PLAIN",
                            "enum": ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
                        },
                        "user": {"type": "string", "description": "user"},
                        "password": {"type": "string", "description": "password"},
                    },
                    "required": ["user", "password"],
                },
            },
            "required": ["host", "port"],
        },
        "uniqueItems": true,
    })
}
fn acks(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "enum": [1, -1]})
}
fn versions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "enum": [0, 1, 2]})
}

/// Sends log entries to Kafka.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// What is logged: an entry, or the request as it came.
    #[serde(default)]
    pub meta_format: MetaFormat,
    /// Deprecated, use `brokers`: hosts and their ports.
    #[serde(default)]
    #[schemars(schema_with = "broker_list")]
    pub broker_list: Option<BTreeMap<String, i64>>,
    /// Brokers that are asked where the topic is.
    #[serde(default)]
    #[schemars(schema_with = "brokers")]
    pub brokers: Option<Vec<Broker>>,
    /// TLS to the brokers.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// The topic.
    pub kafka_topic: String,
    /// Accepted; a batch counts when the broker has it.
    #[serde(default)]
    pub producer_type: ProducerType,
    /// 1: the partition's leader has the message, -1: all replicas in sync.
    #[serde(default = "one")]
    #[schemars(schema_with = "acks")]
    pub required_acks: i16,
    /// Messages with a key go to one partition.
    pub key: Option<String>,
    /// Seconds for connecting and for a request.
    #[serde(default = "three")]
    #[schemars(range(min = 1))]
    pub timeout: u64,
    /// Accepted.
    #[serde(default = "one_u64")]
    #[schemars(range(min = 1))]
    pub cluster_name: u64,
    /// Accepted.
    #[serde(default = "two_hundred")]
    #[schemars(range(min = 1))]
    pub producer_batch_num: u64,
    /// Accepted.
    #[serde(default = "mebibyte")]
    #[schemars(range(min = 0))]
    pub producer_batch_size: u64,
    /// Accepted.
    #[serde(default = "fifty_thousand")]
    #[schemars(range(min = 1))]
    pub producer_max_buffering: u64,
    /// Accepted.
    #[serde(default = "one_u64")]
    #[schemars(range(min = 1))]
    pub producer_time_linger: u64,
    /// Seconds after which the brokers are asked anew where the topic is.
    #[serde(default = "thirty")]
    #[schemars(range(min = 1))]
    pub meta_refresh_interval: u64,
    /// Accepted; messages are sent by Produce 3 and carry their time.
    #[serde(default = "one")]
    #[schemars(schema_with = "versions")]
    pub api_version: i16,
    #[serde(flatten)]
    pub log: LogOptions,
    #[serde(flatten)]
    pub batch: BatchConfig,
}

fn one() -> i16 {
    1
}
fn one_u64() -> u64 {
    1
}
fn three() -> u64 {
    3
}
fn thirty() -> u64 {
    30
}
fn two_hundred() -> u64 {
    200
}
fn fifty_thousand() -> u64 {
    50_000
}
fn mebibyte() -> u64 {
    1_048_576
}

/// What is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MetaFormat {
    #[default]
    Default,
    Origin,
}

/// When lua-resty-kafka counts a message as sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProducerType {
    #[default]
    Async,
    Sync,
}

/// tls config for connecting to kafka brokers
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Tls {
    /// Check the brokers' certificates.
    #[serde(default)]
    pub verify: bool,
}

#[derive(Debug, Deserialize)]
pub struct Broker {
    host: String,
    port: i64,
    sasl_config: Option<SaslConfig>,
}

#[derive(Debug, Deserialize)]
struct SaslConfig {
    #[serde(default = "plain")]
    mechanism: String,
    user: String,
    password: String,
}

fn plain() -> String {
    "PLAIN".into()
}

impl SaslConfig {
    fn credentials(&self) -> Sasl {
        let mechanism = match self.mechanism.as_str() {
            "SCRAM-SHA-256" => Mechanism::ScramSha256,
            "SCRAM-SHA-512" => Mechanism::ScramSha512,
            _ => Mechanism::Plain,
        };
        Sasl { mechanism, user: self.user.clone(), password: self.password.clone() }
    }
}

/// Connections with the gateway's resolver and TLS.
struct Way {
    dial: Dial,
    tls: Option<ClientTls>,
}

impl Connect for Way {
    fn connect<'a>(&'a self, host: &'a str, port: i64) -> Connecting<'a> {
        Box::pin(async move {
            let stream = self.dial.to(host, port).tcp().await?;
            Ok(match &self.tls {
                Some(tls) => Box::new(dial::encrypt(tls, stream, host).await?) as Box<dyn Wire>,
                None => Box::new(stream),
            })
        })
    }
}

struct Sink {
    producer: Producer,
    key: Option<String>,
    single: bool,
    /// For messages.
    brokers: String,
}

impl BatchSink<Vec<u8>> for Sink {
    async fn deliver(&self, entries: &[Vec<u8>]) -> Result<(), BatchError> {
        let message = logger::array(entries, self.single);
        self.producer.send(self.key.as_deref(), message).await.map_err(|error| {
            BatchError::new(format!("failed to send data to Kafka topic: {error}, brokers: {}", self.brokers))
        })
    }
}

/// The request's head as it came, and the body where it is asked for (`get_req_original` of apisix/utils/log-util.lua).
fn original(cx: &Context, entry: &LogEntry, include_body: bool) -> Vec<u8> {
    let mut out = cx.variable(&Variable::Request).map(|line| line.as_bytes().into_owned()).unwrap_or_default();
    out.extend_from_slice(b"\r\n");
    for (name, value) in cx.request.headers.iter() {
        out.extend_from_slice(&name.to_ascii_lowercase());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if include_body {
        out.extend_from_slice(entry.request_body(cx).unwrap_or_default());
    }
    out.shrink_to_fit();
    out
}

pub struct KafkaLogger {
    logger: Logger<Vec<u8>>,
    origin: bool,
    include_body: bool,
    single: bool,
}

impl Define for KafkaLogger {
    const INFO: Info = Info::new(NAME, 403, PHASES).secrets(&["brokers.sasl_config.password"]).request_body();
    type Config = Config;

    fn schema() -> Value {
        let mut schema = logger::schema::<Config>(QUEUE, Self::INFO.secrets);
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("required");
            let either = |one: &str| json!({"required": [one, "kafka_topic"]});
            schema.insert("oneOf".into(), json!([either("broker_list"), either("brokers")]));
        }
        schema
    }
    fn check(config: &Config) -> Result<(), BuildError> {
        config.log.check_body_expressions()
    }
    fn build(config: Config, env: &Env) -> Result<KafkaLogger, BuildError> {
        let verify = config.tls.as_ref().map(|tls| tls.verify);
        logger::warn_insecure(NAME, ("brokers", &[]), verify.map(|verify| ("tls.verify", verify)));
        let named = config.brokers.iter().flatten().map(|b| KafkaBroker {
            host: b.host.clone(),
            port: b.port,
            sasl: b.sasl_config.as_ref().map(SaslConfig::credentials),
        });
        let listed = config.broker_list.iter().flatten();
        let listed = listed.map(|(host, port)| KafkaBroker { host: host.clone(), port: *port, sasl: None });
        let brokers: Vec<KafkaBroker> = named.chain(listed).collect();
        let names: Vec<String> = brokers.iter().map(|b| format!("{}:{}", b.host, b.port)).collect();
        let way = Way { dial: Dial::new(env, "", 0), tls: verify.map(|verify| dial::tls(env, verify)).transpose()? };
        let options = ProducerOptions {
            brokers,
            topic: config.kafka_topic.clone(),
            acks: config.required_acks,
            timeout: seconds(config.timeout),
            metadata_age: seconds(config.meta_refresh_interval),
        };
        let single = config.batch.single();
        let sink = || Sink {
            producer: Producer::new(options, Arc::new(way)),
            key: config.key.clone(),
            single,
            brokers: names.join(", "),
        };
        let logger = Logger::open(env, NAME, QUEUE, &config, (&config.log, &config.batch), sink)?;
        let origin = config.meta_format == MetaFormat::Origin;
        Ok(KafkaLogger { logger, origin, include_body: config.log.include_req_body, single })
    }
}

impl Plugin for KafkaLogger {
    entry_hooks!();
    fn log(&self, cx: &mut Context) {
        if !self.origin {
            return self.logger.push(cx, None, |_, entry| entry.to_vec());
        }
        let mut entry = original(cx, &self.logger.entry, self.include_body);
        if !self.single {
            // Among others it is a text of a JSON array.
            let mut text = Vec::with_capacity(entry.len() + entry.len() / 8 + 2);
            write_text(&entry, &mut text);
            entry = text;
        }
        self.logger.push_own(cx, entry);
    }
}
