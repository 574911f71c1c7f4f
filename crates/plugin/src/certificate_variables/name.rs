//! Names in certificates as OpenSSL writes them. The surprise: by RFC 2253 the last part comes first, and whatever is not
//! ASCII is written as bytes of UTF-8 (`\C3\BC`).
use std::borrow::Cow;
use std::fmt::Write;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// OpenSSL's short names (crypto/objects/objects.txt).
const SHORT: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.20", "telephoneNumber"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.97", "organizationIdentifier"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("1.2.840.113549.1.9.2", "unstructuredName"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.3", "mail"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"),
];

const T61: u32 = 20;
const UNIVERSAL: u32 = 28;
const BMP: u32 = 30;

/// `X509_NAME_print_ex` with `XN_FLAG_RFC2253`.
pub(super) fn rfc2253(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let one = |attribute: &AttributeTypeAndValue<'_>| {
        let oid = attribute.attr_type().to_id_string();
        match short(&oid) {
            Some(short) => format!("{short}={}", escaped(&text(attribute))),
            None => format!("{oid}=#{}", dump(attribute)),
        }
    };
    let part = |part: &&x509_parser::x509::RelativeDistinguishedName<'_>| {
        let mut all: Vec<String> = part.iter().map(one).collect();
        all.reverse();
        all.join("+")
    };
    parts.iter().rev().map(part).collect::<Vec<_>>().join(",")
}

/// `X509_NAME_oneline`: `/C=…/CN=…`, as OpenSSL 3 writes it.
pub(super) fn oneline(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    for part in name.iter_rdn() {
        for (at, attribute) in part.iter().enumerate() {
            let oid = attribute.attr_type().to_id_string();
            out.push(if at == 0 { '/' } else { '+' });
            let _ = write!(out, "{}=", short(&oid).unwrap_or(&oid));
            for byte in attribute.attr_value().data {
                match byte {
                    b'/' | b'+' => drop(write!(out, "\\{}", char::from(*byte))),
                    b' '..=b'~' => out.push(char::from(*byte)),
                    // Characters of two bytes are written without the empty one.
                    0 if attribute.attr_value().tag().0 == BMP => {}
                    _ => drop(write!(out, "\\x{byte:02X}")),
                }
            }
        }
    }
    out
}

fn short(oid: &str) -> Option<&'static str> {
    SHORT.iter().find(|(id, _)| *id == oid).map(|(_, name)| *name)
}

/// An attribute's text, whatever it is written in.
fn text<'a>(attribute: &'a AttributeTypeAndValue<'_>) -> Cow<'a, str> {
    let value = attribute.attr_value();
    let wide = |size: usize| {
        let units = value.data.chunks(size).map(|unit| unit.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)));
        units.map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    match value.tag().0 {
        BMP => wide(2),
        UNIVERSAL => wide(4),
        T61 => wide(1),
        _ => String::from_utf8_lossy(value.data),
    }
}

/// RFC 2253, 2.4, with control characters and what is not ASCII as bytes in hexadecimal.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => drop(write!(out, "\\{byte:02X}")),
        }
    }
    out
}

/// The value with tag and length, in hexadecimal.
fn dump(attribute: &AttributeTypeAndValue<'_>) -> String {
    let value = attribute.attr_value();
    let length = value.data.len();
    let mut out = format!("{:02X}", value.tag().0);
    match length {
        0..0x80 => drop(write!(out, "{length:02X}")),
        0x80..0x100 => drop(write!(out, "81{length:02X}")),
        _ => drop(write!(out, "82{length:04X}")),
    }
    for byte in value.data {
        let _ = write!(out, "{byte:02X}");
    }
    out
}
