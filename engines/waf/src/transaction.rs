//! One request through the phases: headers (1), body (2), the answer's headers (3), its body (4), logging (5).

use crate::action::{AllowScope, Disruption, Severity};
use crate::arena::Span;
use crate::controls::Controls;
use crate::pool::Workspace;
use crate::rule::Rule;
use crate::ruleset::Ruleset;
use crate::settings::EngineMode;
use crate::variable::Variable;
use std::sync::Arc;
use std::time::Instant;

/// What stops a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervention {
    /// The status to answer; 403 where the rule says none.
    pub status: u16,
    pub rule: u64,
    pub phase: u8,
    pub redirect: Option<String>,
    /// The connection is to be closed without an answer.
    pub drop: bool,
    /// The rule's message.
    pub message: String,
}

/// A rule that matched.
#[derive(Clone, Debug)]
pub struct Hit {
    pub rule: u64,
    pub phase: u8,
    pub message: String,
    pub data: String,
    /// The operator and its parameter, as written.
    pub operator: Box<str>,
    /// The last variable that matched, as `ARGS:name`.
    pub variable: String,
    pub value: String,
    pub severity: Option<Severity>,
    pub tags: Vec<Box<str>>,
    pub file: Arc<str>,
    pub line: usize,
    pub version: Box<str>,
    pub revision: Box<str>,
    /// Whether it goes to the error log.
    pub log: bool,
    /// Whether it makes an entry of the audit log.
    pub audit: bool,
    /// Whether it stopped the request.
    pub disruptive: bool,
}

/// The last match of a rule, for macros and `MATCHED_VARS`.
#[derive(Default)]
pub(crate) struct Matched {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
    pub all: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A request as rules see it.
pub struct Transaction {
    pub(crate) rules: Arc<Ruleset>,
    /// Memory that the next transaction of this thread uses again.
    pub(crate) space: Workspace,
    pub(crate) controls: Controls,
    pub(crate) matched: Matched,
    pub(crate) begun: Instant,
    pub(crate) highest_severity: Option<Severity>,
    /// The query has more arguments than the limit allows.
    pub(crate) query_cut: bool,
    hits: Vec<Hit>,
    intervention: Option<Intervention>,
    allowed: Option<AllowScope>,
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("hits", &self.hits.len()).finish_non_exhaustive()
    }
}

impl Transaction {
    pub fn new(rules: Arc<Ruleset>) -> Transaction {
        Transaction {
            space: Workspace::take(&rules.names),
            controls: Controls::new(&rules.settings),
            rules,
            matched: Matched::default(),
            begun: Instant::now(),
            highest_severity: None,
            query_cut: false,
            hits: Vec::new(),
            intervention: None,
            allowed: None,
        }
    }

    /// Rules that matched so far, those that are not logged too.
    pub fn hits(&self) -> &[Hit] {
        &self.hits
    }

    pub fn intervention(&self) -> Option<&Intervention> {
        self.intervention.as_ref()
    }

    pub fn settings(&self) -> &crate::Settings {
        &self.rules.settings
    }

    /// Whether rules stop requests, rather than only speak of them.
    pub fn enforces(&self) -> bool {
        self.controls.engine == EngineMode::On
    }

    /// A member of `TX`.
    pub fn tx(&self, name: &str) -> Option<&[u8]> {
        self.rules.names.find(name.as_bytes()).and_then(|slot| self.space.values.tx(slot))
    }

    /// Bytes of the request's body that are looked at; a body that can hold no files has a limit of its own.
    pub fn request_body_limit(&self) -> usize {
        let settings = &self.rules.settings;
        let processor = self.space.values.first(Variable::ReqbodyProcessor, None);
        match processor {
            Some(b"MULTIPART") => settings.request_body_limit,
            _ => settings.request_body_limit.min(settings.request_body_no_files_limit),
        }
    }

    /// Whether rules still ask to see the request's body.
    pub fn wants_request_body(&self) -> bool {
        self.controls.engine != EngineMode::Off && self.controls.request_body && self.allowed.is_none()
    }

