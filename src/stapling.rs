//! OCSP answers for stapling: one task per certificate asks its responder, on a control thread and never in a handshake. The
//! surprise: an answer outlives its time to live while the responder is away, but never its own `nextUpdate`, for browsers
//! take an outdated answer for worse than none.
use serde_json::{Value, json};
use sluice_net::tls::{CertStatus, OcspAnswer, OcspError, OcspSubject, ServerTls, StapleKey};
use sluice_plugin::{HttpClient, HttpRequest};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

#[cfg(test)]
mod tests;

/// Responders asked at a time.
const AT_A_TIME: usize = 8;
/// How long a responder may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// Pauses before a responder that failed is asked again: the first, four times as long each time, at most the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How long an answer without `nextUpdate` is kept while the responder is away.
const KEPT: i64 = 7 * 86_400;
/// The least time between two questions that both were answered.
const LEAST: i64 = 5;

/// Asks for answers and has them stapled.
pub struct Stapler {
    tls: Arc<ServerTls>,
    client: HttpClient,
    control: Handle,
    seats: Arc<Semaphore>,
    jobs: Mutex<HashMap<StapleKey, (Arc<Job>, AbortHandle)>>,
}

/// One certificate's answers.
struct Job {
    key: StapleKey,
    tls: Arc<ServerTls>,
    client: HttpClient,
    seats: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Nobody wants the answer any more.
    over: bool,
    /// What is stapled: when it was fetched, when it is to go, and what it says as far as it was read.
    stapled: Option<(i64, i64, Option<OcspAnswer>)>,
    error: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

impl Stapler {
    pub fn new(tls: Arc<ServerTls>, client: HttpClient, control: Handle) -> Stapler {
        let seats = Arc::new(Semaphore::new(AT_A_TIME));
        Stapler { tls, client, control, seats, jobs: Mutex::default() }
    }

    /// Keeps answers for these and no others.
    pub fn follow(&self, wanted: impl Iterator<Item = StapleKey>) {
        let wanted: HashSet<StapleKey> = wanted.collect();
        let mut jobs = lock(&self.jobs);
        jobs.retain(|key, (job, task)| {
            let stays = wanted.contains(key);
            if !stays {
                job.end();
                task.abort();
            }
            stays
        });
        for key in wanted {
            if jobs.contains_key(&key) {
                continue;
            }
            let job = Arc::new(Job {
                key: key.clone(),
                tls: self.tls.clone(),
                client: self.client.clone(),
                seats: self.seats.clone(),
                state: Mutex::default(),
            });
            let task = self.control.spawn(job.clone().run()).abort_handle();
            jobs.insert(key, (job, task));
        }
    }

    /// How many answers are stapled, and how many are wanted.
    pub fn counts(&self) -> (usize, usize) {
        let jobs = lock(&self.jobs);
        (jobs.values().filter(|(job, _)| lock(&job.state).stapled.is_some()).count(), jobs.len())
    }

    /// The state of one certificate's answer.
    pub fn report(&self, key: &StapleKey) -> Value {
        let Some((job, _)) = lock(&self.jobs).get(key).cloned() else { return Value::Null };
        let state = lock(&job.state);
        let answer = state.stapled.and_then(|(.., answer)| answer);
        json!({
            "stapled": state.stapled.is_some(),
            "fetched": state.stapled.map(|(at, ..)| at),
            "status": answer.map(|a| a.status.name()),
            "next_update": answer.and_then(|a| a.next_update),
            "error": state.error,
        })
    }
}

/// Why an answer is not stapled.
enum Refused {
    /// The responder has said that the certificate is not good: what was stapled is not true any more.
    Status(CertStatus),
    /// Nothing usable was heard; what is stapled may stay.
    Unheard(String),
}

impl Job {
    /// Takes away what is stapled; should the task be at it just now, it finds out and ends.
    fn end(&self) {
        let mut state = lock(&self.state);
        state.over = true;
        state.stapled = None;
        self.tls.staple(&self.key, None);
    }

