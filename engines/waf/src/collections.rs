//! The values of a transaction: what the message brought, and what rules wrote.

use crate::arena::{Arena, Span};
use crate::ruleset::{Names, Slot};
use crate::transformation::{ChainId, Chains, UNCHANGED};
use crate::variable::{Selector, Target, Variable};
use smallvec::SmallVec;

/// A member of a collection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub name: Span,
    pub value: Span,
}

pub(crate) type Bytes = SmallVec<[u8; 24]>;

#[derive(Default)]
pub(crate) struct Collections {
    pub arena: Arena,
    members: Vec<Member>,
    /// Members by variable, in the order of the message.
    by_variable: Vec<Vec<u32>>,
    /// What chains made of a member's value.
    transformed: Vec<SmallVec<[(ChainId, Span); 6]>>,
    scratch: Vec<u8>,
    tx: Vec<Option<Bytes>>,
    /// Members of writable collections that no rule names by a fixed name.
    written: Vec<(Variable, Box<[u8]>, Bytes)>,
}

impl Collections {
    pub(crate) fn new(names: &Names) -> Collections {
        Collections {
            by_variable: vec![Vec::new(); Variable::ALL.len()],
            tx: vec![None; names.len()],
            ..Collections::default()
        }
    }

    pub(crate) fn add(&mut self, variable: Variable, name: &[u8], value: &[u8]) {
        let (name, value) = (self.arena.push(name), self.arena.push(value));
        self.add_spans(variable, name, value);
    }

    pub(crate) fn add_spans(&mut self, variable: Variable, name: Span, value: Span) {
        let index = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        self.members.push(Member { name, value });
        self.transformed.push(SmallVec::new());
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
        let none = Member { name: Span::default(), value: Span::default() };
        self.members.get(index as usize).copied().unwrap_or(none)
    }

    /// The first value of a variable, of a member where one is named.
    pub(crate) fn first(&self, variable: Variable, name: Option<&[u8]>) -> Option<&[u8]> {
        let sources = if variable.parts().is_empty() { std::slice::from_ref(&variable) } else { variable.parts() };
        let mut members = sources.iter().flat_map(|v| self.of(*v)).map(|i| self.member(*i));
        let found = members.find(|m| name.is_none_or(|n| self.arena.get(m.name).eq_ignore_ascii_case(n)))?;
        Some(self.arena.get(found.value))
    }

    /// A member's value after a chain of transformations; worked out once.
    pub(crate) fn transformed(&mut self, index: u32, chain: ChainId, chains: &Chains) -> Span {
        if chain == UNCHANGED {
            return self.member(index).value;
        }
        let known = self.transformed.get(index as usize).and_then(|t| t.iter().find(|(c, _)| *c == chain));
        if let Some((_, span)) = known {
            return *span;
        }
        let Some((before, transformation)) = chains.last(chain) else { return self.member(index).value };
        let from = self.transformed(index, before, chains);
        let span = self.arena.derive(from, &mut self.scratch, transformation.apply);
        if let Some(list) = self.transformed.get_mut(index as usize) {
            list.push((chain, span));
        }
        span
    }

    pub(crate) fn tx(&self, slot: Slot) -> Option<&[u8]> {
        self.tx.get(slot.0 as usize).and_then(Option::as_deref)
    }

    pub(crate) fn set_tx(&mut self, slot: Slot, value: Option<Bytes>) {
        if let Some(place) = self.tx.get_mut(slot.0 as usize) {
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
            for (slot, value) in self.tx.iter().enumerate() {
                let Some(value) = value else { continue };
                let name = names.name(slot).as_bytes();
                if matches!(target.selector, Selector::All) || target.selector.takes(name) {
                    found.push((name.to_vec(), value.to_vec()));
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
