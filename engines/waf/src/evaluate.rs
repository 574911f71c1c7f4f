//! One rule on the values of a transaction: targets, transformations, operator, and what a match writes.

use crate::action::{Change, MemberName, SetVar};
use crate::arena::Span;
use crate::collections::Bytes;
use crate::expansion::{Expansion, Part, RuleField};
use crate::operator::{Captures, Operator, number};
use crate::rule::{Link, Rule};
use crate::ruleset::{Ruleset, Slot};
use crate::transaction::Transaction;
use crate::transformation::{ChainId, kinds};
use crate::variable::{Life, Target, Variable};
use std::borrow::Cow;

/// A link of a rule on its way over values.
#[derive(Clone, Copy)]
struct Test<'a> {
    rules: &'a Ruleset,
    rule: &'a Rule,
    link: &'a Link,
    operator: &'a Operator,
    /// The operator's parameter, expanded.
    parameter: &'a [u8],
}

impl Transaction {
    /// Whether all links of a rule match. What a link writes is written even where a later one does not match, as in
    /// ModSecurity.
    pub(crate) fn matches(&mut self, rules: &Ruleset, rule: &Rule) -> bool {
        self.matched.all.clear();
        rule.links.iter().all(|link| self.link_matches(rules, rule, link))
    }

    fn link_matches(&mut self, rules: &Ruleset, rule: &Rule, link: &Link) -> bool {
        let Some(operator) = &link.operator else {
            self.write(rule, link);
            return true;
        };
        let parameter = match operator.parameter() {
            None => Cow::Borrowed(&[][..]),
            Some(expansion) => match expansion.fixed() {
                Some(text) => Cow::Borrowed(text),
                None => Cow::Owned(self.expand(expansion, Some(rule))),
            },
        };
        let test = Test { rules, rule, link, operator, parameter: &parameter };
        let mut any = false;
        for target in &link.targets.wanted {
            any |= self.target_matches(test, target);
        }
        any
    }

    fn target_matches(&mut self, test: Test<'_>, target: &Target) -> bool {
        let Test { rules, rule, link, operator, parameter } = test;
        if target.count {
            let count = self.count(rules, rule, link, target);
            let mut digits = [0; 20];
            let text = decimal(count, &mut digits);
            if operator.test(text, parameter, false).is_some() == link.negated {
                return false;
            }
            let text = text.to_vec();
            return self.test_one(test, &target.text, &text);
        }
        if let Some(slot) = target.slot {
            let Some(value) = self.space.values.tx(slot) else { return false };
            // the common case: a score or a level is compared as it is
            if matches!(link.steps.as_slice(), [0]) {
                if operator.test(value, parameter, false).is_some() == link.negated {
                    return false;
                }
                if rule.quiet {
                    self.write(rule, link);
                    return true;
                }
            }
            let value = value.to_vec();
            return self.test_moving(test, &target.text, value);
        }
        if target.variable.life() == Life::Moving {
            let mut any = false;
            for (name, value) in self.moving(rules, target) {
                if !link.targets.excludes(target.variable, &name) && !self.controls.hides(rule, target.variable, &name)
                {
                    let shown = full_name(target.variable, &name);
                    any |= self.test_moving(test, &shown, value);
                }
            }
            return any;
        }
        let sources = sources(target.variable);
        let mut any = false;
        for &variable in sources {
            for i in 0..self.space.values.of(variable).len() {
                let Some(index) = self.space.values.of(variable).get(i).copied() else { break };
                if self.takes(rule, link, target, variable, index) {
                    any |= self.test_member(test, target, index);
                }
            }
        }
        any
    }

    fn takes(&self, rule: &Rule, link: &Link, target: &Target, variable: Variable, index: u32) -> bool {
        let name = self.space.values.arena.get(self.space.values.member(index).name);
        if !target.selector.takes(name) {
            return false;
        }
        let excluded = || link.targets.excludes(variable, name) || link.targets.excludes(target.variable, name);
        if !link.targets.excluded.is_empty() && excluded() {
            return false;
        }
        !self.controls.hides_any()
            || !self.controls.hides(rule, variable, name) && !self.controls.hides(rule, target.variable, name)
    }

