//! Everything compiled: rules by phase, in their order, and what they share.

use crate::prefilter::Prefilter;
use crate::rule::Rule;
use crate::settings::Settings;
use crate::transformation::Chains;
use std::collections::HashMap;

/// A member of `TX` by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot(pub u32);

/// The members of `TX` that rules name. They have numbers, so that a transaction keeps them in a vector; the first ten
/// are the groups of the last match.
#[derive(Debug)]
pub(crate) struct Names {
    slots: HashMap<Box<str>, Slot>,
    names: Vec<Box<str>>,
}

impl Names {
    pub(crate) fn new() -> Names {
        let mut names = Names { slots: HashMap::new(), names: Vec::new() };
        for group in 0..10 {
            names.slot(&group.to_string());
        }
        names
    }

    /// Case is ignored.
    pub(crate) fn slot(&mut self, name: &str) -> Slot {
        let name = name.trim().to_ascii_lowercase();
        if let Some(slot) = self.slots.get(name.as_str()) {
            return *slot;
        }
        let slot = Slot(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        self.names.push(name.clone().into());
        self.slots.insert(name.into(), slot);
        slot
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<Slot> {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        self.slots.get(name.as_str()).copied()
    }

    pub(crate) fn name(&self, slot: usize) -> &str {
        self.names.get(slot).map_or("", |n| n)
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

pub(crate) struct PhaseRules {
    pub rules: Vec<Rule>,
    pub prefilter: Prefilter,
}

/// Compiled rules; shared by all transactions.
pub struct Ruleset {
    pub(crate) settings: Settings,
    pub(crate) names: Names,
    pub(crate) chains: Chains,
    pub(crate) phases: [PhaseRules; 5],
    pub(crate) notices: Vec<String>,
}

impl Ruleset {
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Directives and actions that have no effect here, with their places.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    pub fn rule_count(&self) -> usize {
        self.phases.iter().map(|p| p.rules.len()).sum()
    }

    pub(crate) fn phase(&self, phase: u8) -> Option<&PhaseRules> {
        usize::from(phase).checked_sub(1).and_then(|i| self.phases.get(i))
    }
}

impl std::fmt::Debug for Ruleset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ruleset").field("rules", &self.rule_count()).finish_non_exhaustive()
    }
}
