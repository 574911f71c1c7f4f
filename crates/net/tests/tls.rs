//! TLS on real sockets: names, key types, versions, client certificates, resumption, and replacing it all under way.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test, its own functions included")]
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sluice_net::tls::{
    AcceptError, CertConfig, ClientAuth, ClientTls, ClientTlsConfig, ClientVerify, Protocols, ServerTls,
    ServerTlsSettings, TlsInfo, provider,
};
use sluice_net::{Address, BoundListener, ConnectErrorKind, ConnectOptions, ListenConfig, Listener, Stream, connect};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str) -> Issuer {
    CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn ca_params(name: &str) -> CertificateParams {
    let mut p = CertificateParams::default();
    p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    p.distinguished_name.push(rcgen::DnType::CommonName, name);
    p
}

/// Certificate and key in PEM for `name`, issued by `ca`.
fn leaf(ca: &Issuer, name: &str, rsa: bool) -> (String, String) {
    let key = KeyPair::generate_for(if rsa { &PKCS_RSA_SHA256 } else { &PKCS_ECDSA_P256_SHA256 }).unwrap();
    let mut p = CertificateParams::new(vec![name.to_owned()]).unwrap();
    p.distinguished_name.push(rcgen::DnType::CommonName, name);
    p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (p.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

fn object(id: &str, snis: &[&str], certs: Vec<(String, String)>) -> CertConfig {
    CertConfig {
        id: id.into(),
        snis: snis.iter().map(|s| (*s).to_owned()).collect(),
        certs,
        client: None,
        protocols: Protocols::default(),
        stapling: None,
    }
}

fn server(objects: Vec<CertConfig>) -> ServerTls {
    let tls = ServerTls::new(ServerTlsSettings::default()).unwrap();
    assert_eq!(tls.replace(&objects.into_iter().map(Arc::new).collect::<Vec<_>>()), []);
    tls
}

fn listener() -> Listener {
    let c = ListenConfig::new("127.0.0.1:0".parse::<Address>().unwrap());
    BoundListener::bind(&c, 1).unwrap().remove(0).listen().unwrap()
}

fn client(f: impl FnOnce(&mut ClientTlsConfig)) -> ClientTls {
    let mut c = ClientTlsConfig::default();
    f(&mut c);
    ClientTls::new(&c).unwrap()
}

/// Both sides of one connection as `name`: the client's stream (or what went wrong), the server's likewise.
async fn shake(
    server: &ServerTls,
    client: &ClientTls,
    name: &str,
) -> (Result<Stream, ConnectErrorKind>, Result<Stream, AcceptError>) {
    let l = listener();
    let o = ConnectOptions { timeout: Duration::from_secs(20), keepalive: None };
    let accept = async { server.accept(l.accept().await.unwrap().0, 0).await };
    let (c, s) = tokio::join!(connect(l.address(), &o, Some((client, name))), accept);
    (c.map_err(|e| e.kind), s)
}

async fn ok(server: &ServerTls, client: &ClientTls, name: &str) -> (Stream, Stream) {
    let (c, s) = shake(server, client, name).await;
    let (mut c, mut s) = (c.unwrap(), s.unwrap());
    echo(&mut c, &mut s).await;
    (c, s)
}

async fn echo(c: &mut Stream, s: &mut Stream) {
    ping(c, s).await;
    ping(s, c).await;
}

async fn ping(a: &mut Stream, b: &mut Stream) {
    a.write_all(b"ping").await.unwrap();
    a.flush().await.unwrap();
    let mut buf = [0; 4];
    b.read_exact(&mut buf).await.unwrap();
    assert_eq!(&buf, b"ping");
}

fn info(s: &Stream) -> TlsInfo {
    s.tls_info().unwrap()
}

/// The common name of the certificate the server showed.
fn shown(c: &Stream) -> String {
    use x509_parser::prelude::*;
    let i = info(c);
    let (_, cert) = X509Certificate::from_der(&i.peer_certs[0]).unwrap();
    let cn = cert.subject().iter_common_name().next().unwrap();
    cn.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_server_name_picks_the_object() {
    let ca = ca("ca");
    let one = |n: &str| vec![leaf(&ca, n, false)];
    let tls =
        server(vec![object("wild", &["*.test.com"], one("wild.x")), object("exact", &["a.test.com"], one("exact.x"))]);
    let any = client(|_| ());
    let (c, s) = ok(&tls, &any, "a.test.com").await;
    assert_eq!(shown(&c), "exact.x");
    assert_eq!((&*info(&s).ssl_id, info(&s).sni.as_deref()), ("exact", Some("a.test.com")));
    assert_eq!((info(&s).protocol_name(), info(&s).client_verify.to_string().as_str()), ("TLSv1.3", "NONE"));
    assert!(info(&s).cipher_name().starts_with("TLS_AES_"));
    assert_eq!(shown(&ok(&tls, &any, "b.test.com").await.0), "wild.x");
    for none in ["x.b.test.com", "test.com", "other.org"] {
        let (c, s) = shake(&tls, &any, none).await;
        assert_eq!(c.unwrap_err(), ConnectErrorKind::Tls);
        assert!(matches!(s, Err(AcceptError::NoCertificate(Some(n))) if n == none));
    }
    // A literal address sends no name.
    let (_, s) = shake(&tls, &any, "127.0.0.1").await;
    assert!(matches!(s, Err(AcceptError::NoCertificate(None))));
    let fallback = ServerTls::new(ServerTlsSettings { fallback_sni: Some("b.test.com".into()), ..Default::default() });
    let fallback = fallback.unwrap();
    fallback.replace(&[Arc::new(object("wild", &["*.test.com"], one("wild.x")))]);
    assert_eq!(shown(&ok(&fallback, &any, "127.0.0.1").await.0), "wild.x");
}

#[tokio::test]
async fn an_unknown_name_is_told_by_its_alert() {
    let (_, told) = refusal(&server(vec![])).await;
    assert_eq!(told, rustls::AlertDescription::UnrecognisedName);
}

/// Why the server refuses the name `x.test`, and what it tells the client.
async fn refusal(tls: &ServerTls) -> (AcceptError, rustls::AlertDescription) {
    let l = listener();
    let accept = async { server_err(tls.accept(l.accept().await.unwrap().0, 0).await) };
    let connect = async {
        let tcp = tokio::net::TcpStream::connect(l.address().to_string()).await.unwrap();
        let c = client(|_| ());
        let name = ServerName::try_from("x.test").unwrap();
        tokio_rustls::TlsConnector::from(c.config().clone()).connect(name, tcp).await.unwrap_err()
    };
    let (why, e) = tokio::join!(accept, connect);
    match e.get_ref().unwrap().downcast_ref::<rustls::Error>().unwrap() {
        rustls::Error::AlertReceived(told) => (why, *told),
        other => panic!("no alert: {other}"),
    }
}

fn server_err(r: Result<Stream, AcceptError>) -> AcceptError {
    r.expect_err("the handshake must fail")
}

#[tokio::test]
async fn verification_of_the_server_is_off_by_default_and_works_when_on() {
    let (ca, other) = (ca("ca"), ca("other"));
    let tls = server(vec![object("1", &["*"], vec![leaf(&ca, "a.test", false)])]);
    ok(&tls, &client(|_| ()), "whatever.test").await;
    let checked = |pem: String| client(|c| (c.verify, c.ca_pem) = (true, Some(pem)));
    ok(&tls, &checked(ca.pem()), "a.test").await;
    for (pem, name) in [(ca.pem(), "b.test"), (other.pem(), "a.test")] {
        assert_eq!(shake(&tls, &checked(pem), name).await.0.unwrap_err(), ConnectErrorKind::Tls);
    }
    // A set name is what is asked for and checked.
    let named = client(|c| (c.verify, c.ca_pem, c.sni) = (true, Some(ca.pem()), Some("a.test".into())));
    let (_, s) = ok(&tls, &named, "127.0.0.1").await;
    assert_eq!(info(&s).sni.as_deref(), Some("a.test"));
}

#[tokio::test]
async fn rsa_or_elliptic_by_what_the_client_can_check() {
    let ca = ca("ca");
    let certs = vec![leaf(&ca, "rsa.x", true), leaf(&ca, "ec.x", false)];
    let tls = server(vec![object("1", &["*"], certs)]);
    let (c, _) = ok(&tls, &client(|_| ()), "a.test").await;
    assert_eq!(shown(&c), "ec.x");
    // An old client: no ECDSA at all.
    let mut p = (*provider()).clone();
    p.cipher_suites.retain(|s| format!("{s:?}").contains("TLS_ECDHE_RSA"));
    let rsa_only = rustls::ClientConfig::builder_with_provider(Arc::new(p))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RsaOnly))
        .with_no_client_auth();
    let l = listener();
    let accept = async { tls.accept(l.accept().await.unwrap().0, 0).await.unwrap() };
    let connect = async {
        let tcp = tokio::net::TcpStream::connect(l.address().to_string()).await.unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(rsa_only)).connect(name, tcp).await.unwrap()
    };
    let (s, _c) = tokio::join!(accept, connect);
    assert_eq!((info(&s).protocol_name(), info(&s).cipher_name()), ("TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"));
}

#[derive(Debug)]
struct RsaOnly;
impl rustls::client::danger::ServerCertVerifier for RsaOnly {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(m, c, d, &provider().signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not offered".into()))
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::RSA_PKCS1_SHA256, rustls::SignatureScheme::RSA_PSS_SHA256]
    }
}

