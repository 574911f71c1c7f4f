//! TLS with clients: the ClientHello's server name picks an ssl object, the object's own rustls configuration does the
//! rest. The one surprise: an object with client certificates has tickets and session cache of its own, for a session
//! begun before mTLS was asked for must not be resumed past it.
use super::pem::certified_key;
use super::sessions::Sessions;
use super::sni::{Certificates, SniMap};
use super::verifier::DepthVerifier;
use super::{ClientVerify, PemError, ServerTlsStream, provider, provider_with};
use crate::socket::Socket;
use crate::stream::Stream;
use arc_swap::ArcSwap;
use foldhash::{HashMap, HashSet};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
use sluice_parts::Parts;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_rustls::LazyConfigAcceptor;

/// Protocol versions an ssl object offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// TLS 1.2.
    pub tls12: bool,
    /// TLS 1.3.
    pub tls13: bool,
}

impl Default for Protocols {
    fn default() -> Self {
        Self { tls12: true, tls13: true }
    }
}

/// What an ssl object asks of client certificates (`ssl.client`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Trusted certificates in PEM.
    pub ca_pem: String,
    /// Intermediate certificates allowed between the client's and a trusted one (APISIX: 1).
    pub depth: u8,
    /// `skip_mtls_uri_regex` is set: the handshake lets everybody in and the HTTP layer decides.
    pub lenient: bool,
}

/// An ssl object's `ocsp_stapling`, where it is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stapling {
    /// Answers are stapled whatever they say.
    pub skip_verify: bool,
    /// A newer answer is fetched after so long.
    pub cache_ttl: Duration,
}

/// Whose OCSP answer it is: equal ones share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StapleKey {
    /// The certificate's chain in PEM.
    pub chain: String,
    pub stapling: Stapling,
}

/// An ssl object of type server.
#[derive(Clone, PartialEq, Eq)]
pub struct CertConfig {
    /// The object's id, for errors.
    pub id: Arc<str>,
    /// Server names: exact, `*.suffix` or `*`.
    pub snis: Vec<String>,
    /// Certificate chain and private key in PEM; several for several key types.
    pub certs: Vec<(String, String)>,
    /// mTLS.
    pub client: Option<ClientAuth>,
    /// Versions.
    pub protocols: Protocols,
    /// OCSP answers are stapled.
    pub stapling: Option<Stapling>,
}

impl CertConfig {
    /// Whose OCSP answers it staples, one for each certificate.
    pub fn staples(&self) -> impl Iterator<Item = StapleKey> {
        self.stapling
            .into_iter()
            .flat_map(|stapling| self.certs.iter().map(move |(chain, _)| StapleKey { chain: chain.clone(), stapling }))
    }
}

impl std::fmt::Debug for CertConfig {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertConfig").field("id", &self.id).field("snis", &self.snis).finish_non_exhaustive()
    }
}

/// Settings of all TLS listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsSettings {
    /// ALPN lists, most wanted first; a listener names one by its index (HTTP/2 on, HTTP/2 off).
    pub alpn: Vec<Vec<Vec<u8>>>,
    /// The name to assume when a client sends none (`apisix.ssl.fallback_sni`).
    pub fallback_sni: Option<String>,
    /// The whole handshake may take this long (nginx: 60 s).
    pub handshake_timeout: Duration,
    /// Whether tickets are given out (`ssl_session_tickets`; APISIX: false). Sessions are then kept here instead.
    pub session_tickets: bool,
    /// Sessions kept in memory, for all objects without mTLS together.
    pub session_cache: usize,
    /// Sessions kept in memory for all objects with mTLS together.
    pub mtls_session_cache: usize,
    /// TLS 1.2 suites by OpenSSL's names (`ssl_ciphers`); all that rustls has when None.
    pub ciphers: Option<String>,
}

impl Default for ServerTlsSettings {
    fn default() -> Self {
        Self {
            alpn: vec![Vec::new()],
            fallback_sni: None,
            handshake_timeout: Duration::from_secs(60),
            session_tickets: true,
            session_cache: 16_384,
            mtls_session_cache: 4096,
            ciphers: None,
        }
    }
}

/// An ssl object that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ssl {id}: {cause}")]
pub struct CertError {
    /// The object's id.
    pub id: Arc<str>,
    /// What is wrong with it.
    pub cause: PemError,
    /// Whether its last good form goes on being served.
    pub kept: bool,
}

/// A handshake that came to nothing. The connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// It took longer than `handshake_timeout`.
    #[error("TLS handshake timed out")]
    Timeout,
    /// No ssl object has the name; the client got the alert unrecognized_name.
    #[error("failed to find any SSL certificate by SNI: {}", .0.as_deref().unwrap_or("(none sent)"))]
    NoCertificate(Option<String>),
    /// The ssl object with this id offers no version that is supported; the client got the alert protocol_version.
    #[error("ssl {0} offers no TLS version that is supported")]
    NoVersion(Arc<str>),
    /// The client's fault, a reset, or no common parameters.
    #[error("TLS handshake: {0}")]
    Handshake(#[from] io::Error),
    /// The listener names an ALPN list that does not exist.
    #[error("no ALPN list {0}")]
    NoAlpn(usize),
}

