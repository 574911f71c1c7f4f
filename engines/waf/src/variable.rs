//! Variables and targets: what a rule looks at (`ARGS|!ARGS:password|&REQUEST_HEADERS:Host`).
//! Names: the ModSecurity reference manual (v2.x), section "Variables".

use crate::pattern::Pattern;
use crate::ruleset::Slot;
use crate::suggestion::did_you_mean;

/// When a variable has its final value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    /// Known before the phase of this number begins, and the same until the phase ends.
    Phase(u8),
    /// May change between two rules.
    Moving,
}

macro_rules! variables {
    ($($variant:ident $name:literal $life:expr;)*) => {
        /// A collection or a scalar; a scalar is a collection with one member of no name.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        pub(crate) enum Variable { $($variant,)* }

        impl Variable {
            pub(crate) const ALL: &'static [Variable] = &[$(Variable::$variant,)*];

            /// As rules write it; letters of both cases are the same.
            pub(crate) fn from_name(name: &str) -> Option<Variable> {
                Variable::ALL.iter().copied().find(|v| v.name().eq_ignore_ascii_case(name))
            }

            pub(crate) fn name(self) -> &'static str {
                match self { $(Variable::$variant => $name,)* }
            }

            pub(crate) fn life(self) -> Life {
                match self { $(Variable::$variant => $life,)* }
            }
        }
    };
}

