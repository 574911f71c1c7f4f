//! Settings that directives make: whether the engine runs, what of bodies it sees, when it writes its audit log.

use crate::directives::elsewhere;
use crate::pattern::Pattern;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineMode {
    On,
    Off,
    /// Rules are evaluated and logged, nothing is blocked.
    DetectionOnly,
}

impl EngineMode {
    pub(crate) fn parse(text: &str) -> Result<EngineMode, String> {
        match text.to_ascii_lowercase().as_str() {
            "on" => Ok(EngineMode::On),
            "off" => Ok(EngineMode::Off),
            "detectiononly" => Ok(EngineMode::DetectionOnly),
            _ => Err(format!("{text:?} is none of On, Off, DetectionOnly")),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuditEngine {
    On,
    Off,
    /// Where a rule asks for it, or the status is relevant.
    RelevantOnly,
}

impl AuditEngine {
    pub(crate) fn parse(text: &str) -> Result<AuditEngine, String> {
        match text.to_ascii_lowercase().as_str() {
            "on" => Ok(AuditEngine::On),
            "off" => Ok(AuditEngine::Off),
            "relevantonly" => Ok(AuditEngine::RelevantOnly),
            _ => Err(format!("{text:?} is none of On, Off, RelevantOnly")),
        }
    }
}

/// What becomes of a body that is over its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitAction {
    /// 413 for a request, 500 for a response.
    Reject,
    /// What is there is inspected, the rest passes.
    ProcessPartial,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub engine: EngineMode,
    pub request_body: bool,
    /// Bytes.
    pub request_body_limit: usize,
    /// Bytes of a body that is no upload of files.
    pub request_body_no_files_limit: usize,
    pub request_body_limit_action: LimitAction,
    pub response_body: bool,
    /// Bytes.
    pub response_body_limit: usize,
    pub response_body_limit_action: LimitAction,
    /// Media types, in lower case, without parameters.
    pub response_body_types: Vec<Box<str>>,
    pub audit: AuditEngine,
    pub audit_relevant: Option<RelevantStatus>,
    /// A file, or none: the operator log.
    pub audit_log: Option<Box<str>>,
    /// Letters of the parts that are written, as ModSecurity names them.
    pub audit_parts: Box<str>,
    /// Names of a form or a query, at most.
    pub arguments_limit: usize,
    /// Levels of a JSON body.
    pub json_depth_limit: usize,
}

/// Statuses that are worth an audit entry.
#[derive(Clone, Debug)]
pub struct RelevantStatus(pub(crate) Pattern);

impl RelevantStatus {
    pub fn matches(&self, status: u16) -> bool {
        self.0.is_match(status.to_string().as_bytes())
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            engine: EngineMode::Off,
            request_body: false,
            request_body_limit: 128 << 20,
            request_body_no_files_limit: 1 << 20,
            request_body_limit_action: LimitAction::Reject,
            response_body: false,
            response_body_limit: 512 << 10,
            response_body_limit_action: LimitAction::Reject,
            response_body_types: vec!["text/plain".into(), "text/html".into(), "text/xml".into()],
            audit: AuditEngine::Off,
            audit_relevant: None,
            audit_log: None,
            audit_parts: "ABCFHZ".into(),
            arguments_limit: 1000,
            json_depth_limit: 32,
        }
    }
}

impl Settings {
    /// Takes a directive; says whether it is one of these. `Ok(Some(text))` is a notice that it has no effect.
    pub(crate) fn take(&mut self, name: &str, args: &[String]) -> Result<Taken, String> {
        let first = || args.first().map(String::as_str).ok_or_else(|| "a value is missing".to_owned());
        let number = || first().and_then(|v| v.parse::<usize>().map_err(|_| format!("{v:?} is no number")));
        let flag = || {
            first().and_then(|v| match v.to_ascii_lowercase().as_str() {
                "on" => Ok(true),
                "off" => Ok(false),
                _ => Err(format!("{v:?} is neither On nor Off")),
            })
        };
        let limit = || {
            first().and_then(|v| match v.to_ascii_lowercase().as_str() {
                "reject" => Ok(LimitAction::Reject),
                "processpartial" => Ok(LimitAction::ProcessPartial),
                _ => Err(format!("{v:?} is neither Reject nor ProcessPartial")),
            })
        };
        match name.to_ascii_lowercase().as_str() {
            "secruleengine" => self.engine = EngineMode::parse(first()?)?,
            "secrequestbodyaccess" => self.request_body = flag()?,
            "secrequestbodylimit" => self.request_body_limit = number()?,
            "secrequestbodynofileslimit" => self.request_body_no_files_limit = number()?,
            "secrequestbodylimitaction" => self.request_body_limit_action = limit()?,
            "secresponsebodyaccess" => self.response_body = flag()?,
            "secresponsebodylimit" => self.response_body_limit = number()?,
            "secresponsebodylimitaction" => self.response_body_limit_action = limit()?,
            "secresponsebodymimetype" => {
                let types = args.iter().flat_map(|a| a.split_whitespace());
                self.response_body_types = types.map(|t| t.to_ascii_lowercase().into()).collect();
            }
            "secresponsebodymimetypesclear" => self.response_body_types.clear(),
            "secauditengine" => self.audit = AuditEngine::parse(first()?)?,
            "secauditlogrelevantstatus" => self.audit_relevant = Some(RelevantStatus(Pattern::new(first()?)?)),
            "secauditlog" => self.audit_log = Some(first()?.into()),
            "secauditlogparts" => self.audit_parts = first()?.into(),
            "secargumentslimit" => self.arguments_limit = number()?,
            "secrequestbodyjsondepthlimit" => self.json_depth_limit = number()?,
            other => return Ok(elsewhere(other, args)),
        }
        Ok(Taken::Yes)
    }
}

pub(crate) enum Taken {
    Yes,
    /// It changes nothing here, and nothing is lost by that.
    NoEffect,
    /// What it asks for is not done here; to pass over it would let rules mean something else than they say.
    Refused(&'static str),
    Unknown,
}