#[derive(Debug)]
struct SslObject {
    source: Arc<CertConfig>,
    /// One per ALPN list; none where no TLS version is left.
    configs: Vec<Arc<ServerConfig>>,
    certificates: Arc<Certificates>,
    verifier: Option<Arc<DepthVerifier>>,
}

/// OCSP answers that are stapled now, those that no object uses yet or any more included.
type Staples = HashMap<StapleKey, Arc<[u8]>>;

/// The ssl objects of one moment.
#[derive(Clone, Debug)]
pub struct ServerCerts {
    names: SniMap<Arc<SslObject>>,
    objects: Parts<Arc<SslObject>>,
}

impl ServerCerts {
    fn take_out(&mut self, id: &str) {
        let Some(object) = self.objects.remove(id) else { return };
        for name in &object.source.snis {
            self.names.remove(name, id);
        }
    }

    fn put_in(&mut self, object: Arc<SslObject>) {
        let id = object.source.id.clone();
        self.take_out(&id);
        for name in &object.source.snis {
            if !self.names.add(name, &id, &object) {
                tracing::warn!(ssl = %id, sni = name, "another ssl object has this name already");
            }
        }
        self.objects.insert(id, object);
    }

    /// Id of the object that serves a name.
    pub fn find(&self, sni: &str) -> Option<&Arc<str>> {
        self.names.get(sni).map(|o| &o.source.id)
    }

    /// How many objects are served.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none: every handshake fails.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// Accepts TLS connections; shared by all workers. The objects can be replaced at any time: running connections keep
/// what they began with.
#[derive(Debug)]
pub struct ServerTls {
    settings: ServerTlsSettings,
    /// Of every object without mTLS, kept across changes.
    sessions: Sessions,
    mtls_sessions: Arc<dyn StoresServerSessions>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<ServerCerts>,
    /// Held while objects change, so that no answer is missed.
    staples: Mutex<Staples>,
}

impl ServerTls {
    /// Without any object yet.
    pub fn new(settings: ServerTlsSettings) -> Result<Self, PemError> {
        let sessions = Sessions::new(settings.session_tickets, settings.session_cache)?;
        let mtls_sessions = ServerSessionMemoryCache::new(settings.mtls_session_cache);
        let none = ServerCerts { names: SniMap::default(), objects: Parts::default() };
        let provider = settings.ciphers.as_deref().map_or_else(provider, provider_with);
        Ok(Self {
            settings,
            sessions,
            mtls_sessions,
            provider,
            current: ArcSwap::from_pointee(none),
            staples: Mutex::default(),
        })
    }

    /// Staples an answer to the certificates it is for, from the next handshake on; `None`: nothing any more.
    pub fn staple(&self, key: &StapleKey, answer: Option<&[u8]>) {
        let mut staples = self.staples.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(answer) => staples.insert(key.clone(), answer.into()),
            None => staples.remove(key),
        };
        let current = self.current.load();
        let using = current.objects.iter().filter(|(_, o)| o.source.stapling == Some(key.stapling));
        for (_, object) in using {
            let chains = object.source.certs.iter().enumerate();
            for (place, _) in chains.filter(|(_, (chain, _))| *chain == key.chain) {
                object.certificates.staple(place, answer);
            }
        }
    }

    /// Puts these objects in force and no others, in one step; see [`ServerTls::update`].
    pub fn replace(&self, objects: &[Arc<CertConfig>]) -> Vec<CertError> {
        let named: HashSet<&str> = objects.iter().map(|object| &*object.id).collect();
        let old = self.current.load();
        let gone = old.objects.iter().map(|(id, _)| id.clone()).filter(|id| !named.contains(&**id));
        self.update(objects, &gone.collect::<Vec<_>>())
    }

    /// Puts objects in force that changed and takes others out, by their ids, in one step; costs what changed. An unchanged
    /// object keeps its sessions. A broken one is reported and its last good form kept, if it had one; the others are
    /// served. Of two with the same name the one has it whose id comes first. Callers take turns.
    pub fn update(&self, changed: &[Arc<CertConfig>], gone: &[Arc<str>]) -> Vec<CertError> {
        let staples = self.staples.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = (**self.current.load()).clone();
        let mut errors = Vec::new();
        for id in gone {
            new.take_out(id);
        }
        for source in changed {
            let before = new.objects.get(&source.id);
            if before.is_some_and(|o| Arc::ptr_eq(&o.source, source) || o.source == *source) {
                continue;
            }
            match self.build(source, &staples) {
                Ok(object) => new.put_in(Arc::new(object)),
                Err(cause) => errors.push(CertError { id: source.id.clone(), cause, kept: before.is_some() }),
            }
        }
        self.current.store(Arc::new(new));
        errors
    }

