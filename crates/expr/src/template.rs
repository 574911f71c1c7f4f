//! `$var` and `${var}` in strings, as apisix/core/utils.lua `resolve_var` does it.
//!
//! The surprises: a bare name includes dots (`$host.` names the variable `host.`), `\$` stays as it is with its
//! backslash, and `${name ?? default}` gives a default, which counts as resolved.
use crate::{Captures, Lookup, Value, Variable};

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(Box<str>),
    Variable { variable: Variable, default: Option<Box<str>> },
}

/// A compiled string with variables.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    parts: Box<[Part]>,
}

impl Template {
    /// Compiles; never fails, as `resolve_var` leaves what it does not understand.
    pub fn compile(text: &str) -> Template {
        Self::build(text, |before, after| {
            if before.ends_with('\\') {
                return None;
            }
            if let Some(inner) = after.strip_prefix('{') {
                let end = inner.find('}').filter(|end| *end > 0)?;
                let (variable, default) = with_default(inner.get(..end)?);
                return Some((end + 2, variable, default));
            }
            let len = after.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.')).count();
            let name = after.get(..len).filter(|n| !n.is_empty())?;
            Some((len, Variable::parse(name), None))
        })
    }

    /// Compiles nginx's `log_format`: names are letters, digits and `_`; there is no escape and no default. Render it with
    /// `-` as the missing text, as nginx does.
    pub fn compile_log_format(text: &str) -> Template {
        Self::build(text, |_, after| {
            let braced = after.strip_prefix('{');
            let rest = braced.unwrap_or(after);
            let len = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
            let name = rest.get(..len).filter(|n| !n.is_empty())?;
            if braced.is_some() && rest.as_bytes().get(len) != Some(&b'}') {
                return None;
            }
            Some((len + if braced.is_some() { 2 } else { 0 }, Variable::parse(name), None))
        })
    }

    /// `read(text before the $, text after it)` gives the length of the reference after `$`, and what it refers to.
    fn build(text: &str, read: impl Fn(&str, &str) -> Option<(usize, Variable, Option<Box<str>>)>) -> Template {
        let mut parts = Vec::new();
        let (mut copied, mut position) = (0, 0);
        while let Some(found) = text.get(position..).and_then(|rest| rest.find('$')) {
            let at = position + found;
            let (before, after) = (text.get(..at).unwrap_or(""), text.get(at + 1..).unwrap_or(""));
            position = at + 1;
            if let Some((len, variable, default)) = read(before, after) {
                push_text(&mut parts, text.get(copied..at));
                parts.push(Part::Variable { variable, default });
                position = at + 1 + len;
                copied = position;
            }
        }
        push_text(&mut parts, text.get(copied..));
        Template { parts: parts.into() }
    }

    /// The whole text if it has no variable.
    pub fn constant(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The variable if the template is that and nothing else (without default), so its value can be used untouched.
    pub fn single_variable(&self) -> Option<&Variable> {
        match &*self.parts {
            [Part::Variable { variable, default: None }] => Some(variable),
            _ => None,
        }
    }

    /// The variables it reads, in order, repeated ones repeated.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable { variable, .. } => Some(variable),
            Part::Text(_) => None,
        })
    }

    /// Appends the rendered text. A variable without a value becomes its default, else `missing`. Returns how many
    /// variables had a value or a default (`resolve_var`'s third result).
    pub fn render_into(&self, lookup: &dyn Lookup, missing: &str, out: &mut Vec<u8>) -> usize {
        self.render_with(lookup, missing, out, |value, out| value.write_to(out))
    }

    /// As [`Template::render_into`]; `escape` writes each value (but not `missing` nor the literal text).
    pub fn render_escaped(
        &self,
        lookup: &dyn Lookup,
        missing: &str,
        escape: &dyn Fn(&[u8], &mut Vec<u8>),
        out: &mut Vec<u8>,
    ) -> usize {
        self.render_with(lookup, missing, out, |value, out| escape(&value.as_bytes(), out))
    }

    /// The rendered text in a new string.
    pub fn render(&self, lookup: &dyn Lookup, missing: &str) -> Vec<u8> {
        let mut out = Vec::new();
        self.render_into(lookup, missing, &mut out);
        out
    }

    fn render_with(
        &self,
        lookup: &dyn Lookup,
        missing: &str,
        out: &mut Vec<u8>,
        write: impl Fn(&Value<'_>, &mut Vec<u8>),
    ) -> usize {
        let mut resolved = 0;
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable { variable, default } => match (lookup.variable(variable), default) {
                    (Some(value), _) => {
                        write(&value, out);
                        resolved += 1;
                    }
                    (None, Some(default)) => {
                        write(&Value::str(default), out);
                        resolved += 1;
                    }
                    (None, None) => out.extend_from_slice(missing.as_bytes()),
                },
            }
        }
        resolved
    }
}

fn push_text(parts: &mut Vec<Part>, text: Option<&str>) {
    if let Some(text) = text.filter(|t| !t.is_empty()) {
        parts.push(Part::Text(text.into()));
    }
}

/// The inside of `${…}`: `name`, or `name ?? default` with spaces around ignored; an empty default is none.
fn with_default(inner: &str) -> (Variable, Option<Box<str>>) {
    let trimmed = inner.trim_ascii();
    // `${ }` names a variable of one space, which nobody has.
    let text = if trimmed.is_empty() { " " } else { trimmed };
    let mut parts = text.split("??");
    let name = parts.next().unwrap_or("").trim_ascii_end();
    let default = parts.next().map(str::trim_ascii).filter(|d| !d.is_empty() || parts.next().is_some());
    (Variable::parse(name), default.map(Into::into))
}

/// Text with `$1` or `${1}` for the groups of a match, as `resolve_var_with_captures` in apisix/core/utils.lua: `\$1`
/// stays, groups that are missing are empty, braces need not be paired.
#[derive(Debug, Clone, PartialEq)]
pub struct CaptureTemplate {
    parts: Box<[(Box<str>, Option<usize>)]>,
}

impl CaptureTemplate {
    /// Compiles; never fails.
    pub fn compile(text: &str) -> CaptureTemplate {
        let mut parts = Vec::new();
        let (mut copied, mut position) = (0, 0);
        while let Some(found) = text.get(position..).and_then(|rest| rest.find('$')) {
            let at = position + found;
            position = at + 1;
            let rest = text.get(at + 1..).unwrap_or("");
            let open = usize::from(rest.starts_with('{'));
            let digits = rest.bytes().skip(open).take_while(u8::is_ascii_digit).count();
            if digits == 0 || text.get(..at).is_some_and(|before| before.ends_with('\\')) {
                continue;
            }
            let close = usize::from(rest.as_bytes().get(open + digits) == Some(&b'}'));
            // A number beyond usize names no group.
            let group = rest.get(open..open + digits).and_then(|d| d.parse().ok()).unwrap_or(usize::MAX);
            parts.push((text.get(copied..at).unwrap_or("").into(), Some(group)));
            position = at + 1 + open + digits + close;
            copied = position;
        }
        parts.push((text.get(copied..).unwrap_or("").into(), None));
        CaptureTemplate { parts: parts.into() }
    }

    /// Appends the text with the groups of a match in `subject`.
    pub fn render_into(&self, subject: &[u8], captures: &Captures, out: &mut Vec<u8>) {
        for (text, group) in &self.parts {
            out.extend_from_slice(text.as_bytes());
            if let Some(group) = group {
                out.extend_from_slice(captures.slice(*group, subject).unwrap_or_default());
            }
        }
    }
}

#[cfg(test)]
mod tests;
