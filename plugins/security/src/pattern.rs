//! Patterns of configuration, with the error wording of APISIX's regex library for the usual mistakes.
use sluice_expr::Regex;
use sluice_plugin::BuildError;

/// Compiles one pattern. Errors read as PCRE's through lua-resty-core (`pcre_compile() failed: missing ) in "a("`).
pub fn compile(pattern: &str) -> Result<Regex, BuildError> {
    Regex::new(pattern, "").map_err(|e| BuildError(format!("pcre_compile() failed: {} in \"{pattern}\"", reason(&e.0))))
}

/// One pattern out of several alternatives, of which each was compiled alone before. APISIX joins them with `|`, so an
/// inline option such as `(?i)` of one holds for the following ones too.
pub fn alternatives(patterns: &[String], options: &str) -> Result<Regex, BuildError> {
    let joined = patterns.join("|");
    Regex::new(&joined, options)
        .map_err(|e| BuildError(format!("pcre_compile() failed: {} in \"{joined}\"", reason(&e.0))))
}

fn reason(error: &str) -> &str {
    let error = error.split_once("\": ").map_or(error, |(_, reason)| reason);
    let lower = error.to_ascii_lowercase();
    if lower.contains("without closing parenthesis") || lower.contains("unclosed group") {
        "missing )"
    } else if lower.contains("invalid character class") || lower.contains("unclosed character class") {
        "missing terminating ] for character class"
    } else if lower.contains("repeat") || lower.contains("repetition") {
        "nothing to repeat"
    } else {
        error.lines().last().unwrap_or(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_pcre() {
        let error = |p: &str| compile(p).unwrap_err().0;
        assert_eq!(error(".+("), "pcre_compile() failed: missing ) in \".+(\"");
        assert_eq!(error("a[b"), "pcre_compile() failed: missing terminating ] for character class in \"a[b\"");
        assert_eq!(error("*a"), "pcre_compile() failed: nothing to repeat in \"*a\"");
    }

    #[test]
    fn any_alternative_matches() {
        let regex = alternatives(&["^/a".into(), "b$".into()], "").unwrap();
        assert!(regex.is_match(b"/a/x") && regex.is_match(b"/x/b") && !regex.is_match(b"/c"));
    }
}
