//! A route's plugins, merged, sorted and flattened per phase, so that a phase without hooks is one empty slice.
use crate::context::{BodyChunk, Context};
use crate::info::{Info, Phase};
use crate::plugin::{Flow, Outcome, Plugin};
use crate::reply::{Reply, ReplyBody};
use serde_json::Value;
use sluice_expr::Expr;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Where a plugin's configuration came from, for `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChainSource {
    Route,
    PluginConfig,
    Service,
    Consumer,
    ConsumerGroup,
    GlobalRule,
}

/// One plugin of a chain.
#[derive(Clone)]
pub struct ChainEntry {
    pub info: Info,
    /// `_meta.priority`, or the plugin's own.
    pub priority: i32,
    pub plugin: Arc<dyn Plugin>,
    /// `_meta.filter`: the plugin runs only where this holds.
    pub filter: Option<Arc<Expr>>,
    /// `_meta.error_response`: stands in for the body of every reply of 400 and above.
    pub error_response: Option<Arc<Value>>,
    pub source: ChainSource,
    /// The configuration as completed by the schema's defaults.
    pub config: Arc<Value>,
    /// `_meta.override`, or `_meta.allow_override` on a global rule's plugin: the one stands in for the other.
    pub overrides: bool,
    /// `_meta.filter` reads the request's body. What the plugin reads, it says itself ([`Info::request_body`]).
    pub filter_reads_body: bool,
}

impl std::fmt::Debug for ChainEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({}) from {:?}", self.info.name, self.priority, self.source)
    }
}

/// Plugins in order of priority.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    entries: Vec<ChainEntry>,
    phases: [Box<[u16]>; 6],
    /// How many hooks at the end of `header_filter` and `body_filter` encode.
    encoders: [usize; 2],
    /// Some entry may give way to a route's ([`Info::prefer_route`], [`ChainEntry::overrides`]).
    gives_way: bool,
}

/// What one hook came to.
pub enum Step<'a> {
    /// The phase is over.
    Done,
    /// Go on with [`Chain::step`].
    Next,
    /// The plugin answers; hand the reply to [`Chain::finish`].
    Reply(Box<Reply>),
    /// Await it, then go on with [`Chain::step`], or [`Chain::finish`] its reply.
    Wait(Pin<Box<dyn Future<Output = Outcome> + 'a>>),
    /// The next plugin reads the request's body: put it into [`Context::request_body`] and call [`Chain::step`] again.
    NeedBody,
}

impl Chain {
    /// Sorts by priority (APISIX: higher first; equal ones keep their order).
    pub fn new(mut entries: Vec<ChainEntry>) -> Chain {
        entries.sort_by_key(|e| std::cmp::Reverse(e.priority));
        let encodes = |i: &u16| entries.get(usize::from(*i)).is_some_and(|e| e.info.encodes);
        let indexes = |phase: Phase| -> Box<[u16]> {
            let has = |(i, e): (usize, &ChainEntry)| e.info.phases.has(phase).then_some(i as u16);
            let mut hooks: Box<[u16]> = entries.iter().enumerate().filter_map(has).collect();
            if matches!(phase, Phase::HeaderFilter | Phase::BodyFilter) {
                hooks.sort_by_key(encodes);
            }
            hooks
        };
        let phases = Phase::ALL.map(indexes);
        let encoders = [Phase::HeaderFilter, Phase::BodyFilter]
            .map(|phase| phases.get(phase as usize).map_or(0, |hooks| hooks.iter().filter(|i| encodes(i)).count()));
        let gives_way = entries.iter().any(|e| e.info.prefer_route || e.overrides);
        Chain { entries, phases, encoders, gives_way }
    }

    pub fn entries(&self) -> &[ChainEntry] {
        &self.entries
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Whether some plugin has a hook in this phase.
    #[inline]
    pub fn has(&self, phase: Phase) -> bool {
        !self.hooks(phase).is_empty()
    }
    #[inline]
    fn hooks(&self, phase: Phase) -> &[u16] {
        match self.phases.get(phase as usize) {
            Some(hooks) => hooks,
            None => &[],
        }
    }
    /// The hooks of a response phase that encode, or the others.
    #[inline]
    fn response_hooks(&self, phase: Phase, encoders: bool) -> &[u16] {
        let hooks = self.hooks(phase);
        let [header, body] = self.encoders;
        let last = if phase == Phase::HeaderFilter { header } else { body };
        let (first, last) = hooks.split_at(hooks.len().saturating_sub(last));
        if encoders { last } else { first }
    }
    /// Whether a plugin of this name is in the chain.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.iter().any(|e| e.info.name == name)
    }
    /// The entries that do not run beside `route`'s chain, as a bit set for `skip`: those that prefer the route's
    /// configuration, and those that let it stand in for theirs. Entries from the 65th on always run.
    #[inline]
    pub fn preferring(&self, route: &Chain) -> u64 {
        if !self.gives_way {
            return 0;
        }
        let same = |e: &ChainEntry| route.entries.iter().find(|own| own.info.name == e.info.name);
        let preferring = |(_, e): &(usize, &ChainEntry)| {
            (e.info.prefer_route || e.overrides) && same(e).is_some_and(|own| e.info.prefer_route || own.overrides)
        };
        self.entries.iter().enumerate().take(64).filter(preferring).fold(0, |set, (i, _)| set | 1 << i)
    }

