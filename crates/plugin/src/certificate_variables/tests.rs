//! A certificate with an awkward name, and what `openssl x509` (3.0) says of it.
use super::*;

const PEM: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIICkzCCAjigAwIBAgIFAMD/7gEwCgYIKoZIzj0EAwIwgaQxCzAJBgNVBAYTAkRF\n\
MR0wGwYDVQQKDBRNw7xsbGVyLCBTw7ZobmUgKyBDbzEPMA0GA1UECwwGI2ZpcnN0\n\
MQ8wDQYDVQQLDAYgbGVhZCAxFzAVBgkqhkiG9w0BCQEWCGFAYi50ZXN0MQ4wDAYF\n\
KgMEBQYMA29kZDErMBAGCgmSJomT8ixkAQEMAnUxMBcGA1UEAwwQInF1b3RlZCIg\n\
PHg+O3lcejAgFw0yNjExMjQwMjI0MTNaGA8yMTI2MTAzMTAyMjQxM1owgaQxCzAJ\n\
BgNVBAYTAkRFMR0wGwYDVQQKDBRNw7xsbGVyLCBTw7ZobmUgKyBDbzEPMA0GA1UE\n\
CwwGI2ZpcnN0MQ8wDQYDVQQLDAYgbGVhZCAxFzAVBgkqhkiG9w0BCQEWCGFAYi50\n\
ZXN0MQ4wDAYFKgMEBQYMA29kZDErMBAGCgmSJomT8ixkAQEMAnUxMBcGA1UEAwwQ\n\
InF1b3RlZCIgPHg+O3lcejBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIWFdb+l\n\
Qr5foC2O+L8zotknb7nxnEgaCp/pzyrzIVfLE7KfqFKf3iMpWZqMtqWk9xWX6vfR\n\
Swa155DMiDvFLNCjUzBRMB0GA1UdDgQWBBT/IdW7stShmDLl/vdVTN3yeKu/kjAf\n\
BgNVHSMEGDAWgBT/IdW7stShmDLl/vdVTN3yeKu/kjAPBgNVHRMBAf8EBTADAQH/\n\
MAoGCCqGSM49BAMCA0kAMEYCIQCXKEUbukVP28qSCDpoQQaXesJyQfPDyiRJfwGf\n\
3VsdbQIhAMQzHlnH7wvDlQYqvOK0mR+2tHYBz9wzDDfF4JpgXuXd\n\
-----END CERTIFICATE-----\n";

fn of(variable: &Variable) -> String {
    let encoded: String = PEM.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
    let value = super::variable(&der, variable, 4_918_000_000).unwrap();
    String::from_utf8(value.as_bytes().into_owned()).unwrap()
}

#[test]
fn names() {
    let by_rfc = r#"CN=\"quoted\" \<x\>\;y\\z+UID=u1,1.2.3.4.5.6=#0C036F6464,emailAddress=a@b.test,OU=\ lead\ ,OU=\#first,O=M\C3\BCller\, S\C3\B6hne \+ Co,C=DE"#;
    assert_eq!(of(&Variable::SslClientSDn), by_rfc);
    assert_eq!(of(&Variable::SslClientIDn), by_rfc);
    let oneline = r#"/C=DE/O=M\xC3\xBCller, S\xC3\xB6hne \+ Co/OU=#first/OU= lead /emailAddress=a@b.test/1.2.3.4.5.6=odd/UID=u1+CN="quoted" <x>;y\z"#;
    assert_eq!(of(&Variable::SslClientSDnLegacy), oneline);
    assert_eq!(of(&Variable::SslClientIDnLegacy), oneline);
}

#[test]
fn numbers_and_times() {
    assert_eq!(of(&Variable::SslClientSerial), "C0FFEE01");
    assert_eq!(of(&Variable::SslClientFingerprint), "43bfd0ed33783bca25240e2b37d5616cca31443a");
    assert_eq!(of(&Variable::SslClientVStart), "Nov 24 02:24:13 2026 GMT");
    assert_eq!(of(&Variable::SslClientVEnd), "Oct 31 02:24:13 2126 GMT");
    // what is left of a hundred years is counted in whole days
    assert_eq!(of(&Variable::SslClientVRemain), "359");
}

#[test]
fn the_certificate_itself() {
    assert_eq!(of(&Variable::SslClientRawCert), PEM);
    let lines = of(&Variable::SslClientCert);
    assert!(
        lines.starts_with("-----BEGIN CERTIFICATE-----\n\tMII") && lines.ends_with("\n\t-----END CERTIFICATE-----")
    );
    let escaped = of(&Variable::SslClientEscapedCert);
    assert!(escaped.starts_with("-----BEGIN%20CERTIFICATE-----%0AMII"), "{escaped}");
    assert!(!escaped.contains(['+', '/', '=', '\n']), "{escaped}");
}
