//! Sends messages to a topic: finds the partitions' leaders, chooses a partition, tries again where that may help. The
//! surprise: sends of one producer follow each other, since whoever uses it makes batches of its own.
use crate::connection::{Connection, Sasl, protocol};
use crate::{Connect, KafkaError};
use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

/// Tries after the first (lua-resty-kafka `max_retry`).
const RETRIES: u32 = 3;
/// Between tries (lua-resty-kafka `retry_backoff`).
const BACKOFF: Duration = Duration::from_millis(100);

/// A broker that is asked first.
#[derive(Clone)]
pub struct Broker {
    pub host: String,
    pub port: i64,
    pub sasl: Option<Sasl>,
}

pub struct ProducerOptions {
    pub brokers: Vec<Broker>,
    pub topic: String,
    /// 1: the leader has the message; -1: all replicas in sync have it.
    pub acks: i16,
    /// For connecting and for each request.
    pub timeout: Duration,
    /// Leaders are asked for anew after this time.
    pub metadata_age: Duration,
}

/// A producer of one topic. Nothing happens before the first send.
pub struct Producer {
    options: ProducerOptions,
    connect: Arc<dyn Connect>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    topic: Option<Topic>,
    connections: HashMap<i32, Connection>,
    /// Counts messages without a key, which go to the partitions in turn.
    turn: u32,
}

/// Where the topic's partitions are.
struct Topic {
    known: Instant,
    /// Partition and the node that leads it.
    partitions: Vec<(i32, i32)>,
    nodes: HashMap<i32, (String, i64)>,
}

impl Producer {
    pub fn new(options: ProducerOptions, connect: Arc<dyn Connect>) -> Producer {
        Producer { options, connect, state: Mutex::default() }
    }

    /// Delivers a message. Messages of one key go to one partition, by its CRC-32 as lua-resty-kafka has it.
    pub async fn send(&self, key: Option<&str>, value: Vec<u8>) -> Result<(), KafkaError> {
        let value = Bytes::from(value);
        let mut state = self.state.lock().await;
        let mut tries = 0;
        loop {
            let Err(error) = self.attempt(&mut state, key, &value).await else { return Ok(()) };
            if tries == RETRIES || error.is_final() {
                return Err(error);
            }
            tries += 1;
            // The leader may have moved, the broker may have gone.
            state.topic = None;
            sleep(BACKOFF).await;
        }
    }

    async fn attempt(&self, state: &mut State, key: Option<&str>, value: &Bytes) -> Result<(), KafkaError> {
        if state.topic.as_ref().is_none_or(|t| t.known.elapsed() > self.options.metadata_age) {
            state.topic = Some(self.find().await?);
        }
        let hash = match key {
            Some(key) => crc32fast::hash(key.as_bytes()),
            None => {
                state.turn = state.turn.wrapping_add(1);
                state.turn
            }
        };
        let (node, partition, host, port) = {
            let topic = state.topic.as_ref().ok_or(KafkaError::Timeout)?;
            let at = hash as usize % topic.partitions.len().max(1);
            let (partition, leader) = *topic.partitions.get(at).ok_or_else(|| broker("LeaderNotAvailable"))?;
            let (host, port) = topic.nodes.get(&leader).ok_or_else(|| broker("LeaderNotAvailable"))?;
            (leader, partition, host.clone(), *port)
        };
        let mut connection = match state.connections.remove(&node) {
            Some(connection) => connection,
            None => self.open(&host, port, None).await?,
        };
        self.produce(&mut connection, partition, key, value).await?;
        state.connections.insert(node, connection);
        Ok(())
    }

    /// Asks the brokers in turn for the topic, until one tells.
    async fn find(&self) -> Result<Topic, KafkaError> {
        let mut last = None;
        for broker in &self.options.brokers {
            match self.ask(broker).await {
                Ok(topic) => return Ok(topic),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self::broker("BrokerNotAvailable")))
    }

    async fn ask(&self, from: &Broker) -> Result<Topic, KafkaError> {
        let mut connection = self.open(&from.host, from.port, from.sasl.as_ref()).await?;
        let topic = MetadataRequestTopic::default().with_name(Some(self.topic()));
        let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true);
        let answer: MetadataResponse = self.within(connection.call(ApiKey::Metadata, 4, &request)).await?;
        let found = answer.topics.first().ok_or_else(|| broker("UnknownTopicOrPartition"))?;
        refused(found.error_code)?;
        let mut partitions: Vec<(i32, i32)> =
            found.partitions.iter().map(|p| (p.partition_index, p.leader_id.0)).collect();
        partitions.sort_unstable();
        let nodes = answer.brokers.iter().map(|b| (b.node_id.0, (b.host.to_string(), i64::from(b.port)))).collect();
        Ok(Topic { known: Instant::now(), partitions, nodes })
    }

    /// Credentials are the broker's own, or those of the first that has some: a cluster has one set of users.
    async fn open(&self, host: &str, port: i64, sasl: Option<&Sasl>) -> Result<Connection, KafkaError> {
        let brokers = &self.options.brokers;
        let own = || brokers.iter().find(|b| b.host == host && b.port == port).and_then(|b| b.sasl.as_ref());
        let sasl = sasl.or_else(own).or_else(|| brokers.iter().find_map(|b| b.sasl.as_ref()));
        self.within(async {
            let wire = self.connect.connect(host, port).await;
            let wire = wire.map_err(|source| KafkaError::Connect { host: host.to_owned(), port, source })?;
            let mut connection = Connection::new(wire);
            if let Some(sasl) = sasl {
                connection.authenticate(sasl).await?;
            }
            Ok(connection)
        })
        .await
    }

    async fn produce(
        &self,
        connection: &mut Connection,
        partition: i32,
        key: Option<&str>,
        value: &Bytes,
    ) -> Result<(), KafkaError> {
        let record = Record {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            timestamp_type: TimestampType::Creation,
            offset: 0,
            sequence: NO_SEQUENCE,
            timestamp: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64),
            key: key.map(|k| Bytes::copy_from_slice(k.as_bytes())),
            value: Some(value.clone()),
            headers: IndexMap::new(),
        };
        let mut records = BytesMut::new();
        let encoding = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut records, [&record], &encoding).map_err(protocol)?;
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(records.freeze()));
        let topic = TopicProduceData::default().with_name(self.topic()).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(self.options.acks)
            .with_timeout_ms(i32::try_from(self.options.timeout.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(vec![topic]);
        let answer: ProduceResponse = self.within(connection.call(ApiKey::Produce, 3, &request)).await?;
        let verdict = answer.responses.first().and_then(|t| t.partition_responses.first());
        refused(verdict.ok_or_else(|| KafkaError::Protocol("an answer without a verdict".into()))?.error_code)
    }

    fn topic(&self) -> TopicName {
        TopicName(StrBytes::from_string(self.options.topic.clone()))
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
        timeout(self.options.timeout, work).await.unwrap_or(Err(KafkaError::Timeout))
    }
}

fn broker(name: &str) -> KafkaError {
    KafkaError::Broker(name.into())
}

fn refused(code: i16) -> Result<(), KafkaError> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(KafkaError::Broker(format!("{error:?}"))),
    }
}
