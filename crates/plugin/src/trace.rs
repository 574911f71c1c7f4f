//! Which plugin hooks ran for a request, kept where debug mode or `debug-logger` asks for it (apisix/plugin.lua
//! `trace_plugin_exec_for_debug`). The surprise: hooks that run after the response's head are named in it before they
//! run, by what the plugins of the route declare.
use crate::chain::Chain;
use crate::info::Phase;
use crate::record::Record;
use crate::timings::Timings;

/// Names of hooks in the order of their first run.
#[derive(Debug, Default)]
pub struct Trace {
    ran: Vec<(&'static str, Phase)>,
    /// How many of them the response's head named.
    reported: usize,
    /// Debug mode asked for it.
    named: bool,
    /// When its parts began and ended, where `apisix.tracing` is on.
    pub timings: Option<Box<Timings>>,
    /// The hook that runs is the part that began last.
    pub(crate) timed: bool,
    /// More of the request, where it is explained.
    pub record: Option<Box<Record>>,
}

impl Trace {
    /// The response's head is to name the hooks.
    pub fn name(&mut self) {
        self.named = true;
    }
    /// Whether the response's head names the hooks.
    pub fn is_named(&self) -> bool {
        self.named
    }
    /// A hook runs. One that runs again, as `body_filter` does for each piece, is named once.
    #[cold]
    pub fn ran(&mut self, plugin: &'static str, phase: Phase) {
        if !self.ran.contains(&(plugin, phase)) {
            self.ran.push((plugin, phase));
        }
    }

    /// The value of the response's `Apisix-Plugins`: what ran, and what of this chain is going to.
    pub fn report(&mut self, chain: &Chain) -> String {
        for phase in [Phase::BodyFilter, Phase::Log] {
            for entry in chain.entries().iter().filter(|entry| entry.info.phases.has(phase)) {
                self.ran(entry.info.name, phase);
            }
        }
        self.reported = self.ran.len();
        if self.ran.is_empty() {
            return "no plugin".into();
        }
        self.ran.iter().map(|hook| named(*hook)).collect::<Vec<_>>().join(", ")
    }

    /// What ran and is not in [`Trace::report`].
    pub fn unreported(&self) -> impl Iterator<Item = String> + '_ {
        self.ran.iter().skip(self.reported).map(|hook| named(*hook))
    }
}

fn named((plugin, phase): (&str, Phase)) -> String {
    format!("{plugin}#{}", phase.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_named_once_and_late_ones_apart() {
        let mut trace = Trace::default();
        assert_eq!(Trace::default().report(&Chain::default()), "no plugin");
        trace.ran("key-auth", Phase::Rewrite);
        trace.ran("cors", Phase::HeaderFilter);
        trace.ran("key-auth", Phase::Rewrite);
        assert_eq!(trace.report(&Chain::default()), "key-auth#rewrite, cors#header_filter");
        trace.ran("cors", Phase::HeaderFilter);
        trace.ran("late", Phase::Log);
        assert_eq!(trace.unreported().collect::<Vec<_>>(), ["late#log"]);
    }
}
