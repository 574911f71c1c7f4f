//! The balancer of one upstream: compiled from its nodes, shared by all workers, never changed.
//!
//! The surprise: health is not looked up per pick. While all nodes are up the tiers compiled at build time serve; when
//! [`health_epoch`] moved and other nodes are up than before, the next pick compiles tiers of these, so that their shares
//! stay exact. So do the growing shares of `slow_start` and the zones of `zone_preference`. All down means all are used (apisix/balancer.lua), or none where [`BalancerSettings::fail_when_none`] says so.
//! `chash` keeps its full ring and steps over who is down, so that keys of others do not move.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use smallvec::SmallVec;

use crate::adaptive::Adaptive;
use crate::chash::{Chash, MAX_POINTS};
use crate::endpoint::{Endpoint, health_epoch};
use crate::ewma::{self, Ewma};
use crate::hash_key::HashKey;
use crate::least_conn::LeastConn;
use crate::p2c::P2c;
use crate::priority::{TierPlan, Tiers};
use crate::random::Random;
use crate::roundrobin::RoundRobin;
use crate::slow_start::{SlowStart, Warming};
use crate::sticky::{Sticky, Token};
use crate::tried::Tried;
use crate::zone::ZonePreference;

/// An upstream's `type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    #[default]
    RoundRobin,
    Chash,
    LeastConn,
    Ewma,
    Random,
    P2c,
    Adaptive,
}

impl Algorithm {
    /// By APISIX's name (`random`, `p2c` and `adaptive` are ours).
    pub fn parse(name: &str) -> Result<Algorithm, BalancerError> {
        Ok(match name {
            "roundrobin" => Algorithm::RoundRobin,
            "chash" => Algorithm::Chash,
            "least_conn" => Algorithm::LeastConn,
            "ewma" => Algorithm::Ewma,
            "random" => Algorithm::Random,
            "p2c" => Algorithm::P2c,
            "adaptive" => Algorithm::Adaptive,
            other => return Err(BalancerError::UnknownType(other.to_owned())),
        })
    }

    /// Whether requests in flight are counted.
    #[inline]
    pub fn counts(self) -> bool {
        matches!(self, Algorithm::LeastConn | Algorithm::P2c | Algorithm::Adaptive)
    }
}

/// Why an upstream cannot be balanced.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BalancerError {
    /// APISIX's wording (apisix/balancer.lua).
    #[error("invalid balancer type: {0}")]
    UnknownType(String),
    #[error("an upstream can have {limit} nodes, found {found}", limit = MAX_NODES)]
    TooManyNodes { found: usize },
}

/// Bound of nodes per upstream (resolved addresses included).
pub const MAX_NODES: usize = 65_536;

/// What a balancer is compiled from, beside its nodes.
#[derive(Clone, Debug)]
pub struct BalancerSettings {
    pub algorithm: Algorithm,
    /// What `chash` hashes; see [`crate::hash_key()`].
    pub hash: HashKey,
    /// Round robin counters: 1 rotates over all workers; one per worker never shares a cache line.
    pub counters: u16,
    /// Where rotations begin; chance spreads the first requests of several gateways.
    pub start: u64,
    /// Bound of a `chash` ring, 8 bytes a point.
    pub chash_max_points: u64,
    /// Ours: without any healthy node there is none to choose. APISIX uses all.
    pub fail_when_none: bool,
    /// Ours: the share of nodes that may be out by ejection at a time; one always may be, unless it is 0.
    pub max_ejection_percent: u8,
    /// Ours: not for `chash` and `ewma`, which have no shares.
    pub slow_start: Option<SlowStart>,
    /// Ours: `None` also where the gateway has no zone.
    pub zone: Option<ZonePreference>,
    /// Ours: clients come back to their node.
    pub sticky: Option<Sticky>,
}

impl Default for BalancerSettings {
    fn default() -> Self {
        BalancerSettings {
            algorithm: Algorithm::default(),
            hash: HashKey::default(),
            counters: 1,
            start: 0,
            chash_max_points: MAX_POINTS,
            fail_when_none: false,
            max_ejection_percent: 100,
            slow_start: None,
            zone: None,
            sticky: None,
        }
    }
}

