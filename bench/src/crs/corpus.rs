//! The tests of the Core Rule Set (`tests/regression/tests/**/*.yaml`) and the bytes that each of them sends.
//!
//! The form is go-ftw's (github.com/coreruleset/go-ftw, README); what it adds to a request (`Connection`, lengths, a form's
//! encoding) is part of a test's meaning, so it is added here too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    rule_id: u64,
    #[serde(default)]
    tests: Vec<Written>,
}

#[derive(Deserialize)]
struct Written {
    test_id: u64,
    stages: Vec<Stage>,
}

#[derive(Deserialize)]
struct Stage {
    input: Input,
    #[serde(default)]
    output: Expected,
}

/// What cannot be carried out makes the file an error, never a test that is passed over in silence.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    #[serde(default, rename = "dest_addr")]
    _address: String,
    #[serde(default, rename = "port")]
    _port: u16,
    #[serde(default, rename = "protocol")]
    _protocol: String,
    method: Option<String>,
    uri: Option<String>,
    version: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    data: String,
    #[serde(default)]
    encoded_request: String,
    #[serde(default = "yes")]
    autocomplete_headers: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    pub status: Option<u16>,
    /// The connection ends without an answer.
    #[serde(default)]
    pub expect_error: bool,
    /// For logs that are read while they are written; here they are read at the end.
    #[serde(default, rename = "retry_once")]
    pub _retry_once: bool,
    /// The expected rule is the only one.
    #[serde(default)]
    pub isolated: bool,
    #[serde(default)]
    pub log: Log,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    #[serde(default)]
    pub expect_ids: Vec<u64>,
    #[serde(default)]
    pub no_expect_ids: Vec<u64>,
    pub match_regex: Option<String>,
    pub no_match_regex: Option<String>,
}

/// One test, ready to be sent: each stage is a request on a connection of its own.
pub struct Test {
    /// `942100-12`
    pub name: String,
    /// The rule file that it belongs to: the folder's name.
    pub group: String,
    pub stages: Vec<(Vec<u8>, Expected)>,
}

/// All tests of a checkout whose rule begins so.
pub fn load(checkout: &Path, only: &[String]) -> Result<Vec<Test>> {
    let folder = checkout.join("tests/regression/tests");
    let mut files = Vec::new();
    find(&folder, &mut files).with_context(|| format!("{}: no tests of the Core Rule Set", folder.display()))?;
    files.sort();
    let mut tests = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path)?;
        // a file that is commented out from its first line to its last
        if text.lines().all(|line| line.is_empty() || line.starts_with(['#', '-'])) {
            continue;
        }
        let file: File = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        let group = path.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
        let rule = file.rule_id.to_string();
        if !only.is_empty() && !only.iter().any(|prefix| rule.starts_with(prefix)) {
            continue;
        }
        for test in file.tests {
            let name = format!("{rule}-{}", test.test_id);
            let stages = test.stages.into_iter().map(|s| Ok((s.input.bytes()?, s.output)));
            let stages = stages.collect::<Result<_>>().with_context(|| name.clone())?;
            tests.push(Test { name, group: group.clone().unwrap_or_default(), stages });
        }
    }
    if tests.is_empty() {
        bail!("no test is left");
    }
    Ok(tests)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "yaml") {
            files.push(path);
        }
    }
    Ok(())
}

const FORM: &str = "application/x-www-form-urlencoded";

impl Input {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    fn bytes(mut self) -> Result<Vec<u8>> {
        if !self.encoded_request.is_empty() {
            let text: String = self.encoded_request.split_whitespace().collect();
            return Ok(base64::engine::general_purpose::STANDARD.decode(text)?);
        }
        let method = self.method.take().unwrap_or_else(|| "GET".to_owned());
        let mut added = Vec::new();
        let mut data = repeated(std::mem::take(&mut self.data));
        if !data.is_empty() && self.autocomplete_headers {
            if self.header("Content-Type").is_none() {
                added.push(("Content-Type", FORM.to_owned()));
            }
            if self.header("Content-Type").is_none_or(|t| t.eq_ignore_ascii_case(FORM)) && is_plain(&data) {
                data = form_encoded(&data);
            }
        }
        if self.header("Content-Type").is_some_and(|t| t.to_ascii_lowercase().contains("multipart/form-data;")) {
            data = data.replace('\n', "\r\n");
        }
        if self.autocomplete_headers {
            if self.header("Connection").is_none() {
                added.push(("Connection", "close".to_owned()));
            }
            // go-ftw's own expression: ^POST|PUT|PATCH|DELETE$
            let has_body = method.starts_with("POST")
                || method.contains("PUT")
                || method.contains("PATCH")
                || method.ends_with("DELETE");
            if self.header("Content-Length").is_none() && (has_body || !data.is_empty()) {
                added.push(("Content-Length", data.len().to_string()));
            }
        }
        let (uri, version) = (self.uri.as_deref().unwrap_or("/"), self.version.as_deref().unwrap_or("HTTP/1.1"));
        let mut text = format!("{method} {uri} {version}\r\n");
        let given = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        for (name, value) in given.chain(added.iter().map(|(n, v)| (*n, v.as_str()))) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(&data);
        Ok(text.into_bytes())
    }
}

/// go-ftw reads data as a template of Go; the tests use one form of it, `{{ "text" | repeat 100 }}`.
fn repeated(data: String) -> String {
    let Some((before, rest)) = data.split_once("{{ \"") else { return data };
    let whole = rest.split_once("\" | repeat ").and_then(|(text, rest)| {
        let (count, after) = rest.split_once("}}")?;
        Some((text, count.trim().parse::<usize>().ok()?, after))
    });
    match whole {
        Some((text, count, after)) => format!("{before}{}{}", text.repeat(count), repeated(after.to_owned())),
        None => data,
    }
}

/// Whether decoding would change nothing: the test wrote its form in plain letters.
fn is_plain(data: &str) -> bool {
    !data.contains(['%', '+'])
}

/// Names and values escaped, `&` and `=` kept.
fn form_encoded(data: &str) -> String {
    let pairs = data.split('&').map(|pair| match pair.split_once('=') {
        Some((name, value)) => format!("{}={}", escaped(name), escaped(value)),
        None => escaped(pair),
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => char::from(b).to_string(),
            b' ' => "+".to_owned(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(yaml: &str) -> String {
        let input: Input = serde_saphyr::from_str(yaml).unwrap();
        String::from_utf8(input.bytes().unwrap()).unwrap()
    }

    #[test]
    fn a_request_is_completed_as_go_ftw_does() {
        assert_eq!(bytes("{uri: /x, headers: {Host: h}}"), "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert_eq!(
            bytes("{method: POST, data: 'a=b c&d', headers: {Connection: x}}"),
            "POST / HTTP/1.1\r\nConnection: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\na=b+c&d"
        );
        assert_eq!(bytes("{data: 'a=%41', autocomplete_headers: false}"), "GET / HTTP/1.1\r\n\r\na=%41");
        assert_eq!(bytes("{encoded_request: 'R0VU IC8NCg0K'}"), "GET /\r\n\r\n");
        assert!(bytes("{data: 'a={{ \"xy\" | repeat 2 }}.{{ \"z\" | repeat 1 }}'}").ends_with("\r\n\r\na=xyxy.z"));
        assert!(serde_saphyr::from_str::<Input>("{follow_redirect: true}").is_err());
    }
}
