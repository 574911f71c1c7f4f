//! OCSP (RFC 6960) as stapling needs it: who is to be asked about a certificate, the question, and what an answer says.
//! The surprise: nothing here asks anybody; the question and the answer are bytes that somebody else carries.
mod der;
#[cfg(test)]
mod tests;

use super::{PemError, provider};
use aws_lc_rs::digest;
use der::{Element, Malformed, Reader, encode};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_PKIX_AUTHORITY_INFO_ACCESS;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Seconds that clocks may differ by (nginx: 300).
const SKEW: i64 = 300;
/// Certificates of an answer that are looked at for its signer.
const MAX_SIGNERS: usize = 8;

const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
const BITS: u8 = 0x03;
const OID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const TIME: u8 = 0x18;
const INTEGER: u8 = 0x02;
/// `[n]` of a constructed kind.
const fn context(n: u8) -> u8 {
    0xa0 | n
}

/// id-sha1, with the NULL that responders expect.
const SHA1: &[u8] = &[0x06, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0];
const SHA1_OID: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
/// id-pkix-ocsp-basic.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

/// What a responder says of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertStatus {
    Good,
    Revoked,
    /// The responder does not know the certificate.
    Unknown,
}

impl CertStatus {
    /// RFC 6960's word.
    pub fn name(self) -> &'static str {
        match self {
            CertStatus::Good => "good",
            CertStatus::Revoked => "revoked",
            CertStatus::Unknown => "unknown",
        }
    }
}

/// An answer that was signed by who may sign it, and is in force. Times are unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OcspAnswer {
    pub status: CertStatus,
    pub this_update: i64,
    /// Without it newer answers may be had at any time.
    pub next_update: Option<i64>,
}

/// Why there is no question, or an answer that cannot be used. The words are those of lua-nginx-module where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OcspError {
    #[error("cert not contains authority_information_access extension")]
    NoResponder,
    #[error("no issuer certificate in chain")]
    NoIssuer,
    #[error("issuer certificate not next to leaf")]
    OtherIssuer,
    #[error("certificate: {0}")]
    Certificate(String),
    #[error("the OCSP response cannot be read: {0}")]
    Malformed(&'static str),
    /// RFC 6960, 4.2.1: `tryLater` and such.
    #[error("OCSP response not successful ({0}: {name})", name = response_status(*.0))]
    NotSuccessful(u8),
    #[error("the OCSP response is not signed by the issuer or who it has named for that")]
    Signer,
    #[error("the signature of the OCSP response is wrong")]
    Signature,
    #[error("certificate status not found in the OCSP response")]
    OtherCertificate,
    #[error("the OCSP response is not in force")]
    NotInForce,
}

impl From<Malformed> for OcspError {
    fn from(error: Malformed) -> OcspError {
        OcspError::Malformed(error.0)
    }
}

fn response_status(code: u8) -> &'static str {
    match code {
        1 => "malformedrequest",
        2 => "internalerror",
        3 => "trylater",
        5 => "sigrequired",
        6 => "unauthorized",
        _ => "(UNKNOWN)",
    }
}

/// A certificate and who has issued it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcspSubject {
    leaf: CertificateDer<'static>,
    issuer: CertificateDer<'static>,
    responder: String,
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, OcspError> {
    X509Certificate::from_der(der).map(|(_, c)| c).map_err(|e| OcspError::Certificate(e.to_string()))
}

impl OcspSubject {
    /// From a chain in PEM, leaf first, its issuer next.
    pub fn from_pem(chain: &str) -> Result<OcspSubject, OcspError> {
        let chain =
            super::pem::certificates(chain).map_err(|e| OcspError::Certificate(PemError::Cert(e).to_string()))?;
        let mut chain = chain.into_iter();
        let leaf = chain.next().ok_or(OcspError::NoIssuer)?;
        let responder = responder(&parse(&leaf)?).ok_or(OcspError::NoResponder)?;
        let issuer = chain.next().ok_or(OcspError::NoIssuer)?;
        if parse(&leaf)?.issuer().as_raw() != parse(&issuer)?.subject().as_raw() {
            return Err(OcspError::OtherIssuer);
        }
        Ok(OcspSubject { leaf, issuer, responder })
    }