/// What one pick may depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickInput<'a> {
    /// From [`crate::hash_key()`]; only `chash` needs it.
    pub hash_key: Option<&'a [u8]>,
    /// 64 random bits; all but `roundrobin` and `chash` need them.
    pub random: u64,
    /// Milliseconds of a clock that goes on; `ewma`, `p2c`, `adaptive` and `slow_start` need it.
    pub now_ms: u64,
    /// Number of the worker, for its own round robin counter.
    pub worker: u16,
    /// The node that the client's cookie names; taken if it is up and was not tried, whatever its weight.
    pub sticky: Option<Token>,
}

/// A chosen node. Give `index` to [`Balancer::done`] exactly once, and to [`Tried::insert`] before a retry.
#[derive(Clone, Copy, Debug)]
pub struct Picked<'a> {
    pub index: u32,
    pub endpoint: &'a Endpoint,
}

/// How an attempt went.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Connect and response head together.
    pub latency: Duration,
    /// Whether a response came. A refusal is fast and must not look like a fast node.
    pub ok: bool,
    /// As in [`PickInput`].
    pub now_ms: u64,
}

/// The compiled way to choose among the nodes of one tier.
#[derive(Debug)]
pub(crate) enum Picker {
    /// A tier of one node.
    Single(u32),
    RoundRobin(RoundRobin),
    Chash(Chash),
    LeastConn(LeastConn),
    Ewma(Ewma),
    Random(Random),
    P2c(P2c),
    Adaptive(Adaptive),
}

impl Picker {
    pub(crate) fn build(plan: &TierPlan<'_>, members: &[u32]) -> Picker {
        let TierPlan { settings, nodes, percents, start, .. } = *plan;
        match (settings.algorithm, members) {
            // a ring of one node without weight has no points; everyone else takes a lone node as it is
            (algorithm, [only]) if algorithm != Algorithm::Chash => Picker::Single(*only),
            (Algorithm::RoundRobin, _) => {
                Picker::RoundRobin(RoundRobin::build_warming(nodes, members, percents, settings.counters, start))
            }
            (Algorithm::Chash, _) => Picker::Chash(Chash::build(nodes, members, settings.chash_max_points)),
            (Algorithm::LeastConn, _) => Picker::LeastConn(LeastConn::build(nodes, members, percents)),
            (Algorithm::Ewma, _) => Picker::Ewma(Ewma::build(nodes, members)),
            (Algorithm::Random, _) => Picker::Random(Random::build(nodes, members, percents)),
            (Algorithm::P2c, _) => Picker::P2c(P2c::build(nodes, members, percents)),
            (Algorithm::Adaptive, _) => Picker::Adaptive(Adaptive::build(nodes, members, percents)),
        }
    }

    /// `in_use`: which nodes `chash` may take; `None`: all. The others are compiled from the usable ones only.
    #[inline]
    pub(crate) fn pick(
        &self,
        nodes: &[Endpoint],
        input: &PickInput<'_>,
        tried: &Tried,
        in_use: Option<&Tried>,
    ) -> Option<u32> {
        match self {
            Picker::Single(only) => (!tried.contains(*only)).then_some(*only),
            Picker::RoundRobin(picker) => picker.pick(input.worker, tried),
            Picker::Chash(picker) => picker.pick(input.hash_key.unwrap_or_default(), |index| {
                !tried.contains(index) && in_use.is_none_or(|in_use| in_use.contains(index))
            }),
            Picker::LeastConn(picker) => picker.pick(nodes, input.random, tried),
            Picker::Ewma(picker) => picker.pick(nodes, input.random, input.now_ms, tried),
            Picker::Random(picker) => picker.pick(input.random, tried),
            Picker::P2c(picker) => picker.pick(nodes, input.random, input.now_ms, tried),
            Picker::Adaptive(picker) => picker.pick(nodes, input.random, input.now_ms, tried),
        }
    }
}

