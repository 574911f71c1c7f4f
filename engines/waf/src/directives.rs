//! Every directive of ModSecurity 2 and 3 and of Coraza that is no setting of ours: those that change nothing here, and those
//! that are refused. Lists: the ModSecurity reference manuals (v2.x, v3.x) and Coraza's, section "Directives".

use crate::settings::Taken;

/// Directives that do something.
const WORKING: &[&str] = &[
    "Include",
    "SecAction",
    "SecArgumentsLimit",
    "SecAuditEngine",
    "SecAuditLog",
    "SecAuditLogParts",
    "SecAuditLogRelevantStatus",
    "SecComponentSignature",
    "SecDefaultAction",
    "SecMarker",
    "SecRequestBodyAccess",
    "SecRequestBodyJsonDepthLimit",
    "SecRequestBodyLimit",
    "SecRequestBodyLimitAction",
    "SecRequestBodyNoFilesLimit",
    "SecResponseBodyAccess",
    "SecResponseBodyLimit",
    "SecResponseBodyLimitAction",
    "SecResponseBodyMimeType",
    "SecResponseBodyMimeTypesClear",
    "SecRule",
    "SecRuleEngine",
    "SecRuleRemoveById",
    "SecRuleRemoveByMsg",
    "SecRuleRemoveByTag",
    "SecRuleUpdateActionById",
    "SecRuleUpdateTargetById",
    "SecRuleUpdateTargetByMsg",
    "SecRuleUpdateTargetByTag",
];

/// They tell where files go, how much memory is used, what a server calls itself: nothing that a rule's verdict hangs on.
const WITHOUT_EFFECT: &[&str] = &[
    "SecAuditLog2",
    "SecAuditLogDir",
    "SecAuditLogDirMode",
    "SecAuditLogFileMode",
    "SecAuditLogPrefix",
    "SecAuditLogStorageDir",
    "SecChrootDir",
    "SecCollectionTimeout",
    "SecCookieV0Separator",
    "SecDataDir",
    "SecDebugLog",
    "SecDebugLogLevel",
    "SecDisableBackendCompression",
    "SecGeoLookupDb",
    "SecGsbLookupDb",
    "SecGuardianLog",
    "SecHttpBlKey",
    "SecIgnoreRuleCompilationErrors",
    "SecInterceptOnError",
    "SecPcreMatchLimit",
    "SecPcreMatchLimitRecursion",
    "SecRequestBodyInMemoryLimit",
    "SecRulePerfTime",
    "SecRxPreFilter",
    "SecSensorId",
    "SecServerSignature",
    "SecStatusEngine",
    "SecTmpDir",
    "SecTmpSaveUploadedFiles",
    "SecUnicodeCodePage",
    "SecUnicodeMap",
    "SecUnicodeMapFile",
    "SecUploadDir",
    "SecUploadFileLimit",
    "SecUploadFileMode",
    "SecUploadKeepFiles",
    "SecWebAppId",
];

/// A directive, the values (lower case) with which it asks for what is done anyway, and why other values are refused.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("SecArgumentSeparator", &["&"], "arguments are separated by &"),
    ("SecAuditLogFormat", &["json"], "the audit log is JSON"),
    ("SecAuditLogType", &["serial"], "the audit log is one file; lines go there or to the error log"),
    ("SecCacheTransformations", &["on", "off"], "each transformation is worked out once"),
    ("SecConnEngine", &["off"], "limit-conn limits connections"),
    ("SecContentInjection", &["off"], "response-rewrite changes bodies"),
    ("SecCookieFormat", &["0"], "only cookies of version 0 are read"),
    ("SecHashEngine", &["off"], "links are not signed"),
    ("SecParseXmlIntoArgs", &["off"], "XML is seen as XML:/* and XML://@*"),
    ("SecRuleInheritance", &["off"], "each list of directives stands for itself"),
    ("SecStreamInBodyInspection", &["off"], "bodies are inspected whole"),
    ("SecStreamOutBodyInspection", &["off"], "bodies are inspected whole"),
    ("SecXmlExternalEntity", &["off"], "external entities are never loaded"),
];

/// Refused whatever their value.
const REFUSED: &[(&str, &str)] = &[
    ("IncludeOptional", "write Include; a pattern that fits no file is an error"),
    ("SecConnReadStateLimit", "limit-conn limits connections"),
    ("SecConnWriteStateLimit", "limit-conn limits connections"),
    ("SecDataset", "write the words into a file and use @pmFromFile"),
    ("SecHashKey", "links are not signed"),
    ("SecHashMethodPm", "links are not signed"),
    ("SecHashMethodRx", "links are not signed"),
    ("SecHashParam", "links are not signed"),
    ("SecReadStateLimit", "limit-conn limits connections"),
    ("SecRemoteRules", "rules are read from files"),
    ("SecRemoteRulesFailAction", "rules are read from files"),
    ("SecRuleScript", "scripts are not run; the serverless plugins run Lua"),
    ("SecRuleUpdateActionByTag", "SecRuleUpdateActionById is known"),
    ("SecWriteStateLimit", "limit-conn limits connections"),
];

/// Every name there is, for hints.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    WORKING.iter().chain(WITHOUT_EFFECT).copied().chain(FIXED.iter().map(|(name, ..)| *name))
}

/// What becomes of a directive that is no setting.
pub(crate) fn elsewhere(name: &str, args: &[String]) -> Taken {
    let is = |other: &str| other.eq_ignore_ascii_case(name);
    if WITHOUT_EFFECT.iter().any(|n| is(n)) {
        return Taken::NoEffect;
    }
    if let Some((_, why)) = REFUSED.iter().find(|(n, _)| is(n)) {
        return Taken::Refused(why);
    }
    match FIXED.iter().find(|(n, ..)| is(n)) {
        Some((_, values, why)) => {
            let first = args.first().map(|v| v.to_ascii_lowercase()).unwrap_or_default();
            if values.contains(&first.as_str()) { Taken::Yes } else { Taken::Refused(why) }
        }
        None => Taken::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Sources, compile};

    fn error(text: &str) -> String {
        compile(text, &Sources::default()).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn every_directive_works_is_named_or_is_refused() {
        let set = compile("SecTmpDir /tmp\nSecCookieFormat 0\nSecAuditLogFormat JSON", &Sources::default()).unwrap();
        assert_eq!(set.notices(), ["directives:1: SecTmpDir has no effect"]);
        assert_eq!(
            error("SecRuleEngine On\nSecAuditLogType Concurrent"),
            "directives:2: SecAuditLogType Concurrent: the audit log is one file; lines go there or to the error log"
        );
        assert!(error("SecRuleScript x.lua").contains("scripts are not run"));
        assert_eq!(
            error("SecRuleEngin On"),
            "directives:1: unknown directive SecRuleEngin; did you mean SecRuleEngine?"
        );
        assert_eq!(error("Listen 80"), "directives:1: unknown directive Listen");
    }

    #[test]
    fn names_are_in_one_list_only() {
        let mut names: Vec<&str> = super::all().chain(super::REFUSED.iter().map(|(n, _)| *n)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
