//! Users and passwords; TLS with client certificates.
use super::process::{Etcd, missing};
use super::*;
use sluice_testkit::Authority;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_log_in_and_tokens_are_renewed() {
    if missing() {
        return;
    }
    // Tokens that are used live on; these end a second after the last use.
    let mut etcd = Etcd::with("http", &["--auth-token-ttl", "1"]);
    etcd.enable_authentication("secret");
    let login = |password: &str| EtcdSettings {
        user: Some("root".into()),
        password: Some(password.into()),
        startup_retry: 1,
        health_check_timeout: Duration::from_secs(30),
        ..settings(&[etcd.url()])
    };
    let error = connect(settings(&[etcd.url()]), None).await.err().unwrap();
    assert!(error.to_string().contains("user name is empty"), "{error}");
    let error = connect(login("wrong"), None).await.err().unwrap();
    assert!(error.to_string().contains("authentication failed"), "{error}");

    let store = connect(login("secret"), None).await.unwrap();
    store.commit(write(vec![put("1", "a", Expect::Any)])).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    store.commit(write(vec![put("1", "b", Expect::Present)])).await.unwrap();
    assert_eq!(routes(&store), pairs(&[("1", "b")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_is_not_needed_is_no_error() {
    if missing() {
        return;
    }
    let etcd = Etcd::start();
    let login = EtcdSettings { user: Some("root".into()), password: Some("x".into()), ..settings(&[etcd.url()]) };
    let store = connect(login, None).await.unwrap();
    store.commit(write(vec![put("1", "a", Expect::Any)])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_client_certificates() {
    if missing() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let authority = Authority::new("etcd's").unwrap();
    let (server, client) =
        (authority.server(&["127.0.0.1", "etcd.example"]).unwrap(), authority.client("sluice").unwrap());
    let ca = file("ca.pem", &authority.pem());
    let (cert, key) = (file("server.pem", &server.cert), file("server.key", &server.key));
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let etcd = Etcd::with(
        "https",
        &[
            "--cert-file",
            &path(&cert),
            "--key-file",
            &path(&key),
            "--trusted-ca-file",
            &path(&ca),
            "--client-cert-auth",
        ],
    );
    let base = settings(&[etcd.url()]);
    let whole = EtcdSettings {
        cert: Some(file("client.pem", &client.cert)),
        key: Some(file("client.key", &client.key)),
        trusted_ca: Some(ca),
        startup_retry: 20,
        ..base.clone()
    };
    let store = connect(whole.clone(), None).await.unwrap();
    store.commit(write(vec![put("1", "a", Expect::Any)])).await.unwrap();
    assert_eq!(routes(&store), pairs(&[("1", "a")]));
    let named = EtcdSettings { sni: Some("etcd.example".into()), ..whole.clone() };
    assert_eq!(routes(&connect(named, None).await.unwrap()), pairs(&[("1", "a")]));

    let once = EtcdSettings { startup_retry: 1, ..whole };
    let anonymous = EtcdSettings { cert: None, key: None, ..once.clone() };
    assert!(matches!(connect(anonymous, None).await, Err(StoreError::Away(_))));
    let misnamed = EtcdSettings { sni: Some("other.example".into()), ..once.clone() };
    let error = connect(misnamed, None).await.err().unwrap();
    assert!(error.to_string().contains("certificate"), "{error}");
    let foreign = Authority::new("somebody else's").unwrap();
    let untrusted = EtcdSettings { trusted_ca: Some(file("other.pem", &foreign.pem())), ..once.clone() };
    let error = connect(untrusted.clone(), None).await.err().unwrap();
    assert!(error.to_string().contains("certificate"), "{error}");
    let unchecked = EtcdSettings { verify: false, ..untrusted };
    assert_eq!(routes(&connect(unchecked, None).await.unwrap()), pairs(&[("1", "a")]));
    let unreadable = EtcdSettings { cert: Some(dir.path().join("none.pem")), ..once };
    let error = connect(unreadable, None).await.err().unwrap();
    assert!(error.to_string().contains("none.pem"), "{error}");
}