/// How things stand where they are not as compiled at first: some nodes are out, some warm up, a zone overflows.
#[derive(Debug, PartialEq)]
struct Condition {
    /// Who is in use. A set of indexes, whatever the type's name says.
    nodes: Tried,
    /// See [`crate::slow_start`].
    percents: Vec<u8>,
    /// Priorities whose zones are one tier.
    spilled: Vec<i32>,
}

/// What serves in such a condition.
#[derive(Debug)]
struct Usable {
    condition: Condition,
    /// Of the nodes in use; `None` for `chash`, which walks its full ring.
    tiers: Option<Tiers>,
}

/// See the file's head.
#[derive(Debug)]
pub struct Balancer {
    algorithm: Algorithm,
    nodes: Box<[Endpoint]>,
    all: Tiers,
    /// The epoch that `degraded` and `usable` were made for.
    epoch: AtomicU64,
    /// When they are to be made again whatever the epoch; `u64::MAX` without `slow_start`.
    due_ms: AtomicU64,
    degraded: AtomicBool,
    usable: ArcSwapOption<Usable>,
    refreshing: Mutex<()>,
    /// For `sticky`: which node a cookie names, in the order of tokens.
    tokens: Box<[(Token, u32)]>,
    /// The tokens in the order of nodes.
    node_tokens: Box<[Token]>,
    settings: BalancerSettings,
}

impl Balancer {
    /// Compiles. A node listed twice counts once with its last weight, as in APISIX's table of nodes. No node at all
    /// is no error: an upstream whose names did not resolve yet has none, and `pick` says so.
    pub fn build(settings: &BalancerSettings, nodes: Vec<Endpoint>) -> Result<Balancer, BalancerError> {
        if nodes.len() > MAX_NODES {
            return Err(BalancerError::TooManyNodes { found: nodes.len() });
        }
        let mut seen =
            std::collections::HashMap::with_capacity_and_hasher(nodes.len(), foldhash::fast::FixedState::default());
        let mut unique: Vec<Endpoint> = Vec::with_capacity(nodes.len());
        for node in nodes {
            let at = *seen.entry((node.priority, node.host.clone(), node.port)).or_insert(unique.len());
            match unique.get_mut(at) {
                Some(before) => *before = node,
                None => unique.push(node),
            }
        }
        let members: Vec<u32> = (0..unique.len() as u32).collect();
        let plan = TierPlan {
            settings,
            nodes: &unique,
            members: &members,
            percents: &[],
            spilled: &[],
            start: settings.start,
        };
        let sticky = settings.sticky.as_ref();
        let node_tokens: Box<[Token]> =
            sticky.map(|sticky| unique.iter().map(|node| sticky.token(node)).collect()).unwrap_or_default();
        let mut tokens: Vec<(Token, u32)> = node_tokens.iter().copied().zip(0..).collect();
        tokens.sort_unstable();
        let balancer = Balancer {
            algorithm: settings.algorithm,
            all: Tiers::build(&plan),
            tokens: tokens.into(),
            node_tokens,
            due_ms: AtomicU64::new(if settings.slow_start.is_some() { 0 } else { u64::MAX }),
            nodes: unique.into(),
            epoch: AtomicU64::new(0),
            degraded: AtomicBool::new(false),
            usable: ArcSwapOption::empty(),
            refreshing: Mutex::new(()),
            settings: settings.clone(),
        };
        balancer.refresh(None);
        Ok(balancer)
    }

    /// The compiled nodes; an index is what [`Picked::index`] and [`Tried`] hold.
    pub fn nodes(&self) -> &[Endpoint] {
        &self.nodes
    }

    /// What it was compiled with.
    pub fn settings(&self) -> &BalancerSettings {
        &self.settings
    }

