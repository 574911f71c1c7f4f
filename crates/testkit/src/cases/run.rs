//! Runs one case file against a starter: a function from a configuration folder to a running gateway.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::check;
use super::format::{Case, Save, Step};
use crate::directory::ConfigDir;
use crate::gateway::Gateway;
use crate::ports::free_port;
use crate::upstream::Upstream;
use crate::wire::{Answer, Wire};

/// All `*.yaml` below a folder, sorted, as `plugin/case` and path.
pub fn discover(root: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "yaml") {
                let name = path.strip_prefix(root)?.with_extension("").display().to_string();
                found.push((name, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Runs the file; the error lists every difference with the answer it was found in.
pub fn run(file: &Path, start: &dyn Fn(ConfigDir) -> anyhow::Result<Gateway>) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let case: Case = serde_saphyr::from_str(&text).with_context(|| file.display().to_string())?;
    ensure!(!case.from.trim().is_empty(), "{}: `from` is empty", file.display());
    ensure!(!case.steps.is_empty(), "{}: no steps", file.display());

    let mut upstreams = BTreeMap::from([("default".to_owned(), Upstream::start()?)]);
    for (name, paths) in &case.upstreams {
        if !upstreams.contains_key(name) {
            upstreams.insert(name.clone(), Upstream::start()?);
        }
        for (path, act) in paths {
            upstreams.get(name).context("upstream")?.on(path, act.behaviour());
        }
    }
    let mut config = case.config.clone();
    place(&mut config, &upstreams, free_port());
    let dir = ConfigDir::new(&case.settings, &config)?;
    let gateway = start(dir)?;

    let mut saved = BTreeMap::new();
    let mut report = String::new();
    for (index, step) in case.steps.iter().enumerate() {
        for upstream in upstreams.values() {
            upstream.take_seen();
        }
        let wrong = perform(step, &gateway, &upstreams, &mut saved)
            .with_context(|| format!("{}: step {}", file.display(), index + 1))?;
        if !wrong.is_empty() {
            let label = step.send.as_deref().unwrap_or("raw");
            let _ = writeln!(report, "step {} ({label}):", index + 1);
            for line in wrong {
                let _ = writeln!(report, "  {line}");
            }
        }
    }
    if !report.is_empty() {
        bail!("{}\n{report}\nlog of the gateway:\n{}", file.display(), gateway.log_text());
    }
    Ok(())
}

fn perform(
    step: &Step,
    gateway: &Gateway,
    upstreams: &BTreeMap<String, Upstream>,
    saved: &mut BTreeMap<String, String>,
) -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let (bytes, head) = message(step, saved)?;
    // One connection for all repetitions while it lives: what a client with keep-alive does.
    let mut wire: Option<Wire> = None;
    for turn in 0..step.repeat {
        let mut connection = match wire.take() {
            Some(connection) => connection,
            None => connect(step, gateway)?,
        };
        connection.send(&bytes)?;
        let got = connection.read_answer(head)?;
        let mut here = check::answer(&step.expect, &got, turn);
        if let Some(closes) = step.expect.closes {
            if closes {
                if !connection.closed() {
                    here.push("connection: want closed, it stays open".to_owned());
                }
                wire = None;
            } else if says_close(&got) {
                here.push("connection: want open, the answer says close".to_owned());
            } else {
                wire = Some(connection);
            }
        } else if !says_close(&got) && step.raw.is_none() {
            wire = Some(connection);
        }
        if !here.is_empty() {
            if step.repeat > 1 {
                here.insert(0, format!("repetition {}:", turn + 1));
            }
            here.push(shown(&got));
            wrong.extend(here);
        }
        for (name, save) in &step.save {
            saved.insert(name.clone(), extract(save, &got).with_context(|| format!("save {name}: {}", shown(&got)))?);
        }
    }
    if let Some(want) = &step.upstream {
        let upstream = upstreams.get(&want.name).with_context(|| format!("no upstream named {}", want.name))?;
        if let Some(count) = want.saw {
            upstream.wait_for(count, Duration::from_secs(2));
        }
        wrong.extend(check::upstream(want, &upstream.take_seen()));
    }
    Ok(wrong)
}

fn connect(step: &Step, gateway: &Gateway) -> anyhow::Result<Wire> {
    match &step.sni {
        None => Ok(gateway.connect()?),
        Some(name) => {
            let addr = ([127, 0, 0, 1], gateway.dir().tls_port).into();
            Ok(Wire::connect_tls(addr, name, crate::certificates::trusting_client()?)?)
        }
    }
}

fn says_close(answer: &Answer) -> bool {
    answer.minor == 0 || answer.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
}

/// The bytes to send, and whether the request is a HEAD.
fn message(step: &Step, saved: &BTreeMap<String, String>) -> anyhow::Result<(Vec<u8>, bool)> {
    if let Some(raw) = &step.raw {
        let raw = fill(raw, saved);
        return Ok((raw.clone().into_bytes(), raw.starts_with("HEAD ")));
    }
    let send = fill(step.send.as_deref().context("a step needs `send` or `raw`")?, saved);
    let (method, target) = send.split_once(' ').with_context(|| format!("`send` is METHOD /target, not {send:?}"))?;
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    let has = |name: &str| step.headers.keys().any(|n| n.eq_ignore_ascii_case(name));
    if !has("host") {
        head.push_str("Host: localhost\r\n");
    }
    for (name, value) in &step.headers {
        let values = match value {
            Value::Null => continue,
            Value::Array(all) => all.clone(),
            one => vec![one.clone()],
        };
        for value in values {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = write!(head, "{name}: {}\r\n", fill(&text, saved));
        }
    }
    let body = match (&step.body, &step.body_json) {
        (Some(_), Some(_)) => bail!("`body` and `body_json` exclude each other"),
        (Some(text), None) => Some(fill(text, saved)),
        (None, Some(value)) => {
            if !has("content-type") {
                head.push_str("Content-Type: application/json\r\n");
            }
            Some(fill(&value.to_string(), saved))
        }
        (None, None) => None,
    };
    if let Some(body) = &body
        && !has("content-length")
        && !has("transfer-encoding")
    {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    head.push_str("\r\n");
    head.push_str(body.as_deref().unwrap_or(""));
    Ok((head.into_bytes(), method == "HEAD"))
}

fn fill(text: &str, saved: &BTreeMap<String, String>) -> String {
    saved.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
}

fn extract(save: &Save, got: &Answer) -> anyhow::Result<String> {
    let text = match &save.header {
        Some(name) => got.header(name).with_context(|| format!("no header {name}"))?.to_owned(),
        None => got.text(),
    };
    let Some(pattern) = &save.matches else { return Ok(text) };
    let found = regex::Regex::new(pattern)?.captures(&text).with_context(|| format!("no match of {pattern:?}"))?;
    Ok(found.get(1).or(found.get(0)).map_or("", |m| m.as_str()).to_owned())
}

fn shown(answer: &Answer) -> String {
    let mut text = format!("answer: HTTP/1.{} {} {}", answer.minor, answer.status, answer.reason);
    for (name, value) in &answer.headers {
        let _ = write!(text, "\n    {name}: {value}");
    }
    let body: String = answer.text().chars().take(2000).collect();
    let _ = write!(text, "\n    {body:?}");
    text
}

/// Replaces the placeholders in every string and key of the configuration.
fn place(value: &mut Value, upstreams: &BTreeMap<String, Upstream>, closed: u16) {
    let replace = |text: &str| {
        let mut text = text.replace("$closed", &format!("127.0.0.1:{closed}"));
        for (name, upstream) in upstreams.iter().rev() {
            text = text.replace(&format!("$upstream:{name}"), &upstream.addr().to_string());
        }
        match upstreams.get("default") {
            Some(upstream) => text.replace("$upstream", &upstream.addr().to_string()),
            None => text,
        }
    };
    match value {
        Value::String(text) if text.contains('$') => *text = replace(text),
        Value::Array(all) => all.iter_mut().for_each(|v| place(v, upstreams, closed)),
        Value::Object(map) => {
            *map = std::mem::take(map)
                .into_iter()
                .map(|(key, mut value)| {
                    place(&mut value, upstreams, closed);
                    (if key.contains('$') { replace(&key) } else { key }, value)
                })
                .collect();
        }
        _ => {}
    }
}
