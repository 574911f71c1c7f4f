//! The cache around look-ups: sharing, times, failures, bounds; and hickory against a tiny name server.
use super::*;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

type Step = Result<(Vec<IpAddr>, Duration), DnsError>;

struct Script {
    steps: Mutex<VecDeque<Step>>,
    asked: AtomicUsize,
    gate: Semaphore,
}

impl Lookup for Arc<Script> {
    fn ip(&self, host: String) -> Found<IpAddr> {
        let me = self.clone();
        Box::pin(async move {
            me.asked.fetch_add(1, Ordering::Relaxed);
            me.gate.acquire().await.unwrap().forget();
            me.steps.lock().unwrap().pop_front().unwrap_or(Err(DnsError::NoSuchName(host)))
        })
    }
    fn srv(&self, name: String) -> Found<SrvRecord> {
        Box::pin(async move { Err(DnsError::NoSuchName(name)) })
    }
}

fn script(gate: usize, steps: Vec<Step>) -> Arc<Script> {
    Arc::new(Script { steps: Mutex::new(steps.into()), asked: AtomicUsize::new(0), gate: Semaphore::new(gate) })
}

fn resolver(s: &Arc<Script>, settings: DnsSettings) -> Resolver {
    Resolver::with(&settings, Handle::current(), Arc::new(s.clone()))
}

fn failed() -> DnsError {
    DnsError::Failed { name: "a".into(), cause: "down".into() }
}

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn one_look_up_for_many_askers_then_from_the_cache() {
    let s = script(0, vec![Ok((vec![A], HOUR))]);
    let r = Arc::new(resolver(&s, DnsSettings::default()));
    let asks: Vec<_> = (0..10)
        .map(|_| {
            let r = r.clone();
            tokio::spawn(async move { r.resolve("a").await })
        })
        .collect();
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    s.gate.add_permits(1);
    for a in asks {
        assert_eq!(&*a.await.unwrap().unwrap().records, [A]);
    }
    assert_eq!(&*r.cached("a").unwrap().records, [A]);
    assert_eq!(s.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn failures_keep_the_last_good_answer_and_no_such_name_does_not() {
    let none = Duration::ZERO;
    let settings =
        DnsSettings { min_ttl: none, failure_ttl: none, negative_ttl: HOUR, valid: Some(none), ..Default::default() };
    let steps = vec![Ok((vec![A], HOUR)), Err(failed()), Err(DnsError::NoSuchName("a".into()))];
    let s = script(9, steps);
    let r = resolver(&s, settings);
    assert!(!r.resolve("a").await.unwrap().stale);
    let stale = r.resolve("a").await.unwrap();
    assert!(stale.stale && *stale.records == [A]);
    assert_eq!(r.resolve("a").await, Err(DnsError::NoSuchName("a".into())));
    // Remembered, not asked again.
    assert_eq!(r.resolve("a").await, Err(DnsError::NoSuchName("a".into())));
    assert_eq!(s.asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_failure_without_a_good_answer_is_an_error_and_remembered() {
    let s = script(9, vec![Err(failed()), Ok((vec![A], HOUR))]);
    let r = resolver(&s, DnsSettings { failure_ttl: HOUR, ..Default::default() });
    assert_eq!(r.resolve("a").await, Err(failed()));
    assert_eq!(r.resolve("a").await, Err(failed()));
    assert_eq!(s.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn time_to_live_is_kept_bounded_and_overridden() {
    let ttl = |settings: DnsSettings, ttl| async move {
        let s = script(9, vec![Ok((vec![A], ttl))]);
        let r = resolver(&s, settings).resolve("a").await.unwrap();
        r.expires.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000)
    };
    assert_eq!(ttl(DnsSettings::default(), Duration::from_secs(77)).await, 77);
    assert_eq!(ttl(DnsSettings::default(), Duration::ZERO).await, 1);
    let valid = DnsSettings { valid: Some(Duration::from_secs(30)), ..Default::default() };
    assert_eq!(ttl(valid, HOUR).await, 30);
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let s = script(99, (0..9).map(|_| Ok((vec![A], HOUR))).collect());
    let r = resolver(&s, DnsSettings { cache_size: 3, ..Default::default() });
    for i in 0..9 {
        r.resolve(&format!("h{i}")).await.unwrap();
    }
    assert_eq!((0..9).filter(|i| r.cached(&format!("h{i}")).is_some()).count(), 3);
    assert!(r.cached("h8").is_some());
}

#[tokio::test]
async fn literals_need_no_look_up() {
    let s = script(0, vec![]);
    let r = resolver(&s, DnsSettings::default());
    for (text, ip) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("[::1]", "::1")] {
        assert_eq!(&*r.resolve(text).await.unwrap().records, [ip.parse::<IpAddr>().unwrap()]);
    }
}

/// Answers by name: `v4.test.` A with TTL 42, `v6.test.` AAAA only, `_x._tcp.test.` SRV, the rest NXDOMAIN.
async fn name_server() -> SocketAddr {
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
    use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buf = [0; 1500];
        while let Ok((n, peer)) = socket.recv_from(&mut buf).await {
            let mut m = Message::from_vec(&buf[..n]).unwrap();
            m.metadata.message_type = hickory_resolver::proto::op::MessageType::Response;
            let q = m.queries[0].clone();
            let name = q.name().to_string();
            let rdata = match (name.as_str(), q.query_type()) {
                ("v4.test.", RecordType::A) => Some(RData::A(A::new(192, 0, 2, 1))),
                ("v6.test.", RecordType::AAAA) => Some(RData::AAAA(AAAA("2001:db8::1".parse().unwrap()))),
                ("_x._tcp.test.", RecordType::SRV) => {
                    Some(RData::SRV(SRV::new(1, 20, 8080, Name::from_ascii("v4.test.").unwrap())))
                }
                _ => None,
            };
            match rdata {
                Some(r) => {
                    m.add_answer(Record::from_rdata(q.name().clone(), 42, r));
                }
                None if ["v4.test.", "v6.test."].contains(&name.as_str()) => {}
                None => m.metadata.response_code = ResponseCode::NXDomain,
            }
            let _ = socket.send_to(&m.to_vec().unwrap(), peer).await;
        }
    });
    addr
}

#[tokio::test]
async fn asks_a_real_name_server() {
    let settings =
        DnsSettings { servers: vec![name_server().await], timeout: Duration::from_secs(5), ..Default::default() };
    let r = Resolver::new(&settings, Handle::current()).unwrap();
    let v4 = r.resolve("v4.test.").await.unwrap();
    assert_eq!(&*v4.records, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(v4.expires.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000), 42);
    assert_eq!(&*r.resolve("v6.test.").await.unwrap().records, ["2001:db8::1".parse::<IpAddr>().unwrap()]);
    let srv = SrvRecord { target: "v4.test".into(), port: 8080, priority: 1, weight: 20 };
    assert_eq!(&*r.resolve_srv("_x._tcp.test.").await.unwrap().records, [srv]);
    assert_eq!(r.resolve("none.test.").await, Err(DnsError::NoSuchName("none.test.".into())));
    // /etc/hosts or RFC 6761: never the name server.
    assert!(r.resolve("localhost").await.unwrap().records[0].is_loopback());
    // No IPv6 when it is off.
    let r = Resolver::new(&DnsSettings { ipv6: false, ..settings }, Handle::current()).unwrap();
    assert!(matches!(r.resolve("v6.test.").await, Err(DnsError::NoSuchName(_))));
}
