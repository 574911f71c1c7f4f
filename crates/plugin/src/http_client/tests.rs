//! The client against real sockets.
use super::*;
use crate::Env;
use sluice_testkit::{Authority, Behaviour, Upstream};

fn env() -> (tokio::runtime::Runtime, Env) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let env = Env::for_tests().with_control(runtime.handle().clone());
    (runtime, env)
}

fn send(env: &Env, options: &HttpOptions, request: HttpRequest) -> Result<HttpResponse, HttpError> {
    let client = env.http_client(options);
    crate::testing::block_on(async move { client.send(request).await })
}

#[test]
fn a_request_and_its_answer() {
    let (_runtime, env) = env();
    let server = Upstream::start().unwrap();
    server.on("/a", Behaviour::with_headers(201, &[("X-One", "1")], "made"));
    let url = format!("http://{}/a?b=c", server.addr());
    let request = HttpRequest::new("POST", url).header("X-Token", "t").body("hello");
    let answer = send(&env, &HttpOptions::default(), request).unwrap();
    assert_eq!((answer.status, answer.header("x-one"), &*answer.text()), (201, Some(&b"1"[..]), "made"));
    let seen = server.take_seen();
    assert_eq!((seen[0].path(), seen[0].header("x-token"), &seen[0].body[..]), ("/a", Some("t"), &b"hello"[..]));
}

#[test]
fn equal_options_share_connections() {
    let (_runtime, env) = env();
    let server = Upstream::start().unwrap();
    let url = format!("http://{}/", server.addr());
    for _ in 0..3 {
        send(&env, &HttpOptions::default(), HttpRequest::new("GET", &url)).unwrap();
    }
    assert_eq!(server.connections(), 1);
    let alone = HttpOptions { keepalive: None, ..HttpOptions::default() };
    for _ in 0..2 {
        send(&env, &alone, HttpRequest::new("GET", &url)).unwrap();
    }
    assert_eq!(server.connections(), 3);
}

#[test]
fn failures_have_nginx_words() {
    let (_runtime, env) = env();
    let closed = format!("http://127.0.0.1:{}/", sluice_testkit::ports::free_port());
    let refused = send(&env, &HttpOptions::default(), HttpRequest::new("GET", closed));
    let refused = refused.unwrap_err();
    assert_eq!((&*refused.message, refused.stage), ("connection refused", HttpStage::Connect));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let request = HttpRequest::new("GET", url).timeout(Duration::from_millis(50));
    assert_eq!(send(&env, &HttpOptions::default(), request), Err(HttpError::new("timeout")));
    let bad = send(&env, &HttpOptions::default(), HttpRequest::new("GET", "no url")).unwrap_err();
    assert!(bad.message.starts_with("the request cannot be made"), "{bad}");
}

#[test]
fn answers_have_a_limit_and_redirects_are_answers() {
    let (_runtime, env) = env();
    let server = Upstream::start().unwrap();
    server.on("/big", Behaviour::answer(200, "x".repeat(2000)));
    server.on("/moved", Behaviour::with_headers(302, &[("Location", "/big")], ""));
    let url = |path: &str| format!("http://{}{path}", server.addr());
    let request = HttpRequest::new("GET", url("/big")).max_response(1999);
    let error = send(&env, &HttpOptions::default(), request).unwrap_err();
    assert_eq!(error.message, "the answer has more than 1999 bytes");
    assert_eq!(send(&env, &HttpOptions::default(), HttpRequest::new("GET", url("/moved"))).unwrap().status, 302);
}

#[test]
fn certificates_are_checked_where_asked() {
    let (_runtime, env) = env();
    let authority = Authority::new("test").unwrap();
    let pair = authority.server(&["localhost"]).unwrap();
    let server = Upstream::start_tls(pair.server_config().unwrap()).unwrap();
    let url = format!("https://localhost:{}/", server.port());
    let with = |verify, ca_pem| HttpOptions { verify, ca_pem, ..HttpOptions::default() };
    let get = |options: &HttpOptions| send(&env, options, HttpRequest::new("GET", &url)).map(|a| a.status);
    assert_eq!(get(&with(true, Some(authority.pem()))), Ok(200));
    assert_eq!(get(&with(false, None)), Ok(200));
    let other = Authority::new("other").unwrap().pem();
    assert_eq!(get(&with(true, Some(other))).unwrap_err().stage, HttpStage::Tls);
}

#[test]
fn an_answer_comes_in_pieces() {
    let (_runtime, env) = env();
    let server = Upstream::start().unwrap();
    server.otherwise(Behaviour::answer(200, "y".repeat(200_000)));
    let client = env.http_client(&HttpOptions::default());
    let request = HttpRequest::new("GET", format!("http://{}/", server.addr()));
    let (status, length) = crate::testing::block_on(async move {
        let mut stream = client.open(request).await.unwrap();
        let mut length = 0;
        while let Some(piece) = stream.chunk().await {
            length += piece.unwrap().len();
        }
        (stream.status, length)
    });
    assert_eq!((status, length), (200, 200_000));
}

#[test]
fn a_test_answers_for_the_network() {
    let env = Env::for_tests().with_http(|request: &HttpRequest| match request.url.as_str() {
        "http://x/" => Ok(HttpResponse { status: 418, ..HttpResponse::default() }),
        _ => Err(HttpError::new("timeout")),
    });
    assert_eq!(send(&env, &HttpOptions::default(), HttpRequest::new("GET", "http://x/")).unwrap().status, 418);
    assert!(send(&env, &HttpOptions::default(), HttpRequest::new("GET", "http://y/")).is_err());
}

#[test]
fn a_proxy_is_asked_where_one_is_named() {
    let (_runtime, env) = env();
    let (server, proxy) = (Upstream::start().unwrap(), Upstream::start().unwrap());
    proxy.otherwise(Behaviour::answer(200, "by the proxy"));
    server.otherwise(Behaviour::answer(200, "direct"));
    let with = |except: &str| HttpOptions {
        proxy: Some(HttpProxy {
            http: Some(format!("http://{}", proxy.addr())),
            http_authorization: Some("Basic YTpi".into()),
            except: Some(except.into()),
            ..HttpProxy::default()
        }),
        ..HttpOptions::default()
    };
    let url = format!("http://{}/a", server.addr());
    let text = |options: &HttpOptions| send(&env, options, HttpRequest::new("GET", &url)).unwrap().text().into_owned();
    assert_eq!(text(&with("other.test")), "by the proxy");
    let seen = proxy.take_seen();
    assert_eq!((seen[0].target.as_str(), seen[0].header("proxy-authorization")), (url.as_str(), Some("Basic YTpi")));
    assert_eq!(text(&with("a.test,127.0.0.1")), "direct");
    // A tunnel is asked for; this proxy makes none.
    let tunnel = HttpOptions {
        proxy: Some(HttpProxy { https: Some(format!("http://{}", proxy.addr())), ..HttpProxy::default() }),
        ..HttpOptions::default()
    };
    let _ = send(&env, &tunnel, HttpRequest::new("GET", "https://idp.test/x").timeout(Duration::from_secs(2)));
    assert!(proxy.take_seen().iter().any(|s| s.method == "CONNECT" && s.target == "idp.test:443"));
}
