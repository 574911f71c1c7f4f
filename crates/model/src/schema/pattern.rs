//! Patterns of schemas are PCRE, run byte-wise and without Unicode classes (`ngx.re.find` with "jo"). They are rewritten
//! to the syntax of `fancy_regex` here. Surprise: `$` also matches before a final line end, as PCRE has it.

use fancy_regex::Regex;

/// Longest pattern accepted, in bytes.
const LONGEST: usize = 64 * 1024;

pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    Regex::new(&rewrite(pattern)).map_err(|error| error.to_string())
}

/// A search that gives up (too much backtracking) counts as no match.
pub(super) fn is_match(regex: &Regex, text: &str) -> bool {
    regex.is_match(text).unwrap_or(false)
}

fn rewrite(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut letters = pattern.chars().peekable();
    let mut class = false;
    let mut class_start = false;
    while let Some(letter) = letters.next() {
        let at_start = std::mem::take(&mut class_start);
        match letter {
            '\\' => match letters.next() {
                Some(escaped) => escape(escaped, class, &mut out),
                None => out.push('\\'),
            },
            '[' if !class => {
                class = true;
                class_start = true;
                out.push('[');
                if letters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            '[' => {
                // A nested bracket is a letter in PCRE, unless it opens a POSIX class.
                if letters.peek() != Some(&':') {
                    out.push('\\');
                }
                out.push('[');
                if letters.next_if_eq(&':').is_some() {
                    out.push(':');
                    for inner in letters.by_ref() {
                        out.push(inner);
                        if inner == ']' {
                            break;
                        }
                    }
                }
            }
            ']' if class && at_start => out.push_str("\\]"),
            ']' if class => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => {
                out.push('\\');
                out.push(letter);
            }
            '-' if class && letters.peek() == Some(&'-') => out.push_str("\\-"),
            '$' if !class => out.push_str("(?:\\n?\\z)"),
            other => out.push(other),
        }
    }
    out
}

fn escape(escaped: char, class: bool, out: &mut String) {
    let inner = match escaped {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => " \\t\\n\\r\\x0b\\x0c",
        'D' | 'W' | 'S' => {
            out.push_str(match escaped {
                'D' => "[^0-9]",
                'W' => "[^0-9A-Za-z_]",
                _ => "[^ \\t\\n\\r\\x0b\\x0c]",
            });
            return;
        }
        '/' | '<' | '>' | '"' | '\'' | '_' | '@' | '%' | ',' | ';' | '=' | ':' | '!' | '`' => {
            out.push(escaped);
            return;
        }
        other => {
            out.push('\\');
            out.push(other);
            return;
        }
    };
    if class {
        out.push_str(inner);
    } else {
        out.push('[');
        out.push_str(inner);
        out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcre_syntax_is_understood() {
        for (pattern, yes, no) in [
            (r"^[a-zA-Z0-9-_.]+$", "a-b_c.d", "a b"),
            (r"^\*$|^\*?[0-9a-zA-Z-._\[\]:]+$", "[::1]", "a,b"),
            (r"^[^\/]+:\/\/([\da-zA-Z.-]+|\[[\da-fA-F:]+\])(:\d+)?", "http://[::1]:80", "/a"),
            (r"^\S+$", "é", "a b"),
            (r"^[[a]+$", "[a", "b"),
            (r"^[]a]+$", "]a", "b"),
            (r"^(?!/)x", "x", "/x"),
            ("^[\x20-\x21\x23-\x5B\\]-\x7E]+$", "a b]", "a\"b"),
            (r"^a$", "a\n", "a\nb"),
            (r"^\d$", "1", "\u{663}"),
        ] {
            let regex = compile(pattern).unwrap();
            assert!(is_match(&regex, yes), "{pattern} should match {yes}");
            assert!(!is_match(&regex, no), "{pattern} should not match {no}");
        }
    }
}
