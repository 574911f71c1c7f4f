//! What is valid and yet probably not meant: references into nothing, objects nobody uses, doors left open. The surprise:
//! only the files are looked at; what a server may have besides them is not known, so a repository that holds a part of a
//! configuration switches single rules off.
mod rules;

use crate::object::{Key, Object};
use serde::Serialize;
use serde_json::Value;
use sluice_config::problem::ConfigError;
use sluice_plugin::Registry;
use std::collections::HashMap;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// Something found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub rule: &'static str,
    pub severity: Severity,
    #[serde(flatten)]
    pub place: ConfigError,
    /// What to do about it.
    pub hint: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]: {}", self.rule, self.place)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n    {}", self.hint) }
    }
}

/// A rule's name and what it finds.
pub struct Rule {
    pub id: &'static str,
    pub severity: Severity,
    /// What to do about a finding.
    pub hint: &'static str,
    check: fn(&Files<'_>, &mut Found),
}

/// Every rule, in the order in which they run.
pub const RULES: &[Rule] = &[
    Rule {
        id: "missing-reference",
        severity: Severity::Error,
        hint: "add the object, or correct the id",
        check: rules::missing_reference,
    },
    Rule {
        id: "unreachable-route",
        severity: Severity::Warning,
        hint: "give it another path, host, method or condition, or a higher priority; or delete it",
        check: rules::unreachable_route,
    },
    Rule {
        id: "no-upstream",
        severity: Severity::Warning,
        hint: "give it an upstream, or a plugin that answers",
        check: rules::no_upstream,
    },
    Rule { id: "unused", severity: Severity::Warning, hint: "delete it, or refer to it", check: rules::unused },
    Rule {
        id: "nobody-can-pass",
        severity: Severity::Warning,
        hint: "add a consumer with a credential for this plugin",
        check: rules::nobody_can_pass,
    },
    Rule {
        id: "consumer-without-credential",
        severity: Severity::Warning,
        hint: "add a credential, or delete the consumer",
        check: rules::consumer_without_credential,
    },
    Rule {
        id: "plain-secret",
        severity: Severity::Warning,
        hint: "keep it outside: $env://NAME or $secret://MANAGER/ID/KEY",
        check: rules::plain_secret,
    },
    Rule {
        id: "weak-secret",
        severity: Severity::Warning,
        hint: "use at least 16 random characters",
        check: rules::weak_secret,
    },
    Rule {
        id: "tls-not-verified",
        severity: Severity::Warning,
        hint: "switch verification on, with the certificates to trust",
        check: rules::tls_not_verified,
    },
    Rule {
        id: "open-cors",
        severity: Severity::Warning,
        hint: "name the origins that may send credentials",
        check: rules::open_cors,
    },
    Rule { id: "old-tls", severity: Severity::Warning, hint: "allow TLSv1.2 and TLSv1.3 only", check: rules::old_tls },
];

/// The objects of the files.
struct Files<'a> {
    objects: &'a [Object],
    by_key: HashMap<&'a Key, &'a Object>,
    registry: &'a Registry,
    unreachable: &'a [Unreachable],
}

/// A route, or one of its URIs, that no request takes, as the router tells.
#[derive(Clone, Debug)]
pub struct Unreachable {
    pub route: String,
    pub text: String,
}

/// Collects what the rule at work finds.
struct Found {
    rule: &'static str,
    severity: Severity,
    hint: &'static str,
    findings: Vec<Finding>,
}

impl Found {
    fn add(&mut self, object: &Object, pointer: &str, message: impl Into<String>) {
        let message = message.into();
        let place = match &object.place {
            Some(place) => place.error(&object.value, pointer, message),
            None => ConfigError::of_file(&object.key.path().into(), message),
        };
        self.findings.push(Finding { rule: self.rule, severity: self.severity, place, hint: self.hint });
    }
}

/// Runs all rules but those switched off; sorted by file and line.
pub fn lint(objects: &[Object], registry: &Registry, unreachable: &[Unreachable], off: &[String]) -> Vec<Finding> {
    let by_key = objects.iter().map(|object| (&object.key, object)).collect();
    let files = Files { objects, by_key, registry, unreachable };
    let mut all = Vec::new();
    for rule in RULES.iter().filter(|rule| !off.iter().any(|name| name == rule.id)) {
        let mut found =
            Found { rule: rule.id, severity: rule.severity, hint: rule.hint, findings: std::mem::take(&mut all) };
        (rule.check)(&files, &mut found);
        all = found.findings;
    }
    all.sort_by(|a, b| (&a.place.file, a.place.position).cmp(&(&b.place.file, b.place.position)));
    all
}

/// Every plugin of an object with its pointer.
fn plugins(value: &Value) -> impl Iterator<Item = (&str, &Value, String)> {
    let map = value["plugins"].as_object().into_iter().flatten();
    map.map(|(name, config)| (name.as_str(), config, format!("/plugins/{name}")))
}

#[cfg(test)]
mod tests;
