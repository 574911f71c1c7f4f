//! The embedded store does what the one in memory does, with restarts in between.
use super::*;
use crate::{Committed, MemoryStore, Revision};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, u8, u8, String)>),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let op = (0..3_u8, 0..5_u8, 0..8_u8, "[a-z\"\\\\é]{0,12}");
    prop_oneof![6 => proptest::collection::vec(op, 0..4).prop_map(Step::Commit), 1 => Just(Step::Restart)]
}

fn op((what, key, expect, body): &(u8, u8, u8, String)) -> Op {
    let key = Key::of(Kind::Route, &key.to_string());
    let expect = match expect {
        0 => Expect::Absent,
        1 => Expect::Present,
        2 | 3 => Expect::Revision(u64::from(*expect)),
        _ => Expect::Any,
    };
    match what {
        0 => Op::Delete { key, expect },
        1 => Op::Check { key, expect },
        _ => Op::Put { key, body: body.as_str().into(), expect, ttl: None },
    }
}

fn told(result: Result<Committed, StoreError>) -> Result<(u64, Vec<crate::Entry>, Vec<crate::Entry>), String> {
    result.map(|done| (done.revision, done.written, done.deleted)).map_err(|error| error.to_string())
}

fn without_time(revisions: Vec<Revision>) -> Vec<Revision> {
    revisions.into_iter().map(|revision| Revision { time: 0, ..revision }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn it_does_what_the_one_in_memory_does(steps in proptest::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (_folder, path) = fresh();
        let memory = MemoryStore::new();
        let mut embedded = open(&path);
        runtime.block_on(async {
            for step in &steps {
                match step {
                    Step::Commit(ops) => {
                        let transaction = write(ops.iter().map(op).collect());
                        let here = told(embedded.commit(transaction.clone()).await);
                        prop_assert_eq!(here, told(memory.commit(transaction).await));
                    }
                    Step::Restart => {
                        drop(embedded);
                        embedded = open(&path);
                    }
                }
                let (here, there) = (embedded.state().read().unwrap(), memory.state().read().unwrap());
                prop_assert_eq!((here.revision, &here.entries), (there.revision, &there.entries));
            }
            let newest = memory.catch_up().await.unwrap();
            let here = without_time(embedded.revisions(None, 100).await.unwrap());
            prop_assert_eq!(here, without_time(memory.revisions(None, 100).await.unwrap()));
            for revision in 0..=newest {
                let (here, there) = (embedded.state_at(revision).await.unwrap(), memory.state_at(revision).await.unwrap());
                prop_assert_eq!((here.revision, here.entries), (there.revision, there.entries));
                let (here, there) = (embedded.revision(revision).await.unwrap(), memory.revision(revision).await.unwrap());
                prop_assert_eq!(here.map(|r| r.changes), there.map(|r| r.changes));
            }
            Ok(())
        })?;
    }
}
