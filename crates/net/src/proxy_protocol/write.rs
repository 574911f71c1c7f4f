//! Writes PROXY protocol headers, for upstreams that want to know the client.
//! The one surprise: a mix of address kinds (a Unix client to an IP listener) becomes UNKNOWN or LOCAL.
use super::{UNIX_PATH, V2_SIGNATURE};
use crate::address::Address;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Appends a version 1 line.
pub fn write_v1(source: &Address, destination: &Address, out: &mut Vec<u8>) {
    let line = match (source, destination) {
        (Address::Ip(s), Address::Ip(d)) if s.is_ipv4() == d.is_ipv4() => {
            let family = if s.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", s.ip(), d.ip(), s.port(), d.port())
        }
        _ => "PROXY UNKNOWN\r\n".to_owned(),
    };
    out.extend_from_slice(line.as_bytes());
}

/// Appends a version 2 header without TLVs.
pub fn write_v2(source: &Address, destination: &Address, out: &mut Vec<u8>) {
    out.extend_from_slice(V2_SIGNATURE);
    let head = |out: &mut Vec<u8>, command, family, len: usize| {
        out.extend_from_slice(&[command, family]);
        out.extend_from_slice(&(len as u16).to_be_bytes());
    };
    match (source, destination) {
        (Address::Ip(SocketAddr::V4(s)), Address::Ip(SocketAddr::V4(d))) => {
            head(out, 0x21, 0x11, 12);
            out.extend_from_slice(&s.ip().octets());
            out.extend_from_slice(&d.ip().octets());
            out.extend_from_slice(&s.port().to_be_bytes());
            out.extend_from_slice(&d.port().to_be_bytes());
        }
        (Address::Ip(SocketAddr::V6(s)), Address::Ip(SocketAddr::V6(d))) => {
            head(out, 0x21, 0x21, 36);
            out.extend_from_slice(&s.ip().octets());
            out.extend_from_slice(&d.ip().octets());
            out.extend_from_slice(&s.port().to_be_bytes());
            out.extend_from_slice(&d.port().to_be_bytes());
        }
        (Address::Unix(s), Address::Unix(d)) => {
            head(out, 0x21, 0x31, 2 * UNIX_PATH);
            unix(s, out);
            unix(d, out);
        }
        _ => head(out, 0x20, 0, 0),
    }
}

fn unix(path: &Path, out: &mut Vec<u8>) {
    let path = path.as_os_str().as_bytes();
    let path = path.get(..UNIX_PATH).unwrap_or(path);
    out.extend_from_slice(path);
    out.resize(out.len() + UNIX_PATH - path.len(), 0);
}
