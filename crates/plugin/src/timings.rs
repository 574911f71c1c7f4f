//! When the parts of a request began and ended, for the spans of `apisix.tracing` (apisix/tracer.lua). The surprise: they are
//! a stack, so what begins belongs to what is open; only `opentelemetry` reads them.
use crate::context::Context;
use crate::info::Phase;
use std::borrow::Cow;
use std::time::Instant;

/// Parts of one request that are kept.
const MAX: usize = 128;

/// One part.
#[derive(Clone, Debug)]
pub struct Timed {
    pub name: Cow<'static, str>,
    /// A phase of the gateway, rather than something within one.
    pub is_phase: bool,
    /// Place of the part that it belongs to.
    pub within: Option<usize>,
    pub begun: Instant,
    pub ended: Option<Instant>,
    pub error: Option<String>,
}

/// All parts of one request, in the order of their begin.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    parts: Vec<Timed>,
    open: Vec<usize>,
}

impl Timings {
    pub fn parts(&self) -> &[Timed] {
        &self.parts
    }

    /// Something begins.
    pub fn begin(&mut self, name: impl Into<Cow<'static, str>>, is_phase: bool) {
        if self.parts.len() == MAX {
            return;
        }
        let (name, within) = (name.into(), self.open.last().copied());
        self.open.push(self.parts.len());
        self.parts.push(Timed { name, is_phase, within, begun: Instant::now(), ended: None, error: None });
    }

    /// What began last is over.
    pub fn end(&mut self) {
        if let Some(part) = self.open.pop().and_then(|at| self.parts.get_mut(at)) {
            part.ended = Some(Instant::now());
        }
    }

    /// What began last failed.
    pub fn fail(&mut self, error: String) {
        if let Some(part) = self.open.last().and_then(|at| self.parts.get_mut(*at)) {
            part.error = Some(error);
        }
    }

    /// Everything is over.
    pub fn end_all(&mut self) {
        while !self.open.is_empty() {
            self.end();
        }
    }
}

impl Context {
    /// The parts of the request, where they are kept.
    #[inline]
    pub fn timings(&mut self) -> Option<&mut Timings> {
        self.trace.as_mut()?.timings.as_deref_mut()
    }
}

/// Whether hooks of a phase are parts of their own (apisix/plugin.lua `run_plugin`).
pub(crate) fn has_hooks(phase: Phase) -> bool {
    matches!(phase, Phase::HeaderFilter | Phase::BodyFilter | Phase::Log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_belong_to_what_is_open() {
        let mut timings = Timings::default();
        timings.begin("access", true);
        timings.begin("match", false);
        timings.fail("no".into());
        timings.end();
        timings.end_all();
        timings.begin("log", false);
        let seen: Vec<_> = timings.parts().iter().map(|p| (&*p.name, p.within, p.ended.is_some())).collect();
        assert_eq!(seen, [("access", None, true), ("match", Some(0), true), ("log", None, false)]);
        assert_eq!(timings.parts()[1].error.as_deref(), Some("no"));
        (0..200).for_each(|_| timings.begin("many", false));
        assert_eq!(timings.parts().len(), 128);
    }
}
