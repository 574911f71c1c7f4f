//! Templates in the language of lua-resty-template, as Lua source (its README tells the language: `{{ }}`, `{* *}`, `{% %}`,
//! `{( )}`, `{[ ]}`, `{# #}`, `{-name-}`).
//!
//! The surprise: there are no files here, so `{(name)}` includes a template whose text is the name, which is what the original
//! does with a name that no file has.

use std::borrow::Cow;

/// The source of a chunk: it gets the context, the module `resty.template`, the blocks and `include`, and returns the text.
pub(crate) fn source(text: &[u8]) -> Vec<u8> {
    let mut writer = Writer { out: HEAD.to_vec() };
    writer.template(text);
    writer.out.extend_from_slice(FOOT);
    writer.out
}

const HEAD: &[u8] = b"local context, template, blocks, include = ...\n\
    local ___, layout = {}\n\
    local function echo(...) for i = 1, select('#', ...) do ___[#___ + 1] = tostring((select(i, ...))) end end\n";
const FOOT: &[u8] = b"if layout then return include(layout, \
    setmetatable({ view = table.concat(___), blocks = blocks }, { __index = context }), blocks) end\n\
    return table.concat(___)\n";

struct Writer {
    out: Vec<u8>,
}

fn find(text: &[u8], from: usize, needle: &[u8]) -> Option<usize> {
    let rest = text.get(from..)?;
    rest.windows(needle.len()).position(|w| w == needle).map(|at| from + at)
}

/// Whether the `{` at `at` is escaped, and how many characters before it belong to the escape: `\{` is text, `\\{` is a
/// backslash and a tag.
fn escaped(text: &[u8], at: usize) -> (bool, usize) {
    match text.get(..at).unwrap_or_default() {
        [.., b'\\', b'\\'] => (false, 1),
        [.., b'\\'] => (true, 1),
        _ => (false, 0),
    }
}

/// The place behind a line feed, if one is here.
fn past_line(text: &[u8], at: usize) -> usize {
    if text.get(at) == Some(&b'\n') { at + 1 } else { at }
}

/// Every kind of line end as a line feed: the original writes text as Lua's long strings, which do that.
fn lines(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\r') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if !matches!(byte, b'\r' | b'\n') {
            out.push(byte);
            continue;
        }
        out.push(b'\n');
        // `\r\n` and `\n\r` are one.
        if bytes.peek().is_some_and(|next| matches!(next, b'\r' | b'\n') && *next != byte) {
            bytes.next();
        }
    }
    Cow::Owned(out)
}

impl Writer {
    fn literal(&mut self, text: &[u8]) {
        self.out.push(b'"');
        for byte in text {
            match byte {
                b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', *byte]),
                b' '..=b'~' => self.out.push(*byte),
                _ => self.out.extend_from_slice(format!("\\{byte:03}").as_bytes()),
            }
        }
        self.out.push(b'"');
    }

    fn text(&mut self, text: &[u8]) {
        let text = &*lines(text);
        // A literal may not be too long for LuaJIT's lexer, nor a line; pieces of this size are neither.
        for piece in text.chunks(1 << 16) {
            self.out.extend_from_slice(b"___[#___ + 1] = ");
            self.literal(piece);
            self.out.push(b'\n');
        }
    }

    fn call(&mut self, before: &[u8], expression: &[u8]) {
        self.out.extend_from_slice(b"___[#___ + 1] = ");
        self.out.extend_from_slice(before);
        self.out.extend_from_slice(expression.trim_ascii());
        self.out.extend_from_slice(b"\n)\n");
    }

