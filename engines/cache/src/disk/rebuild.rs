//! Learning at start what is on disk. Files that are not ours are left alone.
use super::{Shared, id_of, now_ms, read};
use crate::store::tags;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

/// Depth of folders that are looked into.
const DEPTH: usize = 4;
/// A temporary file that nobody has written to for so long belongs to a process that is gone.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

pub(super) fn run(shared: &Shared) {
    for file in std::fs::read_dir(shared.temporary()).into_iter().flatten().flatten() {
        let age = file.metadata().ok().and_then(|m| m.modified().ok()).and_then(|m| m.elapsed().ok());
        if age.is_some_and(|age| age > LEFT_BEHIND) {
            let _ = std::fs::remove_file(file.path());
        }
    }
    walk(shared, &shared.settings.path, DEPTH);
    shared.whole.store(true, Ordering::Release);
    let (files, bytes) = {
        let index = shared.index();
        (index.len(), index.bytes())
    };
    tracing::info!(path = %shared.settings.path.display(), files, bytes, "the cache's index is whole");
}

fn walk(shared: &Shared, folder: &Path, depth: usize) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if kind.is_dir() {
            if depth > 0 && path != shared.temporary() {
                walk(shared, &path, depth - 1);
            }
        } else if kind.is_file() && entry.file_name().len() == 32 {
            take(shared, &path);
        }
    }
}

fn take(shared: &Shared, path: &Path) {
    let Some((file, head, _, length)) = read::head(path) else { return };
    let id = id_of(&head.key);
    // Written under other levels, or put there by somebody else.
    if shared.file(&id) != path {
        return;
    }
    let modified = file.metadata().ok().and_then(|m| m.modified().ok());
    let used = modified.and_then(|m| m.duration_since(UNIX_EPOCH).ok()).map_or_else(now_ms, |d| d.as_millis() as u64);
    let gone = {
        let mut index = shared.index();
        if index.contains(&id) { Vec::new() } else { index.insert(id, &head.key, &tags(&head.record), length, used) }
    };
    for id in gone {
        shared.evictions.fetch_add(1, Ordering::Relaxed);
        let _ = std::fs::remove_file(shared.file(&id));
    }
}