#[tokio::test]
async fn versions_are_per_object() {
    let ca = ca("ca");
    let only = |tls12, id: &str, sni: &str| CertConfig {
        protocols: Protocols { tls12, tls13: !tls12 },
        ..object(id, &[sni], vec![leaf(&ca, sni, false)])
    };
    let tls = server(vec![only(true, "old", "old.test"), only(false, "new", "new.test")]);
    let any = client(|_| ());
    assert_eq!(info(&ok(&tls, &any, "old.test").await.1).protocol_name(), "TLSv1.2");
    assert_eq!(info(&ok(&tls, &any, "new.test").await.1).protocol_name(), "TLSv1.3");
    let none = CertConfig { protocols: Protocols { tls12: false, tls13: false }, ..only(true, "none", "x.test") };
    let wide = object("wide", &["*"], vec![leaf(&ca, "x", false)]);
    assert_eq!(tls.replace(&[Arc::new(none), Arc::new(wide)]), []);
    // It has its name for itself: the other object does not serve it.
    let (why, told) = refusal(&tls).await;
    assert!(matches!(why, AcceptError::NoVersion(id) if &*id == "none"));
    assert_eq!(told, rustls::AlertDescription::ProtocolVersion);
}

#[tokio::test]
async fn ciphers_by_openssl_names_bind_tls12_alone() {
    let ca = ca("ca");
    let only = "ECDHE-ECDSA-CHACHA20-POLY1305:DHE-RSA-AES128-SHA:HIGH";
    let settings = ServerTlsSettings { ciphers: Some(only.into()), ..Default::default() };
    let tls = ServerTls::new(settings).unwrap();
    let old = object("old", &["old.test"], vec![leaf(&ca, "x", false)]);
    let old = CertConfig { protocols: Protocols { tls12: true, tls13: false }, ..old };
    assert_eq!(tls.replace(&[Arc::new(old), Arc::new(object("1", &["*"], vec![leaf(&ca, "x", false)]))]), []);
    let any = client(|_| ());
    assert_eq!(info(&ok(&tls, &any, "old.test").await.1).cipher_name(), "ECDHE-ECDSA-CHACHA20-POLY1305");
    assert_eq!(info(&ok(&tls, &any, "new.test").await.1).cipher_name(), "TLS_AES_256_GCM_SHA384");
}

