//! A power failure: what was synced is there, of the rest any part. The surprise: pages of one write may be lost singly.
use super::*;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

const PAGE: usize = 4096;

/// Numbers of writes and their revisions.
type Acknowledged = Vec<(usize, u64)>;

pub(crate) enum Change<'a> {
    Write(u64, &'a [u8]),
    Length(u64),
    Sync,
}

/// Follows the changes of a file until the power fails.
#[derive(Debug)]
pub(crate) struct Power {
    /// What surely is on the disk.
    synced: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
    length: usize,
    /// Changes until it fails.
    left: usize,
    chance: u64,
    acknowledged: Arc<Mutex<Acknowledged>>,
    /// The file after the failure, and what had been acknowledged before.
    pub after: Option<(Vec<u8>, Acknowledged)>,
}

impl Power {
    fn one_in_two(&mut self) -> bool {
        // xorshift64
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance & 1 == 1
    }

    fn lay(image: &mut Vec<u8>, at: usize, page: &[u8]) {
        if image.len() < at + page.len() {
            image.resize(at + page.len(), 0);
        }
        image[at..at + page.len()].copy_from_slice(page);
    }

    pub(crate) fn change(&mut self, change: Change<'_>) {
        if self.after.is_some() {
            return;
        }
        if self.left == 0 {
            let acknowledged = self.acknowledged.lock().unwrap().clone();
            let mut image = self.synced.clone();
            for (at, page) in std::mem::take(&mut self.pending) {
                if self.one_in_two() {
                    Power::lay(&mut image, at, &page);
                }
            }
            if self.one_in_two() {
                image.resize(self.length.max(image.len()), 0);
            }
            self.after = Some((image, acknowledged));
            return;
        }
        self.left -= 1;
        match change {
            Change::Write(offset, data) => {
                let offset = usize::try_from(offset).unwrap();
                self.length = self.length.max(offset + data.len());
                let pages = data.chunks(PAGE).enumerate().map(|(n, page)| (offset + n * PAGE, page.to_vec()));
                self.pending.extend(pages);
            }
            Change::Length(length) => {
                self.length = usize::try_from(length).unwrap();
            }
            Change::Sync => {
                for (at, page) in std::mem::take(&mut self.pending) {
                    Power::lay(&mut self.synced, at, &page);
                }
                let length = self.length;
                self.synced.resize(length, 0);
            }
        }
    }
}

#[tokio::test]
async fn a_power_failure_loses_nothing_acknowledged() {
    let mut checked = 0;
    for _ in 0..25 {
        let chance = RandomState::new().hash_one(0) | 1;
        let (folder, path) = fresh();
        drop(open(&path));
        let settings = EmbeddedSettings { group: 3, ..Default::default() };
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let image = std::fs::read(&path).unwrap();
        *settings.fault.power.lock().unwrap() = Some(Power {
            length: image.len(),
            synced: image,
            pending: Vec::new(),
            left: usize::try_from(chance % 150).unwrap(),
            chance,
            acknowledged: acknowledged.clone(),
            after: None,
        });
        let store = Arc::new(EmbeddedStore::open(&path, settings.clone()).unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..60_usize {
            let (store, acknowledged) = (store.clone(), acknowledged.clone());
            tasks.spawn(async move {
                let ops = vec![put(&format!("a{n}"), &n.to_string()), put(&format!("b{n}"), &n.to_string())];
                let revision = store.commit(write(ops)).await.unwrap().revision;
                acknowledged.lock().unwrap().push((n, revision));
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let failed = settings.fault.power.lock().unwrap().as_mut().and_then(|power| power.after.take());
        let Some((image, acknowledged)) = failed else { continue };
        checked += acknowledged.len();
        let path = folder.path().join("after.redb");
        std::fs::write(&path, image).unwrap();
        let store = open(&path);
        let state = store.state().read().unwrap();
        let modified = |id: &str| state.get(&Key::of(Kind::Route, id)).map(|entry| entry.modified);
        for (n, revision) in acknowledged {
            assert_eq!(modified(&format!("a{n}")), Some(revision), "chance {chance}");
        }
        for n in 0..60 {
            assert_eq!(modified(&format!("a{n}")), modified(&format!("b{n}")), "chance {chance}");
        }
        assert_eq!(state.entries.len() as u64, 2 * state.revision, "chance {chance}");
    }
    assert!(checked > 0);
}