    /// Whether rules ask to see the body of an answer with this media type.
    pub fn wants_response_body(&self, content_type: &[u8]) -> bool {
        let media = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        let types = &self.rules.settings.response_body_types;
        self.controls.engine != EngineMode::Off
            && self.controls.response_body
            && self.allowed != Some(AllowScope::Transaction)
            && types.iter().any(|t| t.as_bytes().eq_ignore_ascii_case(media))
    }

    /// Whether the transaction makes an entry of the audit log.
    pub fn is_audited(&self, status: u16) -> bool {
        use crate::settings::AuditEngine;
        let relevant = || self.rules.settings.audit_relevant.as_ref().is_some_and(|r| r.matches(status));
        match self.controls.audit {
            AuditEngine::On => true,
            AuditEngine::Off => false,
            AuditEngine::RelevantOnly => relevant() || self.hits.iter().any(|h| h.audit),
        }
    }

    /// The parts that an entry of the audit log has.
    pub fn audit_parts(&self) -> &str {
        self.controls.audit_parts.as_deref().unwrap_or(&self.rules.settings.audit_parts)
    }

    /// The answer's body, as far as rules could see it.
    pub fn seen_response_body(&self) -> &[u8] {
        self.space.values.first(Variable::ResponseBody, None).unwrap_or_default()
    }

    /// Arguments of the request's body, without the contents of files.
    pub fn body_arguments(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.members(Variable::ArgsPost)
    }

    /// Files of the request's body: field, name, bytes.
    pub fn files(&self) -> impl Iterator<Item = (&[u8], &[u8], u64)> {
        let sizes = self.members(Variable::FilesSizes);
        let sizes = sizes.map(|(_, size)| u64::try_from(crate::operator::number(size)).unwrap_or_default());
        self.members(Variable::Files).zip(sizes).map(|((field, name), size)| (field, name, size))
    }

    /// Lines of the head of the body's part with this name.
    pub fn part_headers(&self, part: &[u8]) -> impl Iterator<Item = &[u8]> {
        self.members(Variable::MultipartPartHeaders).filter(move |(name, _)| *name == part).map(|(_, line)| line)
    }

    /// Names and values of a collection.
    fn members(&self, variable: Variable) -> impl Iterator<Item = (&[u8], &[u8])> {
        let values = &self.space.values;
        let members = values.of(variable).iter().map(|index| values.member(*index));
        members.map(|member| (values.arena.get(member.name), values.arena.get(member.value)))
    }

    /// Runs a phase, 1 to 5; an intervention is for the caller to carry out.
    pub fn run(&mut self, phase: u8) -> Option<&Intervention> {
        let skipped = match self.allowed {
            Some(AllowScope::Transaction) => phase != 5,
            Some(AllowScope::Request) => phase < 3,
            Some(AllowScope::Phase) | None => false,
        };
        let stopped = self.intervention.is_some() && phase != 5;
        if self.controls.engine == EngineMode::Off || skipped || stopped {
            return self.intervention.as_ref();
        }
        let rules = self.rules.clone();
        if let Some(set) = rules.phase(phase) {
            if phase == 2 {
                self.process_request_body();
            }
            self.space.done.clear();
            self.space.done.resize(set.prefilter.classes.len(), false);
            self.space.visit.copy(&set.prefilter.all);
            let mut at = 0;
            while let Some(position) = self.space.visit.next(at) {
                at = position + 1;
                let Some(rule) = set.rules.get(position) else { break };
                if let Some(class) = rule.class {
                    if let Some(done) = self.space.done.get_mut(class).filter(|d| !**d) {
                        *done = true;
                        self.prefilter(&rules, set, class);
                    }
                    if !self.space.visit.has(position) {
                        continue;
                    }
                }
                if self.controls.is_removed(rule) || !self.matches(&rules, rule) {
                    continue;
                }
                if let Some(to) = rule.skip_to {
                    at = to;
                }
                at += rule.skip as usize;
                if self.conclude(rule, phase) {
                    break;
                }
            }
        }
        if self.allowed == Some(AllowScope::Phase) {
            self.allowed = None;
        }
        self.intervention.as_ref()
    }