    /// The address to ask at.
    pub fn responder(&self) -> &str {
        &self.responder
    }

    /// The question, without a nonce: responders that answer from a store do not take one.
    pub fn request(&self) -> Result<Vec<u8>, OcspError> {
        let id = self.cert_id(&digest::SHA1_FOR_LEGACY_USE_ONLY)?;
        let id = encode(
            SEQUENCE,
            &[&encode(SEQUENCE, &[SHA1]), &encode(OCTETS, &[&id.name]), &encode(OCTETS, &[&id.key]), &id.serial],
        );
        let list = encode(SEQUENCE, &[&encode(SEQUENCE, &[&id])]);
        Ok(encode(SEQUENCE, &[&encode(SEQUENCE, &[&list])]))
    }

    fn cert_id(&self, algorithm: &'static digest::Algorithm) -> Result<CertId, OcspError> {
        let (leaf, issuer) = (parse(&self.leaf)?, parse(&self.issuer)?);
        let hash = |bytes: &[u8]| digest::digest(algorithm, bytes).as_ref().to_vec();
        Ok(CertId {
            name: hash(leaf.issuer().as_raw()),
            key: hash(PublicKey::of(&issuer)?.key),
            serial: encode(INTEGER, &[leaf.raw_serial()]),
        })
    }

    /// What an answer says, if it is for this certificate, from who may say so, and in force at `now`.
    pub fn read(&self, response: &[u8], now: i64) -> Result<OcspAnswer, OcspError> {
        let mut outer = Reader::of(Reader(response).take(SEQUENCE)?);
        match outer.take(ENUMERATED)?.content {
            [0] => {}
            [code] => return Err(OcspError::NotSuccessful(*code)),
            _ => return Err(OcspError::Malformed("status")),
        }
        let mut bytes = Reader::of(Reader::of(outer.take(context(0))?).take(SEQUENCE)?);
        if bytes.take(OID)?.content != BASIC {
            return Err(OcspError::Malformed("its type is not basic"));
        }
        let mut basic = Reader::of(Reader(bytes.take(OCTETS)?.content).take(SEQUENCE)?);
        let signed = Signed::read(&mut basic)?;
        let certificates = basic.optional(context(0));
        let mut data = Reader::of(signed.what);
        data.optional(context(0));
        let responder = data.next()?;
        data.take(TIME)?;
        let mut answers = Reader::of(data.take(SEQUENCE)?);
        self.check_signer(&signed, responder, certificates, now)?;
        while let Some(answer) = answers.optional(SEQUENCE) {
            if let Some(answer) = self.single(answer)? {
                let fresh = answer.this_update <= now + SKEW && answer.next_update.is_none_or(|n| n >= now - SKEW);
                return if fresh { Ok(answer) } else { Err(OcspError::NotInForce) };
            }
        }
        Err(OcspError::OtherCertificate)
    }

    /// One answer of possibly several; `None` where it is about another certificate.
    fn single(&self, answer: Element<'_>) -> Result<Option<OcspAnswer>, OcspError> {
        let mut fields = Reader::of(answer);
        let mut id = Reader::of(fields.take(SEQUENCE)?);
        let algorithm = match Reader::of(id.take(SEQUENCE)?).take(OID)?.content {
            SHA1_OID => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            SHA256_OID => &digest::SHA256,
            _ => return Ok(None),
        };
        let (name, key, serial) = (id.take(OCTETS)?.content, id.take(OCTETS)?.content, id.take(INTEGER)?.whole);
        let own = self.cert_id(algorithm)?;
        if own.name != name || own.key != key || own.serial != serial {
            return Ok(None);
        }
        // `[0] IMPLICIT NULL`, `[1]` with the time of revocation, `[2] IMPLICIT NULL`
        let status = match fields.next()?.tag & 0x1f {
            0 => CertStatus::Good,
            1 => CertStatus::Revoked,
            2 => CertStatus::Unknown,
            _ => return Err(OcspError::Malformed("certificate status")),
        };
        let this_update = fields.take(TIME)?.time()?;
        let next = fields.optional(context(0)).map(|next| Reader::of(next).take(TIME)?.time()).transpose()?;
        Ok(Some(OcspAnswer { status, this_update, next_update: next }))
    }

