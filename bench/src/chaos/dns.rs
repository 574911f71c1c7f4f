//! A name server with one name, whose addresses the test changes. Answers hold for one second; whatever is asked, the
//! answer is about that name.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

/// The name it knows.
pub const NAME: &str = "backends.chaos.test";
const A: [u8; 2] = [0, 1];

pub struct Dns {
    pub address: SocketAddr,
    records: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl Dns {
    /// Serves until the process ends.
    pub fn start(records: Vec<Ipv4Addr>) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("name server")?;
        let address = socket.local_addr()?;
        let records = Arc::new(Mutex::new(records));
        let shared = records.clone();
        std::thread::spawn(move || {
            let mut packet = [0u8; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let records = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(answer) = answer(packet.get(..length).unwrap_or_default(), &records) {
                    // A lost answer is asked for again.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self { address, records })
    }

    pub fn change(&self, records: Vec<Ipv4Addr>) {
        *self.records.lock().unwrap_or_else(PoisonError::into_inner) = records;
    }
}

/// RFC 1035, section 4: the question is repeated, answers point back at its name.
fn answer(query: &[u8], records: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let id = query.get(..2)?;
    let mut at = 12;
    while *query.get(at)? != 0 {
        at += usize::from(*query.get(at)?) + 1;
    }
    let question = query.get(12..at + 5)?;
    let kind = query.get(at + 1..at + 3)?;
    // Other kinds get an empty answer: the name exists.
    let records = if kind == A { records } else { &[] };
    let mut out = id.to_vec();
    out.extend([0x85, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    out.extend_from_slice(question);
    for address in records {
        // Name by pointer to offset 12, type A, class IN, TTL 1 s, four bytes.
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_the_addresses_of_the_moment() {
        let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1];
        let two = answer(&query, &[Ipv4Addr::new(1, 2, 3, 4), Ipv4Addr::new(5, 6, 7, 8)]).unwrap();
        assert_eq!(two[..12], [7, 9, 0x85, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
        assert_eq!(two[12..22], query[12..22]);
        assert!(two.ends_with(&[0, 4, 5, 6, 7, 8]) && two.len() == 22 + 32);
        // AAAA
        query[19] = 28;
        assert_eq!(answer(&query, &[Ipv4Addr::LOCALHOST]).unwrap().len(), 22);
        assert_eq!(answer(&query[..15], &[]), None);
    }
}
