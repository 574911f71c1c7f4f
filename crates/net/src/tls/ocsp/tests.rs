//! Answers made by hand, so that each can be wrong in one way.
use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SigningKey,
};

const NOW: i64 = 1_795_485_784; // 20261124020304Z
const URL: &str = "http://ocsp.test/x";
/// ecdsa-with-SHA256
const ALGORITHM: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

struct Made {
    issuer: CertifiedIssuer<'static, KeyPair>,
    subject: OcspSubject,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(issuer: &CertifiedIssuer<'static, KeyPair>, responder: Option<&str>) -> String {
    let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    if let Some(url) = responder {
        let ocsp = encode(OID, &[&[0x2b, 6, 1, 5, 5, 7, 0x30, 1]]);
        let access = encode(SEQUENCE, &[&encode(SEQUENCE, &[&ocsp, &encode(0x86, &[url.as_bytes()])])]);
        params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access));
    }
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().pem()
}

fn made() -> Made {
    let issuer = authority("issuer");
    let chain = leaf(&issuer, Some(URL)) + &issuer.pem();
    Made { subject: OcspSubject::from_pem(&chain).unwrap(), issuer }
}

/// A certificate for signing answers, or not, and its key.
fn delegate(issuer: &CertifiedIssuer<'static, KeyPair>, purpose: ExtendedKeyUsagePurpose) -> (Vec<u8>, KeyPair) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "delegate");
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap().der().to_vec(), key)
}

/// A responder by its name.
fn name_of(der: &[u8]) -> Vec<u8> {
    encode(context(1), &[X509Certificate::from_der(der).unwrap().1.subject().as_raw()])
}

/// A responder by its key.
fn key_of(der: &[u8]) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, PublicKey::of(&certificate).unwrap().key);
    encode(context(2), &[&encode(OCTETS, &[hash.as_ref()])])
}

/// An answer about `subject` by `signer`: `status` is the tag of its choice.
fn answer(
    subject: &OcspSubject,
    status: u8,
    times: (&str, Option<&str>),
    responder: &[u8],
    key: &KeyPair,
    certificates: &[u8],
) -> Vec<u8> {
    let id = subject.cert_id(&digest::SHA1_FOR_LEGACY_USE_ONLY).unwrap();
    let parts: [&[u8]; 4] =
        [&encode(SEQUENCE, &[SHA1]), &encode(OCTETS, &[&id.name]), &encode(OCTETS, &[&id.key]), &id.serial];
    let id = encode(SEQUENCE, &parts);
    let status = match status {
        1 => encode(context(1), &[&encode(TIME, &[b"20260101000000Z"])]),
        other => encode(0x80 | other, &[]),
    };
    let next = times.1.map(|t| encode(context(0), &[&encode(TIME, &[t.as_bytes()])])).unwrap_or_default();
    let single = encode(SEQUENCE, &[&id, &status, &encode(TIME, &[times.0.as_bytes()]), &next]);
    let data = encode(SEQUENCE, &[responder, &encode(TIME, &[b"20261124000000Z"]), &encode(SEQUENCE, &[&single])]);
    let signature = key.sign(&data).unwrap();
    let certificates = match certificates {
        [] => Vec::new(),
        der => encode(context(0), &[&encode(SEQUENCE, &[der])]),
    };
    let basic = encode(SEQUENCE, &[&data, ALGORITHM, &encode(BITS, &[&[0], &signature]), &certificates]);
    let bytes = encode(SEQUENCE, &[&encode(OID, &[BASIC]), &encode(OCTETS, &[&basic])]);
    encode(SEQUENCE, &[&encode(ENUMERATED, &[&[0]]), &encode(context(0), &[&bytes])])
}

const DAY: (&str, Option<&str>) = ("20261124000000Z", Some("20261125000000Z"));

#[test]
fn the_responder_and_why_there_is_none() {
    let issuer = authority("issuer");
    let of = |chain: String| OcspSubject::from_pem(&chain);
    assert_eq!(made().subject.responder(), URL);
    assert_eq!(of(leaf(&issuer, None) + &issuer.pem()).unwrap_err(), OcspError::NoResponder);
    assert_eq!(of(leaf(&issuer, Some(URL))).unwrap_err(), OcspError::NoIssuer);
    assert_eq!(of(leaf(&issuer, Some(URL)) + &authority("another").pem()).unwrap_err(), OcspError::OtherIssuer);
    assert!(matches!(of("nothing".into()), Err(OcspError::Certificate(_))));
}

