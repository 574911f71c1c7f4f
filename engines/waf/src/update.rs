//! Directives that change rules which were written before (`SecRuleRemoveById`, `SecRuleUpdateTargetByTag`, …).

use crate::action::{self, RuleMatch};
use crate::compile::{Compiler, Item};
use crate::rule::Rule;
use crate::variable::Targets;

impl RuleMatch {
    pub(crate) fn takes(&self, rule: &Rule) -> bool {
        match self {
            RuleMatch::Ids(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&rule.id)),
            RuleMatch::Tag(pattern) => rule.tags.iter().any(|t| pattern.is_match(t.as_bytes())),
            RuleMatch::Message(pattern) => pattern.is_match(rule.message_text.as_bytes()),
        }
    }
}

/// Applies a directive, its name in lower case.
pub(crate) fn apply(compiler: &mut Compiler<'_>, name: &str, args: &[String]) -> Result<(), String> {
    if !crate::directives::all().any(|known| known.eq_ignore_ascii_case(name)) {
        let hint = crate::suggestion::did_you_mean(name, crate::directives::all());
        return Err(format!("unknown directive {name}{hint}"));
    }
    let first = args.first().ok_or("rules are missing")?;
    let rules = match name {
        n if n.ends_with("byid") && n.contains("remove") => RuleMatch::ids(&args.join(" "))?,
        n if n.ends_with("byid") => RuleMatch::ids(first)?,
        n if n.ends_with("bytag") => RuleMatch::tag(first)?,
        n if n.ends_with("bymsg") => RuleMatch::message(first)?,
        _ => return Err(format!("unknown directive {name}")),
    };
    if name.starts_with("secruleremove") {
        compiler.items.retain(|item| !matches!(item, Item::Rule(rule) if rules.takes(rule)));
        return Ok(());
    }
    let change = args.get(1).ok_or("what to change is missing")?;
    if name.starts_with("secruleupdatetarget") {
        let targets = Targets::parse(change)?;
        for rule in matching(compiler, &rules) {
            if let Some(link) = rule.links.first_mut() {
                link.targets.wanted.extend(targets.wanted.iter().cloned());
                link.targets.excluded.extend(targets.excluded.iter().cloned());
            }
        }
        return Ok(());
    }
    if name != "secruleupdateactionbyid" {
        return Err(format!("unknown directive {name}"));
    }
    let (actions, _) = action::parse(change, &mut compiler.names)?;
    let message = (!actions.message_text.is_empty()).then(|| compiler.expansion(&actions.message_text));
    for rule in matching(compiler, &rules) {
        if let Some(disruption) = &actions.disruption {
            rule.disruption = disruption.clone();
        }
        rule.status = actions.status.or(rule.status);
        rule.log = actions.log.unwrap_or(rule.log);
        rule.audit = actions.audit.unwrap_or(rule.audit);
        rule.severity = actions.severity.or(rule.severity);
        rule.tags.extend(actions.tags.iter().cloned());
        if message.is_some() {
            rule.message.clone_from(&message);
        }
        if let Some(link) = rule.links.last_mut() {
            link.set.extend(actions.set.iter().cloned());
            link.controls.extend(actions.controls.iter().cloned());
        }
    }
    Ok(())
}

fn matching<'a>(compiler: &'a mut Compiler<'_>, rules: &'a RuleMatch) -> impl Iterator<Item = &'a mut Rule> {
    compiler.items.iter_mut().filter_map(|item| match item {
        Item::Rule(rule) if rules.takes(rule) => Some(&mut **rule),
        _ => None,
    })
}
