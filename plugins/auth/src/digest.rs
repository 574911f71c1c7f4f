//! Digests as keys of caches, random texts for one use, and the comparing of secrets in constant time.
use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// SHA-256 of these parts, each with its length before it.
pub fn of(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    whole(&context.finish())
}

/// SHA-256, in base64url.
pub fn text(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, bytes))
}

fn whole(digest: &digest::Digest) -> [u8; 32] {
    digest.as_ref().try_into().unwrap_or_default()
}

/// From the system's generator. It fails where the system has no randomness, and then nothing here is safe.
pub fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    #[allow(clippy::expect_used, reason = "aws-lc aborts by itself rather than to give no randomness")]
    rand::fill(&mut bytes).expect("randomness");
    bytes
}

/// 32 random bytes in base64url: 43 characters.
pub fn random_text() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(random())
}

/// Whether two secrets are the same; the time tells their lengths alone.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}
