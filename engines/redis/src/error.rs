//! What can go wrong, in the words that APISIX's logs have for it (lua-resty-redis), and whether Redis is away.
use std::sync::Arc;

/// Why a command has no answer. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RedisError {
    text: Arc<str>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No connection, no answer in time, or no sense in it.
    Away,
    /// The connection was closed before the answer.
    Closed,
    /// Not tried: the breaker is open.
    Known,
    /// An answer, which is an error.
    Server,
    /// The server does not know a script by its hash.
    UnknownScript,
}

impl RedisError {
    pub(crate) fn away(text: impl Into<Arc<str>>) -> RedisError {
        RedisError { text: text.into(), kind: Kind::Away }
    }
    pub(crate) fn closed() -> RedisError {
        RedisError { text: "closed".into(), kind: Kind::Closed }
    }
    /// The same for those who come after.
    pub(crate) fn known(&self) -> RedisError {
        RedisError { text: self.text.clone(), kind: Kind::Known }
    }
    /// An answer that is not of the form expected.
    pub fn malformed() -> RedisError {
        RedisError { text: "malformed redis response".into(), kind: Kind::Server }
    }
    /// With words before it.
    pub(crate) fn within(self, before: &str) -> RedisError {
        RedisError { text: format!("{before}{self}").into(), ..self }
    }
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }
    /// Redis was known to be away, and was not asked: nothing to log again.
    pub fn is_known(&self) -> bool {
        self.kind == Kind::Known
    }
}

impl From<redis::RedisError> for RedisError {
    fn from(error: redis::RedisError) -> RedisError {
        use redis::{ErrorKind, ServerErrorKind};
        let kind = match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Kind::UnknownScript,
            // A master that has become a replica: the sentinels know another.
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Kind::Closed,
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType => Kind::Server,
            _ if error.is_connection_dropped() => Kind::Closed,
            _ => Kind::Away,
        };
        let text = match (error.code(), error.detail()) {
            _ if error.is_connection_refusal() => "connection refused".to_string(),
            _ if error.is_timeout() => "timeout".to_string(),
            _ if kind == Kind::Closed && error.code().is_none() => "closed".to_string(),
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => error.to_string(),
        };
        RedisError { text: text.into(), kind }
    }
}