    #[inline]
    fn runs(&self, index: u16, skip: u64, cx: &Context) -> Option<&ChainEntry> {
        let entry = self.entries.get(usize::from(index))?;
        let skipped = index < 64 && skip & (1 << index) != 0
            || !cx.skip_plugins.is_empty() && cx.skip_plugins.contains(&entry.info.name);
        (!skipped && entry.filter.as_ref().is_none_or(|f| f.eval(cx))).then_some(entry)
    }

    /// As [`Chain::runs`], for debug mode's eyes too.
    #[inline]
    fn run(&self, index: u16, skip: u64, cx: &mut Context, phase: Phase) -> Option<&ChainEntry> {
        let entry = self.runs(index, skip, cx);
        if cx.trace.is_some()
            && let Some(due) = self.entries.get(usize::from(index))
        {
            cx.hook_due(due, entry.is_some(), phase);
        }
        entry
    }

    /// Runs hook number `at` of a request phase and moves `at` on. `skip` is a set of entries that do not run
    /// ([`Chain::preferring`]).
    #[inline]
    pub fn step<'a>(&'a self, phase: Phase, at: &mut usize, skip: u64, cx: &'a mut Context) -> Step<'a> {
        let Some(index) = self.hooks(phase).get(*at) else {
            self.over(cx);
            return Step::Done;
        };
        if cx.request_body.is_none()
            && cx.request.framing != sluice_http::h1::Framing::None
            && self.reads_body(*index, cx)
        {
            self.over(cx);
            return Step::NeedBody;
        }
        *at += 1;
        let Some(entry) = self.run(*index, skip, cx, phase) else { return Step::Next };
        let flow = match phase {
            Phase::Rewrite => entry.plugin.rewrite(cx),
            Phase::Access => entry.plugin.access(cx),
            _ => entry.plugin.before_proxy(cx),
        };
        match flow {
            Flow::Next => Step::Next,
            Flow::Reply(reply) => Step::Reply(reply),
            Flow::Wait(future) => Step::Wait(future),
        }
    }

    /// The hook before is over, where somebody wants to know.
    #[inline]
    fn over(&self, cx: &mut Context) {
        if cx.trace.is_some() {
            cx.hook_over();
        }
    }

    fn reads_body(&self, index: u16, cx: &Context) -> bool {
        let wants = |e: &ChainEntry| e.filter_reads_body || e.info.request_body && e.plugin.wants_request_body(cx);
        self.entries.get(usize::from(index)).is_some_and(wants)
    }

    /// A reply of the hook before `at`, with `_meta.error_response` applied.
    pub fn finish(&self, phase: Phase, at: usize, mut reply: Box<Reply>) -> Box<Reply> {
        let entry =
            at.checked_sub(1).and_then(|i| self.hooks(phase).get(i)).and_then(|i| self.entries.get(usize::from(*i)));
        if let Some(entry) = entry.filter(|_| reply.status >= 400)
            && let Some(body) = &entry.error_response
        {
            let text = match body.as_ref() {
                Value::String(text) => text.clone(),
                other => format!("{other}\n"),
            };
            reply.body = ReplyBody::Bytes(text.into_bytes());
        }
        reply
    }

    /// Runs `header_filter` of the plugins that encode ([`crate::Info::encodes`]), or of all others: first the others' of all
    /// chains of a request, then theirs.
    pub fn header_filter(&self, encoders: bool, skip: u64, cx: &mut Context) {
        for index in self.response_hooks(Phase::HeaderFilter, encoders) {
            if let Some(entry) = self.run(*index, skip, cx, Phase::HeaderFilter) {
                entry.plugin.header_filter(cx);
            }
        }
        self.over(cx);
    }

    /// Runs `body_filter` on one piece, as [`Chain::header_filter`].
    pub fn body_filter(&self, encoders: bool, skip: u64, cx: &mut Context, chunk: &mut BodyChunk) {
        for index in self.response_hooks(Phase::BodyFilter, encoders) {
            if let Some(entry) = self.run(*index, skip, cx, Phase::BodyFilter) {
                let before = chunk.data.len();
                entry.plugin.body_filter(cx, chunk);
                if cx.trace.is_some() {
                    cx.hook_filtered(before, chunk.data.len());
                }
            }
        }
        self.over(cx);
    }

    /// Runs `log` of all plugins.
    pub fn log(&self, skip: u64, cx: &mut Context) {
        for index in self.hooks(Phase::Log) {
            if let Some(entry) = self.run(*index, skip, cx, Phase::Log) {
                entry.plugin.log(cx);
            }
        }
        self.over(cx);
    }
}
