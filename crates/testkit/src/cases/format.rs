//! What a case file may say. Unknown keys are errors, so that a misspelt expectation cannot pass silently.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::upstream::Behaviour;

/// One file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Shown as an example on the plugin's reference page.
    #[serde(default)]
    pub doc: bool,
    /// Where the fact was read, such as `apisix/plugins/key-auth.lua` or `RFC 9110, 7.8`.
    pub from: String,
    /// `apisix.yaml`. `$upstream` stands for the default upstream's `127.0.0.1:PORT`, `$upstream:NAME` for a named one,
    /// `$closed` for a port nobody listens on.
    pub config: Value,
    /// Merged over the `config.yaml` that the runner writes.
    #[serde(default)]
    pub settings: Value,
    /// What the upstreams do, by name (`default` is `$upstream`) and path; everything else echoes.
    #[serde(default)]
    pub upstreams: BTreeMap<String, BTreeMap<String, Act>>,
    pub steps: Vec<Step>,
}

/// A behaviour in a case file; the keys are looked at in this order.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Act {
    pub delay_ms: u64,
    pub close: bool,
    pub raw: Option<String>,
    pub chunks: Option<Vec<String>>,
    pub events: Option<Vec<String>>,
    pub upgrade: bool,
    pub status: Option<u16>,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Act {
    /// The behaviour it stands for.
    pub fn behaviour(&self) -> Behaviour {
        let what = if self.close {
            Behaviour::Close
        } else if let Some(raw) = &self.raw {
            Behaviour::RawClose(raw.clone().into_bytes())
        } else if let Some(chunks) = &self.chunks {
            let chunks = chunks.iter().map(|c| c.clone().into_bytes()).collect();
            Behaviour::Chunked { chunks, pause: Duration::ZERO }
        } else if let Some(events) = &self.events {
            Behaviour::Events { events: events.clone(), pause: Duration::ZERO }
        } else if self.upgrade {
            Behaviour::Upgrade
        } else if self.status.is_some() || !self.headers.is_empty() || !self.body.is_empty() {
            let headers = self.headers.iter().map(|(n, v)| (n.clone(), v.clone())).collect();
            Behaviour::Answer { status: self.status.unwrap_or(200), headers, body: self.body.clone().into_bytes() }
        } else {
            Behaviour::Echo
        };
        match self.delay_ms {
            0 => what,
            ms => Behaviour::Delay(Duration::from_millis(ms), Box::new(what)),
        }
    }
}

/// One request, or the same request several times.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// `METHOD /target`; `${NAME}` is replaced by what an earlier step saved, here and in headers and body.
    #[serde(default)]
    pub send: Option<String>,
    /// The request byte for byte instead of `send`; on a connection of its own.
    #[serde(default)]
    pub raw: Option<String>,
    /// Over TLS with this server name; any certificate is taken.
    #[serde(default)]
    pub sni: Option<String>,
    /// A list sends the header several times. Host is `localhost` unless given; null leaves it out.
    #[serde(default)]
    pub headers: BTreeMap<String, Value>,
    #[serde(default)]
    pub body: Option<String>,
    /// A JSON body with its Content-Type.
    #[serde(default)]
    pub body_json: Option<Value>,
    /// How often it is sent, one after the other; the expectation holds each time.
    #[serde(default = "once")]
    pub repeat: usize,
    #[serde(default)]
    pub expect: Expect,
    #[serde(default)]
    pub upstream: Option<UpstreamExpect>,
    /// Names for later steps.
    #[serde(default)]
    pub save: BTreeMap<String, Save>,
}

fn once() -> usize {
    1
}

/// What the client must see. What is not named is not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    pub status: Option<u16>,
    /// The status of each repetition in turn.
    pub statuses: Option<Vec<u16>>,
    pub headers: BTreeMap<String, Want>,
    pub body: Option<String>,
    /// Every key and value named here must be there; arrays must be equal.
    pub body_json: Option<Value>,
    pub body_matches: Option<String>,
    /// Whether the gateway closes the connection after this answer.
    pub closes: Option<bool>,
}

/// A header: `"text"`, `{matches: "regex"}`, `{absent: true}`, or a list of all its values in order.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Want {
    Text(String),
    Number(serde_json::Number),
    List(Vec<String>),
    Rule(Rule),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(default)]
    pub matches: Option<String>,
    #[serde(default)]
    pub absent: bool,
}

/// What an upstream must have seen in this step.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamExpect {
    #[serde(default = "default_name")]
    pub name: String,
    /// Number of requests, all repetitions together.
    #[serde(default)]
    pub saw: Option<usize>,
    #[serde(default)]
    pub method: Option<String>,
    /// The target as it arrived, query included.
    #[serde(default)]
    pub path: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, Want>,
    #[serde(default)]
    pub body: Option<String>,
}

fn default_name() -> String {
    "default".to_owned()
}

/// A part of the answer: a header or the body, the first group of `matches` or all of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Save {
    #[serde(default)]
    pub header: Option<String>,
    #[serde(default)]
    pub matches: Option<String>,
}
