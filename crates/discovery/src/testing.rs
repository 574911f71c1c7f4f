//! A registry that a test programs: real HTTP on a real socket, answers that wait or go on for ever, killed and started again
//! on the same port.
use crate::Settings;
use crate::registry::Registry;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sluice_upstream::{Following, ServiceNodes, ServiceQuery};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// How long a test waits for what must come.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub method: String,
    pub path: String,
    pub args: HashMap<String, String>,
    pub authorization: String,
    pub token: String,
}

/// What is answered.
pub(crate) struct Told {
    status: u16,
    index: Option<u64>,
    body: mpsc::Receiver<String>,
}

impl Told {
    pub fn json(body: &Value) -> Told {
        Told::text(200, &body.to_string())
    }
    pub fn text(status: u16, body: &str) -> Told {
        let (sender, receiver) = mpsc::channel(1);
        sender.try_send(body.to_owned()).unwrap();
        Told { status, index: None, body: receiver }
    }
    /// A body that comes piece by piece.
    pub fn stream(body: mpsc::Receiver<String>) -> Told {
        Told { status: 200, index: None, body }
    }
    pub fn with_index(mut self, index: u64) -> Told {
        self.index = Some(index);
        self
    }
}

struct Piped(mpsc::Receiver<String>);

impl Body for Piped {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|text| Ok(Frame::data(Bytes::from(text)))))
    }
}

type Handling = Pin<Box<dyn Future<Output = Told> + Send>>;
type Handler = Arc<dyn Fn(Asked) -> Handling + Send + Sync>;

/// The server; [`Fake::kill`] closes its socket and all connections.
pub(crate) struct Fake {
    pub addr: SocketAddr,
    handler: Handler,
    seen: Arc<Mutex<Vec<Asked>>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn asked(request: &Request<Incoming>) -> Asked {
    let pairs = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    Asked {
        method: request.method().to_string(),
        path: decoded(request.uri().path()),
        args: pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect(),
        authorization: header("authorization"),
        token: header("x-consul-token"),
    }
}

impl Fake {
    pub async fn start<F>(handler: impl Fn(Asked) -> F + Send + Sync + 'static) -> Fake
    where
        F: Future<Output = Told> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let fake = Fake {
            addr: listener.local_addr().unwrap(),
            handler: Arc::new(move |asked| Box::pin(handler(asked))),
            seen: Arc::default(),
            accepting: Mutex::default(),
        };
        fake.serve(listener);
        fake
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn serve(&self, listener: TcpListener) {
        let (handler, seen) = (self.handler.clone(), self.seen.clone());
        let accepting = tokio::spawn(async move {
            // ends with this task: what it holds is aborted
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (handler, seen) = (handler.clone(), seen.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let asked = asked(&request);
                        seen.lock().unwrap().push(asked.clone());
                        let handling = handler(asked);
                        async move {
                            let told = handling.await;
                            let mut response = Response::builder().status(told.status);
                            if let Some(index) = told.index {
                                response = response.header("X-Consul-Index", index);
                            }
                            Ok::<_, Infallible>(response.body(Piped(told.body)).unwrap())
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        *self.accepting.lock().unwrap() = Some(accepting);
    }

    /// Nobody listens any more, and every connection is closed.
    pub async fn kill(&self) {
        let accepting = self.accepting.lock().unwrap().take();
        if let Some(accepting) = accepting {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    /// Listens on the same port again.
    pub fn restart(&self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.addr).unwrap();
        self.serve(socket.listen(64).unwrap());
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }

    /// Requests of a path so far.
    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|asked| asked.path == path).count()
    }
}

/// Settings of a process that asks registries.
pub(crate) fn settings() -> Settings {
    Settings {
        registries: serde_json::Map::new(),
        control: Some(tokio::runtime::Handle::current()),
        ipv6: true,
        trusted_certificates: None,
        prefix: ".".into(),
    }
}

/// A service's name without arguments.
pub(crate) fn query(name: &str) -> ServiceQuery {
    ServiceQuery { registry: "test".into(), name: name.into(), namespace_id: None, group_name: None, grpc: false }
}

pub(crate) fn follow(registry: &Arc<dyn Registry>, name: &str) -> Following {
    registry.follow(&query(name)).unwrap()
}

fn shown(told: &ServiceNodes) -> Vec<String> {
    told.nodes.iter().map(|node| format!("{}:{} {}", node.host, node.port.unwrap_or(0), node.weight)).collect()
}

/// Waits until these are the nodes: `host:port weight`.
pub(crate) async fn until(following: &mut Following, nodes: &[&str]) {
    let wanted = |told: &ServiceNodes| told.asked && shown(told) == nodes;
    let result = tokio::time::timeout(LIMIT, following.wait_for(wanted)).await.map(|result| result.map(|_| ()));
    assert!(matches!(result, Ok(Ok(()))), "expected {nodes:?}, have {:?}", shown(&following.borrow()));
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, waiting).await.is_ok(), "{what}");
}

/// A registry's settings with their defaults.
pub(crate) fn conf(kind: &str, mut conf: Value) -> Value {
    sluice_model::schemas::discovery::registry(kind).unwrap().check(&mut conf).unwrap();
    conf
}