use Life::{Moving, Phase};
variables! {
    Args "ARGS" Phase(1);
    ArgsCombinedSize "ARGS_COMBINED_SIZE" Phase(1);
    ArgsGet "ARGS_GET" Phase(1);
    ArgsGetNames "ARGS_GET_NAMES" Phase(1);
    ArgsNames "ARGS_NAMES" Phase(1);
    ArgsPost "ARGS_POST" Phase(2);
    ArgsPostNames "ARGS_POST_NAMES" Phase(2);
    AuthType "AUTH_TYPE" Phase(1);
    Duration "DURATION" Moving;
    Env "ENV" Moving;
    Files "FILES" Phase(2);
    FilesCombinedSize "FILES_COMBINED_SIZE" Phase(2);
    FilesNames "FILES_NAMES" Phase(2);
    FilesSizes "FILES_SIZES" Phase(2);
    FilesTmpContent "FILES_TMP_CONTENT" Phase(2);
    Geo "GEO" Moving;
    Global "GLOBAL" Moving;
    HighestSeverity "HIGHEST_SEVERITY" Moving;
    InboundDataError "INBOUND_DATA_ERROR" Phase(2);
    Ip "IP" Moving;
    MatchedVar "MATCHED_VAR" Moving;
    MatchedVarName "MATCHED_VAR_NAME" Moving;
    MatchedVars "MATCHED_VARS" Moving;
    MatchedVarsNames "MATCHED_VARS_NAMES" Moving;
    MultipartBoundaryQuoted "MULTIPART_BOUNDARY_QUOTED" Phase(2);
    MultipartCrlfLfLines "MULTIPART_CRLF_LF_LINES" Phase(2);
    MultipartDataAfter "MULTIPART_DATA_AFTER" Phase(2);
    MultipartDataBefore "MULTIPART_DATA_BEFORE" Phase(2);
    MultipartFileLimitExceeded "MULTIPART_FILE_LIMIT_EXCEEDED" Phase(2);
    MultipartFilename "MULTIPART_FILENAME" Phase(2);
    MultipartHeaderFolding "MULTIPART_HEADER_FOLDING" Phase(2);
    MultipartInvalidHeaderFolding "MULTIPART_INVALID_HEADER_FOLDING" Phase(2);
    MultipartInvalidPart "MULTIPART_INVALID_PART" Phase(2);
    MultipartInvalidQuoting "MULTIPART_INVALID_QUOTING" Phase(2);
    MultipartLfLine "MULTIPART_LF_LINE" Phase(2);
    MultipartMissingSemicolon "MULTIPART_MISSING_SEMICOLON" Phase(2);
    MultipartName "MULTIPART_NAME" Phase(2);
    MultipartPartHeaders "MULTIPART_PART_HEADERS" Phase(2);
    MultipartStrictError "MULTIPART_STRICT_ERROR" Phase(2);
    MultipartUnmatchedBoundary "MULTIPART_UNMATCHED_BOUNDARY" Phase(2);
    OutboundDataError "OUTBOUND_DATA_ERROR" Phase(4);
    PathInfo "PATH_INFO" Phase(1);
    QueryString "QUERY_STRING" Phase(1);
    RemoteAddr "REMOTE_ADDR" Phase(1);
    RemoteHost "REMOTE_HOST" Phase(1);
    RemotePort "REMOTE_PORT" Phase(1);
    RemoteUser "REMOTE_USER" Phase(1);
    ReqbodyError "REQBODY_ERROR" Phase(2);
    ReqbodyErrorMsg "REQBODY_ERROR_MSG" Phase(2);
    ReqbodyProcessor "REQBODY_PROCESSOR" Moving;
    ReqbodyProcessorError "REQBODY_PROCESSOR_ERROR" Phase(2);
    RequestBasename "REQUEST_BASENAME" Phase(1);
    RequestBody "REQUEST_BODY" Phase(2);
    RequestBodyLength "REQUEST_BODY_LENGTH" Phase(2);
    RequestCookies "REQUEST_COOKIES" Phase(1);
    RequestCookiesNames "REQUEST_COOKIES_NAMES" Phase(1);
    RequestFilename "REQUEST_FILENAME" Phase(1);
    RequestHeaders "REQUEST_HEADERS" Phase(1);
    RequestHeadersNames "REQUEST_HEADERS_NAMES" Phase(1);
    RequestLine "REQUEST_LINE" Phase(1);
    RequestMethod "REQUEST_METHOD" Phase(1);
    RequestProtocol "REQUEST_PROTOCOL" Phase(1);
    RequestUri "REQUEST_URI" Phase(1);
    RequestUriRaw "REQUEST_URI_RAW" Phase(1);
    Resource "RESOURCE" Moving;
    ResponseBody "RESPONSE_BODY" Phase(4);
    ResponseContentLength "RESPONSE_CONTENT_LENGTH" Phase(4);
    ResponseContentType "RESPONSE_CONTENT_TYPE" Phase(3);
    ResponseHeaders "RESPONSE_HEADERS" Phase(3);
    ResponseHeadersNames "RESPONSE_HEADERS_NAMES" Phase(3);
    ResponseProtocol "RESPONSE_PROTOCOL" Phase(3);
    ResponseStatus "RESPONSE_STATUS" Phase(3);
    Rule "RULE" Moving;
    ServerAddr "SERVER_ADDR" Phase(1);
    ServerName "SERVER_NAME" Phase(1);
    ServerPort "SERVER_PORT" Phase(1);
    Session "SESSION" Moving;
    Sessionid "SESSIONID" Moving;
    StatusLine "STATUS_LINE" Phase(3);
    TimeEpoch "TIME_EPOCH" Phase(1);
    Tx "TX" Moving;
    UniqueId "UNIQUE_ID" Phase(1);
    UrlencodedError "URLENCODED_ERROR" Phase(2);
    User "USER" Moving;
    Userid "USERID" Moving;
    Xml "XML" Phase(2);
}

impl Variable {
    /// Whether its members can be written by rules (`setvar`).
    pub(crate) fn is_writable(self) -> bool {
        matches!(
            self,
            Variable::Tx
                | Variable::Ip
                | Variable::Session
                | Variable::User
                | Variable::Global
                | Variable::Resource
                | Variable::Env
        )
    }

    /// Whether it tells of the last rule that matched.
    pub(crate) fn is_last_match(self) -> bool {
        use Variable::{MatchedVar, MatchedVarName, MatchedVars, MatchedVarsNames};
        matches!(self, MatchedVar | MatchedVarName | MatchedVars | MatchedVarsNames)
    }

    /// The collections that this one is made of: `ARGS` is those of the query and those of the body.
    pub(crate) fn parts(self) -> &'static [Variable] {
        match self {
            Variable::Args => &[Variable::ArgsGet, Variable::ArgsPost],
            Variable::ArgsNames => &[Variable::ArgsGetNames, Variable::ArgsPostNames],
            _ => &[],
        }
    }
}

