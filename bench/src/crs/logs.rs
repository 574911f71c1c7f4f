//! What a proxy's logs say of each request: the rules that matched, and whether the rules saw it at all. The audit log tells
//! which requests came to the rules; the error log has rules that are not audited.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use regex::Regex;
use serde_json::Value;

use super::send::source;

/// What is known of one request.
#[derive(Clone, Default)]
pub struct Seen {
    pub rules: BTreeSet<u64>,
    /// An entry of the audit log: the proxy did not refuse it before the rules.
    pub audited: bool,
    /// Lines as ModSecurity's error log has them.
    pub text: String,
}

pub fn read(home: &Path, requests: usize) -> Result<Vec<Seen>> {
    let mut all = vec![Seen::default(); requests];
    let audit = std::fs::read(home.join("audit.log")).context("no audit log")?;
    for line in String::from_utf8_lossy(&audit).lines().filter(|l| !l.trim_ascii().is_empty()) {
        // libmodsecurity writes lines that are no JSON; their rules stand in the error log too
        let Ok(entry) = serde_json::from_str::<Value>(line) else {
            let client = line.split_once("\"client_ip\":\"").and_then(|(_, rest)| rest.split('"').next());
            if let Some(seen) = client.and_then(number).and_then(|n| all.get_mut(n)) {
                seen.audited = true;
            }
            continue;
        };
        let transaction = &entry["transaction"];
        let Some(seen) = transaction["client_ip"].as_str().and_then(number).and_then(|n| all.get_mut(n)) else {
            continue;
        };
        seen.audited = true;
        for list in [&entry["messages"], &transaction["messages"]] {
            for message in list.as_array().into_iter().flatten() {
                seen.message(message);
            }
        }
    }
    let log = std::fs::read(home.join("operator.log")).unwrap_or_default();
    let client = Regex::new(r"\[client (127\.\d+\.\d+\.\d+)\]|client: (127\.\d+\.\d+\.\d+)")?;
    let id = Regex::new(r#"\[id \\?"(\d+)\\?"\]"#)?;
    for line in String::from_utf8_lossy(&log).lines() {
        let Some(found) = client.captures(line) else { continue };
        let address = found.get(1).or(found.get(2)).map_or("", |m| m.as_str());
        let Some(seen) = number(address).and_then(|n| all.get_mut(n)) else { continue };
        seen.rules.extend(id.captures_iter(line).filter_map(|c| c.get(1)?.as_str().parse::<u64>().ok()));
        seen.text.push_str(line);
        seen.text.push('\n');
    }
    Ok(all)
}

/// The request that is sent from this address.
fn number(address: &str) -> Option<usize> {
    let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
    usize::try_from(address.checked_sub(u32::from(source(0)))?).ok()
}

impl Seen {
    /// Coraza's form has `data`, ModSecurity's `details`.
    fn message(&mut self, message: &Value) {
        let (data, details) = (&message["data"], &message["details"]);
        let id = data["id"].as_u64().or_else(|| details["ruleId"].as_str()?.parse().ok());
        self.rules.extend(id);
        // an error log has a line for a match, whatever line ends it speaks of
        let text = |value: &Value| value.as_str().unwrap_or_default().replace('\r', "\\r").replace('\n', "\\n");
        self.text.push_str(&format!(
            "[id \"{}\"] [msg \"{}\"] [data \"{}{}\"]\n",
            id.unwrap_or_default(),
            text(&message["message"]),
            text(&data["data"]),
            text(&details["data"]),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_logs_are_read_and_belong_to_their_request() {
        let folder = tempfile::tempdir().unwrap();
        let ours =
            r#"{"transaction":{"client_ip":"127.1.0.1"},"messages":[{"message":"m","data":{"id":920100,"data":"d"}}]}"#;
        let theirs = r#"{"transaction":{"client_ip":"127.1.0.3","messages":[{"message":"m","details":{"ruleId":"942100","data":"x"}}]}}"#;
        std::fs::write(folder.path().join("audit.log"), format!("{ours}\n{theirs}\n")).unwrap();
        std::fs::write(folder.path().join("operator.log"), "x [client 127.1.0.1] y [id \"980170\"]\n").unwrap();
        let seen = read(folder.path(), 3).unwrap();
        assert_eq!(seen[0].rules, BTreeSet::from([920_100, 980_170]));
        assert_eq!((seen[0].audited, seen[1].audited, seen[2].audited), (true, false, true));
        assert!(seen[2].text.contains("[id \"942100\"] [msg \"m\"] [data \"x\"]"));
    }
}