#[tokio::test]
async fn alpn_is_chosen_from_the_listeners_list() {
    let ca = ca("ca");
    let alpn = vec![vec![b"http/1.1".to_vec()], vec![b"h2".to_vec(), b"http/1.1".to_vec()]];
    let tls = ServerTls::new(ServerTlsSettings { alpn, ..Default::default() }).unwrap();
    tls.replace(&[Arc::new(object("1", &["*"], vec![leaf(&ca, "a.test", false)]))]);
    let c = client(|c| c.alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()]);
    for (list, want) in [(0, &b"http/1.1"[..]), (1, b"h2")] {
        let l = listener();
        let o = ConnectOptions::default();
        let accept = async { tls.accept(l.accept().await.unwrap().0, list).await.unwrap() };
        let (c, s) = tokio::join!(connect(l.address(), &o, Some((&c, "a.test"))), accept);
        assert_eq!((c.unwrap().alpn(), s.alpn()), (Some(want), Some(want)));
    }
}

fn mtls(ca: &Issuer, trusted: &Issuer, depth: u8, lenient: bool) -> CertConfig {
    let client = ClientAuth { ca_pem: trusted.pem(), depth, lenient };
    CertConfig { client: Some(client), ..object("m", &["*"], vec![leaf(ca, "a.test", false)]) }
}

