//! What stands in the file: three tables. The surprise: the history holds JSON, not our own encoding, so that a record
//! can still be read when the code has moved on.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | `format`, `revision`, `history_bytes` |
//! | `entries` | key (`routes/1`) | created, modified, expires (ns since the epoch, 0 never), each 8 bytes, then the body |
//! | `history` | revision | [`Revision`] as JSON |
use crate::embedded::EmbeddedSettings;
use crate::history::{Change, Revision};
use crate::key::Key;
use crate::plan::Outcome;
use crate::state::{Entry, State};
use crate::store::Event;
use crate::transaction::Note;
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const HISTORY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("history");

const FORMAT: u64 = 1;
const HEAD: usize = 24;

/// Why the file could not be used.
#[derive(Debug)]
pub(super) enum Trouble {
    Disk(redb::Error),
    /// What is in it is not what belongs there.
    Content(String),
    /// It was written by a newer version.
    Format(u64),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::Disk(error.into())
    }
}

/// Makes the tables of a new file.
pub(super) fn create(db: &Database) -> Result<(), Trouble> {
    let write = db.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("revision", 0)?;
        meta.insert("history_bytes", 0)?;
        write.open_table(ENTRIES)?;
        write.open_table(HISTORY)?;
    }
    Ok(write.commit()?)
}

fn meta(read: &ReadTransaction, name: &str) -> Result<u64, Trouble> {
    let value = read.open_table(META)?.get(name)?.map(|value| value.value());
    value.ok_or_else(|| Trouble::Content(format!("{name} is missing")))
}

/// The newest revision in the file.
pub(super) fn revision(db: &Database) -> Result<u64, Trouble> {
    meta(&db.begin_read()?, "revision")
}

/// Reads everything but the history.
pub(super) fn load(db: &Database) -> Result<State, Trouble> {
    let read = db.begin_read()?;
    let format = meta(&read, "format")?;
    if format != FORMAT {
        return Err(Trouble::Format(format));
    }
    let table = read.open_table(ENTRIES)?;
    let mut entries = Vec::with_capacity(usize::try_from(table.len()?).unwrap_or(0).min(1 << 20));
    for row in table.iter()? {
        let (key, value) = row?;
        let entry = decode(key.value(), value.value())
            .ok_or_else(|| Trouble::Content(format!("entry {} cannot be read", key.value())))?;
        entries.push((entry.key.clone(), entry));
    }
    // The table is sorted as the map is, so the map is built full, not grown.
    Ok(State { revision: meta(&read, "revision")?, entries: entries.into_iter().collect() })
}

fn decode(key: &str, value: &[u8]) -> Option<Entry> {
    let (head, body) = value.split_at_checked(HEAD)?;
    let number = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let expires = match number(16)? {
        0 => None,
        nanos => Some(UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))?),
    };
    let body = std::str::from_utf8(body).ok()?.into();
    Some(Entry { key: Key::raw(key), body, created: number(0)?, modified: number(8)?, expires })
}

fn encode(entry: &Entry, into: &mut Vec<u8>) {
    let nanos = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos());
    // What does not fit (after the year 2554) never expires.
    let expires = entry.expires.map_or(0, |at| u64::try_from(nanos(at)).unwrap_or(0));
    into.clear();
    for number in [entry.created, entry.modified, expires] {
        into.extend_from_slice(&number.to_le_bytes());
    }
    into.extend_from_slice(entry.body.as_str().as_bytes());
}

/// Writes a group of outcomes, one after the other, and returns when they are on the disk.
pub(super) fn write(db: &Database, outcomes: &[Outcome], settings: &EmbeddedSettings) -> Result<(), Trouble> {
    let mut write = db.begin_write()?;
    write.set_durability(Durability::Immediate).map_err(|error| Trouble::Content(error.to_string()))?;
    {
        let mut entries = write.open_table(ENTRIES)?;
        let mut history = write.open_table(HISTORY)?;
        let mut meta = write.open_table(META)?;
        let mut bytes = meta.get("history_bytes")?.map_or(0, |value| value.value());
        let mut value = Vec::new();
        for outcome in outcomes {
            for event in &outcome.batch.events {
                match event {
                    Event::Put(entry) => {
                        encode(entry, &mut value);
                        entries.insert(entry.key.as_str(), value.as_slice())?;
                    }
                    Event::Delete(key) => drop(entries.remove(key.as_str())?),
                }
            }
            let record = serde_json::to_vec(&outcome.record).map_err(|error| Trouble::Content(error.to_string()))?;
            bytes += record.len() as u64;
            history.insert(outcome.record.revision, record.as_slice())?;
            meta.insert("revision", outcome.record.revision)?;
        }
        let mut count = history.len()?;
        while count > 1 && (count > settings.history_revisions || bytes > settings.history_bytes) {
            let Some((_, oldest)) = history.pop_first()? else { break };
            bytes = bytes.saturating_sub(oldest.value().len() as u64);
            count -= 1;
        }
        meta.insert("history_bytes", bytes)?;
    }
    Ok(write.commit()?)
}

fn parse(json: &[u8]) -> Result<Revision, Trouble> {
    serde_json::from_slice(json).map_err(|error| Trouble::Content(format!("a record of the history: {error}")))
}

pub(super) fn record(db: &Database, revision: u64) -> Result<Option<Revision>, Trouble> {
    let history = db.begin_read()?.open_table(HISTORY)?;
    history.get(revision)?.map(|json| parse(json.value())).transpose()
}

/// A record of which the bodies are passed over, not read.
#[derive(Deserialize)]
struct Outline {
    revision: u64,
    time: u64,
    #[serde(flatten)]
    note: Note,
    changes: Vec<OutlineChange>,
}

#[derive(Deserialize)]
struct OutlineChange {
    key: Key,
    before: Option<IgnoredAny>,
    after: Option<IgnoredAny>,
}

/// The newest records first, without bodies.
pub(super) fn outlines(db: &Database, before: Option<u64>, limit: usize) -> Result<Vec<Revision>, Trouble> {
    let history = db.begin_read()?.open_table(HISTORY)?;
    let mut found = Vec::new();
    for row in history.range(..before.unwrap_or(u64::MAX))?.rev().take(limit) {
        let outline: Outline = serde_json::from_slice(row?.1.value())
            .map_err(|error| Trouble::Content(format!("a record of the history: {error}")))?;
        let bare = |change: OutlineChange| Change {
            key: change.key,
            before: change.before.map(|_| String::new()),
            after: change.after.map(|_| String::new()),
        };
        let Outline { revision, time, note, changes } = outline;
        found.push(Revision { revision, time, note, changes: changes.into_iter().map(bare).collect() });
    }
    Ok(found)
}

/// Gives the records after `revision` up to `newest`, the newest first, until `take` returns false. Nothing is given
/// if the history does not reach back that far.
pub(super) fn back_to(
    db: &Database,
    revision: u64,
    newest: u64,
    mut take: impl FnMut(Revision) -> bool,
) -> Result<(), Trouble> {
    let history = db.begin_read()?.open_table(HISTORY)?;
    if revision >= newest || history.get(revision + 1)?.is_none() {
        return Ok(());
    }
    for row in history.range(revision + 1..=newest)?.rev() {
        if !take(parse(row?.1.value())?) {
            break;
        }
    }
    Ok(())
}
