//! May a stored answer be used for a request (RFC 9111 section 4)?
use crate::control::{MAX_DELTA, RequestControl};
use crate::stored::Freshness;

/// What is to be done with a stored answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Use it.
    Fresh,
    /// Use it, though stale: the client said that it takes it.
    Allowed,
    /// Use it and fetch a new one meanwhile.
    WhileRevalidating,
    /// Ask the upstream first; its time is over.
    Expired,
    /// Ask the upstream first; it is fresh, but not for this client.
    TooOld,
}

/// `control` is the request's, where the cache obeys it. Times in milliseconds.
pub fn reuse(freshness: &Freshness, control: Option<&RequestControl>, now: u64) -> Reuse {
    let fresh = freshness.is_fresh(now);
    if let Some(control) = control {
        if control.no_cache {
            return if fresh { Reuse::TooOld } else { Reuse::Expired };
        }
        if fresh && !freshness.ask_always {
            let too_old = control.max_age.is_some_and(|most| freshness.age(now) > most.saturating_mul(1000));
            let too_short = control.min_fresh.is_some_and(|least| freshness.left(now) < least.saturating_mul(1000));
            // A client that takes stale answers takes old ones (RFC 9111 section 5.2.1.2).
            if too_short || too_old && control.max_stale.is_none() {
                return Reuse::TooOld;
            }
        }
        if !fresh && !freshness.ask_always && !freshness.never_stale {
            let staleness = freshness.staleness(now);
            let short = control.max_age.is_some_and(|most| freshness.age(now) > most.saturating_mul(1000));
            if !short
                && control.max_stale.is_some_and(|most| most >= MAX_DELTA || staleness <= most.saturating_mul(1000))
            {
                return Reuse::Allowed;
            }
            if control.max_age.is_some() || control.min_fresh.is_some() {
                return Reuse::Expired;
            }
        }
    }
    if freshness.ask_always {
        return Reuse::Expired;
    }
    if fresh {
        return Reuse::Fresh;
    }
    if !freshness.never_stale && freshness.staleness(now) < freshness.stale_while_revalidate.saturating_mul(1000) {
        return Reuse::WhileRevalidating;
    }
    Reuse::Expired
}

/// Whether a stale answer may stand in for an error (RFC 5861 section 4). `default`: seconds where nothing was said.
pub fn on_error(freshness: &Freshness, control: Option<&RequestControl>, default: u64, now: u64) -> bool {
    if freshness.ask_always || freshness.never_stale {
        return false;
    }
    let said = control.and_then(|c| c.stale_if_error).or(freshness.stale_if_error);
    freshness.is_fresh(now) || freshness.staleness(now) <= said.unwrap_or(default).saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: Freshness = Freshness {
        received: 0,
        initial_age: 0,
        lifetime: 10_000,
        stale_while_revalidate: 5,
        stale_if_error: None,
        ask_always: false,
        never_stale: false,
    };

    fn of(freshness: Freshness, control: &str, now: u64) -> Reuse {
        reuse(&freshness, Some(&RequestControl::parse([control.as_bytes()].into_iter())), now)
    }

    #[test]
    fn requests_narrow_and_widen() {
        assert_eq!(of(BASE, "", 1000), Reuse::Fresh);
        assert_eq!(of(BASE, "max-age=1", 1500), Reuse::TooOld);
        assert_eq!(of(BASE, "min-fresh=9", 1500), Reuse::TooOld);
        assert_eq!(of(BASE, "no-cache", 1500), Reuse::TooOld);
        assert_eq!(of(BASE, "", 12_000), Reuse::WhileRevalidating);
        assert_eq!(of(BASE, "", 15_000), Reuse::Expired);
        assert_eq!(of(BASE, "max-stale", 99_000), Reuse::Allowed);
        assert_eq!(of(BASE, "max-stale=3", 14_000), Reuse::WhileRevalidating);
        let strict = Freshness { never_stale: true, ..BASE };
        assert_eq!(of(strict, "max-stale", 12_000), Reuse::Expired);
        assert_eq!(of(Freshness { ask_always: true, ..BASE }, "", 1), Reuse::Expired);
    }

    #[test]
    fn errors_are_covered_for_a_time() {
        let freshness = Freshness { stale_if_error: Some(60), ..BASE };
        assert!(on_error(&freshness, None, 0, 60_000) && !on_error(&freshness, None, 0, 71_000));
        assert!(!on_error(&BASE, None, 0, 10_500) && on_error(&BASE, None, 60, 10_500));
        assert!(!on_error(&Freshness { never_stale: true, ..freshness }, None, 60, 11_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn must_revalidate_holds_whatever_is_asked(control in "(max-stale|max-age|min-fresh|=|,|[0-9]{1,3}){0,8}", now in 10_000u64..100_000) {
            let strict = Freshness { never_stale: true, ..BASE };
            prop_assert_eq!(of(strict, &control, now), Reuse::Expired);
        }
    }
}
