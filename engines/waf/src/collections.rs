//! The values of a transaction: what the message brought, and what rules wrote.

use crate::arena::{Arena, Span};
use crate::ruleset::{Names, Slot};
use crate::transformation::{ChainId, Chains, Kinds, kinds};
use crate::variable::{Target, Variable};
use smallvec::SmallVec;

/// A member of a collection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Member {
    pub name: Span,
    pub value: Span,
    /// Of the value; 0 until somebody asks.
    kinds: Kinds,
    /// What chains made of the value: the last one that was worked out, by its place in `made` plus one.
    made: u32,
}

/// What a chain made of a member's value.
#[derive(Clone, Copy)]
struct Made {
    chain: ChainId,
    span: Span,
    kinds: Kinds,
    /// The one before, as in [`Member::made`].
    before: u32,
}

pub(crate) type Bytes = SmallVec<[u8; 24]>;

#[derive(Default)]
pub(crate) struct Collections {
    pub arena: Arena,
    members: Vec<Member>,
    /// Members by variable, in the order of the message.
    by_variable: Vec<Vec<u32>>,
    made: Vec<Made>,
    scratch: Vec<u8>,
    tx: Vec<Option<Bytes>>,
    /// The members of `TX` that were ever set.
    tx_used: Vec<u32>,
    /// Members of writable collections that no rule names by a fixed name.
    written: Vec<(Variable, Box<[u8]>, Bytes)>,
}

/// Bytes of a transaction's values that are kept for the next one.
const KEPT: usize = 256 << 10;

impl Collections {
    /// Empty, as large as these names want it; what was allocated before is used again.
    pub(crate) fn prepare(&mut self, names: &Names) {
        self.members.clear();
        self.made.clear();
        self.by_variable.resize_with(Variable::ALL.len(), Vec::new);
        self.by_variable.iter_mut().for_each(Vec::clear);
        for slot in self.tx_used.drain(..) {
            if let Some(place) = self.tx.get_mut(slot as usize) {
                *place = None;
            }
        }
        self.tx.resize(names.len(), None);
        self.written.clear();
    }

    /// Forgets values; a large body's memory is not kept.
    pub(crate) fn release(&mut self) {
        self.arena.clear(KEPT);
        self.scratch.clear();
        self.scratch.shrink_to(KEPT);
    }

    pub(crate) fn add(&mut self, variable: Variable, name: &[u8], value: &[u8]) {
        let (name, value) = (self.arena.push(name), self.arena.push(value));
        self.add_spans(variable, name, value);
    }

    pub(crate) fn add_spans(&mut self, variable: Variable, name: Span, value: Span) {
        let index = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        self.members.push(Member { name, value, ..Member::default() });
        if let Some(list) = self.by_variable.get_mut(variable as usize) {
            list.push(index);
        }
    }

    /// A scalar.
    pub(crate) fn set(&mut self, variable: Variable, value: &[u8]) {
        if let Some(list) = self.by_variable.get_mut(variable as usize) {
            list.clear();
        }
        self.add(variable, b"", value);
    }

    pub(crate) fn of(&self, variable: Variable) -> &[u32] {
        self.by_variable.get(variable as usize).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn member(&self, index: u32) -> Member {
        self.members.get(index as usize).copied().unwrap_or_default()
    }

    /// The first value of a variable, of a member where one is named.
    pub(crate) fn first(&self, variable: Variable, name: Option<&[u8]>) -> Option<&[u8]> {
        let sources = if variable.parts().is_empty() { std::slice::from_ref(&variable) } else { variable.parts() };
        let mut members = sources.iter().flat_map(|v| self.of(*v)).map(|i| self.member(*i));
        let found = members.find(|m| name.is_none_or(|n| self.arena.get(m.name).eq_ignore_ascii_case(n)))?;
        Some(self.arena.get(found.value))
    }

    /// The kinds of bytes of a member's value.
    pub(crate) fn kinds(&mut self, index: u32) -> Kinds {
        let member = self.member(index);
        if member.kinds != 0 {
            return member.kinds;
        }
        let found = kinds(self.arena.get(member.value));
        if let Some(member) = self.members.get_mut(index as usize) {
            member.kinds = found;
        }
        found
    }

    /// A member's value after a chain of transformations; worked out once.
    pub(crate) fn transformed(&mut self, index: u32, chain: ChainId, chains: &Chains) -> Span {
        let kinds = self.kinds(index);
        self.derived(index, kinds, chain, chains).0
    }

    fn derived(&mut self, index: u32, raw: Kinds, chain: ChainId, chains: &Chains) -> (Span, Kinds) {
        let member = self.member(index);
        let Some(link) = chains.last(chain).filter(|link| link.triggers & raw != 0) else {
            return (member.value, raw);
        };
        let mut at = member.made;
        while let Some(made) = at.checked_sub(1).and_then(|i| self.made.get(i as usize)) {
            if made.chain == chain {
                return (made.span, made.kinds);
            }
            at = made.before;
        }
        let (from, of_from) = self.derived(index, raw, link.before, chains);
        let (span, found) = if of_from & link.transformation.triggers == 0 {
            (from, of_from)
        } else {
            let span = self.arena.derive(from, &mut self.scratch, link.transformation.apply);
            (span, if span == from { of_from } else { kinds(self.arena.get(span)) })
        };
        if let Some(member) = self.members.get_mut(index as usize) {
            self.made.push(Made { chain, span, kinds: found, before: member.made });
            member.made = u32::try_from(self.made.len()).unwrap_or(0);
        }
        (span, found)
    }

    pub(crate) fn tx(&self, slot: Slot) -> Option<&[u8]> {
        self.tx.get(slot.0 as usize).and_then(Option::as_deref)
    }

    pub(crate) fn set_tx(&mut self, slot: Slot, value: Option<Bytes>) {
        if let Some(place) = self.tx.get_mut(slot.0 as usize) {
            if place.is_none() && value.is_some() {
                self.tx_used.push(slot.0);
            }
            *place = value;
        }
    }

    pub(crate) fn written(&self, variable: Variable, name: &[u8]) -> Option<&[u8]> {
        let found = self.written.iter().find(|(v, n, _)| *v == variable && n.eq_ignore_ascii_case(name));
        found.map(|(_, _, value)| value.as_slice())
    }

    pub(crate) fn write(&mut self, variable: Variable, name: &[u8], value: Option<Bytes>) {
        self.written.retain(|(v, n, _)| *v != variable || !n.eq_ignore_ascii_case(name));
        if let Some(value) = value {
            self.written.push((variable, name.into(), value));
        }
    }

    /// Members of a writable collection that a target takes.
    pub(crate) fn writable(&self, target: &Target, names: &Names) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        if target.variable == Variable::Tx {
            for slot in &target.slots {
                if let Some(value) = self.tx(*slot) {
                    found.push((names.name(slot.0 as usize).as_bytes().to_vec(), value.to_vec()));
                }
            }
        }
        for (variable, name, value) in &self.written {
            if *variable == target.variable && target.selector.takes(name) {
                found.push((name.to_vec(), value.to_vec()));
            }
        }
        found
    }
}
