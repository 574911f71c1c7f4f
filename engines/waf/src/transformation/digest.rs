//! Transformations to a digest, as raw bytes (rules add `t:hexEncode`).

use md5::Digest as _;

pub(super) fn md5(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&md5::Md5::digest(value));
    true
}

pub(super) fn sha1(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&sha1_smol::Sha1::from(value).digest().bytes());
    true
}
