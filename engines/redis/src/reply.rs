//! What a server answers, free of the client library's types.
use redis::Value;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Nil,
    Integer(i64),
    Bytes(Vec<u8>),
    /// Also a map, as keys and values in turn.
    Array(Vec<Reply>),
}

impl Reply {
    /// A whole number, also where it came as text.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Reply::Integer(n) => Some(*n),
            Reply::Bytes(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            _ => None,
        }
    }
    /// A number, also where it came as text (scripts answer fractions so).
    pub fn number(&self) -> Option<f64> {
        match self {
            Reply::Integer(n) => Some(*n as f64),
            Reply::Bytes(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            _ => None,
        }
    }
    /// Text or other bytes.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Reply::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
    /// The parts of an array; none of anything else.
    pub fn items(&self) -> &[Reply] {
        match self {
            Reply::Array(items) => items,
            _ => &[],
        }
    }
}

impl From<Value> for Reply {
    fn from(value: Value) -> Reply {
        let list = |items: Vec<Value>| Reply::Array(items.into_iter().map(Reply::from).collect());
        match value {
            Value::Int(n) => Reply::Integer(n),
            Value::Boolean(b) => Reply::Integer(b.into()),
            Value::BulkString(bytes) => Reply::Bytes(bytes),
            Value::SimpleString(text) | Value::VerbatimString { text, .. } => Reply::Bytes(text.into_bytes()),
            Value::Okay => Reply::Bytes(b"OK".to_vec()),
            Value::Double(n) => Reply::Bytes(n.to_string().into_bytes()),
            Value::Array(items) | Value::Set(items) => list(items),
            Value::Map(pairs) => list(pairs.into_iter().flat_map(|(k, v)| [k, v]).collect()),
            Value::Attribute { data, .. } => Reply::from(*data),
            _ => Reply::Nil,
        }
    }
}
