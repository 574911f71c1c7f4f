//! `kill -9` while a thousand writes are under way. The surprise: the writer is this test itself, started once more as
//! a process of its own.
use super::*;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

const WRITES: usize = 1000;
const RUNS: u64 = 20;
/// `<run> <path>`, for the process that writes.
const WRITER: &str = "SLUICE_STORE_TEST_WRITER";

/// Writes pairs, says which are acknowledged, and waits to be killed.
fn writer(run: &str, path: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let settings = EmbeddedSettings { group: 16, ..Default::default() };
    let store = Arc::new(EmbeddedStore::open(path, settings).unwrap());
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..WRITES {
            let (store, body) = (store.clone(), format!("{{\"run\":{run}}}"));
            tasks.spawn(async move {
                let pair = vec![put(&format!("a{n}"), &body), put(&format!("b{n}"), &body)];
                let revision = store.commit(write(pair)).await.unwrap().revision;
                let line = format!("acknowledged {n} {revision}\n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    });
    // Ends with the process that started this one, if not killed by it.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Runs a writer and kills it after so many acknowledgements or so long. Returns what it had acknowledged.
fn run_and_kill(run: u64, path: &Path, acknowledgements: usize, time: Duration) -> Vec<(usize, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::tests::kill::nothing_acknowledged_is_lost_by_kill_9", "--nocapture"])
        .env(WRITER, format!("{run} {}", path.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in out.lines() {
            let line = line.unwrap();
            let mut words = line.split(' ');
            if words.next() == Some("acknowledged") {
                let mut number = || words.next().unwrap().parse::<u64>().unwrap();
                sender.send((usize::try_from(number()).unwrap(), number())).unwrap();
            }
        }
    });
    let end = Instant::now() + time;
    let mut acknowledged = Vec::new();
    while acknowledged.len() < acknowledgements {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(one) => acknowledged.push(one),
            Err(_) => break,
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    acknowledged.extend(receiver.try_iter());
    acknowledged
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    if let Ok(role) = std::env::var(WRITER) {
        let (run, path) = role.split_once(' ').unwrap();
        return writer(run, Path::new(path));
    }
    let (_folder, path) = fresh();
    let mut known = vec![0; WRITES];
    let mut interrupted = 0;
    for run in 1..=RUNS {
        let chance = RandomState::new().hash_one(run);
        // Some are killed while they start, the first time even while they make the file.
        let (count, time) = match run % 4 {
            1 => (WRITES, Duration::from_micros(chance % 40_000)),
            _ => (usize::try_from(chance % WRITES as u64).unwrap(), Duration::from_secs(20)),
        };
        let acknowledged = run_and_kill(run, &path, count, time);
        interrupted += usize::from(!acknowledged.is_empty() && acknowledged.len() < WRITES);
        let store = open(&path);
        let state = store.state().read().unwrap();
        let found = |key: String| state.get(&Key::of(Kind::Route, &key));
        for (n, revision) in &acknowledged {
            known[*n] = *revision;
        }
        for (n, known) in known.iter_mut().enumerate() {
            let (a, b) = (found(format!("a{n}")), found(format!("b{n}")));
            let half = |entry: Option<&crate::Entry>| entry.map(|e| (e.body.as_str().to_owned(), e.modified));
            assert_eq!(half(a), half(b), "run {run}: pair {n} is half there");
            let modified = a.map_or(0, |entry| entry.modified);
            assert!(modified >= *known, "run {run}: pair {n} acknowledged as {known} is {modified}");
            *known = modified;
        }
        for (n, revision) in acknowledged {
            let entry = found(format!("a{n}")).unwrap();
            assert_eq!((entry.modified, entry.body.as_str()), (revision, format!("{{\"run\":{run}}}").as_str()));
        }
        assert_eq!(known.iter().copied().max().unwrap_or_default(), state.revision, "run {run}");
    }
    let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"]);
    assert!(interrupted > 5, "only {interrupted} writers were killed amid their writes");
}
