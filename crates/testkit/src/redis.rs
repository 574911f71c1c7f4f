//! Redis as a process: one server, one with TLS, a small cluster, a sentinel. None is asked through a client library, so
//! nothing of the gateway's code is on both sides.
//!
//! The surprise: where Debian's `redis-server` is not installed [`Redis::start`] gives None and says so.
#![allow(clippy::expect_used, reason = "a test that cannot have its server ends there")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::certificates::Authority;
use crate::ports::free_port;

const LIMIT: Duration = Duration::from_secs(20);

/// A running server; it goes with this value.
pub struct Redis {
    process: Child,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    pub port: u16,
    password: Option<String>,
    tls: bool,
}

impl Redis {
    /// A server of this name's only user, without persistence.
    pub fn start() -> Option<Redis> {
        Redis::with(&[])
    }

    /// With further arguments: `["--requirepass", "secret"]`.
    pub fn with(arguments: &[&str]) -> Option<Redis> {
        let folder = tempfile::tempdir().expect("a folder");
        Redis::run(folder, free_port(), arguments.iter().map(|a| (*a).to_string()).collect(), false)
    }

    /// A server that speaks TLS only, with a certificate of this authority for these names.
    pub fn with_tls(authority: &Authority, names: &[&str]) -> Option<Redis> {
        let folder = tempfile::tempdir().expect("a folder");
        let pair = authority.server(names).expect("a certificate");
        let mut arguments = vec!["--tls-auth-clients".to_string(), "no".to_string()];
        for (name, text) in [("cert", &pair.cert), ("key", &pair.key), ("ca-cert", &authority.pem())] {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            arguments.extend([format!("--tls-{name}-file"), path.display().to_string()]);
        }
        Redis::run(folder, free_port(), arguments, true)
    }

    /// Three nodes with all slots between them.
    pub fn cluster() -> Option<Vec<Redis>> {
        let nodes = (0..3).map(|_| {
            let bus = free_port().to_string();
            Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"])
                .map(|node| (node, bus))
        });
        let nodes: Vec<(Redis, String)> = nodes.collect::<Option<_>>()?;
        let ranges = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        for (at, ((node, _), (from, to))) in nodes.iter().zip(ranges).enumerate() {
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", from, to]);
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
        let (first, rest) = nodes.split_first()?;
        for (node, bus) in rest {
            first.0.ask(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]);
        }
        for (node, _) in &nodes {
            node.wait_for("the cluster", |node| {
                let info = node.ask(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            });
        }
        Some(nodes.into_iter().map(|(node, _)| node).collect())
    }

    /// A server that replicates this one.
    pub fn replica(&self) -> Option<Redis> {
        let replica = Redis::with(&["--replicaof", &format!("127.0.0.1 {}", self.port)])?;
        replica
            .wait_for("replication", |replica| replica.ask(&["INFO", "replication"]).contains("master_link_status:up"));
        Some(replica)
    }

    /// A sentinel that watches this server under the name `mymaster` and alone decides that it is away.
    pub fn sentinel(&self) -> Option<Redis> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor mymaster 127.0.0.1 {} 1\nsentinel down-after-milliseconds mymaster 300\n\
             sentinel failover-timeout mymaster 2000\n",
            self.port
        );
        std::fs::write(&path, text).expect("a file");
        let arguments = vec![path.display().to_string(), "--sentinel".to_string()];
        Redis::run(folder, free_port(), arguments, false)
    }

    fn run(folder: tempfile::TempDir, port: u16, arguments: Vec<String>, tls: bool) -> Option<Redis> {
        let Ok(process) = spawn(folder.path(), port, &arguments, tls) else {
            eprintln!("skipped: no redis-server here (Debian: redis-server)");
            return None;
        };
        let password = arguments.iter().skip_while(|a| *a != "--requirepass").nth(1).cloned();
        let server = Redis { process, folder, arguments, port, password, tls };
        server.wait();
        Some(server)
    }

    fn wait(&self) {
        self.wait_for("redis-server", |server| match server.tls {
            true => TcpStream::connect(("127.0.0.1", server.port)).is_ok(),
            false => server.try_ask(&["PING"]).is_ok_and(|answer| answer == "PONG"),
        });
    }

    /// Until it is so.
    pub fn wait_for(&self, what: &str, mut so: impl FnMut(&Redis) -> bool) {
        let until = Instant::now() + LIMIT;
        while !so(self) {
            assert!(Instant::now() < until, "{what}: not in time");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills it; nothing that it held is kept.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.process = spawn(self.folder.path(), self.port, &self.arguments, self.tls).expect("redis-server");
        self.wait();
    }

    /// The process id, to be stopped and continued.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs a command; an array comes as its items, one a line, an error as its text.
    pub fn ask(&self, words: &[&str]) -> String {
        self.try_ask(words).expect("Redis answers")
    }

    fn try_ask(&self, words: &[&str]) -> std::io::Result<String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut reader = BufReader::new(stream);
        if let Some(password) = &self.password {
            reader.get_mut().write_all(&packed(&["AUTH", password]))?;
            answer(&mut reader)?;
        }
        reader.get_mut().write_all(&packed(words))?;
        answer(&mut reader)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(folder: &Path, port: u16, arguments: &[String], tls: bool) -> std::io::Result<Child> {
    let port = port.to_string();
    let mut command = Command::new("redis-server");
    // The file of a sentinel comes first.
    let (file, rest) = match arguments {
        [first, rest @ ..] if !first.starts_with('-') => (Some(first), rest),
        all => (None, all),
    };
    command.args(file);
    match tls {
        true => command.args(["--port", "0", "--tls-port", &port]),
        false => command.args(["--port", &port]),
    };
    command.args(["--bind", "127.0.0.1"]).arg("--dir").arg(folder);
    if file.is_none() {
        command.args(["--save", "", "--appendonly", "no"]);
    }
    command.args(rest).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

fn packed(words: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    out.into_bytes()
}

fn answer(reader: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let (kind, rest) = line.trim_end().split_at_checked(1).unwrap_or(("", ""));
    let count = rest.parse::<usize>();
    match (kind, count) {
        ("$", Ok(length)) => {
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        ("*", Ok(items)) => {
            let items: Result<Vec<_>, _> = (0..items).map(|_| answer(reader)).collect();
            Ok(items?.join("\n"))
        }
        ("$" | "*", Err(_)) => Ok(String::new()),
        _ => Ok(rest.to_string()),
    }
}
