//! The rows as a table for people, as JSON for programs and as Markdown for the documentation; and whether a row keeps what
//! is promised. Only figures of Sluice can miss; the peers' are there to compare.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::figures::{Figures, Recovery, Times, WINDOW};
use super::load::Outcome;
use super::setup::{BREAKER_FAILURES, BUDGET_PERCENT, COOL_DOWN};
use super::stories::{Goal, Story};
use super::{Scale, replace_measured, shown};
use crate::accounting;

/// Connections and probes that are under way when counting begins may add so many attempts.
const SLACK: u64 = 20;

pub struct Row {
    pub story: &'static Story,
    pub peer: &'static str,
    /// What it must keep; `None` for peers.
    pub goal: Option<Goal>,
    pub rate: f64,
    pub times: Times,
    /// At the backends, where they lived through the story.
    pub attempts: Option<u64>,
    /// A request ended in an error before the fault.
    pub early: bool,
    pub figures: Figures,
    /// Whether times are held to their goals.
    pub timed: bool,
}

impl Row {
    /// What was not kept.
    pub fn missed(&self) -> Option<String> {
        let figures = &self.figures;
        let harmless = figures.failed() == 0 && figures.resent == 0;
        let kept = match self.goal? {
            Goal::NoErrors => harmless,
            Goal::Latency(factor) => harmless && (!self.timed || figures.fault.p99 <= figures.calm.p99.mul_f64(factor)),
            Goal::Attempts => {
                let most = figures.requests * u64::from(100 + BUDGET_PERCENT) / 100 + SLACK;
                self.attempts.is_some_and(|attempts| attempts <= most)
            }
            Goal::Breaker => {
                let tries = (self.times.healed - self.times.fault).as_secs() / COOL_DOWN.as_secs() + 1;
                let passed = figures.errors.get(&Outcome::Status(500)).copied().unwrap_or(0);
                let rejected = figures.errors.get(&Outcome::Status(503)).copied().unwrap_or(0);
                let in_time = match figures.recovery {
                    Recovery::Unharmed => true,
                    Recovery::After(time) => time <= COOL_DOWN + WINDOW,
                    Recovery::Never => false,
                };
                !self.early
                    && passed <= u64::from(BREAKER_FAILURES) + tries + SLACK
                    && passed + rejected == figures.failed()
                    && (!self.timed || in_time)
            }
            Goal::CalmBefore => !self.early,
        };
        (!kept).then(|| format!("{} {}: {}", self.story.name, self.peer, self.cells().join(", ")))
    }

    fn errors(&self) -> String {
        if self.figures.errors.is_empty() {
            return "0".to_owned();
        }
        let kinds: Vec<String> = self.figures.errors.iter().map(|(kind, n)| format!("{n} × {}", kind.name())).collect();
        let share = self.figures.failed() as f64 * 100.0 / self.figures.requests.max(1) as f64;
        format!("{} ({share:.1} %): {}", self.figures.failed(), kinds.join(", "))
    }

    fn cells(&self) -> [String; 9] {
        let f = &self.figures;
        let calm = if self.story.whole { "-".to_owned() } else { millis(f.calm.p99) };
        let recovery = if self.story.whole { "-".to_owned() } else { shown(f.recovery) };
        let attempts = self.attempts.map_or("-".to_owned(), |n| format!("{:.2}", n as f64 / f.requests.max(1) as f64));
        let resent = f.resent.to_string();
        [
            f.requests.to_string(),
            self.errors(),
            resent,
            calm,
            millis(f.fault.p50),
            millis(f.fault.p99),
            millis(f.fault.max),
            recovery,
            attempts,
        ]
    }
}

fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis < 100.0 { format!("{millis:.1}") } else { format!("{millis:.0}") }
}

const COLUMNS: [&str; 11] = [
    "story",
    "proxy",
    "requests",
    "errors",
    "sent again",
    "calm p99",
    "p50",
    "p99",
    "max",
    "recovery",
    "attempts/request",
];

pub fn text(rows: &[Row]) -> String {
    let mut lines: Vec<Vec<String>> = vec![COLUMNS.map(str::to_owned).to_vec()];
    for row in rows {
        let names = [row.story.name.to_owned(), row.peer.to_owned()];
        lines.push(names.into_iter().chain(row.cells()).collect());
    }
    let width =
        |column: usize| lines.iter().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(out, "{cell:<width$}  ");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

pub fn json(rows: &[Row], scale: &Scale) -> Value {
    let ms = |time: Duration| json!((time.as_secs_f64() * 1e6).round() / 1e3);
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let f = &row.figures;
            let errors: Map<String, Value> = f.errors.iter().map(|(kind, n)| (kind.name(), json!(n))).collect();
            let windows: Vec<Value> = f.windows.iter().map(|w| json!([w.requests, w.failed, w.slow])).collect();
            json!({
                "story": row.story.name, "proxy": row.peer, "rate": row.rate, "requests": f.requests,
                "errors": errors, "failed": f.failed(), "sent_again": f.resent,
                "calm_ms": {"p50": ms(f.calm.p50), "p99": ms(f.calm.p99), "max": ms(f.calm.max)},
                "fault_ms": {"p50": ms(f.fault.p50), "p99": ms(f.fault.p99), "max": ms(f.fault.max)},
                "recovery": shown(f.recovery), "attempts": row.attempts, "missed": row.missed().is_some(),
                // Each a quarter of a second: requests, failed, slow.
                "windows": windows,
            })
        })
        .collect();
    json!({
        "processor": accounting::processor(), "rate": scale.rate, "seconds": scale.times.end.as_secs_f64(),
        "fault_at_s": scale.times.fault.as_secs_f64(), "healed_at_s": scale.times.healed.as_secs_f64(), "rows": rows,
    })
}

