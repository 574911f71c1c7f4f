//! The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt, sections 2.1 and 2.2): who the client behind a
//! balancer is. The one surprise: the parser never asks for more than the header needs, so a reader that peeks never
//! takes bytes of what follows.
mod read;
#[cfg(test)]
mod tests;
mod write;

use crate::address::Address;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

pub use read::{ReadError, read_header};
pub use write::{write_v1, write_v2};

/// The longest version 1 line, with its CRLF (section 2.1).
pub const V1_MAX: usize = 107;
/// The longest version 2 header accepted: 16 bytes, addresses and TLVs. The protocol allows 65,551.
pub const V2_MAX: usize = 4096;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_SIGNATURE: &[u8; 6] = b"PROXY ";
const UNIX_PATH: usize = 108;

/// A parsed header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client and the address it connected to. None when the balancer speaks for itself (LOCAL), or for a kind of
    /// address we do not know (UNKNOWN, AF_UNSPEC, datagrams): then the socket's own addresses count.
    pub addresses: Option<Addresses>,
    /// Bytes of the header.
    pub len: usize,
}

/// Both ends of the original connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: Address,
    /// What it connected to.
    pub destination: Address,
}

/// How far parsing came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The whole header is there.
    Complete(Header),
    /// All bytes so far belong to the header, and more must come.
    Incomplete,
}

/// The bytes are not a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Neither signature.
    #[error("no PROXY protocol signature")]
    NotProxy,
    /// A malformed or too long version 1 line.
    #[error("malformed PROXY protocol v1 header: {0}")]
    V1(&'static str),
    /// A malformed or too long version 2 header.
    #[error("malformed PROXY protocol v2 header: {0}")]
    V2(&'static str),
}

/// Parses a header at the start of `data`; what follows it is not looked at.
pub fn parse(data: &[u8]) -> Result<Parsed, ParseError> {
    if starts_as(data, V2_SIGNATURE) {
        return if data.len() < 16 { Ok(Parsed::Incomplete) } else { parse_v2(data) };
    }
    if starts_as(data, V1_SIGNATURE) {
        return parse_v1(data);
    }
    Err(ParseError::NotProxy)
}

/// Whether `data` begins with `signature` as far as it goes.
fn starts_as(data: &[u8], signature: &[u8]) -> bool {
    data.iter().zip(signature).all(|(a, b)| a == b)
}

fn parse_v1(data: &[u8]) -> Result<Parsed, ParseError> {
    let head = data.get(..V1_MAX.min(data.len())).unwrap_or(data);
    let Some(lf) = head.iter().position(|&b| b == b'\n') else {
        return if data.len() >= V1_MAX { Err(ParseError::V1("line too long")) } else { Ok(Parsed::Incomplete) };
    };
    let line = head.get(..lf).and_then(|l| l.strip_suffix(b"\r")).ok_or(ParseError::V1("no CR before LF"))?;
    let text = std::str::from_utf8(line).map_err(|_| ParseError::V1("not ASCII"))?;
    let rest = text.strip_prefix("PROXY ").ok_or(ParseError::V1("no protocol"))?;
    let done = |addresses| Ok(Parsed::Complete(Header { addresses, len: lf + 1 }));
    // "the receiver must ignore anything presented before the CRLF" after UNKNOWN.
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return done(None);
    }
    let mut words = rest.split(' ');
    let mut word = || words.next().ok_or(ParseError::V1("too few words"));
    let protocol = word()?;
    let (src, dst) = (word()?, word()?);
    let (sport, dport) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(ParseError::V1("too many words"));
    }
    let (src, dst): (IpAddr, IpAddr) = match protocol {
        "TCP4" => (ip::<Ipv4Addr>(src)?.into(), ip::<Ipv4Addr>(dst)?.into()),
        "TCP6" => (ip::<Ipv6Addr>(src)?.into(), ip::<Ipv6Addr>(dst)?.into()),
        _ => return Err(ParseError::V1("unknown protocol")),
    };
    done(Some(Addresses {
        source: SocketAddr::new(src, sport).into(),
        destination: SocketAddr::new(dst, dport).into(),
    }))
}

fn ip<T: std::str::FromStr>(s: &str) -> Result<T, ParseError> {
    s.parse().map_err(|_| ParseError::V1("bad address"))
}

/// Decimal, 0–65535, without sign or leading zeros (section 2.1).
fn port(s: &str) -> Result<u16, ParseError> {
    let plain = s.bytes().all(|b| b.is_ascii_digit()) && (s.len() == 1 || !s.starts_with('0'));
    plain.then(|| s.parse().ok()).flatten().ok_or(ParseError::V1("bad port"))
}

fn parse_v2(data: &[u8]) -> Result<Parsed, ParseError> {
    let &[version_command, family, l1, l2] = data.get(12..16).and_then(|d| d.first_chunk()).unwrap_or(&[0; 4]);
    let len = 16 + usize::from(u16::from_be_bytes([l1, l2]));
    if version_command >> 4 != 2 {
        return Err(ParseError::V2("unknown version"));
    }
    let local = match version_command & 15 {
        0 => true,
        1 => false,
        _ => return Err(ParseError::V2("unknown command")),
    };
    if len > V2_MAX {
        return Err(ParseError::V2("too long"));
    }
    // Refuse what is too short for its addresses before waiting for the rest.
    let need = match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 2 * UNIX_PATH,
        0 => 0,
        _ => return Err(ParseError::V2("unknown address family")),
    };
    if family & 15 > 2 {
        return Err(ParseError::V2("unknown transport"));
    }
    if !local && len - 16 < need {
        return Err(ParseError::V2("too short for its addresses"));
    }
    let Some(body) = data.get(16..len) else { return Ok(Parsed::Incomplete) };
    // TLVs after the addresses are skipped by `len`.
    let addresses = if local || family & 15 != 1 { None } else { v2_addresses(family >> 4, body) };
    Ok(Parsed::Complete(Header { addresses, len }))
}

fn v2_addresses(family: u8, body: &[u8]) -> Option<Addresses> {
    let (source, destination) = match family {
        1 => {
            let (src, rest) = body.split_first_chunk::<4>()?;
            let (dst, rest) = rest.split_first_chunk::<4>()?;
            let [a, b, c, d] = *rest.first_chunk::<4>()?;
            let ip = |x: [u8; 4], p| SocketAddr::new(IpAddr::from(x), u16::from_be_bytes(p)).into();
            (ip(*src, [a, b]), ip(*dst, [c, d]))
        }
        2 => {
            let (src, rest) = body.split_first_chunk::<16>()?;
            let (dst, rest) = rest.split_first_chunk::<16>()?;
            let [a, b, c, d] = *rest.first_chunk::<4>()?;
            let ip = |x: [u8; 16], p| SocketAddr::new(IpAddr::from(x), u16::from_be_bytes(p)).into();
            (ip(*src, [a, b]), ip(*dst, [c, d]))
        }
        3 => {
            let (src, rest) = body.split_first_chunk::<UNIX_PATH>()?;
            (unix(src), unix(rest.first_chunk::<UNIX_PATH>()?))
        }
        _ => return None,
    };
    Some(Addresses { source, destination })
}

fn unix(path: &[u8; UNIX_PATH]) -> Address {
    use std::os::unix::ffi::OsStrExt;
    let path = path.split(|&b| b == 0).next().unwrap_or(&[]);
    Address::unix(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
}
