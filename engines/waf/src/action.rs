//! Actions of a rule (`id:1,phase:2,deny,setvar:tx.a=1`).
//! What each does: the ModSecurity reference manual (v2.x), section "Actions".

use crate::expansion::Expansion;
use crate::ruleset::{Names, Slot};
use crate::settings::EngineMode;
use crate::suggestion::did_you_mean;
use crate::transformation::Transformation;
use crate::variable::{Targets, Variable};

/// Syslog's severities, most severe first (RFC 5424 section 6.2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    Emergency,
    Alert,
    Critical,
    Error,
    Warning,
    Notice,
    Info,
    Debug,
}

impl Severity {
    const ALL: [(Severity, &str); 8] = [
        (Severity::Emergency, "EMERGENCY"),
        (Severity::Alert, "ALERT"),
        (Severity::Critical, "CRITICAL"),
        (Severity::Error, "ERROR"),
        (Severity::Warning, "WARNING"),
        (Severity::Notice, "NOTICE"),
        (Severity::Info, "INFO"),
        (Severity::Debug, "DEBUG"),
    ];

    fn parse(text: &str) -> Option<Severity> {
        let by_number = text.parse().ok().and_then(|n: usize| Severity::ALL.get(n));
        by_number.or_else(|| Severity::ALL.iter().find(|(_, n)| n.eq_ignore_ascii_case(text))).map(|(s, _)| *s)
    }

    pub fn name(self) -> &'static str {
        Severity::ALL.iter().find(|(s, _)| *s == self).map_or("", |(_, n)| n)
    }
}

/// What becomes of the request when a rule matches.
#[derive(Clone, Debug)]
pub enum Disruption {
    Pass,
    /// As `SecDefaultAction` of the phase says.
    Block,
    Deny,
    /// The connection is closed.
    Drop,
    Redirect(Box<str>),
    Allow(AllowScope),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllowScope {
    /// All phases but logging.
    Transaction,
    Phase,
    /// The phases of the request.
    Request,
}

#[derive(Clone, Debug)]
pub(crate) struct SetVar {
    pub collection: Variable,
    pub name: MemberName,
    pub change: Change,
}

impl SetVar {
    /// The texts with macros that it is made of.
    pub(crate) fn expansions(&self) -> impl Iterator<Item = &Expansion> {
        let name = match &self.name {
            MemberName::Tx(_) => None,
            MemberName::Other(name) => Some(name),
        };
        let value = match &self.change {
            Change::Set(value) | Change::Add(value) | Change::Subtract(value) => Some(value),
            Change::Unset => None,
        };
        name.into_iter().chain(value)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum MemberName {
    Tx(Slot),
    Other(Expansion),
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Set(Expansion),
    Add(Expansion),
    Subtract(Expansion),
    Unset,
}

/// `ctl:`: a change for this transaction alone.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    Engine(EngineMode),
    RemoveRules(RuleMatch),
    RemoveTarget(RuleMatch, Targets),
    BodyProcessor(Box<str>),
    ForceRequestBody(bool),
    RequestBodyAccess(bool),
    ResponseBodyAccess(bool),
    Audit(crate::settings::AuditEngine),
    /// Letters, after `+` those that are added, after `-` those that are taken away.
    AuditParts(Box<str>),
}

/// Which rules an exclusion names.
#[derive(Clone, Debug)]
pub(crate) enum RuleMatch {
    /// First and last, both included.
    Ids(Vec<(u64, u64)>),
    Tag(crate::pattern::Pattern),
    Message(crate::pattern::Pattern),
}

impl RuleMatch {
    pub(crate) fn ids(text: &str) -> Result<RuleMatch, String> {
        let mut ranges = Vec::new();
        for part in text.split([',', ' ']).map(|p| p.trim_matches(['"', '\''])).filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |n: &str| n.trim().parse::<u64>().map_err(|_| format!("{part:?} is no rule id and no range"));
            ranges.push((number(first)?, number(last)?));
        }
        Ok(RuleMatch::Ids(ranges))
    }

    fn pattern(text: &str) -> Result<crate::pattern::Pattern, String> {
        crate::pattern::Pattern::new(text.trim_matches(['"', '\'']))
    }

    pub(crate) fn tag(text: &str) -> Result<RuleMatch, String> {
        Self::pattern(text).map(RuleMatch::Tag)
    }

