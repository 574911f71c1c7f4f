//! What `ctl:` changed for one transaction.

use crate::action::{Control, RuleMatch};
use crate::rule::Rule;
use crate::settings::{AuditEngine, EngineMode, Settings};
use crate::variable::{Targets, Variable};

pub(crate) struct Controls {
    pub engine: EngineMode,
    pub request_body: bool,
    pub response_body: bool,
    pub force_request_body: bool,
    pub body_processor: Option<Box<str>>,
    pub audit: AuditEngine,
    /// Instead of those of the settings.
    pub audit_parts: Option<Box<str>>,
    removed: Vec<RuleMatch>,
    removed_targets: Vec<(RuleMatch, Targets)>,
}

impl Controls {
    pub(crate) fn new(settings: &Settings) -> Controls {
        Controls {
            engine: settings.engine,
            request_body: settings.request_body,
            response_body: settings.response_body,
            force_request_body: false,
            body_processor: None,
            audit: settings.audit,
            audit_parts: None,
            removed: Vec::new(),
            removed_targets: Vec::new(),
        }
    }

    pub(crate) fn take(&mut self, control: &Control, settings: &Settings) {
        match control {
            Control::Engine(mode) => self.engine = *mode,
            Control::RemoveRules(rules) => self.removed.push(rules.clone()),
            Control::RemoveTarget(rules, targets) => self.removed_targets.push((rules.clone(), targets.clone())),
            Control::BodyProcessor(name) => self.body_processor = Some(name.clone()),
            Control::ForceRequestBody(on) => self.force_request_body = *on,
            Control::RequestBodyAccess(on) => self.request_body = *on,
            Control::ResponseBodyAccess(on) => self.response_body = *on,
            Control::Audit(audit) => self.audit = *audit,
            Control::AuditParts(change) => {
                let parts = self.audit_parts.as_deref().unwrap_or(&settings.audit_parts);
                self.audit_parts = Some(match (change.strip_prefix('+'), change.strip_prefix('-')) {
                    (Some(more), _) => format!("{parts}{more}").into(),
                    (_, Some(less)) => parts.chars().filter(|part| !less.contains(*part)).collect::<String>().into(),
                    _ => change.clone(),
                });
            }
        }
    }

    pub(crate) fn is_removed(&self, rule: &Rule) -> bool {
        self.removed.iter().any(|r| r.takes(rule))
    }

    pub(crate) fn hides_any(&self) -> bool {
        !self.removed_targets.is_empty()
    }

    pub(crate) fn hides(&self, rule: &Rule, variable: Variable, name: &[u8]) -> bool {
        self.removed_targets
            .iter()
            .any(|(rules, targets)| targets.wanted.iter().any(|t| t.covers(variable, name)) && rules.takes(rule))
    }
}
