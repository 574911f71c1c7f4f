//! PCRE syntax to the syntax of the `regex` and `fancy-regex` crates, where the two read the same text differently.
//!
//! The surprise: `a++` is possessive in PCRE but "one or more of one or more" to the `regex` crate, and `[a&&b]` is a set
//! intersection there. Both compile silently, so this pass must run before either engine sees the pattern.

/// A pattern ready for the engines.
#[derive(Debug, PartialEq)]
pub(super) struct Translated {
    pub pattern: String,
    /// It uses what only a backtracking engine can do.
    pub backtracks: bool,
}

/// Reads `pattern` as PCRE does. `extended` is option `x`; `unicode` is option `u`, where `\d`, `\w`, `\s` stay ASCII in PCRE.
pub(super) fn translate(pattern: &str, extended: bool, unicode: bool) -> Translated {
    let mut t =
        Pass { rest: pattern, out: String::with_capacity(pattern.len() + 8), backtracks: false, extended, unicode };
    while let Some(c) = t.next() {
        t.outside(c);
    }
    Translated { pattern: t.out, backtracks: t.backtracks }
}

struct Pass<'a> {
    rest: &'a str,
    out: String,
    backtracks: bool,
    extended: bool,
    unicode: bool,
}

impl Pass<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or("");
        Some(c)
    }

    fn skip(&mut self, n: usize) {
        self.rest = self.rest.get(n..).unwrap_or("");
    }

    fn outside(&mut self, c: char) {
        match c {
            '\\' => self.escape(),
            '[' => self.class(),
            '(' if self.rest.starts_with("?#") => {
                let end = self.rest.find(')').map_or(self.rest.len(), |i| i + 1);
                self.skip(end);
            }
            '(' => {
                self.out.push('(');
                // Atomic groups, look-around, conditionals, recursion; a name also starts with `?<`.
                let r = self.rest;
                if r.starts_with("?>")
                    || r.starts_with("?=")
                    || r.starts_with("?!")
                    || r.starts_with("?<=")
                    || r.starts_with("?<!")
                    || r.starts_with("?(")
                {
                    self.backtracks = true;
                } else if let Some(name) = r.strip_prefix("?'") {
                    self.out.push_str("?<");
                    let end = name.find('\'').unwrap_or(name.len());
                    self.out.push_str(name.get(..end).unwrap_or(""));
                    self.out.push('>');
                    self.skip(2 + end + 1);
                }
            }
            '*' | '+' | '?' => {
                self.out.push(c);
                self.after_quantifier();
            }
            '{' => match interval(self.rest) {
                Some(len) => {
                    self.out.push('{');
                    self.out.push_str(self.rest.get(..len).unwrap_or(""));
                    self.skip(len);
                    self.after_quantifier();
                }
                None => self.out.push_str("\\{"),
            },
            '}' => self.out.push_str("\\}"),
            '#' if self.extended => {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.skip(end);
            }
            _ => self.out.push(c),
        }
    }

    fn after_quantifier(&mut self) {
        if self.rest.starts_with('+') {
            self.backtracks = true;
            self.out.push('+');
            self.skip(1);
        } else if self.rest.starts_with('?') {
            self.out.push('?');
            self.skip(1);
        }
    }

    fn escape(&mut self) {
        let Some(c) = self.next() else {
            // A trailing backslash: left for the engine to refuse.
            self.out.push('\\');
            return;
        };
        match c {
            'h' => self.out.push_str(r"[ \t]"),
            'H' => self.out.push_str(r"[^ \t]"),
            'R' => self.out.push_str(r"(?:\r\n|[\n\x0b\x0c\r])"),
            'N' => self.out.push_str(r"[^\n]"),
            'e' => self.out.push_str(r"\x1b"),
            'Z' => {
                self.backtracks = true;
                self.out.push_str(r"(?=\n?\z)");
            }
            'Q' => {
                let end = self.rest.find("\\E").unwrap_or(self.rest.len());
                for c in self.rest.get(..end).unwrap_or("").chars() {
                    self.literal(c);
                }
                self.skip(end + 2);
            }
            'E' => {}
            '0' => {
                let len = self.rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let code = u8::from_str_radix(self.rest.get(..len).unwrap_or(""), 8).unwrap_or(0);
                self.out.push_str(&format!("\\x{code:02x}"));
                self.skip(len);
            }
            '1'..='9' | 'k' | 'g' | 'K' | 'G' => {
                self.backtracks = true;
                self.out.push('\\');
                self.out.push(c);
            }
            'd' | 'D' | 'w' | 'W' | 's' | 'S' if self.unicode => {
                let (not, set) = ascii_set(c);
                self.out.push_str(if not { "[^" } else { "[" });
                self.out.push_str(set);
                self.out.push(']');
            }
            'a'..='z' | 'A'..='Z' => {
                self.out.push('\\');
                self.out.push(c);
            }
            _ => self.literal(c),
        }
    }

    /// A character that stands for itself, also with option `x`.
    fn literal(&mut self, c: char) {
        match c {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => self.out.push_str(&format!("\\x{:02x}", c as u32)),
            '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' | '#' | '&' | '-'
            | '~' => {
                self.out.push('\\');
                self.out.push(c);
            }
            _ => self.out.push(c),
        }
    }

    /// After `[`: up to the closing `]`. `[`, `&` and `~` have no special meaning in PCRE's classes.
    fn class(&mut self) {
        self.out.push('[');
        if self.rest.starts_with('^') {
            self.out.push('^');
            self.skip(1);
        }
        let mut first = true;
        while let Some(c) = self.next() {
            match c {
                ']' if !first => {
                    self.out.push(']');
                    return;
                }
                ']' => self.out.push_str("\\]"),
                '[' => match self.rest.starts_with(':').then(|| self.rest.find(":]")).flatten() {
                    Some(end) => {
                        self.out.push('[');
                        self.out.push_str(self.rest.get(..end + 2).unwrap_or(""));
                        self.skip(end + 2);
                    }
                    None => self.out.push_str("\\["),
                },
                '\\' => self.class_escape(),
                // A range keeps its `-`; one at either end is a literal.
                '-' if first || self.rest.starts_with(']') => self.out.push_str("\\-"),
                '-' => self.out.push('-'),
                _ => self.literal(c),
            }
            first = false;
        }
    }

    fn class_escape(&mut self) {
        let Some(c) = self.next() else { return };
        match c {
            'h' => self.out.push_str(r" \t"),
            'b' => self.out.push_str(r"\x08"),
            'e' => self.out.push_str(r"\x1b"),
            'd' | 'w' | 's' if self.unicode => self.out.push_str(ascii_set(c).1),
            'D' | 'W' | 'S' if self.unicode => {
                self.out.push_str("[^");
                self.out.push_str(ascii_set(c).1);
                self.out.push(']');
            }
            'a'..='z' | 'A'..='Z' => {
                self.out.push('\\');
                self.out.push(c);
            }
            '0'..='7' => {
                let len = self.rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let digits = format!("{c}{}", self.rest.get(..len).unwrap_or(""));
                self.out.push_str(&format!("\\x{{{:x}}}", u32::from_str_radix(&digits, 8).unwrap_or(0)));
                self.skip(len);
            }
            _ => self.literal(c),
        }
    }
}

