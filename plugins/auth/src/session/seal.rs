//! A session's bytes, encrypted and authenticated: AES-256-GCM under a key that HKDF-SHA-256 derives from the secret and the
//! session's own id, so that no key seals more than a few messages.
use crate::digest;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};

const VERSION: u8 = 1;
/// Version, storage, id, three times.
const HEAD: usize = 2 + 32 + 24;
const NONCE: usize = 12;

/// What stands in clear before the sealed bytes, authenticated with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    pub id: [u8; 32],
    /// Seconds since the epoch: when it began, was renewed, was used.
    pub created: u64,
    pub rolled: u64,
    pub touched: u64,
}

impl Head {
    pub fn new(now: u64) -> Head {
        Head { id: digest::random(), created: now, rolled: now, touched: now }
    }

    fn write(&self, stored: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + NONCE + 64);
        out.extend([VERSION, u8::from(stored)]);
        out.extend(self.id);
        for time in [self.created, self.rolled, self.touched] {
            out.extend(time.to_be_bytes());
        }
        out
    }

    fn read(bytes: &[u8; HEAD], stored: bool) -> Option<Head> {
        let (start, rest) = bytes.split_first_chunk::<2>()?;
        let (id, rest) = rest.split_first_chunk::<32>()?;
        let (created, rest) = rest.split_first_chunk::<8>()?;
        let (rolled, rest) = rest.split_first_chunk::<8>()?;
        let (touched, _) = rest.split_first_chunk::<8>()?;
        let time = |bytes: &[u8; 8]| u64::from_be_bytes(*bytes);
        (*start == [VERSION, u8::from(stored)]).then(|| Head {
            id: *id,
            created: time(created),
            rolled: time(rolled),
            touched: time(touched),
        })
    }
}

/// Made once per configuration.
pub struct Keys {
    root: hkdf::Prk,
    realm: [u8; 32],
}

impl Keys {
    pub fn new(secret: &str, realm: &str) -> Keys {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sluice session 1").extract(secret.as_bytes());
        Keys { root, realm: digest::of(&[realm.as_bytes()]) }
    }

    fn key(&self, head: &Head, purpose: &[u8]) -> Option<LessSafeKey> {
        let info: [&[u8]; 3] = [purpose, &self.realm, &head.id];
        let derived = self.root.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(derived)))
    }

    /// Head and sealed bytes: a cookie's value.
    pub fn seal(&self, head: &Head, plain: &[u8], stored: bool) -> Option<Vec<u8>> {
        let out = head.write(stored);
        let aad = Aad::from(out.clone());
        append_sealed(&self.key(head, b"cookie")?, aad, out, plain)
    }

    /// Takes a cookie's value apart; nothing where it is not ours.
    pub fn open(&self, mut bytes: Vec<u8>, stored: bool) -> Option<(Head, Vec<u8>)> {
        let (start, _) = bytes.split_first_chunk::<HEAD>()?;
        let head = Head::read(start, stored)?;
        let aad = Aad::from(start.to_vec());
        bytes.drain(..HEAD);
        let plain = open(&self.key(&head, b"cookie")?, aad, bytes)?;
        Some((head, plain))
    }

    /// What Redis keeps.
    pub fn seal_value(&self, head: &Head, plain: &[u8]) -> Option<Vec<u8>> {
        append_sealed(&self.key(head, b"store")?, Aad::from(Vec::new()), Vec::new(), plain)
    }

    pub fn open_value(&self, head: &Head, sealed: Vec<u8>) -> Option<Vec<u8>> {
        open(&self.key(head, b"store")?, Aad::from(Vec::new()), sealed)
    }
}

fn append_sealed(key: &LessSafeKey, aad: Aad<Vec<u8>>, mut out: Vec<u8>, plain: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE];
    rand::fill(&mut nonce).ok()?;
    out.extend(nonce);
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
    out.extend(sealed);
    Some(out)
}

fn open(key: &LessSafeKey, aad: Aad<Vec<u8>>, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (nonce, sealed) = bytes.split_first_chunk_mut::<NONCE>()?;
    let plain = key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, sealed).ok()?;
    Some(plain.to_vec())
}
