//! The task that probes an upstream's nodes, each at its own beat.
//!
//! The surprise: nodes are not probed in rounds as in lua-resty-healthcheck. Every node keeps a beat of its own that begins
//! at a moment by chance within the first second (or interval, if that is shorter), so that many upstreams that start
//! together do not knock together, now or later. The beat outlives changes of the configuration.
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::checker::{Member, Shared};
use super::checks::Active;
use super::machine::Report;
use super::probe::{self, Verdict};
use super::target::Target;

/// A probe that begins later than this after its beat begins a new one.
const LATE: Duration = Duration::from_millis(100);
/// The first probes are spread over this time.
const SPREAD: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Readmit,
    Probe,
}

/// When what is due for which member.
type Agenda = BinaryHeap<Reverse<(Instant, Event, usize)>>;

/// Probes for ever; dropped with its checker, which closes all its sockets.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let members = shared.members.load_full();
        let mut agenda = Agenda::new();
        for (index, member) in members.iter().enumerate() {
            plan(&shared, member, index, &mut agenda);
        }
        watch(&shared, &members, agenda).await;
    }
}

/// Works off the agenda until the members or a state changed from outside.
async fn watch(shared: &Arc<Shared>, members: &Arc<Vec<Member>>, mut agenda: Agenda) {
    let concurrency = shared.settings.checks.active.as_ref().map_or(1, |active| active.concurrency);
    let mut waiting = VecDeque::new();
    let mut probes = JoinSet::new();
    loop {
        let now = Instant::now();
        while let Some(Reverse((at, event, index))) = agenda.peek().copied()
            && at <= now
        {
            agenda.pop();
            match event {
                Event::Probe => waiting.push_back((index, at)),
                Event::Readmit => {
                    if let Some(member) = members.get(index) {
                        member.target.schedule().readmit = None;
                        member.target.readmit();
                    }
                }
            }
        }
        while probes.len() < concurrency
            && let Some((index, planned)) = waiting.pop_front()
        {
            let Some(member) = members.get(index).cloned() else { continue };
            let shared = shared.clone();
            probes.spawn(async move {
                check(&shared, &member, planned).await;
                index
            });
        }
        let next = agenda.peek().map(|Reverse((at, ..))| *at);
        tokio::select! {
            () = shared.wake.notified() => return,
            done = probes.join_next(), if !probes.is_empty() => {
                if let Some(Ok(index)) = done && let Some(member) = members.get(index) {
                    plan_probe(shared, &member.target, index, &mut agenda);
                }
            }
            () = sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
    }
}

fn plan(shared: &Shared, member: &Member, index: usize, agenda: &mut Agenda) {
    plan_probe(shared, &member.target, index, agenda);
    if member.target.is_ejected() {
        let time = shared.settings.checks.passive.ejection.and_then(|e| e.time).unwrap_or_default();
        let readmit = *member.target.schedule().readmit.get_or_insert_with(|| Instant::now() + time);
        agenda.push(Reverse((readmit, Event::Readmit, index)));
    }
}

fn plan_probe(shared: &Shared, target: &Target, index: usize, agenda: &mut Agenda) {
    let Some(active) = &shared.settings.checks.active else { return };
    if let Some(at) = due(active, target) {
        agenda.push(Reverse((at, Event::Probe, index)));
    }
}

/// When the node is to be probed next; `None`: its state is not probed.
fn due(active: &Active, target: &Target) -> Option<Instant> {
    let up = target.machine().status.is_up();
    let interval = if up { active.healthy_interval } else { active.unhealthy_interval }?;
    let mut schedule = target.schedule();
    Some(match schedule.last {
        Some(last) => last + interval,
        None => *schedule.first.get_or_insert_with(|| Instant::now() + chance(interval.min(SPREAD))),
    })
}

/// A moment by chance within `span`.
fn chance(span: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    // the standard library's seeds are random; nothing here needs more
    let share = RandomState::new().hash_one(0u8) >> 32;
    span.mul_f64(share as f64 / f64::from(u32::MAX))
}

async fn check(shared: &Shared, member: &Member, planned: Instant) {
    let Some(active) = &shared.settings.checks.active else { return };
    // never closed; the place is held until the probe's socket is
    let Ok(_place) = shared.probes.acquire().await else { return };
    let target = &member.target;
    let begun = Instant::now();
    let verdict =
        probe::probe(active, target, &member.host_header, shared.settings.tls.as_ref(), shared.settings.h2c).await;
    // the beat goes on where the probe was in time; otherwise it begins anew
    let late = begun.saturating_duration_since(planned) > LATE;
    target.schedule().last = Some(if late { begun } else { planned });
    if let Some(report) = classify(active, verdict) {
        target.report(report, &active.limits, &shared.settings.key);
    }
}

/// What a probe's outcome counts as; `None`: a status that is in neither list.
fn classify(active: &Active, verdict: Verdict) -> Option<Report> {
    match verdict {
        Verdict::Good => Some(Report::Success),
        Verdict::Bad => Some(Report::HttpFailure),
        Verdict::Status(status) => active.statuses.class(status),
        Verdict::Broken => Some(Report::TcpFailure),
        Verdict::Timeout => Some(Report::Timeout),
    }
}

#[cfg(test)]
mod tests;