/// Which members of a collection.
#[derive(Clone, Debug)]
pub(crate) enum Selector {
    All,
    /// Member names are compared without regard to case, in lower case here.
    Name(Box<[u8]>),
    /// `/^utm_/`
    Pattern(Pattern),
}

impl Selector {
    pub(crate) fn takes(&self, name: &[u8]) -> bool {
        match self {
            Selector::All => true,
            Selector::Name(wanted) => wanted.eq_ignore_ascii_case(name),
            Selector::Pattern(pattern) => pattern.is_match(name),
        }
    }
}

/// One part of a rule's list of variables.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub variable: Variable,
    pub selector: Selector,
    /// `&`: the number of members instead of the members.
    pub count: bool,
    /// The member of `TX`, where one is named.
    pub slot: Option<Slot>,
    /// The named members of `TX` that a pattern takes; worked out when all names are known.
    pub slots: Vec<Slot>,
    /// As written, for messages.
    pub text: Box<str>,
}

impl Target {
    pub(crate) fn covers(&self, variable: Variable, name: &[u8]) -> bool {
        (self.variable == variable || self.variable.parts().contains(&variable)) && self.selector.takes(name)
    }
}

/// `ARGS|!ARGS:password`: targets and exclusions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    pub wanted: Vec<Target>,
    pub excluded: Vec<Target>,
}

impl Targets {
    pub(crate) fn parse(text: &str) -> Result<Targets, String> {
        let mut targets = Targets::default();
        for part in split(text) {
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            let (excluded, rest) = match part.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, part),
            };
            let target = parse_target(rest)?;
            if excluded { targets.excluded.push(target) } else { targets.wanted.push(target) }
        }
        if targets.wanted.is_empty() && targets.excluded.is_empty() {
            return Err("no variable".to_owned());
        }
        Ok(targets)
    }

    pub(crate) fn excludes(&self, variable: Variable, name: &[u8]) -> bool {
        self.excluded.iter().any(|t| t.covers(variable, name))
    }
}

/// At `|`, but not inside a quoted selector or a regular expression.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quote, mut escaped) = (Vec::new(), 0, None, false);
    let mut previous = ' ';
    for (i, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            // XPath begins with a slash and is no regular expression
            None if c == '/' && text.get(start..i).is_some_and(|t| t.to_ascii_uppercase().ends_with("XML:")) => {}
            None if matches!(c, '\'' | '/') && previous == ':' => quote = Some(c),
            None if c == '|' => {
                parts.push(text.get(start..i).unwrap_or_default());
                start = i + 1;
            }
            None => {}
        }
        previous = if quote.is_some() && previous == ':' && c == '\'' { ':' } else { c };
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn parse_target(text: &str) -> Result<Target, String> {
    let (count, rest) = match text.strip_prefix('&') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (name, selector) = match rest.split_once(':').or_else(|| rest.split_once('.')) {
        Some((name, selector)) => (name, Some(selector)),
        None => (rest, None),
    };
    let variable = Variable::from_name(name.trim()).ok_or_else(|| unknown(name))?;
    let selector = match selector.map(|s| s.trim().trim_matches('\'')) {
        None => Selector::All,
        // XML:/* is every text, XML://@* every attribute; other XPath expressions are not known.
        Some(path) if variable == Variable::Xml => match path {
            "/*" | "//@*" => Selector::Name(path.as_bytes().into()),
            _ => return Err(format!("XML:{path}: of XPath only /* and //@* are known")),
        },
        Some(s) if s.len() > 1 && s.starts_with('/') && s.ends_with('/') => {
            let inner = s.get(1..s.len() - 1).unwrap_or_default().replace("\\/", "/");
            Selector::Pattern(Pattern::new(&format!("(?i){inner}")).map_err(|e| format!("{text}: {e}"))?)
        }
        Some(s) => Selector::Name(s.to_ascii_lowercase().into_bytes().into()),
    };
    Ok(Target { variable, selector, count, slot: None, slots: Vec::new(), text: text.into() })
}

fn unknown(name: &str) -> String {
    let upper = name.trim().to_ascii_uppercase();
    let hint = did_you_mean(&upper, Variable::ALL.iter().map(|v| v.name()));
    format!("unknown variable {upper}{hint}")
}
