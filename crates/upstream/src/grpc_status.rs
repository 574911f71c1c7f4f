//! Statuses of gRPC by their names, and sets of them (grpc.github.io, "Status codes and their use in gRPC").
//!
//! The surprise: `OK` has no name here, as nothing that is configured means it.

const NAMES: [&str; 17] = [
    "",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// Statuses 1 to 16, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcStatuses(u32);

impl GrpcStatuses {
    /// By names; `None` where one is unknown.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Option<GrpcStatuses> {
        let mut set = GrpcStatuses::default();
        names.iter().all(|name| set.add(name.as_ref())).then_some(set)
    }

    /// Adds a status by its name, words joined by `_` or `-`; false where it has none.
    pub fn add(&mut self, name: &str) -> bool {
        let same = |own: &str| {
            !own.is_empty()
                && own.len() == name.len()
                && own.bytes().zip(name.bytes()).all(|(a, b)| a == b || a == b'_' && b == b'-')
        };
        match NAMES.iter().position(|own| same(own)) {
            Some(code) => {
                self.0 |= 1 << code;
                true
            }
            None => false,
        }
    }

    #[inline]
    pub fn contains(&self, code: u8) -> bool {
        code < 32 && self.0 >> code & 1 == 1
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        NAMES.iter().zip(0u8..).filter(|(_, code)| self.contains(*code)).map(|(name, _)| *name)
    }
}

/// The value of a `grpc-status` field; `None` for what is none.
pub fn parse(value: &[u8]) -> Option<u8> {
    match value {
        [a @ b'0'..=b'9'] => Some(a - b'0'),
        [b'1', b @ b'0'..=b'6'] => Some(10 + b - b'0'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes() {
        let set = GrpcStatuses::parse(&["unavailable", "deadline-exceeded", "cancelled"]).unwrap();
        assert_eq!(set.names().collect::<Vec<_>>(), ["cancelled", "deadline_exceeded", "unavailable"]);
        assert!([1, 4, 14].iter().all(|code| set.contains(*code)));
        assert!([0, 2, 13, 16, 17, 31, 32, 255].iter().all(|code| !set.contains(*code)));
        for bad in ["", "ok", "UNAVAILABLE", "unavailable_", "deadline exceeded", "deadline"] {
            assert_eq!(GrpcStatuses::parse(&[bad]), None, "{bad:?}");
        }
        assert!(GrpcStatuses::default().is_empty() && !set.is_empty());
    }

    #[test]
    fn values() {
        for code in 0..=16u8 {
            assert_eq!(parse(code.to_string().as_bytes()), Some(code));
        }
        for bad in ["", "17", "014", "-1", "1 ", "1x", "20", "100"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