/// The length of `n}`, `n,}` or `n,m}`, if that is what `rest` starts with: only then is `{` a quantifier in PCRE.
fn interval(rest: &str) -> Option<usize> {
    let end = rest.find('}')?;
    let (min, max) = match rest.get(..end)?.split_once(',') {
        Some((min, max)) => (min, max),
        None => (rest.get(..end)?, ""),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    (!min.is_empty() && digits(min) && digits(max)).then_some(end + 1)
}

/// (negated, members) of PCRE's ASCII classes.
fn ascii_set(c: char) -> (bool, &'static str) {
    let set = match c.to_ascii_lowercase() {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        _ => r"\t\n\x0b\x0c\r\x20",
    };
    (c.is_ascii_uppercase(), set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(pattern: &str) -> (String, bool) {
        let t = translate(pattern, false, false);
        (t.pattern, t.backtracks)
    }

    #[test]
    fn differences() {
        assert_eq!(t(r"^\/a\/(.*)"), ("^/a/(.*)".into(), false));
        assert_eq!(t(r"\<b\>"), ("<b>".into(), false));
        assert_eq!(t("[a&&b~~[]"), (r"[a\&\&b\~\~\[]".into(), false));
        assert_eq!(t("[]a]"), (r"[\]a]".into(), false));
        assert_eq!(t("[[:alpha:]-]"), (r"[[:alpha:]\-]".into(), false));
        assert_eq!(t("a{b}{2}{,3}"), (r"a\{b\}{2}\{,3\}".into(), false));
        assert_eq!(t("a++b"), ("a++b".into(), true));
        assert_eq!(t("a+?b"), ("a+?b".into(), false));
        assert_eq!(t(r"\Qa.b\Ec"), (r"a\.bc".into(), false));
        assert_eq!(t("(?#x)a"), ("a".into(), false));
        assert_eq!(t("(?'n'a)(?<m>b)(?P<o>c)"), ("(?<n>a)(?<m>b)(?P<o>c)".into(), false));
        assert_eq!(t(r"(a)\1"), (r"(a)\1".into(), true));
        assert!(t("(?!x)").1 && t("(?<=x)").1 && t("(?>x)").1);
        assert_eq!(translate("a b # c\n[ #]", true, false).pattern, "a b \n[\\x20\\#]");
        assert_eq!(translate(r"\d[\w]", false, true).pattern, "[0-9][0-9A-Za-z_]");
    }
}
