//! Ports for processes that cannot be told to bind port 0. They lie below the kernel's ephemeral ports, so that no outgoing
//! connection takes one between our look and the process's bind.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

const FIRST: u32 = 10_240;
const COUNT: u32 = 22_000;

/// A TCP port that is free on all these addresses.
pub fn free(addresses: &[Ipv4Addr]) -> Result<u16> {
    // Runs side by side start at different places.
    let start = std::process::id().wrapping_mul(97).wrapping_add(rand::random::<u32>() % 1000);
    for step in 0..COUNT {
        let port = (FIRST + start.wrapping_add(step) % COUNT) as u16;
        if addresses.iter().all(|address| TcpListener::bind((*address, port)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no free port from {FIRST} to {}", FIRST + COUNT)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_free_port_can_be_bound_on_every_address() {
        let addresses = [Ipv4Addr::new(127, 0, 1, 1), Ipv4Addr::new(127, 0, 1, 2)];
        let port = super::free(&addresses).unwrap();
        let held: Vec<_> = addresses.iter().map(|a| TcpListener::bind((*a, port)).unwrap()).collect();
        assert_eq!(held.len(), 2);
    }
}
