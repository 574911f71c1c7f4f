//! One connection to a broker: requests one after the other, each with its answer; SASL at the beginning. The surprise: a
//! connection on which anything failed must be dropped, as the next bytes may belong to the failed request.
use crate::scram::Scram;
use crate::{KafkaError, Wire};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
    SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of the largest answer; those to a producer are small.
const MAX_ANSWER: usize = 8 << 20;
/// As brokers' logs show who speaks.
const CLIENT: &str = "sluice";

/// How to prove who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl Mechanism {
    /// The registered name (RFC 4616, RFC 7677).
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Credentials of a broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Sasl {
    pub mechanism: Mechanism,
    pub user: String,
    pub password: String,
}

pub(crate) struct Connection {
    wire: Box<dyn Wire>,
    correlation: i32,
}

impl Connection {
    pub fn new(wire: Box<dyn Wire>) -> Connection {
        Connection { wire, correlation: 0 }
    }

    /// Sends a request in the given version and reads its answer. Only versions without tagged fields.
    pub async fn call<Q: Encodable, A: Decodable>(
        &mut self,
        key: ApiKey,
        version: i16,
        request: &Q,
    ) -> Result<A, KafkaError> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT)));
        let mut body = BytesMut::new();
        header.encode(&mut body, 1).map_err(protocol)?;
        request.encode(&mut body, version).map_err(protocol)?;
        let length = i32::try_from(body.len()).map_err(protocol)?;
        let mut frame = Vec::with_capacity(body.len() + 4);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&body);
        self.wire.write_all(&frame).await?;
        self.wire.flush().await?;
        let mut answer = self.answer().await?;
        let header = ResponseHeader::decode(&mut answer, 0).map_err(protocol)?;
        if header.correlation_id != self.correlation {
            return Err(KafkaError::Protocol("an answer to another request".into()));
        }
        A::decode(&mut answer, version).map_err(protocol)
    }

    async fn answer(&mut self) -> Result<Bytes, KafkaError> {
        let mut length = [0; 4];
        self.wire.read_exact(&mut length).await?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_ANSWER {
            return Err(KafkaError::Protocol(format!("an answer of more than {MAX_ANSWER} bytes")));
        }
        let mut answer = vec![0; length];
        self.wire.read_exact(&mut answer).await?;
        Ok(answer.into())
    }

    /// Proves who speaks; the broker takes nothing else before.
    pub async fn authenticate(&mut self, sasl: &Sasl) -> Result<(), KafkaError> {
        let name = StrBytes::from_static_str(sasl.mechanism.name());
        let hello = SaslHandshakeRequest::default().with_mechanism(name);
        let answer: SaslHandshakeResponse = self.call(ApiKey::SaslHandshake, 1, &hello).await?;
        if answer.error_code != 0 {
            let known: Vec<&str> = answer.mechanisms.iter().map(|m| &**m).collect();
            let reason = format!("the broker does not take {}, but {}", sasl.mechanism.name(), known.join(", "));
            return Err(KafkaError::Sasl(reason));
        }
        let hash = match sasl.mechanism {
            Mechanism::Plain => {
                let proof = format!("\0{}\0{}", sasl.user, sasl.password);
                self.prove(proof.into_bytes()).await?;
                return Ok(());
            }
            Mechanism::ScramSha256 => crate::scram::Hash::Sha256,
            Mechanism::ScramSha512 => crate::scram::Hash::Sha512,
        };
        let scram = Scram::new(hash, &sasl.user, &sasl.password)?;
        let challenge = self.prove(scram.first()).await?;
        let (proof, signature) = scram.last(&challenge)?;
        let verdict = self.prove(proof).await?;
        signature.check(&verdict)
    }

    async fn prove(&mut self, proof: Vec<u8>) -> Result<Bytes, KafkaError> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(proof.into());
        let answer: SaslAuthenticateResponse = self.call(ApiKey::SaslAuthenticate, 0, &request).await?;
        if answer.error_code != 0 {
            let reason = answer.error_message.map_or_else(|| "refused".to_owned(), |m| m.to_string());
            return Err(KafkaError::Sasl(reason));
        }
        Ok(answer.auth_bytes)
    }
}

pub(crate) fn protocol(error: impl std::fmt::Display) -> KafkaError {
    KafkaError::Protocol(error.to_string())
}