    fn count(&self, rules: &Ruleset, rule: &Rule, link: &Link, target: &Target) -> usize {
        if let Some(slot) = target.slot {
            return usize::from(self.space.values.tx(slot).is_some());
        }
        if target.variable.life() == Life::Moving {
            let members = self.moving(rules, target);
            return members.iter().filter(|(name, _)| !link.targets.excludes(target.variable, name)).count();
        }
        let members =
            sources(target.variable).iter().flat_map(|v| self.space.values.of(*v).iter().map(move |i| (*v, *i)));
        members.filter(|(v, i)| self.takes(rule, link, target, *v, *i)).count()
    }

    fn test_member(&mut self, test: Test<'_>, target: &Target, index: u32) -> bool {
        let mut before: Option<Span> = None;
        let mut any = false;
        for chain in &test.link.steps {
            let span = self.space.values.transformed(index, *chain, &test.rules.chains);
            if before.replace(span) == Some(span) {
                continue;
            }
            let value = self.space.values.arena.get(span);
            let Some(captures) = test.apply(value) else { continue };
            let value = value.to_vec();
            let name = full_name(target.variable, self.space.values.arena.get(self.space.values.member(index).name));
            self.matched_by(test, &name, value, captures);
            any = true;
        }
        any
    }

    fn test_moving(&mut self, test: Test<'_>, name: &str, value: Vec<u8>) -> bool {
        let mut any = false;
        for chain in &test.link.steps {
            let value = transform(test.rules, *chain, value.clone());
            any |= self.test_one(test, name, &value);
        }
        any
    }

    fn test_one(&mut self, test: Test<'_>, name: &str, value: &[u8]) -> bool {
        let Some(captures) = test.apply(value) else { return false };
        if test.rule.quiet {
            self.write(test.rule, test.link);
            return true;
        }
        self.matched_by(test, name, value.to_vec(), captures);
        true
    }

    fn matched_by(&mut self, test: Test<'_>, name: &str, value: Vec<u8>, captures: Captures) {
        self.matched.name = name.as_bytes().to_vec();
        self.matched.value.clone_from(&value);
        self.matched.all.push((name.as_bytes().to_vec(), value));
        if test.link.capture {
            for group in 0..10u32 {
                let captured = captures.get(group as usize).cloned().flatten();
                self.space.values.set_tx(Slot(group), captured.map(Bytes::from_vec));
            }
        }
        self.write(test.rule, test.link);
    }

    /// What a link does when it matches, besides deciding.
    fn write(&mut self, rule: &Rule, link: &Link) {
        for set in &link.set {
            self.set_var(rule, set);
        }
        for control in &link.controls {
            self.controls.take(control, &self.rules.settings);
            if let crate::action::Control::BodyProcessor(name) = control {
                self.space.values.set(Variable::ReqbodyProcessor, name.as_bytes());
            }
        }
    }

    fn set_var(&mut self, rule: &Rule, set: &SetVar) {
        let name = match &set.name {
            MemberName::Tx(_) => Vec::new(),
            MemberName::Other(expansion) => self.expand(expansion, Some(rule)),
        };
        let slot = match &set.name {
            MemberName::Tx(slot) => Some(*slot),
            MemberName::Other(_) if set.collection == Variable::Tx => self.rules.names.find(&name),
            MemberName::Other(_) => None,
        };
        let old = match slot {
            Some(slot) => self.space.values.tx(slot),
            None => self.space.values.written(set.collection, &name),
        };
        let old = old.map_or(0, number);
        let sum = |n: i64| Some(Bytes::from_slice(n.to_string().as_bytes()));
        let value = match &set.change {
            Change::Unset => None,
            Change::Set(value) => Some(match value.fixed() {
                Some(text) => Bytes::from_slice(text),
                None => Bytes::from_vec(self.expand(value, Some(rule))),
            }),
            Change::Add(value) => sum(old.saturating_add(number(&self.expand(value, Some(rule))))),
            Change::Subtract(value) => sum(old.saturating_sub(number(&self.expand(value, Some(rule))))),
        };
        match slot {
            Some(slot) => self.space.values.set_tx(slot, value),
            None => self.space.values.write(set.collection, &name, value),
        }
    }

