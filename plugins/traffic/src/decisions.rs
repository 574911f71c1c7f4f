//! What the `limit-*` plugins decided, as `sluice_limit_decisions_total`. The surprise: a series is made by its first decision,
//! not by the configuration, so that 100,000 limited routes cost nothing until they are used.
use sluice_plugin::Env;
use sluice_telemetry::{Counter, CounterHandle, FamilyOptions};
use std::sync::{Arc, OnceLock};

/// What became of a request at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Decision {
    Allowed,
    /// Let pass after a wait.
    Delayed,
    Rejected,
    /// The limit could not be determined and the request passed (`allow_degradation`).
    Degraded,
    /// The limit could not be determined: 500.
    Failed,
}

const NAMES: [&str; 5] = ["allowed", "delayed", "rejected", "degraded", "failed"];

/// The counts of one configuration.
pub struct Decisions {
    family: Option<Counter>,
    plugin: &'static str,
    resource: Arc<str>,
    handles: [OnceLock<CounterHandle>; NAMES.len()],
}

impl Decisions {
    pub fn of(plugin: &'static str, env: &Env) -> Decisions {
        let help = "Decisions of limit-* plugins, by the object that they are configured on";
        let labels = &["plugin", "resource", "decision"];
        let family = env.metrics.counter("sluice_limit_decisions_total", help, labels, FamilyOptions::default());
        Decisions { family: family.ok(), plugin, resource: env.resource_key.clone(), handles: Default::default() }
    }

    #[inline]
    pub fn count(&self, decision: Decision) {
        let (Some(family), Some(place)) = (&self.family, self.handles.get(decision as usize)) else { return };
        let name = NAMES.get(decision as usize).copied().unwrap_or_default();
        place.get_or_init(|| family.with(&[self.plugin, &self.resource, name])).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_makes_its_series() {
        let env = Env::for_tests().for_resource("routes/1", 1);
        let decisions = Decisions::of("limit-count", &env);
        let shown = || {
            let mut out = Vec::new();
            env.metrics.render(std::time::Instant::now(), &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(shown(), "");
        decisions.count(Decision::Rejected);
        decisions.count(Decision::Rejected);
        let series = r#"sluice_limit_decisions_total{plugin="limit-count",resource="routes/1",decision="rejected"} 2"#;
        assert!(shown().ends_with(&format!("{series}\n")), "{}", shown());
    }
}
