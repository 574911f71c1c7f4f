//! A real etcd on a free port, and a client that writes as APISIX does: JSON over etcd's HTTP gateway.
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sluice_testkit::ports::free_port;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub struct Etcd {
    dir: tempfile::TempDir,
    pub port: u16,
    peer: u16,
    scheme: &'static str,
    extra: Vec<String>,
    child: Option<Child>,
    token: Option<String>,
}

/// Whether there is an etcd to test with; says so if not.
pub fn missing() -> bool {
    let missing = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err();
    if missing {
        println!("skipped: no etcd on this machine (Debian: etcd-server)");
    }
    missing
}

impl Etcd {
    pub fn start() -> Etcd {
        Etcd::with("http", &[])
    }

    pub fn with(scheme: &'static str, extra: &[&str]) -> Etcd {
        let extra = extra.iter().map(|arg| (*arg).to_owned()).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut etcd = Etcd { dir, port: free_port(), peer: free_port(), scheme, extra, child: None, token: None };
        etcd.run();
        etcd
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// Starts it, again on the same data.
    pub fn run(&mut self) {
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--logger", "zap", "--log-level", "error"])
            .args(["--heartbeat-interval", "20", "--election-timeout", "100"])
            .args(&self.extra)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // With TLS only the port is looked at: the store waits for the rest itself.
            let ready = if self.scheme == "http" {
                self.http("/v3/kv/range", &json!({"key": STANDARD.encode("x")})).is_ok_and(|answer| {
                    answer["header"].is_object() || answer["error"].as_str().is_some_and(|e| e.contains("user name"))
                })
            } else {
                TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            };
            if ready {
                return;
            }
            assert!(Instant::now() < deadline, "etcd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), signal).unwrap();
        // Threads run on until they have noticed.
        let stopped = || std::fs::read_to_string(format!("/proc/{id}/status")).unwrap().contains("State:\tT");
        while signal == rustix::process::Signal::STOP && !stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn http(&self, path: &str, body: &Value) -> std::io::Result<Value> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let body = body.to_string();
        let token = self.token.as_ref().map_or(String::new(), |token| format!("Authorization: {token}\r\n"));
        let length = body.len();
        write!(socket, "POST {path} HTTP/1.0\r\nHost: etcd\r\n{token}Content-Length: {length}\r\n\r\n{body}")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        serde_json::from_str(body).map_err(std::io::Error::other)
    }

    pub fn call(&self, path: &str, body: &Value) -> Value {
        let answer = self.http(path, body).unwrap();
        assert!(answer.get("error").is_none(), "{path}: {answer}");
        answer
    }

    /// The revision.
    pub fn put(&self, key: &str, value: &str) -> u64 {
        let answer = self.call("/v3/kv/put", &json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)}));
        answer["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    pub fn delete(&self, key: &str) {
        self.call("/v3/kv/deleterange", &json!({"key": STANDARD.encode(key)}));
    }

    /// Keys and values from `first` to before `last`.
    pub fn range(&self, first: &str, last: &str) -> Vec<(String, String)> {
        let body = json!({"key": STANDARD.encode(first), "range_end": STANDARD.encode(last)});
        let answer = self.call("/v3/kv/range", &body);
        let text = |value: &Value| String::from_utf8(STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap();
        let all = answer["kvs"].as_array().cloned().unwrap_or_default();
        all.iter().map(|kv| (text(&kv["key"]), text(&kv["value"]))).collect()
    }

    pub fn compact(&self, revision: u64) {
        self.call("/v3/kv/compaction", &json!({"revision": revision, "physical": true}));
    }

    /// A user `root` with this password; from now on calls are made as that user.
    pub fn enable_authentication(&mut self, password: &str) {
        self.call("/v3/auth/user/add", &json!({"name": "root", "password": password}));
        self.call("/v3/auth/role/add", &json!({"name": "root"}));
        self.call("/v3/auth/user/grant", &json!({"user": "root", "role": "root"}));
        self.call("/v3/auth/enable", &json!({}));
        let answer = self.call("/v3/auth/authenticate", &json!({"name": "root", "password": password}));
        self.token = Some(answer["token"].as_str().unwrap().to_owned());
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A way to etcd that can be cut, counts connections, and loses answers where told to.
pub struct Way {
    pub url: String,
    task: tokio::task::JoinHandle<()>,
    accepted: Arc<AtomicUsize>,
    mute: Arc<AtomicBool>,
}

impl Way {
    pub async fn to(port: u16) -> Way {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (accepted, mute) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, silent) = (accepted.clone(), mute.clone());
        let task = tokio::spawn(async move {
            // Dropped with the task: so are the connections.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                let silent = silent.clone();
                connections.spawn(async move {
                    let server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let answers = async {
                        let mut buffer = vec![0; 65536];
                        loop {
                            let Ok(read @ 1..) = from_server.read(&mut buffer).await else { return };
                            if !silent.load(Ordering::SeqCst) && to_client.write_all(&buffer[..read]).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        () = answers => {}
                        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                    }
                });
            }
        });
        Way { url, task, accepted, mute }
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// From now on answers are lost.
    pub fn lose_answers(&self) {
        self.mute.store(true, Ordering::SeqCst);
    }

    pub fn cut(&self) {
        self.task.abort();
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.cut();
    }
}
