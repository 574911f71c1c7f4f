//! The tables: tests by rule file, and the list of those that did not pass.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::verdict::Verdict;
use crate::Output;

/// A peer's results: group, name, verdict.
pub struct Row {
    pub peer: &'static str,
    pub verdicts: Vec<(String, String, Verdict)>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    passed: usize,
    failed: usize,
    refused: usize,
}

impl Counts {
    fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Refused(_) => self.refused += 1,
        }
    }

    fn percent(self) -> f64 {
        100.0 * self.passed as f64 / (self.passed + self.failed + self.refused).max(1) as f64
    }
}

impl Row {
    fn counts(&self) -> (BTreeMap<&str, Counts>, Counts) {
        let (mut groups, mut total) = (BTreeMap::<&str, Counts>::new(), Counts::default());
        for (group, _, verdict) in &self.verdicts {
            groups.entry(group).or_default().add(verdict);
            total.add(verdict);
        }
        (groups, total)
    }
}

/// Prints; an error where a peer passed fewer tests than it must.
pub fn print(rows: &[Row], output: Output, at_least: Option<f64>) -> Result<()> {
    match output {
        Output::Text => print!("{}", text(rows)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&as_json(rows))?),
    }
    for row in rows {
        let percent = row.counts().1.percent();
        if at_least.is_some_and(|least| percent < least) {
            bail!("{} passed {percent:.2} %, less than it must", row.peer);
        }
    }
    Ok(())
}

fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        let (groups, total) = row.counts();
        let _ = writeln!(out, "| {} | passed | failed | refused before the rules |\n|---|---|---|---|", row.peer);
        let all = groups.into_iter().chain([("total", total)]);
        for (name, counts) in all {
            let _ = writeln!(out, "| {name} | {} | {} | {} |", counts.passed, counts.failed, counts.refused);
        }
        let _ = writeln!(out, "\n{}: {:.2} % passed", row.peer, total.percent());
        for (_, name, verdict) in &row.verdicts {
            let _ = match verdict {
                Verdict::Passed => Ok(()),
                Verdict::Failed(why) => writeln!(out, "{name}: {why}"),
                Verdict::Refused(Some(status)) => writeln!(out, "{name}: refused with {status} before the rules"),
                Verdict::Refused(None) => writeln!(out, "{name}: no answer, and no rule saw it"),
            };
        }
        out.push('\n');
    }
    out
}

fn as_json(rows: &[Row]) -> Value {
    let counts = |c: Counts| json!({"passed": c.passed, "failed": c.failed, "refused": c.refused});
    let peer = |row: &Row| {
        let (groups, total) = row.counts();
        let missed = row.verdicts.iter().filter_map(|(_, name, verdict)| match verdict {
            Verdict::Passed => None,
            Verdict::Failed(why) => Some(json!({"test": name, "why": why})),
            Verdict::Refused(status) => Some(json!({"test": name, "refused": status})),
        });
        let groups: BTreeMap<&str, Value> = groups.into_iter().map(|(name, c)| (name, counts(c))).collect();
        json!({"peer": row.peer, "percent": total.percent(), "total": counts(total), "files": groups,
            "missed": missed.collect::<Vec<_>>()})
    };
    rows.iter().map(peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_count_by_file_and_list_what_did_not_pass() {
        let verdict = |name: &str, verdict| ("REQUEST-1".to_owned(), name.to_owned(), verdict);
        let row = Row {
            peer: "sluice",
            verdicts: vec![
                verdict("1-1", Verdict::Passed),
                verdict("1-2", Verdict::Refused(Some(400))),
                verdict("1-3", Verdict::Failed("why".to_owned())),
                verdict("1-4", Verdict::Passed),
            ],
        };
        let shown = text(std::slice::from_ref(&row));
        assert!(shown.contains("| REQUEST-1 | 2 | 1 | 1 |\n| total | 2 | 1 | 1 |\n\nsluice: 50.00 % passed\n"));
        assert!(shown.contains("1-2: refused with 400 before the rules\n1-3: why\n"));
        assert!(print(&[row], Output::Json, Some(51.0)).is_err());
    }
}