    pub(crate) fn message(text: &str) -> Result<RuleMatch, String> {
        Self::pattern(text).map(RuleMatch::Message)
    }
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Actions {
    pub id: Option<u64>,
    pub phase: Option<u8>,
    pub chain: bool,
    pub capture: bool,
    pub multi_match: bool,
    /// From the last `t:none` on.
    pub transformations: Vec<&'static str>,
    /// Whether `t:none` came first: the transformations of `SecDefaultAction` do not apply.
    pub only_own_transformations: bool,
    pub disruption: Option<Disruption>,
    pub status: Option<u16>,
    pub log: Option<bool>,
    pub audit: Option<bool>,
    pub message: Option<Expansion>,
    pub message_text: Box<str>,
    pub log_data: Option<Expansion>,
    pub tags: Vec<Box<str>>,
    pub severity: Option<Severity>,
    pub revision: Box<str>,
    pub version: Box<str>,
    pub maturity: Option<u8>,
    pub accuracy: Option<u8>,
    pub set: Vec<SetVar>,
    pub controls: Vec<Control>,
    pub skip: u32,
    pub skip_after: Option<Box<str>>,
}

/// Names of actions, for hints.
const KNOWN: &[&str] = &[
    "accuracy",
    "allow",
    "auditlog",
    "block",
    "capture",
    "chain",
    "ctl",
    "deny",
    "drop",
    "id",
    "log",
    "logdata",
    "maturity",
    "msg",
    "multiMatch",
    "noauditlog",
    "nolog",
    "pass",
    "phase",
    "redirect",
    "rev",
    "setvar",
    "severity",
    "skip",
    "skipAfter",
    "status",
    "t",
    "tag",
    "ver",
];

/// Actions, and notices of those that have no effect here.
pub(crate) fn parse(text: &str, names: &mut Names) -> Result<(Actions, Vec<String>), String> {
    let (mut actions, mut notices) = (Actions::default(), Vec::new());
    for item in split(text) {
        let item = item.trim();
        if item.is_empty() {
            continue;
        }
        let (name, value) = match item.split_once(':') {
            Some((name, value)) => (name.trim(), unquote(value.trim())),
            None => (item, ""),
        };
        if let Some(notice) = actions.take(name, value, names).map_err(|e| format!("action {item:?}: {e}"))? {
            notices.push(notice);
        }
    }
    Ok((actions, notices))
}

impl Actions {
    fn take(&mut self, name: &str, value: &str, names: &mut Names) -> Result<Option<String>, String> {
        let number = |what: &str| value.parse().map_err(|_| format!("{what} is a number"));
        match name.to_ascii_lowercase().as_str() {
            "id" => self.id = Some(value.parse().map_err(|_| "id is a number".to_owned())?),
            "phase" => self.phase = Some(phase(value)?),
            "chain" => self.chain = true,
            "capture" => self.capture = true,
            "multimatch" => self.multi_match = true,
            "t" if value.eq_ignore_ascii_case("none") => {
                self.transformations.clear();
                self.only_own_transformations = true;
            }
            "t" => self.transformations.push(Transformation::from_name(value)?.name),
            "pass" => self.disruption = Some(Disruption::Pass),
            "block" => self.disruption = Some(Disruption::Block),
            "deny" => self.disruption = Some(Disruption::Deny),
            "drop" => self.disruption = Some(Disruption::Drop),
            "redirect" => self.disruption = Some(Disruption::Redirect(value.into())),
            "allow" => {
                let scope = match value.to_ascii_lowercase().as_str() {
                    "" => AllowScope::Transaction,
                    "phase" => AllowScope::Phase,
                    "request" => AllowScope::Request,
                    other => return Err(format!("{other:?} is none of phase, request")),
                };
                self.disruption = Some(Disruption::Allow(scope));
            }
            "status" => self.status = Some(value.parse().map_err(|_| "status is a number".to_owned())?),
            "log" => self.log = Some(true),
            "nolog" => (self.log, self.audit) = (Some(false), Some(false)),
            "auditlog" => self.audit = Some(true),
            "noauditlog" => self.audit = Some(false),
            "msg" => {
                self.message = Some(Expansion::parse(value, names));
                self.message_text = value.into();
            }
            "logdata" => self.log_data = Some(Expansion::parse(value, names)),
            "tag" => self.tags.push(value.into()),
            "severity" => {
                self.severity = Some(Severity::parse(value).ok_or("severity is a name such as CRITICAL, or 0 to 7")?);
            }
            "rev" => self.revision = value.into(),
            "ver" => self.version = value.into(),
            "maturity" => self.maturity = Some(number("maturity")?),
            "accuracy" => self.accuracy = Some(number("accuracy")?),
            "setvar" => self.set.push(set_var(value, names)?),
            "ctl" => match control(value)? {
                Ok(control) => self.controls.push(control),
                Err(notice) => return Ok(Some(notice)),
            },
            "skip" => self.skip = value.parse().map_err(|_| "skip is a number".to_owned())?,
            "skipafter" => self.skip_after = Some(value.into()),
            // Collections live as long as the request here, so that there is nothing to load, to expire or to name.
            "initcol" | "setuid" | "setsid" | "setrsc" | "expirevar" | "deprecatevar" => {
                return Ok(Some(format!("{name}: collections live as long as the request")));
            }
            "exec"
            | "append"
            | "prepend"
            | "pause"
            | "xmlns"
            | "sanitisearg"
            | "sanitisematched"
            | "sanitisematchedbytes"
            | "sanitiserequestheader"
            | "sanitiseresponseheader"
            | "setenv" => {
                return Ok(Some(format!("{name} has no effect")));
            }
            "proxy" => return Err("proxying to another server is a route's work".to_owned()),
            _ => return Err(format!("unknown action{}", did_you_mean(name, KNOWN.iter().copied()))),
        }
        Ok(None)
    }
}

fn phase(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "request" => Ok(2),
        "response" => Ok(4),
        "logging" => Ok(5),
        other => match other.parse() {
            Ok(n @ 1..=5) => Ok(n),
            _ => Err(format!("phase {text:?} is none of 1 to 5, request, response, logging")),
        },
    }
}

fn set_var(text: &str, names: &mut Names) -> Result<SetVar, String> {
    let (unset, rest) = match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (target, value) = match rest.split_once('=') {
        Some((target, value)) => (target, Some(value)),
        None => (rest, None),
    };
    let (collection, member) =
        target.split_once(['.', ':']).ok_or_else(|| format!("{target:?} names no member, such as tx.name"))?;
    let collection = Variable::from_name(collection.trim())
        .filter(|v| v.is_writable())
        .ok_or_else(|| format!("{collection:?} is no collection that can be written; tx can"))?;
    let name = if collection == Variable::Tx && !member.contains("%{") {
        MemberName::Tx(names.slot(member))
    } else {
        MemberName::Other(Expansion::parse(member, names))
    };
    let change = match value {
        _ if unset => Change::Unset,
        None => Change::Set(Expansion::parse("1", names)),
        Some(value) => match (value.strip_prefix('+'), value.strip_prefix('-')) {
            (Some(value), _) => Change::Add(Expansion::parse(value, names)),
            (None, Some(value)) => Change::Subtract(Expansion::parse(value, names)),
            (None, None) => Change::Set(Expansion::parse(value, names)),
        },
    };
    Ok(SetVar { collection, name, change })
}

fn on_off(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is neither On nor Off")),
    }
}

