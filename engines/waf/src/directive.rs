//! The text of a configuration as directives: comments and continued lines are gone, arguments have lost their quotes.

use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) struct Directive {
    pub name: String,
    pub args: Vec<String>,
    pub place: Place,
}

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub file: Arc<str>,
    pub line: usize,
}

/// Directives of a text; an error is a line and what is wrong with it.
pub(crate) fn read(text: &str, file: &Arc<str>) -> Result<Vec<Directive>, (Place, String)> {
    let mut directives = Vec::new();
    let mut logical = String::new();
    let mut begun = 1;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if logical.is_empty() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            begun = number;
        }
        // a comment between two parts of one directive
        if !logical.is_empty() && line.starts_with('#') {
            continue;
        }
        if let Some(part) = line.strip_suffix('\\') {
            logical.push_str(part);
            continue;
        }
        logical.push_str(line);
        let place = Place { file: file.clone(), line: begun };
        directives.push(split(&logical, place)?);
        logical.clear();
    }
    if !logical.is_empty() {
        directives.push(split(&logical, Place { file: file.clone(), line: begun })?);
    }
    Ok(directives)
}

fn split(text: &str, place: Place) -> Result<Directive, (Place, String)> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(first) = chars.next() else { break };
        let mut word = String::new();
        if matches!(first, '"' | '`') || first == '\'' && !words.is_empty() {
            loop {
                match chars.next() {
                    None => return Err((place, format!("a {first} is opened and never closed"))),
                    // only the quote itself is escaped; a regular expression keeps its backslashes
                    Some('\\') if chars.peek() == Some(&first) => {
                        word.push(first);
                        chars.next();
                    }
                    Some('\\') if first == '"' && chars.peek() == Some(&'\\') => {
                        word.push_str("\\\\");
                        chars.next();
                    }
                    Some(c) if c == first => break,
                    Some(c) => word.push(c),
                }
            }
        } else {
            word.push(first);
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.push(c);
            }
        }
        words.push(word);
    }
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    Ok(Directive { name, args: words.collect(), place })
}
