//! Patterns of configuration, with the error wording of APISIX's regex library for the usual mistakes.
use sluice_expr::{Regex, RegexError};
use sluice_plugin::BuildError;

/// Compiles one pattern. Errors read as PCRE's through lua-resty-core (`pcre_compile() failed: missing ) in "a("`).
pub fn compile(pattern: &str) -> Result<Regex, BuildError> {
    compile_with(pattern, "")
}

fn compile_with(pattern: &str, options: &str) -> Result<Regex, BuildError> {
    let error = |e: RegexError| BuildError(format!("pcre_compile() failed: {} in \"{pattern}\"", reason(&e.0)));
    Regex::new(pattern, options).map_err(error)
}

/// Alternatives that a text is searched for.
pub struct Patterns(Vec<Regex>);

impl Patterns {
    /// Joins the patterns with `|` as APISIX does, so an inline option such as `(?i)` of one holds for the following ones
    /// too. A list too large for one program is searched one by one.
    pub fn new(patterns: &[String], options: &str) -> Result<Patterns, BuildError> {
        match Regex::new(&patterns.join("|"), options) {
            Ok(joined) => Ok(Patterns(vec![joined])),
            Err(_) => patterns.iter().map(|p| compile_with(p, options)).collect::<Result<_, _>>().map(Patterns),
        }
    }

    /// Whether one of them occurs in `text`. The empty list is the empty pattern, which occurs everywhere.
    #[inline]
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.0.iter().any(|pattern| pattern.is_match(text))
    }
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
        let patterns = Patterns::new(&["^/a".into(), "b$".into()], "").unwrap();
        assert!(patterns.is_match(b"/a/x") && patterns.is_match(b"/x/b") && !patterns.is_match(b"/c"));
        assert!(Patterns::new(&[], "").unwrap().is_match(b"/"));
        assert!(Patterns::new(&["(?i)a".into(), "b".into()], "").unwrap().is_match(b"B"));
    }

    #[test]
    fn long_lists_are_searched_one_by_one() {
        let many: Vec<String> = (0..100).map(|i| format!("^/{}{i}$", "x".repeat(2000))).collect();
        let patterns = Patterns::new(&many, "i").unwrap();
        assert_eq!(patterns.0.len(), 100);
        assert!(patterns.is_match(format!("/{}42", "X".repeat(2000)).as_bytes()) && !patterns.is_match(b"/x42"));
    }
}
