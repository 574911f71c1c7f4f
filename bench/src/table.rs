//! Medians as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::accounting;
use crate::engine::Sample;
use crate::runs::{IDLE, Report, Samples};

/// The middle value; 0 for none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle), values.get(middle.wrapping_sub(1))) {
        (1, Some(value), _) => *value,
        (0, Some(high), Some(low)) => (high + low) / 2.0,
        _ => 0.0,
    }
}

fn middle(samples: &[Sample], field: impl Fn(&Sample) -> f64) -> f64 {
    median(samples.iter().map(field).collect())
}

/// CPU per request against nginx's in the same run.
fn ratio(samples: &Samples, base: Option<&Samples>) -> Option<f64> {
    let base = middle(&base?.saturated, |s| s.cpu);
    (base > 0.0).then(|| middle(&samples.saturated, |s| s.cpu) / base)
}

pub fn text(report: &Report) -> String {
    let mut out =
        format!("{}, proxy on core 0, medians; latency at {:.0} requests/s\n\n", accounting::processor(), report.rate);
    if !report.rows.is_empty() {
        let _ = writeln!(
            out,
            "{:<13} {:<10} {:>2} {:>8} {:>7} {:>6} {:>6} {:>7} {:>8} {:>7} {:>7} {:>4}",
            "workload", "proxy", "n", "req/s", "cpu us", "user", "sys", "/nginx", "/haproxy", "p50 us", "p99 us", "bad"
        );
    }
    for (workload, row) in &report.rows {
        for (peer, samples) in row {
            let (full, paced) = (&samples.saturated, &samples.paced);
            let bad: u64 = full.iter().chain(paced).map(|s| s.bad).sum();
            let _ = writeln!(
                out,
                "{:<13} {:<10} {:>2} {:>8.0} {:>7.2} {:>6.2} {:>6.2} {:>7} {:>8} {:>7.0} {:>7.0} {:>4}",
                workload.name,
                peer,
                full.len(),
                middle(full, |s| s.rps),
                middle(full, |s| s.cpu),
                middle(full, |s| s.user),
                middle(full, |s| s.system),
                ratio(samples, row.get("nginx")).map_or("-".to_owned(), |r| format!("{r:.2}")),
                ratio(samples, row.get("haproxy")).map_or("-".to_owned(), |r| format!("{r:.2}")),
                middle(paced, |s| s.p50),
                middle(paced, |s| s.p99),
                bad
            );
        }
    }
    for (workload, row) in report.rows.iter().filter(|(workload, _)| workload.is_handshake()) {
        let _ = write!(out, "\n{}: handshakes per second of CPU:", workload.name);
        for (peer, samples) in row {
            let _ = write!(out, " {peer} {:.0}", 1e6 / middle(&samples.saturated, |s| s.cpu));
        }
        out.push('\n');
    }
    if !report.idle.is_empty() {
        let _ = writeln!(out, "\nresident KiB per idle connection ({IDLE} connections): plain, TLS");
        for (peer, (plain, tls)) in &report.idle {
            let _ = writeln!(out, "{peer:<10} {plain:>6.1} {tls:>6.1}");
        }
    }
    for (peer, change) in &report.change {
        let _ = writeln!(
            out,
            "\none changed route among 100,000, {peer}: in force after {:.0} ms, {:.0} ms of CPU (median of {})",
            change.in_force, change.cpu, change.rounds
        );
    }
    if let Some(control) = &report.control {
        let _ = writeln!(
            out,
            "\n100,000 routes by the Admin API: one transaction {:.0} ms, start {:.0} ms, {:.2} KiB a route\n\
             a change in force after {:.1} ms (p50), {:.1} ms (p99 of 100); requests' p99 {:.0} us before, {:.0} us meanwhile",
            control.load_ms,
            control.start_ms,
            control.kib_per_route,
            control.in_force_p50_ms,
            control.in_force_p99_ms,
            control.quiet_p99_us,
            control.changing_p99_us,
        );
    }
    out
}

pub fn json(report: &Report) -> Value {
    let rows: Vec<Value> = report
        .rows
        .iter()
        .flat_map(|(workload, row)| {
            row.iter().map(|(peer, samples)| {
                let (full, paced) = (&samples.saturated, &samples.paced);
                json!({
                    "workload": workload.name, "what": workload.what, "proxy": peer, "runs": full.len(),
                    "requests_per_second": middle(full, |s| s.rps), "cpu_us": middle(full, |s| s.cpu),
                    "user_us": middle(full, |s| s.user), "system_us": middle(full, |s| s.system),
                    "utilisation": middle(full, |s| s.utilisation), "ratio_to_nginx": ratio(samples, row.get("nginx")),
                    "ratio_to_haproxy": ratio(samples, row.get("haproxy")),
                    "rate": report.rate, "p50_us": middle(paced, |s| s.p50), "p99_us": middle(paced, |s| s.p99),
                    "bad": full.iter().chain(paced).map(|s| s.bad).sum::<u64>(),
                })
            })
        })
        .collect();
    let idle: Vec<Value> = report
        .idle
        .iter()
        .map(|(peer, (plain, tls))| json!({"proxy": peer, "connections": IDLE, "plain_kib": plain, "tls_kib": tls}))
        .collect();
    let change: Vec<Value> = report
        .change
        .iter()
        .map(|(peer, c)| json!({"proxy": peer, "routes": 100_000, "in_force_ms": c.in_force, "cpu_ms": c.cpu, "runs": c.rounds}))
        .collect();
    let control = report.control.as_ref().map(|c| {
        json!({"routes": 100_000, "load_ms": c.load_ms, "start_ms": c.start_ms, "kib_per_route": c.kib_per_route,
            "in_force_p50_ms": c.in_force_p50_ms, "in_force_p99_ms": c.in_force_p99_ms,
            "quiet_p99_us": c.quiet_p99_us, "changing_p99_us": c.changing_p99_us})
    });
    json!({"processor": accounting::processor(), "workloads": rows, "idle": idle, "changed_route": change, "control": control})
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(super::median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(super::median(Vec::new()), 0.0);
    }
}