/// Replaces the measured part of a Markdown file.
pub fn write(file: &Path, rows: &[Row], scale: &Scale) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let text = replace_measured(&text, &markdown(rows, scale))?;
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

fn markdown(rows: &[Row], scale: &Scale) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let times = &scale.times;
    let mut out = format!(
        "Machine: {}, {cores} cores, shared by proxy, backends and generator. {} requests/s unless said otherwise; {:.0} s a story: the fault \
         begins at {:.0} s and ends at {:.0} s.\n",
        accounting::processor(),
        scale.rate,
        times.end.as_secs_f64(),
        times.fault.as_secs_f64(),
        times.healed.as_secs_f64()
    );
    let mut last = "";
    for row in rows {
        if row.story.name != last {
            last = row.story.name;
            let rate = row.story.rate.map_or(String::new(), |rate| format!(", {rate} requests/s"));
            let _ = write!(
                out,
                "\n### {}\n{}{rate}.\n\n| proxy | requests | errors | sent again | calm p99 ms | p50 ms | p99 ms | max ms | recovery | attempts per request |\n\
                 |---|---|---|---|---|---|---|---|---|---|\n",
                row.story.name,
                capital(row.story.what)
            );
        }
        let _ = writeln!(out, "| {} | {} |", row.peer, row.cells().join(" | "));
    }
    out.push('\n');
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::chaos::figures::Latency;
    use crate::chaos::stories::STORIES;

    /// A row of 1000 requests, twelve seconds of fault.
    fn row(story: &str, errors: &[(Outcome, u64)]) -> Row {
        let story = STORIES.iter().find(|s| s.name == story).unwrap();
        let latency =
            |p99| Latency { p50: Duration::from_millis(5), p99: Duration::from_millis(p99), max: Duration::ZERO };
        let (fault, healed, end) = (Duration::from_secs(4), Duration::from_secs(16), Duration::from_secs(20));
        let figures = Figures {
            requests: 1000,
            errors: errors.iter().copied().collect::<BTreeMap<_, _>>(),
            resent: 0,
            calm: latency(8),
            fault: latency(15),
            recovery: Recovery::After(Duration::from_secs(2)),
            windows: Vec::new(),
        };
        let times = Times { fault, healed, end };
        Row {
            story,
            peer: "sluice",
            goal: Some(story.goal),
            rate: 50.0,
            times,
            attempts: None,
            early: false,
            figures,
            timed: true,
        }
    }

    fn missed(row: Row) -> bool {
        row.missed().is_some()
    }

    #[test]
    fn errors_miss_where_none_are_allowed_and_only_for_us() {
        assert!(!missed(row("kill", &[])));
        assert!(missed(row("kill", &[(Outcome::Status(502), 1)])));
        assert!(missed(Row { figures: Figures { resent: 1, ..row("kill", &[]).figures }, ..row("kill", &[]) }));
        assert!(!missed(Row { goal: None, ..row("kill", &[(Outcome::Status(502), 1)]) }));
        assert!(!missed(row("all-down", &[(Outcome::Status(502), 600)])));
        assert!(missed(Row { early: true, ..row("all-down", &[(Outcome::Status(502), 600)]) }));
    }

    #[test]
    fn times_miss_only_where_they_are_held_to() {
        let slow = |timed| {
            let mut row = row("slow", &[]);
            (row.figures.fault.p99, row.timed) = (Duration::from_millis(17), timed);
            row
        };
        assert!(!missed(row("slow", &[])));
        assert!(missed(slow(true)));
        assert!(!missed(slow(false)));
    }

    #[test]
    fn a_storm_may_add_its_budget() {
        for (attempts, wrong) in [(1200, false), (1220, false), (1221, true)] {
            let storm = Row { attempts: Some(attempts), ..row("storm", &[(Outcome::Status(502), 1000)]) };
            assert_eq!(missed(storm), wrong, "{attempts}");
        }
    }

    #[test]
    fn a_breaker_lets_few_through_and_closes_in_time() {
        let of = |passed, rejected: Outcome| row("breaker", &[(Outcome::Status(500), passed), (rejected, 500)]);
        let rejected = Outcome::Status(503);
        assert!(!missed(of(17, rejected)));
        assert!(missed(of(60, rejected)));
        assert!(missed(of(17, Outcome::Status(502))));
        let late = Figures { recovery: Recovery::After(Duration::from_secs(3)), ..of(17, rejected).figures };
        assert!(missed(Row { figures: late, ..of(17, rejected) }));
    }

    #[test]
    fn the_table_names_every_error() {
        let text = text(&[row("kill", &[(Outcome::Status(502), 2), (Outcome::Broken, 1)])]);
        assert!(text.contains("3 (0.3 %): 2 × 502, 1 × broken off"), "{text}");
    }
}
