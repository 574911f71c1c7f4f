//! `retry_on` of an upstream: which failures are worth another node.
//!
//! The surprise: a connection that could not be made in time is both a `timeout` and a `connection_error`.
use super::{Failure, FailureKind};
use crate::grpc_status::GrpcStatuses;

/// What is retried. The default is APISIX's: errors and time-outs before a response, nothing non-idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOn {
    pub timeout: bool,
    pub connection_error: bool,
    /// POST, LOCK and PATCH too, although the node may have acted on them already.
    pub non_idempotent: bool,
    /// Statuses from 400 to 599, a bit each.
    statuses: [u64; 4],
    grpc: GrpcStatuses,
}

impl Default for RetryOn {
    fn default() -> RetryOn {
        RetryOn {
            timeout: true,
            connection_error: true,
            non_idempotent: false,
            statuses: [0; 4],
            grpc: GrpcStatuses::default(),
        }
    }
}

/// A word that `retry_on` does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown retry condition \"{0}\": expected timeout, connection_error, non_idempotent, http_5xx, http_ and a status from 400 to 599, or grpc_ and the name of one"
)]
pub struct BadCondition(pub String);

impl RetryOn {
    /// Reads the words of `retry_on`; no word, no retry.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<RetryOn, BadCondition> {
        let mut on = RetryOn { timeout: false, connection_error: false, ..RetryOn::default() };
        for word in words.iter().map(AsRef::as_ref) {
            match word {
                "timeout" => on.timeout = true,
                "connection_error" => on.connection_error = true,
                "non_idempotent" => on.non_idempotent = true,
                "http_5xx" => (500..600).for_each(|status| on.add(status)),
                _ if word
                    .strip_prefix("grpc")
                    .and_then(|w| w.strip_prefix(['_', '-']))
                    .is_some_and(|w| on.grpc.add(w)) => {}
                _ => match word.strip_prefix("http_").and_then(|code| code.parse().ok()) {
                    Some(status @ 400..=599) => on.add(status),
                    _ => return Err(BadCondition(word.to_owned())),
                },
            }
        }
        Ok(on)
    }

    fn add(&mut self, status: u16) {
        let bit = usize::from(status.saturating_sub(400));
        if let Some(word) = self.statuses.get_mut(bit / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    /// Whether an answer with this status is dropped for another node's.
    #[inline]
    pub fn has_status(&self, status: u16) -> bool {
        // below 400 nothing is looked up: the common case costs one comparison
        status >= 400
            && self
                .statuses
                .get(usize::from(status - 400) / 64)
                .is_some_and(|word| word >> ((status - 400) % 64) & 1 == 1)
    }

    /// Whether a call that ended with this status of gRPC is given up for another node's.
    #[inline]
    pub fn has_grpc(&self, status: u8) -> bool {
        self.grpc.contains(status)
    }

    /// Whether any status of gRPC is retried.
    #[inline]
    pub fn knows_grpc(&self) -> bool {
        !self.grpc.is_empty()
    }

    /// Whether anything is retried after the request was sent.
    pub fn after_sending(&self) -> bool {
        self.timeout || self.connection_error || self.statuses != [0; 4] || self.knows_grpc()
    }

    /// Whether the failure is one of those named.
    pub fn covers(&self, failure: &Failure) -> bool {
        match failure.kind {
            FailureKind::Timeout => self.timeout || self.connection_error && !failure.sent_bytes,
            FailureKind::Connect | FailureKind::Tls | FailureKind::Reset | FailureKind::Closed => self.connection_error,
            FailureKind::Refused => self.connection_error,
            FailureKind::Status(status) => self.has_status(status),
            FailureKind::Grpc(status) => self.has_grpc(status),
            FailureKind::BadResponse | FailureKind::NoNode | FailureKind::Other => false,
        }
    }

    /// The words that say this, `http_5xx` for all of its statuses.
    pub fn words(&self) -> Vec<String> {
        let named = [
            (self.timeout, "timeout"),
            (self.connection_error, "connection_error"),
            (self.non_idempotent, "non_idempotent"),
        ];
        let mut words: Vec<String> = named.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned()).collect();
        let whole = (500..600).all(|status| self.has_status(status));
        if whole {
            words.push("http_5xx".to_owned());
        }
        let single = (400..600).filter(|status| self.has_status(*status) && !(whole && *status >= 500));
        words.extend(single.map(|status| format!("http_{status}")));
        words.extend(self.grpc.names().map(|name| format!("grpc_{name}")));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::super::FailureSource::Upstream;
    use super::*;

    #[test]
    fn words_are_read_and_said_again() {
        let on = RetryOn::parse(&["http_429", "timeout", "http_503"]).unwrap();
        assert!(on.timeout && !on.connection_error && !on.non_idempotent);
        assert!([429, 503].iter().all(|s| on.has_status(*s)));
        assert!([0, 200, 399, 400, 428, 500, 599, 600, 999].iter().all(|s| !on.has_status(*s)));
        assert_eq!(on.words(), ["timeout", "http_429", "http_503"]);
        let all = RetryOn::parse(&["non_idempotent", "http_5xx", "http_404", "http_500"]).unwrap();
        assert!((500..600).all(|s| all.has_status(s)) && !all.has_status(600));
        assert_eq!(all.words(), ["non_idempotent", "http_5xx", "http_404"]);
        assert_eq!(RetryOn::default().words(), ["timeout", "connection_error"]);
        let grpc = RetryOn::parse(&["grpc-resource-exhausted", "grpc_unavailable"]).unwrap();
        assert!(
            grpc.knows_grpc() && grpc.has_grpc(14) && grpc.has_grpc(8) && !grpc.has_grpc(0) && grpc.after_sending()
        );
        assert_eq!(grpc.words(), ["grpc_resource_exhausted", "grpc_unavailable"]);
        assert_eq!(RetryOn::parse::<&str>(&[]).unwrap().words(), [""; 0]);
    }

    #[test]
    fn other_words_are_named() {
        for word in [
            "grpc",
            "grpc_",
            "grpc_ok",
            "grpc_14",
            "http_200",
            "http_399",
            "http_600",
            "http_4xx",
            "http_",
            "error",
            "HTTP_500",
            "http_-500",
        ] {
            assert_eq!(RetryOn::parse(&[word]), Err(BadCondition(word.to_owned())));
        }
    }

    #[test]
    fn each_failure_has_its_word() {
        use FailureKind::*;
        let on = |word: &str| RetryOn::parse(&[word]).unwrap();
        for (kind, sent_bytes, words) in [
            (Connect, false, &["connection_error"][..]),
            (Tls, false, &["connection_error"]),
            (Reset, true, &["connection_error"]),
            (Closed, true, &["connection_error"]),
            (Timeout, false, &["timeout", "connection_error"]),
            (Timeout, true, &["timeout"]),
            (Status(502), true, &["http_5xx", "http_502"]),
            (Refused, false, &["connection_error"]),
            (Grpc(14), true, &["grpc_unavailable"]),
            (BadResponse, true, &[]),
        ] {
            let failure = Failure { source: Upstream, kind, sent_bytes };
            for word in [
                "timeout",
                "connection_error",
                "http_5xx",
                "http_502",
                "http_503",
                "non_idempotent",
                "grpc_unavailable",
            ] {
                assert_eq!(on(word).covers(&failure), words.contains(&word), "{kind:?} {word}");
            }
        }
    }
}
