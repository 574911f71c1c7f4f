//! Whether a test passed, and if not, why. A request that a proxy refuses on its own never comes to the rules: where a rule was
//! expected to speak, that is told apart from a rule that was silent.

use regex::Regex;

use super::corpus::{Expected, Test};
use super::logs::Seen;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// The proxy answered with this status (none: it closed the connection), and no rule saw the request.
    Refused(Option<u16>),
    Failed(String),
}

/// `first` is the number of the test's first request.
pub fn of(test: &Test, first: usize, statuses: &[Option<u16>], seen: &[Seen]) -> Verdict {
    for (stage, (_, expected)) in test.stages.iter().enumerate() {
        let status = statuses.get(first + stage).copied().flatten();
        let Some(seen) = seen.get(first + stage) else { return Verdict::Failed("it was not sent".to_owned()) };
        if let Some(why) = wrong(expected, status, seen) {
            let refused = !seen.audited && status.is_none_or(|s| s >= 400);
            return if refused { Verdict::Refused(status) } else { Verdict::Failed(why) };
        }
    }
    Verdict::Passed
}

fn wrong(expected: &Expected, status: Option<u16>, seen: &Seen) -> Option<String> {
    if expected.expect_error {
        return status.map(|s| format!("answered {s}, where no answer was expected"));
    }
    let Some(status) = status else { return Some("no answer".to_owned()) };
    if let Some(wanted) = expected.status.filter(|wanted| *wanted != status) {
        return Some(format!("status {status}, not {wanted}"));
    }
    let log = &expected.log;
    if let Some(id) = log.expect_ids.iter().find(|id| !seen.rules.contains(id)) {
        return Some(format!("{id} did not match"));
    }
    if let Some(id) = log.no_expect_ids.iter().find(|id| seen.rules.contains(id)) {
        return Some(format!("{id} matched"));
    }
    if expected.isolated && seen.rules.len() != 1 {
        return Some(format!("{} rules matched, not one", seen.rules.len()));
    }
    let matches = |pattern: &str| Regex::new(pattern).map(|r| r.is_match(&seen.text)).unwrap_or(false);
    if let Some(pattern) = log.match_regex.as_ref().filter(|p| !matches(p)) {
        return Some(format!("the log has nothing like {pattern}"));
    }
    if let Some(pattern) = log.no_match_regex.as_ref().filter(|p| matches(p)) {
        return Some(format!("the log has something like {pattern}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_rule_and_a_refusal_are_told_apart() {
        let log = super::super::corpus::Log { expect_ids: vec![7], ..Default::default() };
        let expected = Expected { log, ..Expected::default() };
        let test = Test { name: "7-1".to_owned(), group: String::new(), stages: vec![(Vec::new(), expected)] };
        let verdict = |status, rules: &[u64], audited| {
            let seen = Seen { rules: rules.iter().copied().collect(), audited, text: String::new() };
            of(&test, 0, &[status], &[seen])
        };
        assert_eq!(verdict(Some(200), &[7], true), Verdict::Passed);
        assert_eq!(verdict(Some(200), &[], true), Verdict::Failed("7 did not match".to_owned()));
        assert_eq!(verdict(Some(400), &[], false), Verdict::Refused(Some(400)));
        assert_eq!(verdict(None, &[], false), Verdict::Refused(None));
        assert_eq!(verdict(None, &[], true), Verdict::Failed("no answer".to_owned()));
    }
}
