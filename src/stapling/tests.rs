//! When to ask again, what stays and what goes; a real responder is asked in `tests/e2e/stapling.rs`.
use super::*;
use sluice_net::tls::{ServerTlsSettings, Stapling};

fn job() -> Job {
    let env = sluice_plugin::Env::new(sluice_plugin::Clock::fake(0), sluice_telemetry::Registry::new());
    Job {
        key: StapleKey {
            chain: String::new(),
            stapling: Stapling { skip_verify: false, cache_ttl: Duration::from_secs(3600) },
        },
        tls: Arc::new(ServerTls::new(ServerTlsSettings::default()).unwrap()),
        client: env.http_client(&sluice_plugin::HttpOptions::default()),
        seats: Arc::new(Semaphore::new(1)),
        state: Mutex::default(),
    }
}

fn good(next_update: Option<i64>) -> Result<(Vec<u8>, Option<OcspAnswer>), Refused> {
    Ok((vec![1], Some(OcspAnswer { status: CertStatus::Good, this_update: 0, next_update })))
}

fn away() -> Result<(Vec<u8>, Option<OcspAnswer>), Refused> {
    Err(Refused::Unheard("connection refused".into()))
}

#[test]
fn the_next_question_comes_in_time() {
    let hour = Duration::from_secs(3600);
    assert_eq!(plan(None, hour, 1000), (hour, 1000 + KEPT));
    assert_eq!(plan(Some(1_000_000), hour, 1000), (hour, 1_000_000));
    assert_eq!(plan(Some(1100), hour, 1000), (Duration::from_secs(50), 1100));
    assert_eq!(plan(Some(900), hour, 1000), (Duration::from_secs(5), 900), "within what clocks may differ by");
}

#[test]
fn an_answer_stays_while_the_responder_is_away_until_its_own_end() {
    let (job, mut pause) = (job(), PAUSES.0);
    let seconds = |wait: Option<Duration>| wait.unwrap().as_secs();
    let stapled = || lock(&job.state).stapled.is_some();
    assert_eq!(seconds(job.settle(away(), &mut pause, 0)), 1);
    assert!(!stapled());
    assert_eq!(seconds(job.settle(good(Some(200)), &mut pause, 0)), 100);
    let waits: Vec<u64> = [100, 101, 105, 121].map(|now| seconds(job.settle(away(), &mut pause, now))).into();
    assert_eq!(waits, [1, 4, 16, 64]);
    assert!(stapled());
    assert_eq!(lock(&job.state).error.as_deref(), Some("connection refused"));
    assert_eq!(seconds(job.settle(away(), &mut pause, 185)), 15, "no longer than the answer may stay");
    assert_eq!(seconds(job.settle(away(), &mut pause, 200)), 300);
    assert!(!stapled(), "it has ended");
    job.settle(good(None), &mut pause, 500);
    assert!(stapled() && lock(&job.state).error.is_none());
    assert_eq!(pause, PAUSES.0);
}

#[test]
fn who_was_revoked_loses_its_answer_at_once() {
    let (job, mut pause) = (job(), PAUSES.0);
    job.settle(good(None), &mut pause, 0);
    let wait = job.settle(Err(Refused::Status(CertStatus::Revoked)), &mut pause, 3600);
    assert_eq!(wait, Some(Duration::from_secs(3600)));
    let state = lock(&job.state);
    assert!(state.stapled.is_none() && state.error.as_deref().unwrap().contains("\"revoked\""));
}

#[test]
fn nothing_is_stapled_after_the_end() {
    let (job, mut pause) = (job(), PAUSES.0);
    job.end();
    assert_eq!(job.settle(good(None), &mut pause, 0), None);
    assert!(lock(&job.state).stapled.is_none());
}
