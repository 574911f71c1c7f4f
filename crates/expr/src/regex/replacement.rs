//! The replacement text of `ngx.re.sub` and `ngx.re.gsub`, compiled.
//!
//! The surprise: `$12` is group 12, never group 1 followed by `2`, whatever groups the pattern has; a group that does not
//! exist or took no part is empty.
use super::{Captures, RegexError};

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(Box<str>),
    Group(usize),
}

/// `$0`–`$99`, `${1}` and `$$` between literal text.
#[derive(Debug, Clone, PartialEq)]
pub struct Replacement {
    parts: Box<[Part]>,
}

impl Replacement {
    /// Compiles; a `$` before anything else than a digit, `{digits}` or `$` is an error, as in lua-nginx-module.
    pub fn compile(text: &str) -> Result<Replacement, RegexError> {
        Self::build(text, true)
    }

    /// As [`Replacement::compile`], but such a `$` stands for itself.
    pub fn lenient(text: &str) -> Replacement {
        Self::build(text, false).unwrap_or(Replacement { parts: [Part::Text(text.into())].into() })
    }

    /// No variables at all: the text is inserted as it is.
    pub fn literal(text: &str) -> Replacement {
        Replacement { parts: [Part::Text(text.into())].into() }
    }

    fn build(text: &str, strict: bool) -> Result<Replacement, RegexError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            literal.push_str(rest.get(..at).unwrap_or(""));
            let after = rest.get(at + 1..).unwrap_or("");
            let (group, used) = match after.as_bytes() {
                [b'$', ..] => {
                    literal.push('$');
                    rest = after.get(1..).unwrap_or("");
                    continue;
                }
                [b'{', ..] => {
                    let digits = leading_digits(after.get(1..).unwrap_or(""));
                    let closed = digits > 0 && after.as_bytes().get(1 + digits) == Some(&b'}');
                    (closed.then(|| after.get(1..1 + digits)).flatten(), digits + 2)
                }
                _ => {
                    let digits = leading_digits(after);
                    ((digits > 0).then(|| after.get(..digits)).flatten(), digits)
                }
            };
            match group.and_then(|g| g.parse().ok()) {
                Some(group) => {
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal).into()));
                    }
                    parts.push(Part::Group(group));
                    rest = after.get(used..).unwrap_or("");
                }
                None if strict => {
                    return Err(RegexError(format!("invalid capturing variable name found in \"{text}\"")));
                }
                None => {
                    literal.push('$');
                    rest = after;
                }
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Replacement { parts: parts.into() })
    }

    /// Appends the replacement for one match in `subject`.
    pub fn expand_into(&self, subject: &[u8], captures: &Captures, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Group(i) => out.extend_from_slice(captures.slice(*i, subject).unwrap_or_default()),
            }
        }
    }
}

/// At most two: groups go up to 99.
fn leading_digits(text: &str) -> usize {
    text.bytes().take(2).take_while(u8::is_ascii_digit).count()
}
