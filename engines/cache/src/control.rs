//! `Cache-Control` of requests and responses (RFC 9111 section 5.2, RFC 5861, RFC 8246).
//!
//! The surprise: a delta that is no number counts as 0. RFC 9111 section 4.2.1 asks for that: who says something unclear about
//! freshness gets no freshness.
use crate::fields::List;

/// Most seconds that a delta can mean (RFC 9111 section 1.2.2).
pub const MAX_DELTA: u64 = 1 << 31;

/// What a response's `Cache-Control` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseControl {
    pub no_store: bool,
    /// Without a list of fields: not to be used without asking.
    pub no_cache: bool,
    pub private: bool,
    /// The fields that `no-cache="…"` and `private="…"` name: they are not stored.
    pub withheld: Vec<String>,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub immutable: bool,
    /// Seconds.
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
    /// There was something to read at all.
    pub present: bool,
}

/// What a request's `Cache-Control` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestControl {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    /// Seconds.
    pub max_age: Option<u64>,
    pub min_fresh: Option<u64>,
    /// Seconds; [`MAX_DELTA`] without a value.
    pub max_stale: Option<u64>,
    pub stale_if_error: Option<u64>,
}

/// Seconds of a delta; what is no number is 0.
pub fn delta(value: &str) -> u64 {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return 0;
    }
    value.parse().unwrap_or(MAX_DELTA).min(MAX_DELTA)
}

impl ResponseControl {
    /// Reads all lines of the field.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> ResponseControl {
        let mut out = ResponseControl::default();
        for line in lines {
            for (name, value) in List::new(line) {
                out.present = true;
                let seconds = |slot: &mut Option<u64>| {
                    slot.get_or_insert_with(|| value.as_deref().map_or(0, delta));
                };
                match name.to_ascii_lowercase().as_str() {
                    "no-store" => out.no_store = true,
                    "no-cache" => match &value {
                        Some(names) => out.withhold(names),
                        None => out.no_cache = true,
                    },
                    "private" => match &value {
                        Some(names) => out.withhold(names),
                        None => out.private = true,
                    },
                    "public" => out.public = true,
                    "must-revalidate" => out.must_revalidate = true,
                    "proxy-revalidate" => out.proxy_revalidate = true,
                    "must-understand" => out.must_understand = true,
                    "immutable" => out.immutable = true,
                    "max-age" => seconds(&mut out.max_age),
                    "s-maxage" => seconds(&mut out.s_maxage),
                    "stale-while-revalidate" => seconds(&mut out.stale_while_revalidate),
                    "stale-if-error" => seconds(&mut out.stale_if_error),
                    _ => {}
                }
            }
        }
        out
    }

    fn withhold(&mut self, names: &str) {
        self.withheld.extend(names.split(',').map(|n| n.trim().to_ascii_lowercase()).filter(|n| !n.is_empty()));
    }

    /// A stale answer must not be used without asking.
    pub fn forbids_stale(&self) -> bool {
        self.must_revalidate || self.proxy_revalidate || self.s_maxage.is_some() || self.no_cache
    }
}

impl RequestControl {
    /// Reads all lines of the field.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> RequestControl {
        let mut out = RequestControl::default();
        for line in lines {
            for (name, value) in List::new(line) {
                let seconds = |slot: &mut Option<u64>| {
                    slot.get_or_insert_with(|| value.as_deref().map_or(0, delta));
                };
                match name.to_ascii_lowercase().as_str() {
                    "no-store" => out.no_store = true,
                    "no-cache" => out.no_cache = true,
                    "only-if-cached" => out.only_if_cached = true,
                    "max-age" => seconds(&mut out.max_age),
                    "min-fresh" => seconds(&mut out.min_fresh),
                    "stale-if-error" => seconds(&mut out.stale_if_error),
                    "max-stale" => {
                        out.max_stale.get_or_insert_with(|| value.as_deref().map_or(MAX_DELTA, delta));
                    }
                    _ => {}
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(line: &str) -> ResponseControl {
        ResponseControl::parse([line.as_bytes()].into_iter())
    }

    #[test]
    fn directives_are_read_in_any_form() {
        let read = response("Max-Age=\"60\" , PUBLIC,s-maxage=5,no-cache=\"Set-Cookie, x\", extension=\"a,private\"");
        assert_eq!((read.max_age, read.s_maxage, read.public, read.private), (Some(60), Some(5), true, false));
        assert_eq!(read.withheld, ["set-cookie", "x"]);
        assert!(!read.no_cache && read.forbids_stale());
    }

    #[test]
    fn what_is_unclear_is_no_freshness() {
        for line in ["max-age=abc", "max-age", "max-age=", "max-age=1.5", "max-age=-1"] {
            assert_eq!(response(line).max_age, Some(0), "{line}");
        }
        assert_eq!(response("max-age=99999999999999999999").max_age, Some(MAX_DELTA));
        assert_eq!(response("max-age=7, max-age=9").max_age, Some(7));
        assert_eq!(response("amax-age=7"), ResponseControl { present: true, ..ResponseControl::default() });
    }

    #[test]
    fn requests_have_directives_of_their_own() {
        let read = RequestControl::parse([&b"max-stale, min-fresh=3"[..], b"no-cache"].into_iter());
        assert_eq!((read.max_stale, read.min_fresh, read.no_cache), (Some(MAX_DELTA), Some(3), true));
    }
}