    async fn run(self: Arc<Self>) {
        let subject = match OcspSubject::from_pem(&self.key.chain) {
            Ok(subject) => subject,
            Err(error) => {
                tracing::error!("no ocsp response send: {}", cause(&error));
                lock(&self.state).error = Some(cause(&error));
                return;
            }
        };
        let mut pause = PAUSES.0;
        loop {
            let asked = self.ask(&subject).await;
            let Some(wait) = self.settle(asked, &mut pause, now()) else { return };
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks the responder: the answer, and what it says as far as it can be read.
    async fn ask(&self, subject: &OcspSubject) -> Result<(Vec<u8>, Option<OcspAnswer>), Refused> {
        let Ok(_seat) = self.seats.acquire().await else { return Err(Refused::Unheard("it ends".into())) };
        let unheard = |text: String| Refused::Unheard(text);
        let question = subject.request().map_err(|error| unheard(format!("failed to create ocsp request: {error}")))?;
        let request = HttpRequest::new("POST", subject.responder())
            .header("Content-Type", "application/ocsp-request")
            .body(question)
            .timeout(TIMEOUT)
            .max_response(MAX_ANSWER);
        let answer = self.client.send(request).await;
        let answer = answer.map_err(|error| unheard(format!("ocsp responder query failed: {error}")))?;
        if answer.status != 200 {
            return Err(unheard(format!("ocsp responder returns bad http status code: {}", answer.status)));
        }
        if answer.body.is_empty() {
            return Err(unheard("ocsp responder returns empty body".into()));
        }
        match subject.read(&answer.body, now()) {
            read if self.key.stapling.skip_verify => Ok((answer.body, read.ok())),
            Ok(read) if read.status == CertStatus::Good => Ok((answer.body, Some(read))),
            Ok(read) => Err(Refused::Status(read.status)),
            Err(error) => Err(unheard(format!("failed to validate ocsp response: {error}"))),
        }
    }

    /// Staples what was heard, or keeps what there is as long as it may be kept; how long to wait before asking again. `None`:
    /// nobody wants it any more.
    fn settle(
        &self,
        asked: Result<(Vec<u8>, Option<OcspAnswer>), Refused>,
        pause: &mut Duration,
        now: i64,
    ) -> Option<Duration> {
        let mut state = lock(&self.state);
        if state.over {
            return None;
        }
        let ttl = self.key.stapling.cache_ttl;
        match asked {
            Ok((bytes, read)) => {
                let (again, until) = plan(read.and_then(|read| read.next_update), ttl, now);
                self.tls.staple(&self.key, Some(&bytes));
                *state = State { over: false, stapled: Some((now, until, read)), error: None };
                *pause = PAUSES.0;
                Some(again)
            }
            Err(Refused::Status(status)) => {
                let text = format!(
                    "failed to validate ocsp response: certificate status \"{}\" in the OCSP response",
                    status.name()
                );
                tracing::error!("no ocsp response send: {text}");
                self.tls.staple(&self.key, None);
                *state = State { over: false, stapled: None, error: Some(text) };
                *pause = PAUSES.0;
                Some(ttl)
            }
            Err(Refused::Unheard(text)) => {
                let wait = *pause;
                *pause = (wait * 4).min(PAUSES.1);
                match state.stapled {
                    Some((_, until, _)) if until > now => {
                        tracing::warn!("the ocsp response that is stapled stays: {text}");
                        state.error = Some(text);
                        // It goes in time, whatever the pause.
                        Some(wait.min(Duration::from_secs(until.abs_diff(now))))
                    }
                    _ => {
                        tracing::error!("no ocsp response send: {text}");
                        self.tls.staple(&self.key, None);
                        *state = State { over: false, stapled: None, error: Some(text) };
                        Some(wait)
                    }
                }
            }
        }
    }
}

fn cause(error: &OcspError) -> String {
    format!("failed to get ocsp url: {error}")
}

/// When to ask again, and how long the answer may stay while nobody answers: asked again after the time to live, but no later
/// than half-way to `nextUpdate`.
fn plan(next_update: Option<i64>, ttl: Duration, now: i64) -> (Duration, i64) {
    let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    let (again, until) = match next_update {
        Some(next) => (ttl.min((next - now) / 2), next),
        None => (ttl, now.saturating_add(KEPT)),
    };
    (Duration::from_secs(again.max(LEAST).unsigned_abs()), until)
}
