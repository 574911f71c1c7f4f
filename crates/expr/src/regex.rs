//! One regex type for PCRE patterns in configuration: the linear-time `regex` engine where it can, `fancy-regex` where
//! look-around or back-references need it (with a backtrack limit).
//!
//! The surprise: subjects are bytes and need not be UTF-8; without option `u`, `.` is one byte, as in PCRE. Differences
//! from PCRE: `$` matches only at the very end (PCRE also before a final line feed), and a subject that exhausts
//! [`BACKTRACK_LIMIT`] does not match. Nothing is cached here: callers compile once.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

mod replacement;
mod translate;

pub use replacement::Replacement;

/// Steps the backtracking engine may take for one search before it gives up (no match). PCRE's counterpart in nginx is
/// `lua_regex_match_limit`.
pub const BACKTRACK_LIMIT: usize = 100_000;
/// Bytes a compiled program may take, in either engine.
const SIZE_LIMIT: usize = 4 << 20;
/// Longest accepted pattern, bytes.
const MAX_PATTERN: usize = 64 << 10;

/// A compiled pattern. Cloning is cheap and shares the program.
#[derive(Clone)]
pub struct Regex {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    pattern: Box<str>,
    options: Box<str>,
    /// Tells which pattern a [`Captures`]' scratch belongs to.
    id: u64,
    groups: usize,
}

enum Engine {
    Linear(regex::bytes::Regex),
    Backtrack(Box<fancy_regex::Regex>),
}

/// Why a pattern does not compile.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct RegexError(pub String);

/// Where a match and its groups are. Reused between searches, it allocates only when the pattern changes (and always for
/// patterns that backtrack).
#[derive(Debug, Default)]
pub struct Captures {
    scratch: Option<(u64, regex::bytes::CaptureLocations)>,
    spans: Vec<Option<(usize, usize)>>,
}

impl Captures {
    /// Byte range of group `i`; 0 is the whole match.
    pub fn get(&self, i: usize) -> Option<(usize, usize)> {
        self.spans.get(i).copied().flatten()
    }
    /// The bytes of group `i` in the subject that was searched.
    pub fn slice<'s>(&self, i: usize, subject: &'s [u8]) -> Option<&'s [u8]> {
        let (from, to) = self.get(i)?;
        subject.get(from..to)
    }
    /// Groups, the whole match included; 0 before the first match.
    pub fn len(&self) -> usize {
        self.spans.len()
    }
    /// Whether the last search found nothing.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

