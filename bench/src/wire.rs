//! A socket of the generator, plain or TLS. Surprise: connecting and the handshake block, everything after them does not.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::client::NAME;

pub struct Wire {
    pub stream: TcpStream,
    pub tls: Option<rustls::ClientConnection>,
}

impl Wire {
    pub fn connect(addr: SocketAddr, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<Self> {
        let mut stream = TcpStream::connect(addr).with_context(|| format!("connect to {addr}"))?;
        stream.set_nodelay(true)?;
        let tls = match tls {
            None => None,
            Some(config) => {
                let name = rustls::pki_types::ServerName::try_from(NAME)?;
                let mut session = rustls::ClientConnection::new(config.clone(), name)?;
                while session.is_handshaking() {
                    session.complete_io(&mut stream).context("TLS handshake")?;
                }
                Some(session)
            }
        };
        stream.set_nonblocking(true)?;
        Ok(Self { stream, tls })
    }

    /// One write. Of TLS [`Wire::flush`] sends what the session still holds.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.write(bytes),
            Some(tls) => tls.writer().write(bytes),
        }
    }

    /// Sends encrypted bytes as far as the socket takes them.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// One read; 0 is the end.
    pub fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(chunk) };
        loop {
            match tls.reader().read(chunk) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => match tls.read_tls(&mut self.stream)? {
                    0 => return Ok(0),
                    _ if tls.process_new_packets().is_ok() => {}
                    _ => return Err(ErrorKind::InvalidData.into()),
                },
                other => return other,
            }
        }
    }
}
