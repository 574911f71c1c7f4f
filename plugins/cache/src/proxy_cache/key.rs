//! The key of a resource: texts and variables, then the consumer. The surprise: control characters of values are escaped, so that
//! no request can forge what separates the parts.
use super::Terms;
use sluice_engine_cache::store::USER;
use sluice_expr::{Lookup, Variable};
use sluice_plugin::{Context, record};

/// A part of a key or of a condition.
pub(super) enum KeyPart {
    Text(Box<str>),
    /// With its name.
    Variable(Box<str>, Variable),
}

/// Variables that tell users apart already (apisix/plugins/proxy-cache/init.lua `IDENTITY_VARS`).
const USERS: [&str; 4] = ["$consumer_name", "$consumer_group_id", "$remote_user", "$http_authorization"];

pub(super) fn names_user(parts: &[String]) -> bool {
    parts.iter().any(|part| USERS.contains(&part.as_str()))
}

impl KeyPart {
    pub(super) fn parse(part: &str) -> KeyPart {
        match part.strip_prefix('$') {
            Some(name) => KeyPart::Variable(name.into(), Variable::parse(name)),
            None => KeyPart::Text(part.into()),
        }
    }

    /// As it is configured.
    pub(super) fn written(&self) -> String {
        match self {
            KeyPart::Text(text) => text.to_string(),
            KeyPart::Variable(name, _) => format!("${name}"),
        }
    }

    /// The value as a record of the request tells it.
    fn told(&self, cx: &Context) -> String {
        let mut value = Vec::new();
        self.write(cx, &mut value);
        match self {
            KeyPart::Text(text) => text.to_string(),
            KeyPart::Variable(_, Variable::RequestUri) => record::masked_target(&String::from_utf8_lossy(&value)),
            KeyPart::Variable(name, _) => record::told(name, &value),
        }
    }

    fn write(&self, cx: &Context, out: &mut Vec<u8>) {
        match self {
            KeyPart::Text(text) => out.extend_from_slice(text.as_bytes()),
            KeyPart::Variable(_, variable) => {
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

impl Terms {
    /// The key of a request's resource for people: its parts as configured, and their values.
    pub(super) fn told_key(&self, cx: &Context) -> (String, String) {
        let rule: String = self.key.iter().map(KeyPart::written).collect();
        let mut value: String = self.key.iter().map(|part| part.told(cx)).collect();
        if let Some(found) = cx.consumer.as_ref().filter(|_| self.isolation) {
            value.push_str(&format!(" of consumer {}", found.consumer.username));
        }
        (rule, value)
    }

    /// The key of the resource that a request is for. `target` (path and query) stands in for the request's own.
    pub(super) fn key(&self, cx: &Context, target: Option<&[u8]>) -> Vec<u8> {
        let mut key = Vec::with_capacity(128);
        for part in &self.key {
            match (part, target) {
                (KeyPart::Variable(_, Variable::RequestUri), Some(target)) => key.extend_from_slice(target),
                (KeyPart::Variable(_, Variable::Custom(name)), Some(target)) if **name == *"real_request_uri" => {
                    key.extend_from_slice(target);
                }
                (KeyPart::Variable(_, Variable::Uri), Some(target)) => {
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
