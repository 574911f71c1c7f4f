//! Transformations to a digest, as raw bytes (rules add `t:hexEncode`).

use aws_lc_rs::digest;
use md5::Digest as _;

pub(super) fn md5(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(&md5::Md5::digest(value));
    true
}

pub(super) fn sha1(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, value).as_ref());
    true
}
