//! A compiled rule: one link, or several that must all match (`chain`).

use crate::action::{Control, Disruption, SetVar, Severity};
use crate::directive::Place;
use crate::expansion::Expansion;
use crate::operator::Operator;
use crate::transformation::ChainId;
use crate::variable::Targets;

#[derive(Debug)]
pub(crate) struct Rule {
    /// 0 where a marker-like rule has none.
    pub id: u64,
    pub phase: u8,
    pub place: Place,
    pub links: Vec<Link>,
    pub disruption: Disruption,
    pub status: Option<u16>,
    pub log: bool,
    pub audit: bool,
    pub message: Option<Expansion>,
    pub message_text: Box<str>,
    pub log_data: Option<Expansion>,
    pub tags: Vec<Box<str>>,
    pub severity: Option<Severity>,
    pub revision: Box<str>,
    pub version: Box<str>,
    pub skip: u32,
    pub skip_after: Option<Box<str>>,
    /// The position in its phase where `skip_after` leads.
    pub skip_to: Option<usize>,
    /// Nobody asks what it was that matched: it writes no log, captures nothing and names no `MATCHED_VAR`.
    pub quiet: bool,
    /// The set of patterns that decides whether this rule is looked at; none: always.
    pub class: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub targets: Targets,
    /// None: `SecAction`, which always matches.
    pub operator: Option<Operator>,
    pub negated: bool,
    /// The operator and its parameter, as written.
    pub operator_text: Box<str>,
    /// The value after each of these is tested: the last one alone, or all of them for `multiMatch`.
    pub steps: Vec<ChainId>,
    pub capture: bool,
    pub set: Vec<SetVar>,
    pub controls: Vec<Control>,
    pub message: Option<Expansion>,
    pub log_data: Option<Expansion>,
}

impl Rule {
    /// Whether its first link looks at what matched before it.
    pub(crate) fn begins_with_last_match(&self) -> bool {
        self.links.first().is_some_and(Link::tests_last_match)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        let stops = matches!(self.disruption, Disruption::Deny | Disruption::Drop | Disruption::Redirect(_));
        !self.log && !self.audit && !stops && self.links.iter().all(|link| !link.capture && !link.asks_for_match())
    }
}

impl Link {
    fn tests_last_match(&self) -> bool {
        let parameter = self.operator.as_ref().and_then(Operator::parameter);
        self.targets.wanted.iter().any(|t| t.variable.is_last_match())
            || parameter.is_some_and(Expansion::names_last_match)
    }

    fn asks_for_match(&self) -> bool {
        self.tests_last_match() || self.set.iter().flat_map(SetVar::expansions).any(Expansion::names_last_match)
    }
}
