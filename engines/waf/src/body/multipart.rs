//! `multipart/form-data` (RFC 7578), read as leniently as applications do, with a flag for every irregularity that one of
//! them may understand otherwise (the ModSecurity reference manual, `MULTIPART_STRICT_ERROR`).

use super::{Body, File};
use crate::variable::Variable;

pub(crate) const FLAGS: &[Variable] = &[
    Variable::MultipartBoundaryQuoted,
    Variable::MultipartCrlfLfLines,
    Variable::MultipartDataAfter,
    Variable::MultipartDataBefore,
    Variable::MultipartFileLimitExceeded,
    Variable::MultipartHeaderFolding,
    Variable::MultipartInvalidHeaderFolding,
    Variable::MultipartInvalidPart,
    Variable::MultipartInvalidQuoting,
    Variable::MultipartLfLine,
    Variable::MultipartMissingSemicolon,
    Variable::MultipartUnmatchedBoundary,
];

/// Those that make `MULTIPART_STRICT_ERROR`.
pub(crate) const STRICT: &[Variable] = &[
    Variable::MultipartBoundaryQuoted,
    Variable::MultipartDataBefore,
    Variable::MultipartDataAfter,
    Variable::MultipartHeaderFolding,
    Variable::MultipartLfLine,
    Variable::MultipartMissingSemicolon,
    Variable::MultipartInvalidPart,
    Variable::MultipartInvalidQuoting,
    Variable::MultipartFileLimitExceeded,
];

/// The parts; on an error, those before it.
pub(crate) fn read(body: &[u8], content_type: &[u8]) -> Result<Body, Box<Body>> {
    let mut out = Body::default();
    let Some((boundary, quoted)) = boundary(content_type) else {
        return Err(Box::new(out));
    };
    if quoted {
        out.flags.push(Variable::MultipartBoundaryQuoted);
    }
    let delimiter = [b"--", boundary.as_slice()].concat();
    let mut part: Option<Part> = None;
    let (mut ended, mut crlf, mut lf) = (false, false, false);
    for line in body.split_inclusive(|b| *b == b'\n') {
        match line {
            [.., b'\r', b'\n'] => crlf = true,
            [.., b'\n'] => lf = true,
            _ => {}
        }
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if let Some(rest) = text.strip_prefix(delimiter.as_slice())
            && matches!(rest.trim_ascii_end(), b"" | b"--")
        {
            if let Some(part) = part.take() {
                part.finish(&mut out);
            }
            ended = rest.starts_with(b"--");
            if !ended {
                part = Some(Part::default());
            }
            continue;
        }
        if text.starts_with(b"--") && text.get(2..).is_some_and(|t| t.starts_with(&boundary)) {
            out.flags.push(Variable::MultipartUnmatchedBoundary);
        }
        match &mut part {
            Some(part) if !part.in_body => part.head_line(text, &mut out),
            Some(part) => part.data.extend_from_slice(line),
            None if text.is_empty() => {}
            None if ended => out.flags.push(Variable::MultipartDataAfter),
            None => out.flags.push(Variable::MultipartDataBefore),
        }
    }
    if lf {
        out.flags.push(Variable::MultipartLfLine);
        if crlf {
            out.flags.push(Variable::MultipartCrlfLfLines);
        }
    }
    match part {
        Some(part) => {
            part.finish(&mut out);
            Err(Box::new(out))
        }
        None if ended => Ok(out),
        None => Err(Box::new(out)),
    }
}

/// The boundary, and whether it stands in quotes.
fn boundary(content_type: &[u8]) -> Option<(Vec<u8>, bool)> {
    let lower = content_type.to_ascii_lowercase();
    let at = memchr::memmem::find(&lower, b"boundary=")? + b"boundary=".len();
    let rest = content_type.get(at..)?;
    if let Some(rest) = rest.strip_prefix(b"\"") {
        let end = memchr::memchr(b'"', rest)?;
        return Some((rest.get(..end)?.to_vec(), true)).filter(|(b, _)| !b.is_empty());
    }
    let end = rest.iter().position(|b| matches!(b, b';' | b' ' | b'\t' | b',')).unwrap_or(rest.len());
    Some((rest.get(..end)?.to_vec(), false)).filter(|(b, _)| !b.is_empty())
}