/// Whether the server lets the client in (with TLS 1.3 the client learns of a refusal only later).
async fn verdict(tls: &ServerTls, cert: Option<(String, String)>) -> Result<ClientVerify, String> {
    let (_, s) = shake(tls, &client(|c| c.client_cert = cert), "a.test").await;
    s.map(|s| info(&s).client_verify).map_err(|e| e.to_string())
}

#[tokio::test]
async fn client_certificates_good_bad_and_absent() {
    let (ca, trusted, other) = (ca("ca"), ca("trusted"), ca("other"));
    let (good, bad) = (leaf(&trusted, "me", false), leaf(&other, "me", true));
    let strict = server(vec![mtls(&ca, &trusted, 1, false)]);
    assert_eq!(verdict(&strict, Some(good.clone())).await, Ok(ClientVerify::Success));
    assert!(verdict(&strict, Some(bad.clone())).await.is_err());
    assert!(verdict(&strict, None).await.is_err());
    let lenient = server(vec![mtls(&ca, &trusted, 1, true)]);
    assert_eq!(verdict(&lenient, Some(good.clone())).await, Ok(ClientVerify::Success));
    let failed = verdict(&lenient, Some(bad)).await.unwrap();
    assert!(failed.to_string().starts_with("FAILED:"), "{failed}");
    assert_eq!(verdict(&lenient, None).await, Ok(ClientVerify::None));
    // The HTTP layer sees the certificate.
    let (_, s) = ok(&strict, &client(|c| c.client_cert = Some(good.clone())), "a.test").await;
    assert_eq!(info(&s).peer_certs[0], CertificateDer::from_pem_slice(good.0.as_bytes()).unwrap());
}

#[tokio::test]
async fn the_chain_of_a_client_is_limited() {
    let (ca, root) = (ca("ca"), ca("root"));
    let sub =
        |name, by: &Issuer| CertifiedIssuer::signed_by(ca_params(name), KeyPair::generate().unwrap(), by).unwrap();
    let mid = sub("mid", &root);
    let low = sub("low", &mid);
    let (pem, key) = leaf(&low, "me", false);
    let chain = (format!("{pem}{}{}", low.pem(), mid.pem()), key);
    assert_eq!(
        verdict(&server(vec![mtls(&ca, &root, 2, false)]), Some(chain.clone())).await,
        Ok(ClientVerify::Success)
    );
    let e = verdict(&server(vec![mtls(&ca, &root, 1, false)]), Some(chain.clone())).await.unwrap_err();
    assert!(e.contains("chain too long"), "{e}");
    // A cut chain leads nowhere.
    assert!(verdict(&server(vec![mtls(&ca, &root, 9, false)]), Some((pem, chain.1))).await.is_err());
}

#[tokio::test]
async fn sessions_resume_but_never_past_new_client_authentication() {
    let (ca, trusted) = (ca("ca"), ca("trusted"));
    let plain = Arc::new(object("m", &["*"], vec![leaf(&ca, "a.test", false)]));
    for protocols in [Protocols { tls12: true, tls13: false }, Protocols { tls12: false, tls13: true }] {
        for session_tickets in [true, false] {
            let plain = Arc::new(CertConfig { protocols, ..(*plain).clone() });
            let tls = ServerTls::new(ServerTlsSettings { session_tickets, ..Default::default() }).unwrap();
            tls.replace(std::slice::from_ref(&plain));
            let c = client(|_| ());
            assert!(!info(&ok(&tls, &c, "a.test").await.1).session_reused);
            assert!(info(&ok(&tls, &c, "a.test").await.1).session_reused, "{protocols:?} {session_tickets}");
            // An equal object is the same object.
            tls.replace(&[Arc::new((*plain).clone())]);
            assert!(info(&ok(&tls, &c, "a.test").await.1).session_reused);
            tls.replace(&[Arc::new(CertConfig { protocols, ..mtls(&ca, &trusted, 1, false) })]);
            assert!(shake(&tls, &c, "a.test").await.1.is_err());
        }
    }
}