    pub(crate) fn expand(&self, expansion: &Expansion, rule: Option<&Rule>) -> Vec<u8> {
        let mut out = Vec::new();
        for part in expansion.parts() {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Tx(slot) => out.extend_from_slice(self.space.values.tx(*slot).unwrap_or_default()),
                Part::Rule(field) => {
                    let Some(rule) = rule else { continue };
                    match field {
                        RuleField::Id => out.extend_from_slice(rule.id.to_string().as_bytes()),
                        RuleField::Message | RuleField::LogData => out.extend_from_slice(rule.message_text.as_bytes()),
                        RuleField::Severity => {
                            out.extend_from_slice(rule.severity.map_or("", crate::Severity::name).as_bytes());
                        }
                        RuleField::Revision => out.extend_from_slice(rule.revision.as_bytes()),
                    }
                }
                Part::Variable(variable, name) => self.expand_variable(*variable, name.as_deref(), &mut out),
            }
        }
        out
    }

    fn expand_variable(&self, variable: Variable, name: Option<&[u8]>, out: &mut Vec<u8>) {
        match variable {
            Variable::MatchedVar => out.extend_from_slice(&self.matched.value),
            Variable::MatchedVarName => out.extend_from_slice(&self.matched.name),
            Variable::MatchedVars => out.extend_from_slice(&self.matched.value),
            Variable::MatchedVarsNames => out.extend_from_slice(&self.matched.name),
            _ if variable.life() == Life::Moving => {
                if let Some(name) = name
                    && let Some(value) = self.space.values.written(variable, name)
                {
                    out.extend_from_slice(value);
                } else if let Some(value) = self.space.values.first(variable, name) {
                    out.extend_from_slice(value);
                }
            }
            _ => out.extend_from_slice(self.space.values.first(variable, name).unwrap_or_default()),
        }
    }

    /// Members of a collection that may change between two rules.
    fn moving(&self, rules: &Ruleset, target: &Target) -> Vec<(Vec<u8>, Vec<u8>)> {
        let one = |value: Vec<u8>| vec![(Vec::new(), value)];
        match target.variable {
            Variable::MatchedVar => one(self.matched.value.clone()),
            Variable::MatchedVarName => one(self.matched.name.clone()),
            Variable::MatchedVars => self.matched.all.clone(),
            Variable::MatchedVarsNames => self.matched.all.iter().map(|(n, _)| (n.clone(), n.clone())).collect(),
            Variable::Duration => one(self.begun.elapsed().as_micros().to_string().into_bytes()),
            Variable::HighestSeverity => one(self.highest_severity.map_or(255, |s| s as u16).to_string().into_bytes()),
            Variable::ReqbodyProcessor => {
                one(self.space.values.first(Variable::ReqbodyProcessor, None).unwrap_or_default().to_vec())
            }
            _ => self.space.values.writable(target, &rules.names),
        }
    }
}

impl Test<'_> {
    /// The operator's answer, turned round where the rule says `!`.
    fn apply(&self, value: &[u8]) -> Option<Captures> {
        match (self.operator.test(value, self.parameter, self.link.capture), self.link.negated) {
            (Some(captures), false) => Some(captures),
            (None, true) => Some(Vec::new()),
            _ => None,
        }
    }
}

fn transform(rules: &Ruleset, chain: ChainId, mut value: Vec<u8>) -> Vec<u8> {
    if rules.chains.triggers(chain) & kinds(&value) == 0 {
        return value;
    }
    for step in rules.chains.beginnings(chain) {
        if let Some(link) = rules.chains.last(step) {
            let mut out = Vec::new();
            if (link.transformation.apply)(&value, &mut out) {
                value = out;
            }
        }
    }
    value
}

/// A number as text, without an allocation.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    for place in digits.iter_mut().rev() {
        *place = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        at -= 1;
        if number == 0 {
            break;
        }
    }
    digits.get(at..).unwrap_or_default()
}

fn sources(variable: Variable) -> &'static [Variable] {
    let parts = variable.parts();
    if parts.is_empty() { Variable::ALL.get(variable as usize..=variable as usize).unwrap_or_default() } else { parts }
}

fn full_name(variable: Variable, member: &[u8]) -> String {
    if member.is_empty() {
        variable.name().to_owned()
    } else {
        format!("{}:{}", variable.name(), String::from_utf8_lossy(member))
    }
}
