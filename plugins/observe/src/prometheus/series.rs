//! Each thread's memory of series by what tells requests apart. The surprise: keys are addresses of shared objects, which is
//! safe because each entry keeps its objects alive, so that no other object can come to lie at the same address.
use super::Latency;
use foldhash::fast::FixedState;
use sluice_plugin::Source;
use sluice_plugin::{Consumer, Context, RouteInfo};
use sluice_telemetry::{CounterHandle, HistogramHandle};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Entries per thread; when full, all are forgotten, as in the label cache of the metrics themselves.
const CAPACITY: usize = 16_384;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// The plugin's instance: its configuration decides on names.
    instance: u64,
    route: usize,
    uri: usize,
    host: usize,
    consumer: usize,
    node: Option<IpAddr>,
    status: u16,
    source: Source,
}

/// Handles of all series that one plain request moves.
pub struct Series {
    pub status: CounterHandle,
    pub request: HistogramHandle,
    /// Where an upstream was asked.
    pub upstream: Option<HistogramHandle>,
    pub apisix: HistogramHandle,
    pub ingress: CounterHandle,
    pub egress: CounterHandle,
}

impl Series {
    /// Counts one request.
    #[inline]
    pub fn record(&self, cx: &Context, latency: &Latency) {
        self.status.inc();
        self.request.observe(latency.request);
        if let (Some(series), Some(upstream)) = (&self.upstream, latency.upstream) {
            series.observe(upstream);
        }
        self.apisix.observe(latency.apisix);
        self.ingress.add(cx.request.received);
        self.egress.add(cx.bytes_sent);
    }
}

/// Keeps the objects of a [`Key`] alive.
struct Entry {
    series: Rc<Series>,
    _route: Option<Arc<RouteInfo>>,
    _uri: Option<Arc<str>>,
    _host: Option<Arc<str>>,
    _consumer: Option<Arc<Consumer>>,
}

type Known = HashMap<Key, Entry, FixedState>;

thread_local! {
    static KNOWN: RefCell<Known> = const { RefCell::new(HashMap::with_hasher(FixedState::with_seed(0x51))) };
}

fn address<T: ?Sized>(shared: Option<&Arc<T>>) -> usize {
    shared.map_or(0, |s| Arc::as_ptr(s).cast::<u8>() as usize)
}

/// The series of this request, made by `make` when this thread meets it for the first time.
#[inline]
pub fn find(instance: u64, cx: &Context, make: impl FnOnce() -> Series) -> Rc<Series> {
    let consumer = cx.consumer.as_ref().map(|c| &c.consumer);
    let key = Key {
        instance,
        route: address(cx.route.as_ref()),
        uri: address(cx.matched_uri.as_ref()),
        host: address(cx.matched_host.as_ref()),
        consumer: address(consumer),
        node: cx.attempts.last().map(|a| a.address.ip()),
        status: cx.response.status,
        source: Source::of(cx),
    };
    KNOWN.with_borrow_mut(|known| {
        if let Some(entry) = known.get(&key) {
            return entry.series.clone();
        }
        if known.len() >= CAPACITY {
            known.clear();
        }
        let series = Rc::new(make());
        let entry = Entry {
            series: series.clone(),
            _route: cx.route.clone(),
            _uri: cx.matched_uri.clone(),
            _host: cx.matched_host.clone(),
            _consumer: consumer.cloned(),
        };
        known.insert(key, entry);
        series
    })
}
