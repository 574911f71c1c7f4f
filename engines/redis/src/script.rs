//! Lua scripts that run on the server, sent whole only where the server does not know them yet.
use std::sync::OnceLock;

/// A script; for a `static`.
pub struct Script {
    text: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    pub const fn new(text: &'static str) -> Script {
        Script { text, hash: OnceLock::new() }
    }

    pub(crate) fn by_hash(&self, keys: &[&[u8]], arguments: &[&[u8]]) -> redis::Cmd {
        let hash = self.hash.get_or_init(|| redis::Script::new(self.text).get_hash().to_string());
        call("EVALSHA", hash, keys, arguments)
    }

    pub(crate) fn whole(&self, keys: &[&[u8]], arguments: &[&[u8]]) -> redis::Cmd {
        call("EVAL", self.text, keys, arguments)
    }
}

fn call(name: &str, script: &str, keys: &[&[u8]], arguments: &[&[u8]]) -> redis::Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(keys.len());
    for word in keys.iter().chain(arguments) {
        command.arg(*word);
    }
    command
}
