//! `redis`: AUTH where credentials are given, PING, and the node's role where one is asked for. All sent in one piece.
use std::io;

use sluice_net::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Verdict;
use crate::health::checks::Active;

/// Longest answer read: `ROLE` of a primary names its replicas, but its kind comes first.
const MAX_ANSWER: usize = 4096;

pub(super) async fn ask(active: &Active, stream: &mut Stream) -> io::Result<Verdict> {
    stream.write_all(&commands(active)).await?;
    stream.flush().await?;
    let mut answer = Vec::with_capacity(256);
    loop {
        if let Some(well) = judge(active, &answer) {
            return Ok(if well { Verdict::Good } else { Verdict::Bad });
        }
        if answer.len() > MAX_ANSWER {
            return Ok(Verdict::Bad);
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// In the RESP form, so that passwords may hold any byte.
fn commands(active: &Active) -> Vec<u8> {
    let mut out = Vec::new();
    let mut command = |words: &[&str]| {
        out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
    };
    match (&active.redis_username, &active.redis_password) {
        (Some(user), Some(password)) => command(&["AUTH", user, password]),
        (None, Some(password)) => command(&["AUTH", password]),
        (_, None) => {}
    }
    command(&["PING"]);
    if active.redis_role.is_some() {
        command(&["ROLE"]);
    }
    out
}

/// Whether the node is well; `None`: the answer goes on.
fn judge(active: &Active, answer: &[u8]) -> Option<bool> {
    let mut lines = answer.split_inclusive(|b| *b == b'\n');
    let mut line = || lines.next().and_then(|line| line.strip_suffix(b"\r\n"));
    if active.redis_password.is_some() && line()? != b"+OK" {
        return Some(false);
    }
    if line()? != b"+PONG" {
        return Some(false);
    }
    let Some(role) = &active.redis_role else { return Some(true) };
    // *3 $6 master …
    if !line()?.starts_with(b"*") || !line()?.starts_with(b"$") {
        return Some(false);
    }
    Some(line()? == role.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::checks::Checks;
    use serde_json::{Value, json};

    fn active(mut active: Value) -> Active {
        active["type"] = "redis".into();
        Checks::read(&json!({ "active": active })).unwrap().active.unwrap()
    }

    #[test]
    fn ping_alone() {
        let active = active(json!({}));
        assert_eq!(commands(&active), b"*1\r\n$4\r\nPING\r\n");
        assert_eq!(judge(&active, b"+PO"), None);
        assert_eq!(judge(&active, b"+PONG\r\n"), Some(true));
        assert_eq!(judge(&active, b"-LOADING Redis is loading\r\n"), Some(false));
    }

    #[test]
    fn credentials_and_role() {
        let active = active(json!({"redis_username": "u", "redis_password": "p q", "redis_role": "master"}));
        let commands = String::from_utf8(commands(&active)).unwrap();
        assert_eq!(commands, "*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$3\r\np q\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nROLE\r\n");
        assert_eq!(judge(&active, b"+OK\r\n+PONG\r\n*3\r\n$6\r\n"), None);
        assert_eq!(judge(&active, b"+OK\r\n+PONG\r\n*3\r\n$6\r\nmaster\r\n"), Some(true));
        assert_eq!(judge(&active, b"+OK\r\n+PONG\r\n*5\r\n$5\r\nslave\r\n"), Some(false));
        assert_eq!(judge(&active, b"-WRONGPASS\r\n-NOAUTH\r\n"), Some(false));
    }
}
