//! Batches, listings and the memory of others' writes, without an etcd.
use super::*;
use crate::Watch;
use std::collections::BTreeMap;

fn put(key: &str, body: &str, revision: u64) -> Seen {
    let key = Key::raw(key);
    let entry = Entry { key, body: body.into(), created: revision, modified: revision, expires: None };
    Seen::Object(revision, Event::Put(entry))
}

fn listing(revision: u64, all: &[(&str, &str, u64)]) -> Listing {
    let entry = |(key, body, modified): &(&str, &str, u64)| {
        let entry =
            Entry { key: Key::raw(key), body: (*body).into(), created: *modified, modified: *modified, expires: None };
        (entry.key.clone(), entry)
    };
    let entries: BTreeMap<_, _> = all.iter().map(entry).collect();
    Listing { cluster: 1, revision, entries, ignored: HashSet::new() }
}

fn shared(history_of_others: usize) -> Shared {
    Shared::new(EtcdSettings { history_of_others, ..EtcdSettings::default() })
}

#[test]
fn events_that_are_known_already_are_passed_over() {
    let shared = shared(10);
    let mut watch = shared.watch();
    shared.advance(vec![put("routes/1", "a", 5), put("routes/1", "b", 6), put("routes/2", "c", 6)]);
    shared.advance(vec![put("routes/1", "old", 5), put("routes/1", "same", 6)]);
    let Ok(Watch::Changed(batch)) = watch.try_recv() else { panic!("no batch") };
    assert_eq!((batch.revision, batch.events.len()), (6, 3));
    assert!(watch.try_recv().is_err());
    assert_eq!(shared.state.read().unwrap().get(&Key::raw("routes/1")).unwrap().body.as_str(), "b");
    // One record for each revision, the texts before those of the revision before.
    let records = shared.remembered(|_| true, 9);
    assert_eq!(records.iter().map(|r| (r.revision, r.changes.len())).collect::<Vec<_>>(), [(6, 2), (5, 1)]);
    assert_eq!(records[0].changes[0].before.as_deref(), Some("a"));
    assert_eq!(records[1].changes[0].before, None);
}

#[test]
fn a_listing_tells_only_what_differs() {
    let shared = shared(10);
    shared.replace(listing(5, &[("routes/1", "a", 2), ("routes/2", "b", 3), ("routes/3", "c", 4)]));
    assert!(shared.remembered(|_| true, 9).is_empty(), "the first listing is nobody's change");
    let mut watch = shared.watch();
    shared.replace(listing(9, &[("routes/1", "a", 2), ("routes/2", "b2", 8)]));
    let Ok(Watch::Changed(batch)) = watch.try_recv() else { panic!("no batch") };
    assert_eq!((batch.revision, batch.events.len()), (9, 2));
    shared.replace(listing(12, &[("routes/1", "a", 2), ("routes/2", "b2", 8)]));
    assert!(watch.try_recv().is_err());
    assert_eq!(shared.extent(), (12, 2));
    shared.replace(listing(3, &[("routes/1", "restored", 2)]));
    assert!(matches!(watch.try_recv(), Ok(Watch::Reset)));
    assert_eq!(shared.state.read().unwrap().get(&Key::raw("routes/1")).unwrap().body.as_str(), "restored");
    assert_eq!(shared.extent(), (3, 1));
}

#[test]
fn what_is_no_object_counts_but_is_not_told() {
    let shared = shared(10);
    let mut watch = shared.watch();
    let key = b"/apisix/routes/".to_vec();
    shared.advance(vec![Seen::Ignored { key: key.clone(), gone: false, revision: 2 }]);
    assert!(shared.ignores(&key));
    assert_eq!(shared.extent(), (2, 1));
    shared.advance(vec![Seen::Ignored { key, gone: true, revision: 3 }]);
    assert_eq!(shared.extent(), (3, 0));
    assert!(watch.try_recv().is_err());
}

#[test]
fn the_memory_of_others_is_bounded_and_learns_authors() {
    let shared = shared(3);
    for revision in 1..=5 {
        shared.advance(vec![put("routes/1", "x", revision)]);
    }
    let note = Note { author: "admin".into(), message: "why".into() };
    shared.remember(Revision { note: note.clone(), ..by_others(4) });
    let records = shared.remembered(|_| true, 9);
    assert_eq!(records.iter().map(|r| r.revision).collect::<Vec<_>>(), [5, 4, 3]);
    assert_eq!(records[1].note, note);
    assert_eq!(records[0].note.author, OTHERS);
    shared.advance(vec![put("routes/1", &"x".repeat(REMEMBERED / 2), 6)]);
    shared.advance(vec![put("routes/2", &"x".repeat(REMEMBERED / 2 + 1), 7)]);
    let records = shared.remembered(|_| true, 9);
    assert_eq!(records.iter().map(|r| r.revision).collect::<Vec<_>>(), [7]);
}

#[test]
fn a_revision_is_skipped_only_from_where_it_was_asked() {
    let shared = shared(3);
    shared.advance(vec![put("routes/1", "x", 4)]);
    shared.skip(3, 9);
    assert_eq!(shared.extent().0, 4);
    shared.skip(4, 9);
    assert_eq!(shared.extent().0, 9);
}
