//! The value of a variable during a request: mostly borrowed bytes, as header and URI bytes need not be UTF-8.
use std::borrow::Cow;

/// What a [`crate::Variable`] yields. Lua's `nil` is `None` at the [`crate::Lookup`] level.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Bytes(Cow<'a, [u8]>),
    Number(f64),
    Bool(bool),
    List(Vec<Value<'a>>),
}

impl<'a> Value<'a> {
    /// A borrowed string value.
    pub fn str(s: &'a str) -> Self {
        Value::Bytes(Cow::Borrowed(s.as_bytes()))
    }
    /// A borrowed byte-string value.
    pub fn bytes(b: &'a [u8]) -> Self {
        Value::Bytes(Cow::Borrowed(b))
    }
    /// An owned byte-string value.
    pub fn owned(b: impl Into<Vec<u8>>) -> Self {
        Value::Bytes(Cow::Owned(b.into()))
    }
}
