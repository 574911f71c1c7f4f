//! The key of a resource: texts and variables, then the consumer. The surprise: control characters of values are escaped, so that
//! no request can forge what separates the parts.
use super::Cache;
use sluice_engine_cache::store::USER;
use sluice_expr::{Lookup, Variable};
use sluice_plugin::Context;

/// A part of a key or of a condition.
pub(super) enum KeyPart {
    Text(Box<str>),
    Variable(Variable),
}

/// Variables that tell users apart already (apisix/plugins/proxy-cache/init.lua `IDENTITY_VARS`).
const USERS: [&str; 4] = ["$consumer_name", "$consumer_group_id", "$remote_user", "$http_authorization"];

pub(super) fn names_user(parts: &[String]) -> bool {
    parts.iter().any(|part| USERS.contains(&part.as_str()))
}

impl KeyPart {
    pub(super) fn parse(part: &str) -> KeyPart {
        match part.strip_prefix('$') {
            Some(name) => KeyPart::Variable(Variable::parse(name)),
            None => KeyPart::Text(part.into()),
        }
    }

    fn write(&self, cx: &Context, out: &mut Vec<u8>) {
        match self {
            KeyPart::Text(text) => out.extend_from_slice(text.as_bytes()),
            KeyPart::Variable(variable) => {
                if let Some(value) = cx.variable(variable) {
                    value.write_to(out);
                }
            }
        }
    }
}

/// Whether parts together are neither empty nor `0`.
pub(super) fn is_true(parts: &[KeyPart], cx: &Context) -> bool {
    if parts.is_empty() {
        return false;
    }
    let mut value = Vec::new();
    parts.iter().for_each(|part| part.write(cx, &mut value));
    !value.is_empty() && value != b"0"
}

fn is_control(byte: &u8) -> bool {
    *byte < 0x20 || *byte == 0x7f
}

/// Writes each control character as DEL and two digits.
fn escape(value: Vec<u8>) -> Vec<u8> {
    if !value.iter().any(is_control) {
        return value;
    }
    let mut out = Vec::with_capacity(value.len() + 8);
    for byte in value {
        if is_control(&byte) {
            out.push(0x7f);
            out.extend_from_slice(format!("{byte:02x}").as_bytes());
        } else {
            out.push(byte);
        }
    }
    out
}

impl Cache {
    /// The key of the resource that a request is for. `target` (path and query) stands in for the request's own.
    pub(super) fn key(&self, cx: &Context, target: Option<&[u8]>) -> Vec<u8> {
        let mut key = Vec::with_capacity(128);
        for part in &self.key {
            match (part, target) {
                (KeyPart::Variable(Variable::RequestUri), Some(target)) => key.extend_from_slice(target),
                (KeyPart::Variable(Variable::Custom(name)), Some(target)) if **name == *"real_request_uri" => {
                    key.extend_from_slice(target);
                }
                (KeyPart::Variable(Variable::Uri), Some(target)) => {
                    key.extend(target.iter().take_while(|b| **b != b'?'));
                }
                _ => part.write(cx, &mut key),
            }
        }
        let mut key = escape(key);
        if self.isolation {
            let mut user = Vec::new();
            match &cx.consumer {
                Some(found) => user.extend_from_slice(found.consumer.username.as_bytes()),
                None => {
                    if let Some(value) = cx.variable(&Variable::RemoteUser) {
                        value.write_to(&mut user);
                    }
                }
            }
            if !user.is_empty() {
                key.push(USER);
                key.extend_from_slice(&escape(user));
            }
        }
        key
    }
}
