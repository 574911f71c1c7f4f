//! What the `limit-*` plugins have in common: where the key of a counter comes from, and which counters a configuration
//! owns. The surprise: a counter belongs to the stored object and to the configuration's content, so that any change of
//! the configuration begins anew and a reload without change does not (apisix/plugin.lua `conf_version`).
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_expr::{Lookup, Template, Variable};
use sluice_plugin::{Context, Env};
use std::cell::RefCell;

/// How `key` is read.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum KeyType {
    #[default]
    Var,
    VarCombination,
}

/// A compiled `key`.
pub enum KeySource {
    Variable(Variable),
    Template(Template),
    Constant(Box<[u8]>),
}

thread_local! {
    static RENDERED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl KeySource {
    pub fn new(kind: KeyType, text: &str) -> KeySource {
        match kind {
            KeyType::Var => KeySource::Variable(Variable::parse(text)),
            KeyType::VarCombination => KeySource::Template(Template::compile(text)),
        }
    }

    /// Calls `use_key` with the key of this request. Where the variable (or every variable of a combination) has no
    /// value, that is the client's address.
    #[inline]
    pub fn with<R>(&self, cx: &Context, use_key: impl FnOnce(&[u8]) -> R) -> R {
        self.of(cx, |cx| cx.client_ip_text(), use_key)
    }

    /// As [`KeySource::with`], for whatever has variables and a client.
    #[inline]
    pub fn of<L: Lookup, R>(&self, cx: &L, client: impl FnOnce(&L) -> &str, use_key: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            KeySource::Variable(variable) => match cx.variable(variable) {
                Some(value) => use_key(&value.as_bytes()),
                None => use_key(client(cx).as_bytes()),
            },
            KeySource::Constant(text) => use_key(text),
            KeySource::Template(template) => RENDERED.with_borrow_mut(|out| {
                out.clear();
                match template.render_into(cx, "", out) {
                    0 => use_key(client(cx).as_bytes()),
                    _ => use_key(out),
                }
            }),
        }
    }
}

/// Whether a rule's key has a value for this request: at least one variable in it resolves.
pub fn applies(template: &Template, cx: &Context) -> bool {
    RENDERED.with_borrow_mut(|out| {
        out.clear();
        template.render_into(cx, "", out) > 0
    })
}

/// What keys of this configuration start with: `routes/1:3519887542:`.
pub fn prefix_of(config: &impl Serialize, env: &Env) -> String {
    let content = serde_json::to_vec(config).unwrap_or_default();
    format!("{}:{}:", env.resource_key, crc32fast::hash(&content))
}