    /// Chooses a node that is healthy and not tried. `None` when there is none left (APISIX answers 502, "all upstream
    /// servers tried"). A lone node is given again and again, whatever its weight or health: a retry has nowhere else
    /// to go (apisix/balancer.lua `pick_server`).
    #[inline]
    pub fn pick(&self, input: &PickInput<'_>, tried: &Tried) -> Option<Picked<'_>> {
        let lone = self.nodes.len() == 1 && !self.settings.fail_when_none;
        if lone && input.now_ms >= self.due_ms.load(Ordering::Relaxed) {
            // it is not new any more when a second one comes
            self.refresh(Some(input.now_ms));
        }
        let index = if lone { 0 } else { self.pick_index(input, tried)? };
        let endpoint = self.nodes.get(index as usize)?;
        if self.algorithm.counts() {
            endpoint.state.enter();
        }
        Some(Picked { index, endpoint })
    }

    #[inline]
    fn pick_index(&self, input: &PickInput<'_>, tried: &Tried) -> Option<u32> {
        if self.epoch.load(Ordering::Acquire) != health_epoch() || input.now_ms >= self.due_ms.load(Ordering::Relaxed) {
            self.refresh(Some(input.now_ms));
        }
        if let Some(token) = input.sticky
            && let Some(index) = self.stuck(token, tried)
        {
            return Some(index);
        }
        if !self.degraded.load(Ordering::Acquire) {
            return self.all.pick(&self.nodes, input, tried, None);
        }
        match self.usable.load().as_deref() {
            Some(Usable { tiers, condition }) => {
                // the ring is never thinned out, see the file's head
                let in_use = (self.algorithm == Algorithm::Chash).then_some(&condition.nodes);
                tiers.as_ref().unwrap_or(&self.all).pick(&self.nodes, input, tried, in_use)
            }
            None => self.all.pick(&self.nodes, input, tried, None),
        }
    }

    /// The node that a cookie names, if it may be used.
    #[cold]
    fn stuck(&self, token: Token, tried: &Tried) -> Option<u32> {
        let place = self.tokens.binary_search_by_key(&token, |(token, _)| *token).ok()?;
        let index = self.tokens.get(place).map(|(_, index)| *index)?;
        let in_use = !self.degraded.load(Ordering::Acquire)
            || self.usable.load().as_deref().is_none_or(|usable| usable.condition.nodes.contains(index));
        (in_use && !tried.contains(index)).then_some(index)
    }

    /// The node's name in cookies; `None` without `sticky`.
    pub fn token(&self, index: u32) -> Option<Token> {
        self.node_tokens.get(index as usize).copied()
    }

    /// Whether every node is out and none may be used for want of a better one ([`BalancerSettings::fail_when_none`]).
    pub fn is_out(&self) -> bool {
        self.settings.fail_when_none && !self.nodes.is_empty() && self.usable_nodes().is_empty()
    }

    /// Who is up, and of the ejected those that are too many: the latest ejected come back first.
    fn usable_nodes(&self) -> SmallVec<[u32; 16]> {
        let mut usable: SmallVec<[u32; 16]> = SmallVec::new();
        let mut ejected: SmallVec<[(u64, u32); 16]> = SmallVec::new();
        for (index, node) in (0u32..).zip(&*self.nodes) {
            match node.health.as_ref().and_then(|target| target.ejection_rank()) {
                Some(rank) => ejected.push((rank, index)),
                None if node.is_up() => usable.push(index),
                None => {}
            }
        }
        let percent = usize::from(self.settings.max_ejection_percent);
        let may_be_out = (self.nodes.len() * percent / 100).max(usize::from(percent > 0));
        if ejected.len() > may_be_out {
            ejected.sort_unstable();
            usable.extend(ejected.iter().skip(may_be_out).map(|(_, index)| *index));
            usable.sort_unstable();
        }
        usable
    }

    /// Compiles the tiers anew if the condition changed. Others go on with what is there meanwhile. `now_ms`: of a pick.
    #[cold]
    fn refresh(&self, now_ms: Option<u64>) {
        let _guard = match self.refreshing.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // read before the flags: a change after this line moves the epoch again
        let epoch = health_epoch();
        let mut usable = self.usable_nodes();
        let all_serve = usable.is_empty() && !self.settings.fail_when_none;
        if self.nodes.len() > 1 && all_serve && self.epoch.load(Ordering::Relaxed) != epoch {
            tracing::warn!("all upstream nodes is unhealthy, use default");
        }
        if all_serve {
            usable = (0..self.nodes.len() as u32).collect();
        }
        let warming = match (&self.settings.slow_start, now_ms) {
            (Some(slow_start), Some(now_ms)) => slow_start.look(&self.nodes, now_ms),
            (Some(_), None) => Warming::default(),
            (None, _) => Warming { due_ms: u64::MAX, ..Warming::default() },
        };
        let mut nodes = Tried::new();
        usable.iter().for_each(|index| nodes.insert(*index));
        let zone = self.settings.zone.as_ref();
        let spilled = zone.map(|zone| zone.spilled(&self.nodes, |index| nodes.contains(index))).unwrap_or_default();
        let degraded = usable.len() < self.nodes.len() || !warming.percents.is_empty() || !spilled.is_empty();
        let condition = Condition { nodes, percents: warming.percents, spilled };
        // the epoch is the process's: mostly it moved for another upstream, and rotations should not begin anew for that
        let same = degraded && self.usable.load().as_ref().is_some_and(|before| before.condition == condition);
        if degraded && !same {
            let chash = self.algorithm == Algorithm::Chash;
            let everybody: Vec<u32> = if chash { (0..self.nodes.len() as u32).collect() } else { Vec::new() };
            let plan = TierPlan {
                settings: &self.settings,
                nodes: &self.nodes,
                members: if chash { &everybody } else { &usable },
                percents: &condition.percents,
                spilled: &condition.spilled,
                start: self.settings.start.wrapping_add(epoch).wrapping_add(now_ms.unwrap_or(0)),
            };
            let tiers = (!chash || !plan.spilled.is_empty()).then(|| Tiers::build(&plan));
            self.usable.store(Some(Usable { condition, tiers }.into()));
        }
        self.degraded.store(degraded, Ordering::Release);
        if !degraded {
            self.usable.store(None);
        }
        self.due_ms.store(warming.due_ms, Ordering::Relaxed);
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Ends an attempt: releases the node's place and takes in what was learned. Without `ok` it releases only; a failure is
    /// told by [`Held::failed`].
    pub fn done(&self, index: u32, outcome: &Outcome) {
        let Some(node) = self.nodes.get(index as usize) else { return };
        if self.algorithm.counts() {
            node.state.leave();
        }
        match self.algorithm {
            Algorithm::Ewma if outcome.ok => ewma::sample(&node.state.ewma, outcome.latency, outcome.now_ms),
            Algorithm::P2c if outcome.ok => {
                node.state.measured.latency(outcome.latency, outcome.now_ms, false);
                node.state.measured.attempt(false, outcome.now_ms);
            }
            _ => {}
        }
    }

    /// Gives the node's place back when dropped, for a request that may be cancelled at any await.
    pub fn hold(&self, picked: &Picked<'_>) -> Held<'_> {
        Held { balancer: self, index: picked.index }
    }
}

/// A place on a node, given back on drop or by [`Held::done`].
#[derive(Debug)]
pub struct Held<'a> {
    balancer: &'a Balancer,
    index: u32,
}

impl Held<'_> {
    /// Ends the attempt with an answer: its status counts for `adaptive`, and what the node says of its load.
    pub fn answered(self, status: u16, load: Option<f32>, outcome: &Outcome) {
        if self.balancer.algorithm == Algorithm::Adaptive
            && let Some(node) = self.balancer.nodes.get(self.index as usize)
        {
            let failed = status >= 500;
            node.state.measured.latency(outcome.latency, outcome.now_ms, failed);
            node.state.measured.attempt(failed, outcome.now_ms);
            if let Some(load) = load {
                node.state.measured.report(load, outcome.now_ms);
            }
        }
        self.done(outcome);
    }

    /// Ends an attempt that failed without an answer, by the node's fault.
    pub fn failed(self, now_ms: u64) {
        if matches!(self.balancer.algorithm, Algorithm::P2c | Algorithm::Adaptive)
            && let Some(node) = self.balancer.nodes.get(self.index as usize)
        {
            node.state.measured.attempt(true, now_ms);
        }
    }

    /// Ends the attempt with what was learned.
    pub fn done(self, outcome: &Outcome) {
        self.balancer.done(self.index, outcome);
        std::mem::forget(self);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.balancer.done(self.index, &Outcome { latency: Duration::ZERO, ok: false, now_ms: 0 });
    }
}

#[cfg(test)]
mod tests;
