//! `log_format`, compiled. The surprise: a missing variable is `-` only with the default escape; with `json` and `none` it is
//! empty, as nginx does it (ngx_http_log_module).
use crate::time_format;
use sluice_expr::{Lookup, Value, Variable};
use std::io::Write;
use std::time::SystemTime;

/// How values of variables are made safe; text between them is not touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Escape {
    /// `"`, `\`, bytes below 32 and above 126 as `\xXX`.
    #[default]
    Default,
    /// As inside a JSON string.
    Json,
    /// Not at all.
    None,
}

impl Escape {
    /// By nginx's name: `default`, `json`, `none`.
    pub fn parse(name: &str) -> Option<Escape> {
        match name {
            "default" => Some(Escape::Default),
            "json" => Some(Escape::Json),
            "none" => Some(Escape::None),
            _ => None,
        }
    }

    /// Appends `value`, escaped.
    pub fn append(self, value: &[u8], out: &mut Vec<u8>) {
        let plain = match self {
            Escape::None => return out.extend_from_slice(value),
            Escape::Default => |byte: u8| (32..=126).contains(&byte) && byte != b'"' && byte != b'\\',
            Escape::Json => |byte: u8| byte >= 32 && byte != b'"' && byte != b'\\',
        };
        let mut rest = value;
        while let Some(at) = rest.iter().position(|byte| !plain(*byte)) {
            let (good, tail) = rest.split_at(at);
            out.extend_from_slice(good);
            let Some((byte, tail)) = tail.split_first() else { return };
            match self {
                Escape::Json => json_escape(*byte, out),
                _ => out.extend_from_slice(&[b'\\', b'x', hex(byte >> 4), hex(byte & 15)]),
            }
            rest = tail;
        }
        out.extend_from_slice(rest);
    }
}

fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'A' + digit - 10 }
}

fn json_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        8 => b'b',
        12 => b'f',
        _ => return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]),
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[derive(Debug, Clone)]
enum Part {
    Text(Box<[u8]>),
    Variable(Variable),
    TimeLocal,
    TimeIso8601,
    Msec,
}

/// A compiled `log_format`.
#[derive(Debug, Clone)]
pub struct AccessLogFormat {
    parts: Box<[Part]>,
    escape: Escape,
}

impl AccessLogFormat {
    /// Compiles `$name` and `${name}`; a `$` without a name stays text. White space around the format is dropped, since a
    /// YAML block ends with a line feed and each line gets its own.
    pub fn compile(format: &str, escape: Escape) -> AccessLogFormat {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = format.trim();
        while let Some(at) = rest.find('$') {
            let (before, after) = (rest.get(..at).unwrap_or(""), rest.get(at + 1..).unwrap_or(""));
            text.push_str(before);
            let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, tail) = match braced {
                Some((name, tail)) => (name, tail),
                None => {
                    let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                    after.split_at(end)
                }
            };
            if name.is_empty() {
                text.push('$');
                rest = after;
                continue;
            }
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text).into_bytes().into()));
            }
            parts.push(match name {
                "time_local" => Part::TimeLocal,
                "time_iso8601" => Part::TimeIso8601,
                "msec" => Part::Msec,
                // nginx's own variable is what the client sent; only plugins see the normalised one (apisix/init.lua).
                "request_uri" => Part::Variable(Variable::Custom("real_request_uri".into())),
                name => Part::Variable(Variable::parse(name)),
            });
            rest = tail;
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text.into_bytes().into()));
        }
        AccessLogFormat { parts: parts.into(), escape }
    }

    /// Appends one line with its line feed. The time is `now`, whatever the look-up says.
    pub fn render(&self, lookup: &dyn Lookup, now: SystemTime, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::TimeLocal => time_format::time_local(now, out),
                Part::TimeIso8601 => time_format::time_iso8601(now, out),
                Part::Msec => time_format::msec(now, out),
                Part::Variable(variable) => match lookup.variable(variable) {
                    Some(value) => append(&value, self.escape, out),
                    None if self.escape == Escape::Default => out.push(b'-'),
                    None => {}
                },
            }
        }
        out.push(b'\n');
    }
}

fn append(value: &Value<'_>, escape: Escape, out: &mut Vec<u8>) {
    match value {
        Value::Bytes(bytes) => escape.append(bytes, out),
        Value::Bool(yes) => out.extend_from_slice(if *yes { b"true" } else { b"false" }),
        Value::Number(n) if n.fract() == 0.0 && n.abs() < 1e15 => {
            out.extend_from_slice(itoa::Buffer::new().format(*n as i64).as_bytes());
        }
        // Writing to a Vec cannot fail.
        Value::Number(n) => drop(write!(out, "{n}")),
        Value::List(values) => {
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.extend_from_slice(b", ");
                }
                append(value, escape, out);
            }
        }
    }
}