    /// The objects in force.
    pub fn certs(&self) -> Arc<ServerCerts> {
        self.current.load_full()
    }

    fn build(&self, source: &Arc<CertConfig>, staples: &Staples) -> Result<SslObject, PemError> {
        let config = |e: rustls::Error| PemError::Config(e.to_string());
        let stapled = |chain: &str| {
            let stapling = source.stapling.filter(|_| !staples.is_empty())?;
            staples.get(&StapleKey { chain: chain.to_owned(), stapling }).map(|answer| answer.to_vec())
        };
        let keys = source.certs.iter().map(|(chain, key)| {
            let mut certified = certified_key(chain, key)?;
            certified.ocsp = stapled(chain);
            Ok(certified)
        });
        let keys = keys.collect::<Result<Vec<_>, PemError>>()?;
        if keys.is_empty() {
            return Err(PemError::Cert("none given".to_owned()));
        }
        let certificates = Arc::new(Certificates::new(keys));
        let mut versions = Vec::new();
        if source.protocols.tls13 {
            versions.push(&rustls::version::TLS13);
        }
        if source.protocols.tls12 {
            versions.push(&rustls::version::TLS12);
        }
        if versions.is_empty() {
            // The name is taken, but nobody can be served: see `handshake`.
            tracing::error!(ssl = %source.id, "no TLS version that is supported (1.2 or 1.3): its names are refused");
            return Ok(SslObject { source: source.clone(), configs: Vec::new(), certificates, verifier: None });
        }
        let verifier = match &source.client {
            Some(c) => Some(Arc::new(DepthVerifier::new(&c.ca_pem, c.depth, c.lenient)?)),
            None => None,
        };
        let b = ServerConfig::builder_with_provider(self.provider.clone());
        let b = b.with_protocol_versions(&versions).map_err(config)?;
        let b = match &verifier {
            Some(v) => b.with_client_cert_verifier(v.clone()),
            None => b.with_no_client_auth(),
        };
        let mut base = b.with_cert_resolver(certificates.clone());
        // `ssl_prefer_server_ciphers on` (apisix/cli/ngx_tpl.lua)
        base.ignore_client_order = self.settings.ciphers.is_some();
        let sessions = match verifier {
            Some(_) => Sessions::apart(self.settings.session_tickets, &self.mtls_sessions)?,
            None => self.sessions.clone(),
        };
        base.session_storage = sessions.cache;
        if let Some(ticketer) = sessions.ticketer {
            base.ticketer = ticketer;
        }
        let configs = self.settings.alpn.iter().map(|alpn| {
            let mut c = base.clone();
            c.alpn_protocols = alpn.clone();
            Arc::new(c)
        });
        Ok(SslObject { source: source.clone(), configs: configs.collect(), certificates, verifier })
    }

    /// Does the handshake on a fresh connection. `alpn` is an index into `ServerTlsSettings::alpn`.
    pub async fn accept(&self, socket: Socket, alpn: usize) -> Result<Stream, AcceptError> {
        // Boxed: the handshake's future is large, and gone once the connection is up.
        match tokio::time::timeout(self.settings.handshake_timeout, Box::pin(self.handshake(socket, alpn))).await {
            Ok(r) => r.map(|s| Stream::ServerTls(Box::new(s))),
            Err(_) => Err(AcceptError::Timeout),
        }
    }

    async fn handshake(&self, socket: Socket, alpn: usize) -> Result<ServerTlsStream, AcceptError> {
        let mut start = LazyConfigAcceptor::new(Default::default(), socket).await?;
        let hello = start.client_hello();
        let sni = hello.server_name().or(self.settings.fallback_sni.as_deref());
        let object = sni.and_then(|n| self.current.load().names.get(n).cloned());
        let Some(object) = object else {
            let sni = sni.map(str::to_owned);
            // A fatal alert record, unrecognized_name (RFC 8446 section 6.2); rustls would say access_denied.
            let _ = start.io.write_all(&[21, 3, 3, 0, 2, 2, 112]).await;
            let _ = start.io.shutdown().await;
            return Err(AcceptError::NoCertificate(sni));
        };
        if object.configs.is_empty() && alpn < self.settings.alpn.len() {
            // protocol_version, as OpenSSL says it.
            let _ = start.io.write_all(&[21, 3, 3, 0, 2, 2, 70]).await;
            let _ = start.io.shutdown().await;
            return Err(AcceptError::NoVersion(object.source.id.clone()));
        }
        let config = object.configs.get(alpn).ok_or(AcceptError::NoAlpn(alpn))?;
        let io = start.into_stream(config.clone()).await?;
        let verify = match &object.verifier {
            Some(v) => v.outcome(io.get_ref().1.peer_certificates()),
            None => ClientVerify::None,
        };
        Ok(ServerTlsStream { io, verify, ssl_id: object.source.id.clone() })
    }
}
