//! Directives of the configuration to compiled rules. The Core Rule Set takes a second to compile: plugins with the same directives
//! share one, and it is compiled again when a file of the rule set has changed.

use super::NAME;
use super::audit::Audit;
use sluice_engine_waf::{Ruleset, Sources};
use sluice_plugin::Env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// Where Debian's package `modsecurity-crs` puts it.
const DEFAULT_CRS_PATH: &str = "/usr/share/modsecurity-crs";

/// Settings that are sensible to begin with: rules are run and logged, nothing is blocked; bodies that do not parse, and those
/// of which two readers could think differently, are refused once the engine is on.
const RECOMMENDED: &str = r#"
SecRuleEngine DetectionOnly
SecRequestBodyAccess On
SecRequestBodyLimit 13107200
SecRequestBodyNoFilesLimit 131072
SecRequestBodyLimitAction Reject
SecResponseBodyAccess On
SecResponseBodyMimeType text/plain text/html text/xml
SecResponseBodyLimit 524288
SecResponseBodyLimitAction ProcessPartial
SecAuditEngine RelevantOnly
SecAuditLogRelevantStatus "^(?:5|4(?:0[^4]|[1-9]))"
SecRule REQUEST_HEADERS:Content-Type "@rx ^(?:text|application(?:/soap\+)?)/?xml|\+xml" \
    "id:200000,phase:1,pass,nolog,t:none,t:lowercase,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "@rx ^application/(?:[a-z0-9.-]+\+)?json" \
    "id:200001,phase:1,pass,nolog,t:none,t:lowercase,ctl:requestBodyProcessor=JSON"
SecRule REQBODY_ERROR "!@eq 0" \
    "id:200002,phase:2,deny,status:400,log,t:none,severity:'CRITICAL',msg:'The request body could not be parsed',logdata:'%{reqbody_error_msg}'"
SecRule MULTIPART_STRICT_ERROR "!@eq 0" \
    "id:200003,phase:2,deny,status:400,log,t:none,severity:'CRITICAL',msg:'The multipart body is ambiguous'"
SecRule MULTIPART_UNMATCHED_BOUNDARY "@eq 1" \
    "id:200004,phase:2,deny,status:400,log,t:none,severity:'CRITICAL',msg:'A multipart line looks like a boundary and is none'"
"#;

/// Rules of one list of directives.
pub(super) struct Rules {
    pub set: Arc<Ruleset>,
    pub audit: Option<Arc<Audit>>,
}

pub(super) fn compile(directives: &[String], env: &Env) -> Result<Arc<Rules>, String> {
    let path = env.attribute(NAME).get("crs_path").and_then(|p| p.as_str()).unwrap_or(DEFAULT_CRS_PATH);
    let path = env.prefix.join(path);
    let text = directives.join("\n");
    let uses_files = text.contains("@owasp_crs") || text.contains("@crs-setup-conf");
    let stamp = if uses_files { stamp(&path) } else { 0 };
    let key = format!("{NAME}#{}#{stamp}#{text}", path.display());
    // an error is kept too, so that it costs a second only once
    let shared = env.shared.get_or_insert(&key, || build(&text, &path, env));
    shared.as_ref().as_ref().map(Arc::clone).map_err(Clone::clone)
}

fn build(text: &str, path: &Path, env: &Env) -> Result<Arc<Rules>, String> {
    let mut sources = Sources {
        folders: vec![("@owasp_crs".to_owned(), path.join("rules"))],
        texts: vec![("@recommended-conf".to_owned(), RECOMMENDED.to_owned())],
    };
    if let Some(setup) = setup(path) {
        sources.texts.push(("@crs-setup-conf".to_owned(), setup));
    }
    let set = sluice_engine_waf::compile(text, &sources).map_err(|e| e.to_string())?;
    for notice in set.notices() {
        tracing::info!(plugin = NAME, "{notice}");
    }
    let audit = Audit::open(set.settings(), env)?;
    Ok(Arc::new(Rules { set: Arc::new(set), audit }))
}

/// `crs-setup.conf`, or the example that comes with the rule set.
fn setup(path: &Path) -> Option<String> {
    let names = ["crs-setup.conf", "crs-setup.conf.example", "/etc/modsecurity/crs/crs-setup.conf"];
    names.iter().find_map(|name| std::fs::read_to_string(path.join(name)).ok())
}

/// Changes when a file of the rule set does.
fn stamp(path: &Path) -> u128 {
    let folders = [path.to_owned(), path.join("rules")];
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().filter_map(Result::ok);
    let changed = |path: PathBuf| {
        let modified = path.metadata().and_then(|m| m.modified()).ok();
        modified.and_then(|m| m.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos())
    };
    files.map(|file| changed(file.path())).fold(0, u128::wrapping_add)
}
