//! The balancer of one upstream: compiled from its nodes, shared by all workers, never changed.
//!
//! The surprise: health is not looked up per pick. While all nodes are up the tiers compiled at build time serve; when
//! [`health_epoch`] moved and other nodes are up than before, the next pick compiles tiers of these, so that their shares
//! stay exact. All down means all are used (apisix/balancer.lua), or none where [`BalancerSettings::fail_when_none`] says so.
//! `chash` keeps its full ring and steps over who is down, so that keys of others do not move.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use smallvec::SmallVec;

use crate::chash::{Chash, MAX_POINTS};
use crate::endpoint::{Endpoint, health_epoch};
use crate::ewma::{self, Ewma};
use crate::hash_key::HashKey;
use crate::least_conn::LeastConn;
use crate::priority::Tiers;
use crate::random::Random;
use crate::roundrobin::RoundRobin;
use crate::tried::Tried;

/// An upstream's `type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    #[default]
    RoundRobin,
    Chash,
    LeastConn,
    Ewma,
    Random,
}

impl Algorithm {
    /// By APISIX's name (`random` is ours).
    pub fn parse(name: &str) -> Result<Algorithm, BalancerError> {
        Ok(match name {
            "roundrobin" => Algorithm::RoundRobin,
            "chash" => Algorithm::Chash,
            "least_conn" => Algorithm::LeastConn,
            "ewma" => Algorithm::Ewma,
            "random" => Algorithm::Random,
            other => return Err(BalancerError::UnknownType(other.to_owned())),
        })
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
        }
    }
}

/// What one pick may depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickInput<'a> {
    /// From [`crate::hash_key()`]; only `chash` needs it.
    pub hash_key: Option<&'a [u8]>,
    /// 64 random bits; `random`, `ewma` and `least_conn` need them.
    pub random: u64,
    /// Milliseconds of a monotonic clock; `ewma` needs it.
    pub now_ms: u64,
    /// Number of the worker, for its own round robin counter.
    pub worker: u16,
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
}

impl Picker {
    pub(crate) fn build(settings: &BalancerSettings, nodes: &[Endpoint], members: &[u32], start: u64) -> Picker {
        match (settings.algorithm, members) {
            // a ring of one node without weight has no points; everyone else takes a lone node as it is
            (algorithm, [only]) if algorithm != Algorithm::Chash => Picker::Single(*only),
            (Algorithm::RoundRobin, _) => {
                Picker::RoundRobin(RoundRobin::build(nodes, members, settings.counters, start))
            }
            (Algorithm::Chash, _) => Picker::Chash(Chash::build(nodes, members, settings.chash_max_points)),
            (Algorithm::LeastConn, _) => Picker::LeastConn(LeastConn::build(nodes, members)),
            (Algorithm::Ewma, _) => Picker::Ewma(Ewma::build(nodes, members)),
            (Algorithm::Random, _) => Picker::Random(Random::build(nodes, members)),
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
        }
    }
}

/// What is left while some nodes are out.
#[derive(Debug)]
struct Usable {
    /// A set of indexes, whatever the type's name says.
    nodes: Tried,
    /// Of these nodes alone; `None` for `chash`, which walks its full ring.
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
    degraded: AtomicBool,
    usable: ArcSwapOption<Usable>,
    refreshing: Mutex<()>,
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
        let balancer = Balancer {
            algorithm: settings.algorithm,
            all: Tiers::build(settings, &unique, &members, settings.start),
            nodes: unique.into(),
            epoch: AtomicU64::new(0),
            degraded: AtomicBool::new(false),
            usable: ArcSwapOption::empty(),
            refreshing: Mutex::new(()),
            settings: settings.clone(),
        };
        balancer.refresh();
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
        let index = if lone { 0 } else { self.pick_index(input, tried)? };
        let endpoint = self.nodes.get(index as usize)?;
        if self.algorithm == Algorithm::LeastConn {
            endpoint.state.enter();
        }
        Some(Picked { index, endpoint })
    }

    #[inline]
    fn pick_index(&self, input: &PickInput<'_>, tried: &Tried) -> Option<u32> {
        if self.epoch.load(Ordering::Acquire) != health_epoch() {
            self.refresh();
        }
        if !self.degraded.load(Ordering::Acquire) {
            return self.all.pick(&self.nodes, input, tried, None);
        }
        match self.usable.load().as_deref() {
            Some(Usable { tiers: Some(tiers), .. }) => tiers.pick(&self.nodes, input, tried, None),
            Some(Usable { tiers: None, nodes }) => self.all.pick(&self.nodes, input, tried, Some(nodes)),
            None => self.all.pick(&self.nodes, input, tried, None),
        }
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

    /// Compiles the tiers of the usable nodes if they changed. Others go on with what is there meanwhile.
    #[cold]
    fn refresh(&self) {
        let _guard = match self.refreshing.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // read before the flags: a change after this line moves the epoch again
        let epoch = health_epoch();
        let usable = self.usable_nodes();
        let all_serve = usable.is_empty() && !self.settings.fail_when_none;
        let degraded = usable.len() < self.nodes.len() && !all_serve;
        let mut nodes = Tried::new();
        usable.iter().for_each(|index| nodes.insert(*index));
        // the epoch is the process's: mostly it moved for another upstream, and rotations should not begin anew for that
        let same = degraded && self.usable.load().as_ref().is_some_and(|before| before.nodes == nodes);
        if degraded && !same {
            let start = self.settings.start.wrapping_add(epoch);
            let tiers =
                (self.algorithm != Algorithm::Chash).then(|| Tiers::build(&self.settings, &self.nodes, &usable, start));
            self.usable.store(Some(Usable { nodes, tiers }.into()));
        }
        if self.nodes.len() > 1 && usable.is_empty() && all_serve && self.epoch.load(Ordering::Relaxed) != epoch {
            tracing::warn!("all upstream nodes is unhealthy, use default");
        }
        self.degraded.store(degraded, Ordering::Release);
        if !degraded {
            self.usable.store(None);
        }
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Ends an attempt: releases the node's place and takes in what was learned. A failed attempt releases only.
    pub fn done(&self, index: u32, outcome: &Outcome) {
        let Some(node) = self.nodes.get(index as usize) else { return };
        match self.algorithm {
            Algorithm::LeastConn => node.state.leave(),
            Algorithm::Ewma if outcome.ok => ewma::sample(&node.state.ewma, outcome.latency, outcome.now_ms),
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