#[derive(Default)]
struct Part {
    in_body: bool,
    headers: Vec<Vec<u8>>,
    data: Vec<u8>,
}

impl Part {
    fn head_line(&mut self, line: &[u8], out: &mut Body) {
        if line.is_empty() {
            self.in_body = true;
            return;
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            match self.headers.last_mut() {
                Some(last) => {
                    out.flags.push(Variable::MultipartHeaderFolding);
                    last.push(b' ');
                    last.extend_from_slice(line.trim_ascii_start());
                }
                None => out.flags.push(Variable::MultipartInvalidHeaderFolding),
            }
            return;
        }
        if memchr::memchr(b':', line).is_none() {
            out.flags.push(Variable::MultipartInvalidPart);
        }
        self.headers.push(line.to_vec());
    }

    fn finish(mut self, out: &mut Body) {
        // the line end before a delimiter belongs to the delimiter
        if self.data.ends_with(b"\n") {
            self.data.pop();
            if self.data.ends_with(b"\r") {
                self.data.pop();
            }
        }
        let disposition = self.headers.iter().find_map(|h| {
            let at = memchr::memchr(b':', h)?;
            let (name, value) = h.split_at(at);
            name.eq_ignore_ascii_case(b"content-disposition").then(|| value.get(1..).unwrap_or_default())
        });
        let Some(disposition) = disposition else {
            out.flags.push(Variable::MultipartInvalidPart);
            out.part_headers.extend(self.headers.into_iter().map(|h| (Vec::new(), h)));
            return;
        };
        let (name, file) = parameters(disposition, &mut out.flags);
        if name.is_none() {
            out.flags.push(Variable::MultipartInvalidPart);
        }
        let field = name.unwrap_or_default();
        out.part_headers.extend(self.headers.iter().map(|h| (field.clone(), h.clone())));
        match file {
            Some(name) => out.files.push(File { field, name, size: self.data.len() }),
            None => out.arguments.push((field, self.data)),
        }
    }
}

/// `name` and `filename` of a Content-Disposition.
fn parameters(text: &[u8], flags: &mut Vec<Variable>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let (mut name, mut file) = (None, None);
    let mut rest = match memchr::memchr(b';', text) {
        Some(at) => text.get(at + 1..).unwrap_or_default(),
        None => return (None, None),
    };
    loop {
        rest = rest.trim_ascii_start();
        let Some(at) = memchr::memchr(b'=', rest) else { break };
        let key = rest.get(..at).unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let after = rest.get(at + 1..).unwrap_or_default().trim_ascii_start();
        let (value, after) = match after.first() {
            Some(b'"') => quoted(after.get(1..).unwrap_or_default()),
            Some(b'\'') => {
                flags.push(Variable::MultipartInvalidQuoting);
                plain(after)
            }
            _ => plain(after),
        };
        match key.as_slice() {
            b"name" if name.is_none() => name = Some(value),
            b"filename" if file.is_none() => file = Some(value),
            b"name" | b"filename" => flags.push(Variable::MultipartInvalidPart),
            b"filename*" if file.is_none() => file = Some(value),
            _ => {}
        }
        let after = after.trim_ascii_start();
        rest = match after.first() {
            Some(b';') => after.get(1..).unwrap_or_default(),
            Some(_) => {
                flags.push(Variable::MultipartMissingSemicolon);
                after
            }
            None => break,
        };
    }
    (name, file)
}

fn plain(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let end = memchr::memchr(b';', text).unwrap_or(text.len());
    (text.get(..end).unwrap_or_default().trim_ascii().to_vec(), text.get(end..).unwrap_or_default())
}

/// Up to the closing quote; a backslash escapes a quote or a backslash.
fn quoted(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::new();
    let mut i = 0;
    while let Some(&byte) = text.get(i) {
        match (byte, text.get(i + 1)) {
            (b'\\', Some(&next @ (b'"' | b'\\'))) => {
                value.push(next);
                i += 2;
            }
            (b'"', _) => return (value, text.get(i + 1..).unwrap_or_default()),
            _ => {
                value.push(byte);
                i += 1;
            }
        }
    }
    (value, &[])
}
