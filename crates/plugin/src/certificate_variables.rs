//! `ssl_client_*` variables from the client's certificate, in nginx's forms (ngx_http_ssl_module).
use aws_lc_rs::digest;
use base64::Engine;
use sluice_expr::{Value, Variable};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// The variable's value from a certificate in DER; `None` where the certificate cannot be read.
pub fn variable<'a>(der: &[u8], variable: &Variable) -> Option<Value<'a>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let text = match variable {
        Variable::SslClientRawCert => pem(der),
        Variable::SslClientCert => pem(der).trim_end().replace('\n', "\n\t"),
        Variable::SslClientEscapedCert => {
            percent_encoding::utf8_percent_encode(&pem(der), percent_encoding::NON_ALPHANUMERIC).to_string()
        }
        Variable::SslClientSDn => rfc2253(certificate.subject()),
        Variable::SslClientIDn => rfc2253(certificate.issuer()),
        Variable::SslClientSerial => certificate.raw_serial().iter().map(|b| format!("{b:02X}")).collect(),
        Variable::SslClientFingerprint => {
            let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der);
            sha1.as_ref().iter().map(|b| format!("{b:02x}")).collect()
        }
        Variable::SslClientVStart => certificate.validity().not_before.to_string(),
        Variable::SslClientVEnd => certificate.validity().not_after.to_string(),
        _ => return None,
    };
    Some(Value::owned(text))
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

/// RFC 2253: most specific part first.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name.to_string().split(", ").map(str::to_string).collect();
    parts.reverse();
    parts.join(",")
}