    /// The issuer itself, or a certificate that it has issued for signing such answers (RFC 6960, 4.2.2.2).
    fn check_signer(
        &self,
        signed: &Signed<'_>,
        responder: Element<'_>,
        certificates: Option<Element<'_>>,
        now: i64,
    ) -> Result<(), OcspError> {
        let named = |c: &X509Certificate<'_>| -> Result<bool, OcspError> {
            Ok(match responder.tag {
                t if t == context(1) => Reader::of(responder).take(SEQUENCE)?.whole == c.subject().as_raw(),
                t if t == context(2) => {
                    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, PublicKey::of(c)?.key);
                    Reader::of(responder).take(OCTETS)?.content == hash.as_ref()
                }
                _ => false,
            })
        };
        let issuer = parse(&self.issuer)?;
        if named(&issuer)? {
            return signed.verify(&PublicKey::of(&issuer)?);
        }
        let mut list = match certificates {
            Some(list) => Reader::of(Reader::of(list).take(SEQUENCE)?),
            None => return Err(OcspError::Signer),
        };
        for _ in 0..MAX_SIGNERS {
            let Some(der) = list.optional(SEQUENCE) else { break };
            let (_, signer) =
                X509Certificate::from_der(der.whole).map_err(|e| OcspError::Certificate(e.to_string()))?;
            if !named(&signer)? {
                continue;
            }
            let may_sign = signer.extended_key_usage().ok().flatten().is_some_and(|usage| usage.value.ocsp_signing);
            let (from, to) = (signer.validity().not_before.timestamp(), signer.validity().not_after.timestamp());
            if !may_sign
                || signer.issuer().as_raw() != issuer.subject().as_raw()
                || now < from - SKEW
                || now > to + SKEW
            {
                return Err(OcspError::Signer);
            }
            let issued = Signed::read(&mut Reader::of(der))?;
            issued.verify(&PublicKey::of(&issuer)?).map_err(|_| OcspError::Signer)?;
            return signed.verify(&PublicKey::of(&signer)?);
        }
        Err(OcspError::Signer)
    }
}

struct CertId {
    name: Vec<u8>,
    key: Vec<u8>,
    /// With tag and length.
    serial: Vec<u8>,
}

/// The first address of a responder by HTTP that a certificate names.
fn responder(certificate: &X509Certificate<'_>) -> Option<String> {
    let access = certificate.get_extension_unique(&OID_PKIX_AUTHORITY_INFO_ACCESS).ok()??;
    let ParsedExtension::AuthorityInfoAccess(access) = access.parsed_extension() else { return None };
    let ocsp = x509_parser::oid_registry::OID_PKIX_ACCESS_DESCRIPTOR_OCSP;
    access.accessdescs.iter().filter(|d| d.access_method == ocsp).find_map(|d| match &d.access_location {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

/// A key as its certificate has it.
struct PublicKey<'a> {
    /// The algorithm's identifier without its SEQUENCE header.
    algorithm: &'a [u8],
    key: &'a [u8],
}

impl<'a> PublicKey<'a> {
    fn of(certificate: &X509Certificate<'a>) -> Result<PublicKey<'a>, OcspError> {
        let mut info = Reader::of(Reader(certificate.tbs_certificate.subject_pki.raw).take(SEQUENCE)?);
        Ok(PublicKey { algorithm: info.take(SEQUENCE)?.content, key: info.take(BITS)?.bits()? })
    }
}

/// What certificates and answers have in common: something, an algorithm and a signature.
struct Signed<'a> {
    what: Element<'a>,
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Signed<'a>, OcspError> {
        let (what, algorithm) = (reader.take(SEQUENCE)?, reader.take(SEQUENCE)?.content);
        Ok(Signed { what, algorithm, signature: reader.take(BITS)?.bits()? })
    }

    fn verify(&self, key: &PublicKey<'_>) -> Result<(), OcspError> {
        let all = provider().signature_verification_algorithms.all;
        let fits = |a: &&&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
            a.signature_alg_id().as_ref() == self.algorithm && a.public_key_alg_id().as_ref() == key.algorithm
        };
        let algorithm = all.iter().find(fits).ok_or(OcspError::Signature)?;
        algorithm.verify_signature(key.key, self.what.whole, self.signature).map_err(|_| OcspError::Signature)
    }
}