    fn template(&mut self, view: &[u8]) {
        // `begin`: what is not written yet.
        let (mut begin, mut at) = (0, 0);
        while let Some(open) = find(view, at, b"{") {
            at = open + 1;
            let kind = view.get(open + 1).copied().unwrap_or_default();
            let close: &[u8] = match kind {
                b'{' => b"}}",
                b'*' => b"*}",
                b'%' => b"%}",
                b'(' => b")}",
                b'[' => b"]}",
                b'-' => b"-}",
                b'#' => b"#}",
                _ => continue,
            };
            let Some(end) = find(view, open + 2, close) else { continue };
            let inside = view.get(open + 2..end).unwrap_or_default();
            let block = if kind == b'-' {
                let tag = view.get(open..end + 2).unwrap_or_default();
                match find(view, end + 2, tag) {
                    Some(last) => Some((last, last + tag.len())),
                    None => continue,
                }
            } else {
                None
            };
            let (is_text, width) = escaped(view, open);
            // Code, and blocks with a name, take the spaces before them away, and leave backslashes there alone.
            let named = kind == b'-' && !matches!(inside.trim_ascii(), b"raw" | b"verbatim");
            let trims = !is_text && (kind == b'%' || named);
            let mut until = if trims { open } else { open - width };
            if trims {
                while until > begin && matches!(view.get(until - 1), Some(b' ' | b'\t' | 0x0b | 0)) {
                    until -= 1;
                }
            }
            self.text(view.get(begin..until.max(begin)).unwrap_or_default());
            if is_text {
                begin = open;
                continue;
            }
            begin = end + 2;
            match (kind, block) {
                (b'{', _) => self.call(b"template.escape(", inside),
                (b'*', _) => self.call(b"template.output(", inside),
                (b'[', _) => self.call(b"include(", inside),
                (b'(', _) => self.include(inside),
                (b'%', _) => {
                    self.out.extend_from_slice(inside.trim_ascii());
                    self.out.push(b'\n');
                    begin = past_line(view, begin);
                }
                (b'#', _) => begin = past_line(view, begin),
                (_, Some((last, after))) => {
                    let mut content = view.get(past_line(view, end + 2).min(last)..last).unwrap_or_default();
                    if named {
                        content = content.strip_suffix(b"\n").unwrap_or(content);
                        self.out.extend_from_slice(b"blocks[");
                        self.literal(inside.trim_ascii());
                        self.out.extend_from_slice(b"] = include(");
                        self.literal(content);
                        self.out.extend_from_slice(b")\n");
                    } else {
                        self.text(content);
                    }
                    begin = past_line(view, after);
                }
                _ => {}
            }
            at = begin;
        }
        self.text(view.get(begin..).unwrap_or_default());
    }

    /// `{(name)}` or `{(name, context)}`.
    fn include(&mut self, inside: &[u8]) {
        let comma = inside.iter().skip(1).position(|b| *b == b',').map(|at| at + 1);
        let (name, context) = match comma.and_then(|at| inside.split_at_checked(at)) {
            Some((name, context)) => (name, context.get(1..).unwrap_or_default()),
            None => (inside, &b""[..]),
        };
        self.out.extend_from_slice(b"___[#___ + 1] = include(");
        self.literal(name.trim_ascii());
        if !context.trim_ascii().is_empty() {
            self.out.extend_from_slice(b", ");
            self.out.extend_from_slice(context.trim_ascii());
        }
        self.out.extend_from_slice(b")\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_and_tags() {
        let body = |text: &str| {
            let source = String::from_utf8(source(text.as_bytes())).unwrap();
            let from = HEAD.len();
            source.get(from..source.len() - FOOT.len()).unwrap().to_owned()
        };
        assert_eq!(body("a\n\"\\"), "___[#___ + 1] = \"a\\010\\\"\\\\\"\n");
        assert_eq!(body("{{ x }}"), "___[#___ + 1] = template.escape(x\n)\n");
        assert_eq!(body("{% x = 1 %}\n"), "x = 1\n");
        assert_eq!(body("{( a , {b = 1} )}"), "___[#___ + 1] = include(\"a\", {b = 1})\n");
    }

    proptest! {
        #[test]
        fn no_input_is_too_strange(text in "[{}%*()#\\[\\]\\\\ a\n-]{0,40}") {
            let _ = source(text.as_bytes());
        }
    }
}