#[tokio::test]
async fn replacing_leaves_live_connections_alone_and_broken_objects_out() {
    let ca = ca("ca");
    let tls = server(vec![object("1", &["a.test"], vec![leaf(&ca, "old.x", false)])]);
    let any = client(|_| ());
    let (mut c, mut s) = ok(&tls, &any, "a.test").await;
    let fresh = leaf(&ca, "new.x", false);
    assert_eq!(tls.replace(&[Arc::new(object("1", &["a.test"], vec![fresh.clone()]))]), []);
    let again = client(|_| ());
    assert_eq!(shown(&ok(&tls, &again, "a.test").await.0), "new.x");
    echo(&mut c, &mut s).await;
    // Broken: the last good form stays, a broken new one stays out, the others are served.
    let other = leaf(&ca, "other.x", false);
    let errors = tls.replace(&[
        Arc::new(object("1", &["a.test"], vec![("rubbish".into(), fresh.1.clone())])),
        Arc::new(object("2", &["b.test"], vec![(fresh.0.clone(), other.1.clone())])),
        Arc::new(object("3", &["c.test"], vec![other.clone()])),
        Arc::new(object("4", &["d.test"], vec![(other.0.clone(), "-----BEGIN".into())])),
    ]);
    let told: Vec<_> = errors.iter().map(|e| (e.to_string(), e.kept)).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].0.starts_with("ssl 1: certificate: ") && told[0].1, "{told:?}");
    assert!(told[1].0.starts_with("ssl 2: certificate and private key do not match") && !told[1].1, "{told:?}");
    assert!(told[2].0.starts_with("ssl 4: private key: "), "{told:?}");
    assert_eq!(shown(&ok(&tls, &again, "a.test").await.0), "new.x");
    assert_eq!(shown(&ok(&tls, &again, "c.test").await.0), "other.x");
    assert!(shake(&tls, &again, "b.test").await.1.is_err());
    assert_eq!((tls.certs().len(), tls.certs().find("C.test").map(|s| &**s)), (2, Some("3")));
    // Removed: new handshakes fail, the old connection goes on.
    tls.replace(&[]);
    assert!(shake(&tls, &again, "a.test").await.1.is_err() && tls.certs().is_empty());
    echo(&mut c, &mut s).await;
}

#[tokio::test]
async fn a_slow_handshake_is_cut() {
    let settings = ServerTlsSettings { handshake_timeout: Duration::from_millis(20), ..Default::default() };
    let tls = ServerTls::new(settings).unwrap();
    let l = listener();
    let _silent = tokio::net::TcpStream::connect(l.address().to_string()).await.unwrap();
    let e = server_err(tls.accept(l.accept().await.unwrap().0, 0).await);
    assert!(matches!(e, AcceptError::Timeout));
}

#[tokio::test]
async fn tickets_on_an_idle_pooled_connection_do_not_spoil_it() {
    let ca = ca("ca");
    let tls = server(vec![object("1", &["*"], vec![leaf(&ca, "a.test", false)])]);
    let (c, s) = shake(&tls, &client(|_| ()), "a.test").await;
    let (mut c, mut s) = (c.unwrap(), s.unwrap());
    // The server's tickets lie unread; they are records, not data.
    assert!(c.is_quiet());
    echo(&mut c, &mut s).await;
    assert!(c.is_quiet());
    s.shutdown().await.unwrap();
    assert_eq!(std::future::poll_fn(|cx| c.poll_readable(cx)).await, sluice_net::Readable::Eof);
    assert!(!c.is_quiet());
}

#[test]
fn bad_client_settings_say_what_is_wrong() {
    let text = |f: fn(&mut ClientTlsConfig)| {
        let mut c = ClientTlsConfig::default();
        f(&mut c);
        ClientTls::new(&c).err().unwrap().to_string()
    };
    assert!(text(|c| (c.verify, c.ca_pem) = (true, Some("x".into()))).starts_with("CA certificate: "));
    assert!(text(|c| c.client_cert = Some(("x".into(), "y".into()))).starts_with("certificate: "));
    assert!(text(|c| c.sni = Some("a b".into())).contains("not a TLS server name"));
    assert!(PrivateKeyDer::from_pem_slice(b"y").is_err());
}
