//! The record of one explained request: what each hook did to it and how long that took, and what happened between hooks.
//! Kept only where `debug-logger` chose the request. The surprise: what a hook changed is found by looking at the request
//! before and after it, so plugins know nothing of this; values that look like secrets are never in it.
use crate::chain::{ChainEntry, ChainSource};
use crate::context::{Context, UpstreamRef};
use crate::info::Phase;
use crate::timings;
use crate::trace::Trace;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Hooks of one request that are told; later ones are counted only.
const MAX_HOOKS: usize = 512;
/// Changes of one hook that are told.
const MAX_CHANGES: usize = 64;
/// Bytes of a value that are told.
const MAX_VALUE: usize = 512;
const MAX_NOTES: usize = 128;

/// Where finished records go.
pub trait RecordSink: Send + Sync {
    /// Must not block.
    fn deliver(&self, id: &str, record: Value);
}

/// The request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// With scheme and host.
    pub url: String,
    pub headers: Vec<(String, String)>,
    /// The connection's peer.
    pub client: IpAddr,
}

/// What is recorded of a request under way.
pub struct Record {
    pub id: Box<str>,
    pub asked: Asked,
    /// The client may learn of the record.
    pub announced: bool,
    sink: Arc<dyn RecordSink>,
    hooks: Vec<Hook>,
    left_out: usize,
    open: Option<Open>,
    notes: Vec<Value>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record({})", self.id)
    }
}

/// One hook, however often it ran.
struct Hook {
    plugin: &'static str,
    phase: Phase,
    source: ChainSource,
    /// After the request's head.
    at: Duration,
    took: Duration,
    runs: u32,
    /// Why it did not run.
    skipped: Option<&'static str>,
    reply: Option<u16>,
    changes: Vec<Value>,
    body: Option<(u64, u64)>,
}

/// A hook whose end is not known yet.
struct Open {
    hook: usize,
    begun: Instant,
    before: BTreeMap<String, String>,
}

/// Whether a field, argument or variable of this name is a secret by all appearances.
fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 10] =
        ["auth", "cookie", "token", "secret", "apikey", "api-key", "api_key", "password", "credential", "signature"];
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// A value as it is told: short, and masked where its name looks like a secret's.
pub fn told(name: &str, value: &[u8]) -> String {
    if is_secret(name) {
        return "***".into();
    }
    let cut = value.get(..MAX_VALUE).unwrap_or(value);
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < value.len() {
        text.push('…');
    }
    text
}

/// Path and query with the values of secret arguments masked.
pub fn masked_target(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return told("", target.as_bytes()) };
    let mask = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(mask).collect();
    told("", format!("{path}?{}", query.join("&")).as_bytes())
}

/// All that hooks may change, by name.
fn look(cx: &Context) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut put = |name: String, value: String| {
        let value = match all.remove(&name) {
            Some(before) => format!("{before}, {value}"),
            None => value,
        };
        all.insert(name, value);
    };
    let lower = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
    put("request.method".into(), cx.request.method_text().into());
    put("request.target".into(), masked_target(cx.request.target()));
    for (name, value) in cx.request.headers.iter() {
        let name = lower(name);
        let value = told(&name, value);
        put(format!("request.header.{name}"), value);
    }
    put("client".into(), cx.client_ip_text().into());
    let upstream = &cx.upstream;
    if let Some(target) = &upstream.target {
        put("upstream.target".into(), masked_target(&String::from_utf8_lossy(target)));
    }
    if let Some(host) = &upstream.host {
        put("upstream.host".into(), told("", host));
    }
    if let Some(scheme) = &upstream.scheme {
        put("upstream.scheme".into(), scheme.to_string());
    }
    match &upstream.upstream {
        Some(UpstreamRef::Id(id)) => put("upstream.choice".into(), format!("upstreams/{id}")),
        Some(UpstreamRef::Inline(own)) => put("upstream.choice".into(), own.key.to_string()),
        None => {}
    }
    if let Some(body) = &upstream.body {
        put("upstream.body".into(), format!("{} bytes", body.len()));
    }
    if let Some(found) = &cx.consumer {
        put("consumer".into(), found.consumer.username.to_string());
    }
    for (name, value) in cx.custom_variables() {
        put(format!("variable.{name}"), told(name, value));
    }
    for (name, value) in cx.early_headers() {
        put(format!("response.header.{}", name.to_ascii_lowercase()), told(name, value));
    }
    if cx.response.status != 0 {
        put("response.status".into(), cx.response.status.to_string());
    }
    for (name, value) in cx.response.headers.iter() {
        let name = lower(name);
        let value = told(&name, value);
        put(format!("response.header.{name}"), value);
    }
    all
}

fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<Value> {
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    let gone = gone.map(|(name, value)| json!({"what": name, "removed": value}));
    let new = after.iter().filter_map(|(name, value)| match before.get(name) {
        None => Some(json!({"what": name, "to": value})),
        Some(old) if old != value => Some(json!({"what": name, "from": old, "to": value})),
        Some(_) => None,
    });
    gone.chain(new).take(MAX_CHANGES).collect()
}

impl Record {
    /// Begins to record a request.
    pub fn begin(cx: &mut Context, id: impl Into<Box<str>>, sink: Arc<dyn RecordSink>, announced: bool) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = cx.request.headers.iter().map(|(n, v)| (text(n), text(v))).collect();
        let (scheme, host) = (cx.connection.scheme(), cx.request.host());
        let asked = Asked {
            method: cx.request.method_text().to_owned(),
            url: format!("{scheme}://{host}{}", cx.request.target()),
            headers,
            client: cx.connection.peer.ip(),
        };
        let (hooks, notes) = (Vec::new(), Vec::new());
        let record = Record { id: id.into(), asked, announced, sink, hooks, left_out: 0, open: None, notes };
        cx.trace.get_or_insert_default().record.get_or_insert(Box::new(record));
    }

    fn close(&mut self, after: impl FnOnce() -> BTreeMap<String, String>) {
        let Some(open) = self.open.take() else { return };
        let took = open.begun.elapsed();
        let Some(hook) = self.hooks.get_mut(open.hook) else { return };
        hook.took += took;
        if hook.phase != Phase::BodyFilter {
            hook.changes.extend(difference(&open.before, &after()));
        }
    }

    fn hook(&mut self, entry: &ChainEntry, phase: Phase, started: Instant) -> Option<usize> {
        let same = |own: &Hook| phase == Phase::BodyFilter && own.phase == phase && own.plugin == entry.info.name;
        if let Some(at) = self.hooks.iter().position(same) {
            return Some(at);
        }
        if self.hooks.len() == MAX_HOOKS {
            self.left_out += 1;
            return None;
        }
        self.hooks.push(Hook {
            plugin: entry.info.name,
            phase,
            source: entry.source,
            at: started.elapsed(),
            took: Duration::ZERO,
            runs: 0,
            skipped: None,
            reply: None,
            changes: Vec::new(),
            body: None,
        });
        Some(self.hooks.len() - 1)
    }

    /// The hooks in the order in which they first ran.
    pub fn hooks(&self) -> Value {
        let micros = |d: Duration| (d.as_secs_f64() * 1e7).round() / 10.0;
        let hook = |own: &Hook| {
            let mut out = Map::new();
            out.insert("phase".into(), json!(own.phase.as_str()));
            out.insert("plugin".into(), json!(own.plugin));
            out.insert("from".into(), json!(own.source));
            out.insert("at_us".into(), json!(micros(own.at)));
            if let Some(why) = own.skipped {
                out.insert("skipped".into(), json!(why));
                return Value::Object(out);
            }
            out.insert("took_us".into(), json!(micros(own.took)));
            if own.runs > 1 {
                out.insert("runs".into(), json!(own.runs));
            }
            if let Some(status) = own.reply {
                out.insert("replied".into(), json!(status));
            }
            if let Some((before, after)) = own.body {
                out.insert("body".into(), json!({"bytes_in": before, "bytes_out": after}));
            }
            if !own.changes.is_empty() {
                out.insert("changes".into(), json!(own.changes));
            }
            Value::Object(out)
        };
        let mut all: Vec<Value> = self.hooks.iter().map(hook).collect();
        if self.left_out > 0 {
            all.push(json!({"left_out": self.left_out}));
        }
        Value::Array(all)
    }

    /// What happened between hooks, in order.
    pub fn notes(&self) -> &[Value] {
        &self.notes
    }

    /// The request is over.
    pub fn deliver(self, record: Value) {
        self.sink.deliver(&self.id, record);
    }
}

