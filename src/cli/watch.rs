//! What `top` and `tail` have in common: lines of JSON from a gateway's Control API. The surprise: the gateway answers this
//! machine alone, so there is neither key nor TLS.
use anyhow::{Context as _, bail};
use serde_json::Value;
use sluice_plugin::{Clock, Env, HttpOptions, HttpRequest, HttpStream};
use std::time::Duration;

/// The gateway sends a line feed every five seconds at least.
const SILENCE: Duration = Duration::from_secs(20);
/// Bytes of the longest line.
const LONGEST: usize = 16 << 20;

/// The Control API to ask.
#[derive(clap::Args)]
pub struct Control {
    /// Address of the Control API on this machine; SLUICE_CONTROL when not given, else http://127.0.0.1:9090.
    #[arg(long, value_name = "URL")]
    control: Option<String>,
}

/// Lines as they come.
pub struct Lines {
    stream: HttpStream,
    buffer: Vec<u8>,
}

impl Control {
    fn address(&self) -> String {
        let environment = || std::env::var("SLUICE_CONTROL").ok().filter(|value| !value.is_empty());
        let address = self.control.clone().or_else(environment).unwrap_or_else(|| "http://127.0.0.1:9090".into());
        let address = address.trim_end_matches('/');
        if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
    }

    /// Opens a path that goes on; `query` is name and value.
    pub async fn open(&self, path: &str, query: &[(&str, String)]) -> anyhow::Result<Lines> {
        let address = self.address();
        let escaped = |text: &str| {
            let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~*".contains(&b);
            text.bytes()
                .map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
                .collect::<String>()
        };
        let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        let url = format!("{address}{path}?{}", query.join("&"));
        let env = Env::new(Clock::default(), sluice_telemetry::Registry::default());
        let client = env.http_client(&HttpOptions::default());
        let stream = client.open(HttpRequest::new("GET", url).timeout(SILENCE)).await;
        let mut stream = stream.with_context(|| format!("no answer from the Control API at {address}"))?;
        if stream.status != 200 {
            let mut text = Vec::new();
            while let Some(Ok(piece)) = stream.chunk().await {
                text.extend_from_slice(&piece);
            }
            let said = serde_json::from_slice::<Value>(&text).ok();
            let said = said.as_ref().and_then(|said| said["error_msg"].as_str()).unwrap_or("is this Sluice?");
            bail!("{address} answered {}: {said}", stream.status);
        }
        Ok(Lines { stream, buffer: Vec::new() })
    }
}

impl Lines {
    /// The next line; `None` where the gateway has ended.
    pub async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.stream.chunk().await {
                None => return Ok(None),
                Some(piece) => self.buffer.extend_from_slice(&piece?),
            }
            anyhow::ensure!(self.buffer.len() <= LONGEST, "a line without an end");
        }
    }
}