    /// Takes the rules of a class whose patterns are in no value off the walk.
    fn prefilter(&mut self, rules: &Ruleset, set: &crate::ruleset::PhaseRules, class: usize) {
        let Some(class) = set.prefilter.classes.get(class) else { return };
        let Workspace { values, visit, found, forms, .. } = &mut self.space;
        found.copy(&class.members);
        found.clear();
        for probe in &class.probes {
            for i in 0..values.of(probe.variable).len() {
                let Some(index) = values.of(probe.variable).get(i).copied() else { break };
                if let Some(name) = &probe.member
                    && !values.arena.get(values.member(index).name).eq_ignore_ascii_case(name)
                {
                    continue;
                }
                if values.kinds(index) & probe.triggers == 0 {
                    let span = values.member(index).value;
                    set.prefilter.run(probe.set, values.arena.get(span), found);
                    continue;
                }
                forms.clear();
                for chain in &probe.chains {
                    let span = values.transformed(index, *chain, &rules.chains);
                    let same = |form: &Span| *form == span || values.arena.get(*form) == values.arena.get(span);
                    if !forms.iter().any(same) {
                        forms.push(span);
                        set.prefilter.run(probe.set, values.arena.get(span), found);
                    }
                }
            }
        }
        visit.keep(&class.members, found);
    }

    /// Records a rule that matched and acts on it; says whether the phase ends.
    fn conclude(&mut self, rule: &Rule, phase: u8) -> bool {
        let enforced = self.controls.engine == EngineMode::On;
        let disruptive =
            enforced && matches!(rule.disruption, Disruption::Deny | Disruption::Drop | Disruption::Redirect(_));
        if let Some(severity) = rule.severity {
            self.highest_severity = Some(self.highest_severity.map_or(severity, |s| s.min(severity)));
        }
        let shows = rule.log || rule.audit || disruptive;
        let mut message = String::new();
        if shows {
            let written = rule.message.as_ref().or(rule.links.iter().find_map(|l| l.message.as_ref()));
            let written = written.map(|m| self.expand(m, Some(rule))).unwrap_or_default();
            message = String::from_utf8_lossy(&written).into_owned();
            let data = rule.log_data.as_ref().or(rule.links.iter().find_map(|l| l.log_data.as_ref()));
            let data = data.map(|d| self.expand(d, Some(rule))).unwrap_or_default();
            self.hits.push(Hit {
                rule: rule.id,
                phase,
                message: message.clone(),
                data: shown(&data),
                operator: rule.links.first().map(|l| l.operator_text.clone()).unwrap_or_default(),
                variable: String::from_utf8_lossy(&self.matched.name).into_owned(),
                value: shown(&self.matched.value),
                severity: rule.severity,
                tags: rule.tags.clone(),
                file: rule.place.file.clone(),
                line: rule.place.line,
                version: rule.version.clone(),
                revision: rule.revision.clone(),
                log: rule.log,
                audit: rule.audit,
                disruptive,
            });
        }
        if let Disruption::Allow(scope) = rule.disruption
            && enforced
        {
            self.allowed = Some(scope);
            return true;
        }
        if !disruptive || phase == 5 {
            return false;
        }
        let redirect = match &rule.disruption {
            Disruption::Redirect(to) => Some(to.to_string()),
            _ => None,
        };
        let default = if redirect.is_some() { 302 } else { 403 };
        let fits = |status: &u16| redirect.is_none() || (300..400).contains(status);
        let status = rule.status.filter(fits).unwrap_or(default);
        let drop = matches!(rule.disruption, Disruption::Drop);
        self.intervention = Some(Intervention { status, rule: rule.id, phase, redirect, drop, message });
        true
    }
}

/// Bytes of a value in a log.
const SHOWN: usize = 512;

fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value.get(..SHOWN).unwrap_or(value)).into_owned()
}