#[test]
fn the_issuer_answers() {
    let Made { issuer, subject } = made();
    let by = name_of(issuer.der());
    for (tag, status) in [(0, CertStatus::Good), (1, CertStatus::Revoked), (2, CertStatus::Unknown)] {
        let read = subject.read(&answer(&subject, tag, DAY, &by, issuer.key(), &[]), NOW).unwrap();
        assert_eq!(read, OcspAnswer { status, this_update: NOW - 7384, next_update: Some(NOW + 79_016) });
    }
    let by_key = key_of(issuer.der());
    assert!(subject.read(&answer(&subject, 0, DAY, &by_key, issuer.key(), &[]), NOW).is_ok());
    let open = answer(&subject, 0, (DAY.0, None), &by, issuer.key(), &[]);
    assert_eq!(subject.read(&open, NOW + 1_000_000).unwrap().next_update, None);
}

#[test]
fn a_delegate_answers_if_the_issuer_has_made_it_one() {
    let Made { issuer, subject } = made();
    let (der, key) = delegate(&issuer, ExtendedKeyUsagePurpose::OcspSigning);
    let by = name_of(&der);
    assert!(subject.read(&answer(&subject, 0, DAY, &by, &key, &der), NOW).is_ok());
    assert!(subject.read(&answer(&subject, 0, DAY, &key_of(&der), &key, &der), NOW).is_ok());
    let refused = |by: &[u8], key: &KeyPair, der: &[u8]| subject.read(&answer(&subject, 0, DAY, by, key, der), NOW);
    assert_eq!(refused(&by, &key, &[]), Err(OcspError::Signer), "not shown");
    let (server, its_key) = delegate(&issuer, ExtendedKeyUsagePurpose::ServerAuth);
    assert_eq!(refused(&by, &its_key, &server), Err(OcspError::Signer), "not for this purpose");
    let (stranger, its_key) = delegate(&authority("issuer"), ExtendedKeyUsagePurpose::OcspSigning);
    assert_eq!(refused(&by, &its_key, &stranger), Err(OcspError::Signer), "issued by another of the same name");
    let elsewhere = delegate(&authority("else"), ExtendedKeyUsagePurpose::OcspSigning);
    assert_eq!(refused(&by, &elsewhere.1, &elsewhere.0), Err(OcspError::Signer), "issued by another");
    assert_eq!(refused(&by, &elsewhere.1, &der), Err(OcspError::Signature), "signed by another");
}

#[test]
fn what_cannot_be_used() {
    let Made { issuer, subject } = made();
    let by = name_of(issuer.der());
    let good = answer(&subject, 0, DAY, &by, issuer.key(), &[]);
    assert_eq!(subject.read(&good, NOW + 100_000), Err(OcspError::NotInForce));
    assert_eq!(subject.read(&good, NOW - 10_000), Err(OcspError::NotInForce));
    let other = OcspSubject::from_pem(&(leaf(&issuer, Some(URL)) + &issuer.pem())).unwrap();
    assert_eq!(other.read(&good, NOW), Err(OcspError::OtherCertificate));
    let try_later = encode(SEQUENCE, &[&encode(ENUMERATED, &[&[3]])]);
    assert_eq!(subject.read(&try_later, NOW).unwrap_err().to_string(), "OCSP response not successful (3: trylater)");
    for end in 0..good.len() {
        assert!(subject.read(&good[..end], NOW).is_err(), "cut at {end}");
    }
    for at in 0..good.len() {
        let mut bent = good.clone();
        bent[at] ^= 1;
        // The status and its signature cannot be bent into something else; the length of the outermost parts is checked.
        if let Ok(read) = subject.read(&bent, NOW) {
            assert_eq!(read.status, CertStatus::Good, "at {at}");
        }
    }
}

#[test]
fn the_question_names_the_certificate() {
    let Made { subject, .. } = made();
    let request = subject.request().unwrap();
    let mut reader = Reader(&request);
    for _ in 0..4 {
        reader = Reader::of(reader.take(SEQUENCE).unwrap());
    }
    let mut id = Reader::of(reader.take(SEQUENCE).unwrap());
    assert_eq!(id.take(SEQUENCE).unwrap().content, SHA1);
    let lengths: Vec<usize> = (0..2).map(|_| id.take(OCTETS).unwrap().content.len()).collect();
    assert_eq!(lengths, [20, 20]);
    let serial = parse(&subject.leaf).unwrap().raw_serial().to_vec();
    assert_eq!(id.take(INTEGER).unwrap().content, serial);
}
