//! `ssl_client_*` variables from the client's certificate, in nginx's forms (src/event/ngx_event_openssl.c), which are
//! OpenSSL's. The surprise: nothing is kept; a certificate is read again for each variable, as few requests ask for one.
mod name;
#[cfg(test)]
mod tests;

use aws_lc_rs::digest;
use base64::Engine;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use sluice_expr::{Value, Variable};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// What stays as it is in a part of a URI (`NGX_ESCAPE_URI_COMPONENT`), beside letters and digits.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The variable's value from a certificate in DER at `now`, unix time; `None` where the certificate cannot be read.
pub fn variable<'a>(der: &[u8], variable: &Variable, now: i64) -> Option<Value<'a>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let text = match variable {
        Variable::SslClientRawCert => pem(der),
        Variable::SslClientCert => pem(der).trim_end().replace('\n', "\n\t"),
        Variable::SslClientEscapedCert => percent_encoding::utf8_percent_encode(&pem(der), ESCAPED).to_string(),
        Variable::SslClientSDn => name::rfc2253(certificate.subject()),
        Variable::SslClientIDn => name::rfc2253(certificate.issuer()),
        Variable::SslClientSDnLegacy => name::oneline(certificate.subject()),
        Variable::SslClientIDnLegacy => name::oneline(certificate.issuer()),
        Variable::SslClientSerial => serial(certificate.raw_serial()),
        Variable::SslClientFingerprint => {
            let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der);
            sha1.as_ref().iter().map(|b| format!("{b:02x}")).collect()
        }
        Variable::SslClientVStart => time(certificate.validity().not_before),
        Variable::SslClientVEnd => time(certificate.validity().not_after),
        Variable::SslClientVRemain => {
            ((certificate.validity().not_after.timestamp() - now).max(0) / 86_400).to_string()
        }
        _ => return None,
    };
    Some(Value::owned(text))
}

/// Hexadecimal, without the byte that keeps the number positive.
fn serial(raw: &[u8]) -> String {
    let bytes = match raw {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    bytes.iter().map(|b| format!("{b:02X}")).collect()
}

/// As `ASN1_TIME_print` writes it.
fn time(time: ASN1Time) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let at = time.to_datetime();
    let month = MONTHS.get(usize::from(u8::from(at.month())) - 1).copied().unwrap_or_default();
    format!("{month} {:2} {:02}:{:02}:{:02} {} GMT", at.day(), at.hour(), at.minute(), at.second(), at.year())
}

fn pem(der: &[u8]) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