impl Regex {
    /// Compiles a PCRE pattern. `options` are OpenResty's letters (`i`, `s`, `m`, `x`, `u`, `a`, `U`; `j`, `o`, `d`, `D`, `J` are accepted and have no effect).
    pub fn new(pattern: &str, options: &str) -> Result<Regex, RegexError> {
        if pattern.len() > MAX_PATTERN {
            return Err(RegexError(format!("pattern is longer than {MAX_PATTERN} bytes")));
        }
        let has = |letter: char| options.contains(letter);
        if let Some(unknown) = options.chars().find(|c| !"imsxuaUjodDJ".contains(*c)) {
            return Err(RegexError(format!("unknown flag \"{unknown}\" (flags \"{options}\")")));
        }
        let unicode = has('u');
        let mut translated = translate::translate(pattern, has('x'), unicode);
        if has('a') {
            translated.pattern = format!("\\A(?:{})", translated.pattern);
        }
        if has('U') {
            translated.pattern = format!("(?U){}", translated.pattern);
        }
        let linear = |unicode: bool| {
            regex::bytes::RegexBuilder::new(&translated.pattern)
                .unicode(unicode)
                .case_insensitive(has('i'))
                .dot_matches_new_line(has('s'))
                .multi_line(has('m'))
                .ignore_whitespace(has('x'))
                .size_limit(SIZE_LIMIT)
                .build()
        };
        let engine = if translated.backtracks {
            None
        } else {
            // A non-ASCII character in a class needs Unicode mode even without `u`.
            linear(unicode).or_else(|e| if unicode { Err(e) } else { linear(true) }).ok()
        };
        let engine = match engine {
            Some(linear) => Engine::Linear(linear),
            None => Engine::Backtrack(Box::new(
                fancy_regex::RegexBuilder::new(&translated.pattern)
                    .bytes_mode(if unicode {
                        fancy_regex::BytesMode::UnicodeBytes
                    } else {
                        fancy_regex::BytesMode::Ascii
                    })
                    .case_insensitive(has('i'))
                    .dot_matches_new_line(has('s'))
                    .multi_line(has('m'))
                    .verbose_mode(has('x'))
                    .backtrack_limit(BACKTRACK_LIMIT)
                    .delegate_size_limit(SIZE_LIMIT)
                    .max_prog_size(SIZE_LIMIT / 64)
                    .build()
                    .map_err(|e| RegexError(format!("failed to compile regex \"{pattern}\": {e}")))?,
            )),
        };
        let groups = match &engine {
            Engine::Linear(r) => r.captures_len(),
            Engine::Backtrack(r) => r.captures_len(),
        };
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Regex { inner: Arc::new(Inner { engine, pattern: pattern.into(), options: options.into(), id, groups }) })
    }

    /// The pattern as configured.
    pub fn as_str(&self) -> &str {
        &self.inner.pattern
    }

    /// Whether a match costs time linear in the subject (no backtracking).
    pub fn is_linear(&self) -> bool {
        matches!(self.inner.engine, Engine::Linear(_))
    }

    /// Groups, the whole match included.
    pub fn group_count(&self) -> usize {
        self.inner.groups
    }

    /// Named groups: (number, name).
    pub fn group_names(&self) -> Vec<(usize, &str)> {
        fn named<'a>(names: impl Iterator<Item = Option<&'a str>>) -> Vec<(usize, &'a str)> {
            names.enumerate().filter_map(|(i, n)| Some((i, n?))).collect()
        }
        match &self.inner.engine {
            Engine::Linear(r) => named(r.capture_names()),
            Engine::Backtrack(r) => named(r.capture_names()),
        }
    }

    /// Whether the pattern occurs anywhere in `subject`.
    pub fn is_match(&self, subject: &[u8]) -> bool {
        match &self.inner.engine {
            Engine::Linear(r) => r.is_match(subject),
            Engine::Backtrack(r) => r.is_match(subject).unwrap_or(false),
        }
    }

    /// Byte range of the first match.
    pub fn find(&self, subject: &[u8]) -> Option<(usize, usize)> {
        match &self.inner.engine {
            Engine::Linear(r) => r.find(subject).map(|m| (m.start(), m.end())),
            Engine::Backtrack(r) => r.find(subject).ok().flatten().map(|m| (m.start(), m.end())),
        }
    }

    /// Byte ranges of the match and its groups.
    pub fn captures(&self, subject: &[u8]) -> Option<Vec<Option<(usize, usize)>>> {
        let mut captures = Captures::default();
        self.captures_into(subject, &mut captures).then_some(captures.spans)
    }

    /// As [`Regex::captures`], into storage that is kept between requests. `false`, and nothing in `captures`, when nothing matches.
    pub fn captures_into(&self, subject: &[u8], captures: &mut Captures) -> bool {
        self.captures_at(subject, 0, captures)
    }

    /// The first match that starts at or after `from`; look-behind and `^` see the whole subject.
    fn captures_at(&self, subject: &[u8], from: usize, captures: &mut Captures) -> bool {
        captures.spans.clear();
        if from > subject.len() {
            return false;
        }
        match &self.inner.engine {
            Engine::Linear(r) => {
                if captures.scratch.as_ref().is_none_or(|(id, _)| *id != self.inner.id) {
                    captures.scratch = Some((self.inner.id, r.capture_locations()));
                }
                let Some((_, locations)) = &mut captures.scratch else { return false };
                if r.captures_read_at(locations, subject, from).is_none() {
                    return false;
                }
                captures.spans.extend((0..locations.len()).map(|i| locations.get(i)));
                true
            }
            Engine::Backtrack(r) => match r.captures_from_pos(subject, from) {
                Ok(Some(found)) => {
                    captures.spans.extend((0..found.len()).map(|i| found.get(i).map(|m| (m.start(), m.end()))));
                    true
                }
                Ok(None) | Err(_) => false,
            },
        }
    }

    /// `ngx.re.sub`: replaces the first match; `$0`–`$99`, `${1}`, `$$` in `replacement`. `None` when nothing matched.
    pub fn replace_first(&self, subject: &[u8], replacement: &str) -> Option<Vec<u8>> {
        let (out, n) = self.replace(subject, &Replacement::lenient(replacement), 1);
        (n > 0).then_some(out)
    }

    /// `ngx.re.gsub`: as [`Regex::replace_first`] for all matches.
    pub fn replace_all(&self, subject: &[u8], replacement: &str) -> Option<Vec<u8>> {
        let (out, n) = self.replace(subject, &Replacement::lenient(replacement), usize::MAX);
        (n > 0).then_some(out)
    }

    /// Replaces up to `limit` matches; also returns how many there were. As in lua-resty-core, an empty match may follow
    /// directly on a non-empty one.
    pub fn replace(&self, subject: &[u8], replacement: &Replacement, limit: usize) -> (Vec<u8>, usize) {
        let mut captures = Captures::default();
        let mut out = Vec::with_capacity(subject.len() + 16);
        let (mut copied, mut position, mut count) = (0, 0, 0);
        while count < limit && self.captures_at(subject, position, &mut captures) {
            let Some((start, end)) = captures.get(0) else { break };
            out.extend_from_slice(subject.get(copied..start).unwrap_or_default());
            replacement.expand_into(subject, &captures, &mut out);
            // `\K` and look-behind cannot move backwards past what was copied.
            copied = end.max(copied);
            position = if start == end { self.step(subject, end) } else { copied };
            count += 1;
        }
        out.extend_from_slice(subject.get(copied..).unwrap_or_default());
        (out, count)
    }

    /// One byte on, or one character with option `u`.
    fn step(&self, subject: &[u8], at: usize) -> usize {
        let mut next = at + 1;
        if self.inner.options.contains('u') {
            while subject.get(next).is_some_and(|b| (b & 0xc0) == 0x80) {
                next += 1;
            }
        }
        next
    }
}

impl std::fmt::Debug for Regex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Regex({:?}, {:?})", self.inner.pattern, self.inner.options)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.inner.pattern == other.inner.pattern && self.inner.options == other.inner.options
    }
}

#[cfg(test)]
mod tests;
