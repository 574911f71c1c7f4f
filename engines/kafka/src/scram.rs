//! SCRAM without channel binding (RFC 5802, RFC 7677). The surprise: the server proves itself too; an answer without its
//! signature is refused.
use crate::KafkaError;
use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::num::NonZeroU32;

/// Rounds that a server may ask for; more would keep a thread busy for seconds.
const MAX_ROUNDS: u32 = 1_000_000;

#[derive(Clone, Copy)]
pub enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha512 => hmac::HMAC_SHA512,
        }
    }
    fn digest(self, data: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, data).as_ref().to_vec()
    }
    fn salted(self, password: &[u8], salt: &[u8], rounds: NonZeroU32) -> Vec<u8> {
        let (algorithm, length) = match self {
            Hash::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, 32),
            Hash::Sha512 => (pbkdf2::PBKDF2_HMAC_SHA512, 64),
        };
        let mut out = vec![0; length];
        pbkdf2::derive(algorithm, rounds, salt, password, &mut out);
        out
    }
    fn sign(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.hmac(), key), data).as_ref().to_vec()
    }
}

/// The client's side of one exchange.
pub struct Scram {
    hash: Hash,
    password: String,
    nonce: String,
    /// `n=USER,r=NONCE`
    bare: String,
}

/// What the server's last message must hold.
#[derive(Debug)]
pub struct ServerSignature(Vec<u8>);

impl ServerSignature {
    pub fn check(&self, verdict: &[u8]) -> Result<(), KafkaError> {
        let text = String::from_utf8_lossy(verdict);
        let given = text.split(',').find_map(|part| part.strip_prefix("v="));
        let given = given.and_then(|v| STANDARD.decode(v).ok());
        if given.is_some_and(|given| aws_lc_rs::constant_time::verify_slices_are_equal(&given, &self.0).is_ok()) {
            return Ok(());
        }
        Err(KafkaError::Sasl("the broker did not prove that it knows the password".into()))
    }
}

impl Scram {
    pub fn new(hash: Hash, user: &str, password: &str) -> Result<Scram, KafkaError> {
        let mut random = [0; 24];
        rand::fill(&mut random).map_err(|_| KafkaError::Sasl("no random bytes".into()))?;
        Ok(Scram::with_nonce(hash, user, password, STANDARD.encode(random)))
    }

    fn with_nonce(hash: Hash, user: &str, password: &str, nonce: String) -> Scram {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Scram { hash, password: password.to_owned(), bare: format!("n={user},r={nonce}"), nonce }
    }

    /// The client's first message.
    pub fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.bare).into_bytes()
    }

    /// The client's last message to a challenge, and the signature that the server must answer with.
    pub fn last(&self, challenge: &[u8]) -> Result<(Vec<u8>, ServerSignature), KafkaError> {
        let bad = |what: &str| KafkaError::Sasl(format!("the broker's challenge {what}"));
        let challenge = std::str::from_utf8(challenge).map_err(|_| bad("is no text"))?;
        let part = |name: &str| challenge.split(',').find_map(|p| p.strip_prefix(name));
        let nonce = part("r=").filter(|n| n.starts_with(&self.nonce) && n.len() > self.nonce.len());
        let nonce = nonce.ok_or_else(|| bad("has another nonce"))?;
        let salt = part("s=").and_then(|s| STANDARD.decode(s).ok()).ok_or_else(|| bad("has no salt"))?;
        let rounds = part("i=").and_then(|i| i.parse::<u32>().ok()).filter(|i| *i <= MAX_ROUNDS);
        let rounds = rounds.and_then(NonZeroU32::new).ok_or_else(|| bad("has no usable number of rounds"))?;
        let salted = self.hash.salted(self.password.as_bytes(), &salt, rounds);
        let client_key = self.hash.sign(&salted, b"Client Key");
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{challenge},{without_proof}", self.bare);
        let signature = self.hash.sign(&self.hash.digest(&client_key), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server_key = self.hash.sign(&salted, b"Server Key");
        let expected = ServerSignature(self.hash.sign(&server_key, signed.as_bytes()));
        Ok((format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes(), expected))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// RFC 7677 section 3.
    #[test]
    fn the_example_of_rfc_7677() {
        let scram = Scram::with_nonce(Hash::Sha256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO".into());
        assert_eq!(scram.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, signature) = scram.last(challenge).unwrap();
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(String::from_utf8(last).unwrap(), expected);
        signature.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
        assert!(signature.check(b"v=AAAA").is_err());
        assert!(signature.check(b"e=invalid-proof").is_err());
    }

    #[test]
    fn challenges_that_are_none() {
        let scram = Scram::with_nonce(Hash::Sha512, "a=b,c", "x", "abc".into());
        assert_eq!(scram.first(), b"n,,n=a=3Db=2Cc,r=abc");
        for bad in [
            "",
            "r=abc,s=AA==,i=1",
            "r=xyz1,s=AA==,i=1",
            "r=abc1,s=?,i=1",
            "r=abc1,s=AA==,i=0",
            "r=abc1,s=AA==,i=9999999",
        ] {
            assert!(scram.last(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