/// A control, or a notice that this one has no effect.
fn control(text: &str) -> Result<Result<Control, String>, String> {
    let (name, value) = text.split_once('=').ok_or("ctl needs name=value")?;
    let target = |value: &str| -> Result<(String, Targets), String> {
        let (rules, targets) = value.split_once(';').ok_or("rules;VARIABLE:member is missing its ;")?;
        Ok((rules.to_owned(), Targets::parse(targets)?))
    };
    Ok(Ok(match name.trim().to_ascii_lowercase().as_str() {
        "ruleengine" => Control::Engine(EngineMode::parse(value)?),
        "ruleremovebyid" => Control::RemoveRules(RuleMatch::ids(value)?),
        "ruleremovebytag" => Control::RemoveRules(RuleMatch::tag(value)?),
        "ruleremovebymsg" => Control::RemoveRules(RuleMatch::message(value)?),
        "ruleremovetargetbyid" => {
            let (rules, targets) = target(value)?;
            Control::RemoveTarget(RuleMatch::ids(&rules)?, targets)
        }
        "ruleremovetargetbytag" => {
            let (rules, targets) = target(value)?;
            Control::RemoveTarget(RuleMatch::tag(&rules)?, targets)
        }
        "ruleremovetargetbymsg" => {
            let (rules, targets) = target(value)?;
            Control::RemoveTarget(RuleMatch::message(&rules)?, targets)
        }
        "requestbodyprocessor" => Control::BodyProcessor(value.to_ascii_uppercase().into()),
        "forcerequestbodyvariable" => Control::ForceRequestBody(on_off(value)?),
        "requestbodyaccess" => Control::RequestBodyAccess(on_off(value)?),
        "responsebodyaccess" => Control::ResponseBodyAccess(on_off(value)?),
        "auditengine" => Control::Audit(crate::settings::AuditEngine::parse(value)?),
        "auditlogparts" => Control::AuditParts(value.to_ascii_uppercase().into()),
        "debugloglevel"
        | "hashengine"
        | "hashenforcement"
        | "requestbodylimit"
        | "responsebodylimit"
        | "responsebodymimetype"
        | "parsexmlintoargs" => return Ok(Err(format!("ctl:{name} has no effect"))),
        _ => return Err(format!("unknown control {name}")),
    }))
}

/// At commas, but not inside single quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '\'' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(text.get(start..i).unwrap_or_default());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn unquote(text: &str) -> &str {
    text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')).unwrap_or(text)
}
