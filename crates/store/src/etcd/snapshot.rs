//! The last good state on disk, for a start without etcd. One line of header (format, checksum, length), then JSON.
//! The surprise: a file that is damaged in any way is refused as a whole.
use crate::key::Key;
use crate::state::{Entry, State};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const FORMAT: &str = "sluice-etcd-snapshot 1";

#[derive(Serialize, Deserialize)]
struct Content {
    prefix: String,
    cluster: u64,
    revision: u64,
    /// Seconds since the epoch.
    written: u64,
    entries: Vec<Stored>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    key: Key,
    body: String,
    created: u64,
    modified: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

/// What lay on the disk.
pub(crate) struct Snapshot {
    pub state: State,
    pub written: SystemTime,
}

/// Writes beside the file, syncs, renames: the old one stays until the new one is whole. Only its owner may read it.
pub(crate) fn save(path: &Path, prefix: &str, cluster: u64, state: &State) -> std::io::Result<()> {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let stored = |entry: &Entry| Stored {
        key: entry.key.clone(),
        body: entry.body.as_str().to_owned(),
        created: entry.created,
        modified: entry.modified,
        expires: entry.expires.map(seconds),
    };
    let content = Content {
        prefix: prefix.to_owned(),
        cluster,
        revision: state.revision,
        written: seconds(SystemTime::now()),
        entries: state.entries.values().map(stored).collect(),
    };
    let json = serde_json::to_vec(&content)?;
    drop(content);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = dir.join(name);
    // One left by a crash may have other rights.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private(&temporary)?;
    writeln!(file, "{}", title(&json))?;
    file.write_all(&json)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    std::fs::File::open(dir)?.sync_all()
}

fn title(json: &[u8]) -> String {
    format!("{FORMAT} {:08x} {}", crc32fast::hash(json), json.len())
}

fn private(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// None where there is no file. What has expired since is left out. Errors: why the file cannot be used.
pub(crate) fn load(path: &Path, prefix: &str) -> Result<Option<Snapshot>, String> {
    let refused = |why: &str| format!("the snapshot {} cannot be used: {why}", path.display());
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(&error.to_string())),
    };
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| refused("it has no header"))?;
    let (header, json) = bytes.split_at(end);
    let json = json.get(1..).unwrap_or_default();
    let header = std::str::from_utf8(header).map_err(|_| refused("its header is no text"))?;
    if !header.starts_with(FORMAT) {
        return Err(refused("it is of another format"));
    }
    let length = header.rsplit(' ').next().and_then(|length| length.parse().ok());
    if length != Some(json.len()) {
        return Err(refused("it is not whole"));
    }
    if header != title(json) {
        return Err(refused("its checksum is wrong"));
    }
    let content: Content = serde_json::from_slice(json).map_err(|error| refused(&error.to_string()))?;
    if content.prefix != prefix {
        return Err(refused(&format!("it is of the prefix {:?}, not {prefix:?}", content.prefix)));
    }
    let now = SystemTime::now();
    let time = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let mut state = State { revision: content.revision, ..State::default() };
    for stored in content.entries {
        let expires = stored.expires.and_then(time);
        if expires.is_some_and(|end| end <= now) {
            continue;
        }
        let entry = Entry {
            key: stored.key.clone(),
            body: stored.body.into(),
            created: stored.created,
            modified: stored.modified,
            expires,
        };
        state.entries.insert(stored.key, entry);
    }
    Ok(Some(Snapshot { state, written: time(content.written).unwrap_or(now) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let mut state = State { revision: 7, ..State::default() };
        for (id, expires) in [("1", None), ("2", Some(UNIX_EPOCH + Duration::from_secs(1)))] {
            let key = Key::raw(&format!("routes/{id}"));
            let body = "{\"uri\":\"/a\\n\"}".into();
            state.entries.insert(key.clone(), Entry { key, body, created: 3, modified: 7, expires });
        }
        state
    }

    #[test]
    fn what_was_saved_is_loaded_without_what_has_expired() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/etcd.snapshot");
        assert!(load(&path, "/apisix").unwrap().is_none());
        save(&path, "/apisix", 9, &state()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let loaded = load(&path, "/apisix").unwrap().unwrap();
        assert_eq!(loaded.state.revision, 7);
        let key = Key::raw("routes/1");
        assert_eq!(loaded.state.entries.keys().collect::<Vec<_>>(), [&key]);
        assert_eq!(loaded.state.get(&key), state().get(&key));
        let error = load(&path, "/other").err().unwrap();
        assert!(error.ends_with("it is of the prefix \"/apisix\", not \"/other\""), "{error}");
    }

    #[test]
    fn every_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.snapshot");
        save(&path, "/apisix", 9, &state()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0x10;
            std::fs::write(&path, &broken).unwrap();
            assert!(load(&path, "/apisix").is_err(), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(load(&path, "/apisix").is_err(), "cut at {at}");
        }
    }
}
