//! A Kafka producer for control threads. The messages are the crate kafka-protocol's; connecting is the owner's ([`Connect`]),
//! so that TLS, names and time come from the gateway. The surprise: there is no background task and no buffer. A send is over
//! when the broker has acknowledged it, and whoever wants batches makes them before.
//!
//! Spoken are versions that every broker from Kafka 0.11 to 4.x takes: Produce 3 with record batches 2, Metadata 4,
//! SaslHandshake 1, SaslAuthenticate 0.
mod connection;
mod producer;
mod scram;

pub use connection::{Mechanism, Sasl};
pub use producer::{Broker, Producer, ProducerOptions};

use std::future::Future;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to a broker, encrypted where the owner wants it so.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// What [`Connect::connect`] gives.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Wire>>> + Send + 'a>>;

/// How brokers are reached. It need not bound its time; the producer does.
pub trait Connect: Send + Sync {
    fn connect<'a>(&'a self, host: &'a str, port: i64) -> Connecting<'a>;
}

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    #[error("{host}:{port}: {source}")]
    Connect { host: String, port: i64, source: io::Error },
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("timeout")]
    Timeout,
    /// What the broker says, by its name in the protocol.
    #[error("{0}")]
    Broker(String),
    #[error("SASL: {0}")]
    Sasl(String),
    /// An answer that cannot be read, or a message that cannot be written.
    #[error("protocol: {0}")]
    Protocol(String),
}

impl KafkaError {
    /// Whether another try cannot end better.
    fn is_final(&self) -> bool {
        match self {
            KafkaError::Sasl(_) | KafkaError::Protocol(_) => true,
            KafkaError::Broker(name) => [
                "MessageTooLarge",
                "RecordListTooLarge",
                "TopicAuthorizationFailed",
                "InvalidTopicException",
                "InvalidRecord",
            ]
            .iter()
            .any(|last| name.starts_with(last)),
            _ => false,
        }
    }
}
