//! An OpenID provider as a process (`tests/oidc/provider.mjs`, on npm's `oidc-provider`), and a browser that logs in at it.
//!
//! The surprise: the npm package is fetched once, into `target/oidc-provider/`; where that cannot be done, or there is no Node.js, or one
//! too old for it, [`IdentityProvider::start`] gives None and says why.
#![allow(clippy::expect_used, reason = "a test that cannot have its server ends there")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::ports::free_port;
use crate::wire::{Answer, Wire};

/// The version that the script is written for.
const PACKAGE: &str = "oidc-provider@9.13.3";

/// A running provider; it goes with this value.
pub struct IdentityProvider {
    process: Child,
    folder: tempfile::TempDir,
    modules: PathBuf,
    script: PathBuf,
    pub port: u16,
}

impl IdentityProvider {
    /// `root`: the repository. Clients are named in the script; `client_keys` is the JWK set of its client `key`.
    pub fn start(root: &Path, client_keys: Option<&str>) -> Option<IdentityProvider> {
        let folder = tempfile::tempdir().expect("a folder");
        if let Some(keys) = client_keys {
            std::fs::write(folder.path().join("keys.json.client"), keys).expect("a file");
        }
        let modules = match install(&root.join("target/oidc-provider")) {
            Ok(modules) => modules,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return None;
            }
        };
        let (port, script) = (free_port(), root.join("tests/oidc/provider.mjs"));
        match spawn(&script, &modules, port, folder.path()) {
            Ok(process) => Some(IdentityProvider { process, folder, modules, script, port }),
            Err(reason) => {
                eprintln!("skipped: {reason}");
                None
            }
        }
    }

    /// `http://127.0.0.1:PORT`
    pub fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
    pub fn discovery(&self) -> String {
        format!("{}/.well-known/openid-configuration", self.issuer())
    }
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Kills it; it forgets all logins and tokens.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts it again on the same port, with the same keys or new ones.
    pub fn restart(&mut self, new_keys: bool) {
        if new_keys {
            std::fs::remove_file(self.folder.path().join("keys.json")).expect("it had keys");
        }
        self.process = spawn(&self.script, &self.modules, self.port, self.folder.path()).expect("it started before");
    }

    /// Which endpoints were asked since it started: `POST /token`.
    pub fn seen(&self) -> Vec<String> {
        let answer = Wire::connect(self.address()).and_then(|mut wire| wire.get("/seen")).expect("the provider");
        serde_json::from_value(answer.json()).expect("a list")
    }

    /// Asks an endpoint as the client `shop`.
    pub fn ask(&self, path: &str, form: &str) -> Answer {
        let credentials = "c2hvcDphJTIwc2VjcmV0JTIwb2YlMjB0aGUlMjBzaG9wJTIwdGhhdCUyMGlzJTIwbG9uZyUyMGVub3VnaA==";
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {credentials}\r\nContent-Type: \
             application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            self.address(),
            form.len()
        );
        Wire::connect(self.address()).and_then(|mut wire| wire.request(request)).expect("the provider answers")
    }

    /// An access token for these scopes: a JWT for `urn:api`, or an opaque one.
    pub fn token(&self, jwt: bool, scopes: &str) -> String {
        let resource = if jwt { format!("&resource=urn:api&scope={scopes}") } else { String::new() };
        let answer = self.ask("/token", &format!("grant_type=client_credentials{resource}")).json();
        answer["access_token"].as_str().expect("a token").to_owned()
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The folder with the package; tests of other processes wait meanwhile.
fn install(folder: &Path) -> Result<PathBuf, String> {
    let text = |e: std::io::Error| format!("{}: {e}", folder.display());
    std::fs::create_dir_all(folder).map_err(text)?;
    let lock = std::fs::File::create(folder.join("lock")).map_err(text)?;
    lock.lock().map_err(text)?;
    let modules = folder.join("node_modules");
    if modules.join("oidc-provider/package.json").exists() {
        return Ok(modules);
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix"])
        .arg(folder)
        .arg(PACKAGE);
    match npm.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(modules),
        Ok(output) => Err(format!("npm cannot install {PACKAGE}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(e) => Err(format!("no npm here (Debian: npm): {e}")),
    }
}

fn spawn(script: &Path, modules: &Path, port: u16, folder: &Path) -> Result<Child, String> {
    let mut command = Command::new("node");
    command.arg(script).arg(modules).arg(port.to_string()).arg(folder.join("keys.json"));
    let log = std::fs::File::create(folder.join("log")).map_err(|e| e.to_string())?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
    let mut child = child.map_err(|e| format!("no node here (Debian: nodejs): {e}"))?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = BufReader::new(out).read_line(&mut line);
    }
    if line.trim() == "ready" {
        return Ok(child);
    }
    let _ = child.kill();
    let _ = child.wait();
    let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    Err(format!("this Node.js does not run {PACKAGE}: {said}"))
}

/// A browser: it keeps cookies by host and follows redirects between hosts that it is told the addresses of.
#[derive(Default)]
pub struct Browser {
    /// `host:port` of addresses and where to connect.
    hosts: Vec<(String, SocketAddr)>,
    /// Host, name, value.
    cookies: Vec<(String, String, String)>,
    /// The pages of the last navigation, the last one included.
    pub visited: Vec<String>,
}

impl Browser {
    pub fn knows(&mut self, host: impl Into<String>, address: SocketAddr) -> &mut Browser {
        self.hosts.push((host.into(), address));
        self
    }

    /// The cookies of a host, as it sends them.
    pub fn cookies(&self, host: &str) -> String {
        let own = self.cookies.iter().filter(|(h, _, _)| h == host);
        own.map(|(_, name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    /// Forgets the cookies of a host.
    pub fn forget(&mut self, host: &str) {
        self.cookies.retain(|(h, _, _)| h != host);
    }

    /// One page, redirects not followed.
    pub fn step(&mut self, url: &str) -> Answer {
        self.send("GET", url, "")
    }

    /// Posts a form.
    pub fn post(&mut self, url: &str, form: &str) -> Answer {
        self.send("POST", url, form)
    }

    fn send(&mut self, method: &str, url: &str, form: &str) -> Answer {
        let rest = url.strip_prefix("http://").expect("an address");
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        let address = self.hosts.iter().find(|(h, _)| h == host).map(|(_, a)| *a);
        let address = address.unwrap_or_else(|| panic!("the browser was sent to {url}"));
        let cookies = match self.cookies(host) {
            none if none.is_empty() => none,
            some => format!("Cookie: {some}\r\n"),
        };
        let body = match method {
            "GET" => String::new(),
            _ => format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", form.len()),
        };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{cookies}{body}\r\n{form}");
        let answer = Wire::connect(address).and_then(|mut wire| wire.request(request));
        let answer = answer.unwrap_or_else(|e| panic!("{url}: {e}"));
        for line in answer.header_all("set-cookie") {
            let mut parts = line.split(';').map(str::trim);
            let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            self.cookies.retain(|(h, n, _)| h != host || n != name);
            if !value.is_empty() && !parts.any(|p| p.eq_ignore_ascii_case("max-age=0")) {
                self.cookies.push((host.to_owned(), name.to_owned(), value.to_owned()));
            }
        }
        answer
    }

    /// Goes to a page, through all redirects.
    pub fn go(&mut self, url: &str) -> Answer {
        self.visited.clear();
        let mut url = url.to_owned();
        for _ in 0..12 {
            self.visited.push(url.clone());
            let answer = self.step(&url);
            let Some(next) = answer.header("location").filter(|_| (300..400).contains(&answer.status)) else {
                return answer;
            };
            url = match next.starts_with('/') {
                true => {
                    format!("http://{}{next}", url.trim_start_matches("http://").split('/').next().unwrap_or_default())
                }
                false => next.to_owned(),
            };
        }
        panic!("redirects without end: {:?}", self.visited);
    }
}
