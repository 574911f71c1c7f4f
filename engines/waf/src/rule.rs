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
