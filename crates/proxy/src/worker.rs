//! What one worker thread owns: its view of the snapshot, its upstream connections, its contexts to reuse.
use crate::figures::Figures;
use crate::h2;
use crate::settings::ProxySettings;
use sluice_config::{CompiledRoute, ConsumerChain, MissingGroup, Published, Snapshot};
use sluice_net::Drain;
use sluice_net::timer;
use sluice_plugin::{Connection, Context};
use sluice_telemetry::{AccessLogFormat, AccessLogWriter};
use sluice_upstream::pool::Pool;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Contexts kept for reuse.
const SPARE_CONTEXTS: usize = 1024;
/// (route, consumer) pairs whose merged chains a worker keeps.
const CONSUMER_CHAINS: usize = 4096;

/// Where a worker writes its access log.
pub struct AccessLogSink {
    pub format: Arc<AccessLogFormat>,
    pub writer: AccessLogWriter,
}

/// A snapshot as requests of one worker hold it: counted without atomics, once per request.
pub type Held = Rc<Arc<Snapshot>>;

/// Merged chains by route and consumer; none where the consumer adds nothing.
type ConsumerChains = foldhash::HashMap<(Arc<str>, Arc<str>), Option<Arc<ConsumerChain>>>;

/// A worker's own state. Lives on one thread.
pub struct Worker {
    pub id: u16,
    pub settings: Arc<ProxySettings>,
    pub drain: Drain,
    pub pool: RefCell<Pool>,
    /// Connections that carry several requests at once.
    pub(crate) shared_pool: RefCell<h2::pool::Pool>,
    pub figures: Figures,
    access_log: Option<RefCell<AccessLogSink>>,
    published: Arc<Published>,
    seen: Cell<u64>,
    snapshot: RefCell<Held>,
    #[allow(clippy::vec_box, reason = "contexts are large and handed out boxed; a spare one is not moved")]
    contexts: RefCell<Vec<Box<Context>>>,
    consumer_chains: RefCell<ConsumerChains>,
    random: Cell<u64>,
    workers: u16,
    /// Idle upstream connections as last told to the figures.
    told_idle: Cell<i64>,
}

impl Worker {
    pub fn new(
        id: u16,
        workers: u16,
        settings: Arc<ProxySettings>,
        published: Arc<Published>,
        drain: Drain,
        access_log: Option<AccessLogSink>,
        figures: Figures,
    ) -> Worker {
        let (seen, snapshot) = published.load();
        let seed = foldhash::quality::RandomState::default();
        let shared_pool = h2::pool::Pool::new(&settings.http2);
        Worker {
            id,
            settings,
            drain,
            pool: RefCell::new(Pool::new()),
            shared_pool: RefCell::new(shared_pool),
            figures,
            access_log: access_log.map(RefCell::new),
            published,
            seen: Cell::new(seen),
            snapshot: RefCell::new(Rc::new(snapshot)),
            contexts: RefCell::new(Vec::new()),
            consumer_chains: RefCell::default(),
            random: Cell::new(std::hash::BuildHasher::hash_one(&seed, id) | 1),
            workers,
            told_idle: Cell::new(0),
        }
    }

    /// How many workers there are.
    pub fn workers(&self) -> u16 {
        self.workers
    }

    /// The snapshot in force. One relaxed load when nothing changed.
    #[inline]
    pub fn snapshot(&self) -> Held {
        if self.published.version() != self.seen.get() {
            self.refresh();
        }
        self.snapshot.borrow().clone()
    }

    #[cold]
    fn refresh(&self) {
        let (version, snapshot) = self.published.load();
        self.seen.set(version);
        *self.snapshot.borrow_mut() = Rc::new(snapshot);
        self.consumer_chains.borrow_mut().clear();
        // Contexts hold the consumers of the snapshot that they were made under.
        self.contexts.borrow_mut().clear();
    }

    /// A context for a request of this connection.
    #[inline]
    pub fn context(&self, connection: &Rc<Connection>) -> Box<Context> {
        match self.contexts.borrow_mut().pop() {
            Some(mut cx) => {
                if !Rc::ptr_eq(&cx.connection, connection) {
                    cx.connection = connection.clone();
                }
                cx
            }
            None => {
                let snapshot = self.snapshot.borrow();
                let mut cx = Box::new(Context::new(connection.clone(), snapshot.consumers.clone()));
                cx.parsed_bodies = snapshot.rules.parsed_bodies;
                cx
            }
        }
    }

    /// Takes a context back.
    #[inline]
    pub fn recycle(&self, mut cx: Box<Context>) {
        let mut spare = self.contexts.borrow_mut();
        if spare.len() < SPARE_CONTEXTS {
            cx.reset();
            spare.push(cx);
        }
    }

    /// The chain of a route for a consumer, merged once per snapshot.
    pub fn consumer_chain(
        &self,
        route: &CompiledRoute,
        username: &Arc<str>,
        snapshot: &Snapshot,
    ) -> Result<Option<Arc<ConsumerChain>>, MissingGroup> {
        if !snapshot.consumers_bring_plugins {
            return Ok(None);
        }
        let mut chains = self.consumer_chains.borrow_mut();
        let key = (route.info.route_id.clone(), username.clone());
        if let Some(chain) = chains.get(&key) {
            return Ok(chain.clone());
        }
        if chains.len() >= CONSUMER_CHAINS {
            chains.clear();
        }
        let chain = snapshot.consumer_chain(route, username)?.map(Arc::new);
        chains.insert(key, chain.clone());
        Ok(chain)
    }

    /// Writes a request's line into the access log.
    #[inline]
    pub fn log_access(&self, cx: &Context) {
        if let Some(sink) = &self.access_log {
            let sink = &mut *sink.borrow_mut();
            sink.writer.log(&sink.format, cx, timer::now_wall(), timer::now_coarse());
        }
    }

    /// What is to be done about once a second: old idle connections, old log lines.
    pub fn tick(&self) {
        let now = timer::now_coarse();
        let idle = {
            let mut pool = self.pool.borrow_mut();
            pool.sweep(now);
            i64::try_from(pool.len()).unwrap_or(i64::MAX)
        };
        self.figures.upstream.idle.add(idle - self.told_idle.replace(idle));
        self.shared_pool.borrow_mut().sweep(now);
        if let Some(sink) = &self.access_log {
            sink.borrow_mut().writer.flush_due(now);
        }
        // Looking at the snapshot lets an old one go where no request comes by.
        self.snapshot();
    }

    /// 64 random bits, not for secrets (xorshift64*).
    #[inline]
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}
