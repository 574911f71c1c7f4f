//! Full handshakes of TLS 1.3 beside each other, as many as the proxy makes: connect, handshake, good-bye, next.
//!
//! The surprise: the client checks nothing and resumes nothing, and ends its connections by a reset once the proxy has closed its side:
//! it must be cheaper than the proxy, and leave no ports behind that wait.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{Timespec, epoll};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use crate::client::NAME;
use crate::engine::{Load, Sample};
use crate::window::{Moment, Window};

/// Handshakes at once.
const PLACES: usize = 32;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);

struct Place {
    stream: TcpStream,
    session: rustls::ClientConnection,
    start: Instant,
    /// We have said good-bye.
    left: bool,
}

enum Progress {
    Waiting,
    Done,
    Broken,
}

impl Place {
    fn open(load: &Load<'_>, config: &Arc<rustls::ClientConfig>) -> Result<Self> {
        let stream = TcpStream::connect(load.addr).with_context(|| format!("connect to {}", load.addr))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let session = rustls::ClientConnection::new(config.clone(), ServerName::try_from(NAME)?)?;
        Ok(Self { stream, session, start: Instant::now(), left: false })
    }

    fn go_on(&mut self) -> Progress {
        loop {
            while self.session.wants_write() {
                match self.session.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => return Progress::Broken,
                }
            }
            if !self.left && !self.session.is_handshaking() {
                self.left = true;
                self.session.send_close_notify();
                continue;
            }
            if self.left {
                // Tickets and the other side's good-bye need not be understood.
                match self.stream.read(&mut [0; 4096]) {
                    Ok(0) => {
                        let at_once = Some(Duration::ZERO);
                        let _ = rustix::net::sockopt::set_socket_linger(&self.stream, at_once);
                        return Progress::Done;
                    }
                    Ok(_) => continue,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => return Progress::Waiting,
                    Err(_) => return Progress::Broken,
                }
            }
            match self.session.read_tls(&mut self.stream) {
                Ok(0) => return Progress::Broken,
                Ok(_) if self.session.process_new_packets().is_ok() => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Progress::Waiting,
                _ => return Progress::Broken,
            }
        }
    }
}

/// As `Engine::run`, a handshake being what is counted; there is no open loop.
pub fn run(load: &Load<'_>) -> Result<Sample> {
    let config = Arc::new(config()?);
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET | epoll::EventFlags::RDHUP;
    let open = |index: usize| -> Result<Place> {
        let place = Place::open(load, &config)?;
        epoll::add(&events, &place.stream, epoll::EventData::new_u64(index as u64), flags)?;
        Ok(place)
    };
    let mut places = (0..PLACES).map(open).collect::<Result<Vec<_>>>()?;
    let (mut done, mut bad) = (0u64, 0u64);
    let mut window = Window::open(load);
    loop {
        let now = Instant::now();
        match window.look(now)? {
            Moment::Within => {}
            Moment::Over => break,
            Moment::Begins => (done, bad) = (0, 0),
        }
        let mut ready = [const { std::mem::MaybeUninit::uninit() }; PLACES];
        let (ready, _) = epoll::wait(&events, &mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        for event in ready.iter() {
            let index = event.data.u64() as usize;
            let Some(place) = places.get_mut(index) else { continue };
            match place.go_on() {
                Progress::Waiting => continue,
                Progress::Done => done += 1,
                Progress::Broken => bad += 1,
            }
            *place = open(index)?;
        }
        ensure!(places.iter().all(|place| now.saturating_duration_since(place.start) < PATIENCE), "a handshake hangs");
    }
    ensure!(done > 0, "no handshake in the measured time");
    Ok(Sample { bad, ..window.sample(done)? })
}

/// X25519 for all: it is what every peer knows.
fn config() -> Result<rustls::ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256]
    }
}
