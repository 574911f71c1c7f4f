//! Macros in texts: `%{tx.score}`, `%{MATCHED_VAR_NAME}`, `%{rule.id}`. What is not known expands to nothing.

use crate::ruleset::{Names, Slot};
use crate::variable::Variable;

#[derive(Clone, Debug)]
pub(crate) struct Expansion {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
pub(crate) enum Part {
    Text(Box<[u8]>),
    Tx(Slot),
    /// Lower case, where the collection has members.
    Variable(Variable, Option<Box<[u8]>>),
    Rule(RuleField),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum RuleField {
    Id,
    Message,
    Severity,
    Revision,
    LogData,
}

impl Expansion {
    pub(crate) fn parse(text: &str, names: &mut Names) -> Expansion {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("%{") {
            let Some((name, after)) = after.split_once('}') else { break };
            if !before.is_empty() {
                parts.push(Part::Text(before.as_bytes().into()));
            }
            parts.extend(part(name, names));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.as_bytes().into()));
        }
        Expansion { parts }
    }

    /// The text, where it has no macro.
    pub(crate) fn fixed(&self) -> Option<&[u8]> {
        match self.parts.as_slice() {
            [] => Some(b""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    pub(crate) fn names_last_match(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Variable(variable, _) if variable.is_last_match()))
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

fn part(name: &str, names: &mut Names) -> Option<Part> {
    let (collection, member) = match name.split_once(['.', ':']) {
        Some((collection, member)) => (collection, Some(member)),
        None => (name, None),
    };
    if collection.eq_ignore_ascii_case("tx") {
        return Some(Part::Tx(names.slot(member?)));
    }
    if collection.eq_ignore_ascii_case("rule") {
        let field = match member?.to_ascii_lowercase().as_str() {
            "id" => RuleField::Id,
            "msg" => RuleField::Message,
            "severity" => RuleField::Severity,
            "rev" => RuleField::Revision,
            "logdata" => RuleField::LogData,
            _ => return None,
        };
        return Some(Part::Rule(field));
    }
    let variable = Variable::from_name(collection)?;
    Some(Part::Variable(variable, member.map(|m| m.to_ascii_lowercase().into_bytes().into())))
}