impl Context {
    /// The record, where the request is explained.
    pub fn record(&mut self) -> Option<&mut Record> {
        self.trace.as_mut()?.record.as_deref_mut()
    }

    /// Keeps what happened, where the request is explained.
    #[inline]
    pub fn note(&mut self, make: impl FnOnce() -> Value) {
        if let Some(trace) = &mut self.trace {
            trace.note(make);
        }
    }

    /// The hook that ran last is over.
    #[cold]
    pub(crate) fn hook_over(&mut self) {
        let Some(mut trace) = self.trace.take() else { return };
        if let Some(record) = &mut trace.record {
            record.close(|| look(self));
        }
        if std::mem::take(&mut trace.timed)
            && let Some(timings) = &mut trace.timings
        {
            timings.end();
        }
        self.trace = Some(trace);
    }

    /// A hook's turn has come; `runs`: it is not skipped.
    #[cold]
    pub(crate) fn hook_due(&mut self, entry: &ChainEntry, runs: bool, phase: Phase) {
        self.hook_over();
        let Some(mut trace) = self.trace.take() else { return };
        if runs {
            trace.ran(entry.info.name, phase);
            if let Some(timings) = trace.timings.as_mut().filter(|_| timings::has_hooks(phase)) {
                timings.begin(format!("apisix.phase.{}.plugins.{}", phase.as_str(), entry.info.name), false);
                trace.timed = true;
            }
        }
        if let Some(record) = &mut trace.record
            && let Some(at) = record.hook(entry, phase, self.started)
            && let Some(hook) = record.hooks.get_mut(at)
        {
            if runs {
                hook.runs += 1;
                let before = if phase == Phase::BodyFilter { BTreeMap::new() } else { look(self) };
                record.open = Some(Open { hook: at, begun: Instant::now(), before });
            } else {
                hook.skipped = Some(match entry.filter {
                    Some(_) => "_meta.filter does not hold, or another plugin stands in for it",
                    None => "another plugin stands in for it",
                });
            }
        }
        self.trace = Some(trace);
    }

    /// The hook that ran last answers the request.
    #[cold]
    pub fn hook_replied(&mut self, status: u16) {
        self.hook_over();
        if let Some(hook) = self.record().and_then(|record| record.hooks.last_mut()) {
            hook.reply = Some(status);
        }
    }

    /// A piece of the body before and after the hook that ran last.
    #[cold]
    pub(crate) fn hook_filtered(&mut self, before: usize, after: usize) {
        let Some(record) = self.record() else { return };
        let Some(at) = record.open.as_ref().map(|open| open.hook) else { return };
        if let Some(hook) = record.hooks.get_mut(at) {
            let (total_before, total_after) = hook.body.unwrap_or_default();
            hook.body = Some((total_before + before as u64, total_after + after as u64));
        }
    }
}

impl Trace {
    #[cold]
    fn note(&mut self, make: impl FnOnce() -> Value) {
        if let Some(record) = &mut self.record
            && record.notes.len() < MAX_NOTES
        {
            record.notes.push(make());
        }
    }
}

/// Records that are kept for who asks for them by their id; the oldest make room.
#[derive(Default)]
pub struct Explained(Mutex<Kept>);

/// Ids and records, oldest first.
type Kept = VecDeque<(Box<str>, Arc<[u8]>)>;

impl Explained {
    const MAX: usize = 256;
    const MAX_BYTES: usize = 8 << 20;

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn keep(&self, id: &str, record: &[u8]) {
        if record.len() > Explained::MAX_BYTES {
            return;
        }
        let mut kept = self.kept();
        kept.push_back((id.into(), record.into()));
        while kept.len() > Explained::MAX
            || kept.iter().map(|(_, record)| record.len()).sum::<usize>() > Explained::MAX_BYTES
        {
            kept.pop_front();
        }
    }

    pub fn get(&self, id: &str) -> Option<Arc<[u8]>> {
        self.kept().iter().rev().find(|(own, _)| &**own == id).map(|(_, record)| record.clone())
    }

    /// Newest first.
    pub fn ids(&self) -> Vec<String> {
        self.kept().iter().rev().map(|(id, _)| id.to_string()).collect()
    }
}

#[cfg(test)]
mod tests;
