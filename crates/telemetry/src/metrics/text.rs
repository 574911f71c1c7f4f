//! Text exposition format 0.0.4. The surprise: bounds and numbers are printed as nginx-lua-prometheus does (`le="1"`, not
//! `1.0`; bucket, count, sum in this order), because dashboards match on the text.
use super::family::Family;
use super::series::Shape;
use std::io::Write;

/// `name="value"` pairs, escaped, without braces.
pub(super) fn labels(names: &[Box<str>], values: &[Box<str>]) -> Box<str> {
    let mut out = String::new();
    for (i, (name, value)) in names.iter().zip(values).enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        escape(value, true, &mut out);
        out.push('"');
    }
    out.into()
}

/// Escapes `\` and line feeds, in label values also `"`.
pub(super) fn escape(text: &str, quote: bool, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quote => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

/// Bounds as `le` values, `+Inf` last.
pub(super) fn bounds(bounds: &[f64]) -> Box<[Box<str>]> {
    let text = |bound: &f64| {
        let mut out = Vec::new();
        number(*bound, &mut out);
        String::from_utf8_lossy(&out).into()
    };
    bounds.iter().map(text).chain([Box::from("+Inf")]).collect()
}

/// A number: whole ones without a point, others in the shortest form that reads back the same.
pub(super) fn number(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else if value.fract() == 0.0 && value.abs() < 1e15 {
        integer_signed(value as i64, out);
    } else {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{value}");
    }
}

fn integer_signed(n: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

pub(super) fn integer(n: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// The HELP and TYPE lines.
pub(super) fn header(name: &str, help: &str, kind: &str, out: &mut Vec<u8>) {
    let mut text = String::with_capacity(help.len());
    escape(help, false, &mut text);
    let _ = write!(out, "# HELP {name} {text}\n# TYPE {name} {kind}\n");
}

/// `name{labels} ` or `name `.
pub(super) fn start(name: &str, suffix: &str, labels: &str, le: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(suffix.as_bytes());
    if !labels.is_empty() || le.is_some() {
        out.push(b'{');
        out.extend_from_slice(labels.as_bytes());
        if let Some(le) = le {
            if !labels.is_empty() {
                out.push(b',');
            }
            out.extend_from_slice(b"le=\"");
            out.extend_from_slice(le.as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
    }
    out.push(b' ');
}

/// The lines of one series.
pub(super) fn series(family: &Family, labels: &str, cells: &[u64], out: &mut Vec<u8>) {
    let name = &family.name;
    let first = cells.first().copied().unwrap_or(0);
    match &family.shape {
        Shape::Counter => {
            start(name, "", labels, None, out);
            integer(first, out);
            out.push(b'\n');
        }
        Shape::Gauge => {
            start(name, "", labels, None, out);
            number(f64::from_bits(first), out);
            out.push(b'\n');
        }
        Shape::Histogram(_) => {
            let mut total = 0_u64;
            for (le, count) in family.bounds.iter().zip(cells) {
                total = total.wrapping_add(*count);
                start(name, "_bucket", labels, Some(le), out);
                integer(total, out);
                out.push(b'\n');
            }
            start(name, "_count", labels, None, out);
            integer(total, out);
            out.push(b'\n');
            start(name, "_sum", labels, None, out);
            number(cells.last().map_or(0.0, |bits| f64::from_bits(*bits)), out);
            out.push(b'\n');
        }
    }
}
