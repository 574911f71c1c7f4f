//! Watching a configuration file. The surprise: it polls (every 250 ms) instead of asking the kernel, because that alone
//! works on every file system, through renames, symbolic links (Kubernetes' mounted maps) and removal.

use crate::problem::ConfigError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, mpsc};

/// How often a file is looked at.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// What the watcher has seen.
#[derive(Debug)]
pub enum Change<T> {
    /// A new version that could be read; it replaces the running one.
    Loaded(T),
    /// A version that could not: the running configuration stays. Reported once per version.
    Broken(Vec<ConfigError>),
}

/// What tells two versions of a file apart without reading it.
#[derive(Clone, Debug, PartialEq)]
struct Version {
    modified: Option<SystemTime>,
    /// Change of the inode: catches a modification time set back, as `cp -p` and `mv` do.
    changed: (i64, i64),
    bytes: u64,
    inode: u64,
    device: u64,
}

impl Version {
    /// Through symbolic links; none when there is no file.
    fn of(path: &Path) -> Option<Version> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Version {
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            bytes: metadata.len(),
            inode: metadata.ino(),
            device: metadata.dev(),
        })
    }

    /// Written so lately that another write could leave the same time stamp (kernels count in ticks of up to 10 ms), or
    /// that its writer may not be done: looked at again after the next pause.
    fn is_fresh(&self) -> bool {
        let age = self.modified.and_then(|modified| modified.elapsed().ok());
        age.is_some_and(|age| age < Duration::from_millis(20))
    }
}

/// A running watch; it ends when this is dropped or the receiver is.
#[derive(Debug)]
pub struct Watcher {
    notify: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Watcher {
    /// Watches `path` and reads it with `load` (on a blocking thread) at once and at every change. Must be called within
    /// a tokio runtime. The channel holds one change: while its receiver is busy, changes wait and only the last is read.
    pub fn start<T, F>(path: PathBuf, interval: Duration, load: F) -> (Watcher, mpsc::Receiver<Change<T>>)
    where
        T: Send + 'static,
        F: Fn(&Path) -> Result<T, Vec<ConfigError>> + Send + Sync + 'static,
    {
        let (sender, receiver) = mpsc::channel(1);
        let notify = Arc::new(Notify::new());
        let task = tokio::spawn(run(path, interval, Arc::new(load), sender, notify.clone()));
        (Watcher { notify, task }, receiver)
    }

    /// Reads the file now, changed or not (SIGHUP).
    pub fn trigger(&self) {
        self.notify.notify_one();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run<T, F>(
    path: PathBuf,
    interval: Duration,
    load: Arc<F>,
    sender: mpsc::Sender<Change<T>>,
    notify: Arc<Notify>,
) where
    T: Send + 'static,
    F: Fn(&Path) -> Result<T, Vec<ConfigError>> + Send + Sync + 'static,
{
    // The outer option: nothing was looked at yet.
    let mut last: Option<Option<Version>> = None;
    loop {
        let Ok(permit) = sender.reserve().await else { return };
        let before = Version::of(&path);
        if last.as_ref() != Some(&before) && !before.as_ref().is_some_and(Version::is_fresh) {
            let (target, load) = (path.clone(), load.clone());
            let Ok(result) = tokio::task::spawn_blocking(move || load(&target)).await else { return };
            // What changed while it was read may be half of two versions: look again.
            let settled = Version::of(&path) == before;
            if settled {
                last = Some(before);
                permit.send(match result {
                    Ok(config) => Change::Loaded(config),
                    Err(errors) => Change::Broken(errors),
                });
            } else {
                drop(permit);
            }
        } else {
            drop(permit);
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = notify.notified() => last = None,
            () = sender.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(path: &Path) -> Result<String, Vec<ConfigError>> {
        match std::fs::read_to_string(path) {
            Ok(text) if text.starts_with("bad") => Err(vec![ConfigError::of_file(&"f".into(), text)]),
            Ok(text) => Ok(text),
            Err(error) => Err(vec![ConfigError::of_file(&"f".into(), error.to_string())]),
        }
    }

    async fn next(receiver: &mut mpsc::Receiver<Change<String>>) -> Result<String, String> {
        match tokio::time::timeout(Duration::from_secs(10), receiver.recv()).await.unwrap().unwrap() {
            Change::Loaded(text) => Ok(text),
            Change::Broken(errors) => Err(errors[0].message.clone()),
        }
    }

    #[tokio::test]
    async fn sees_writes_renames_removal_and_triggers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("apisix.yaml");
        std::fs::write(&path, "one").unwrap();
        let (watcher, mut changes) = Watcher::start(path.clone(), Duration::from_millis(10), load);
        assert_eq!(next(&mut changes).await, Ok("one".to_owned()));
        std::fs::write(&path, "bad 1").unwrap();
        let broken = next(&mut changes).await;
        // The truncation before the write may be seen as a version of its own.
        let broken = if broken == Ok(String::new()) { next(&mut changes).await } else { broken };
        assert_eq!(broken, Err("bad 1".to_owned()));
        let new = folder.path().join("new");
        std::fs::write(&new, "bad 2").unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(next(&mut changes).await, Err("bad 2".to_owned()), "another version, reported in its turn, once");
        std::fs::write(&new, "two").unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(next(&mut changes).await, Ok("two".to_owned()));
        std::fs::remove_file(&path).unwrap();
        assert!(next(&mut changes).await.is_err());
        std::fs::write(&new, "two").unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert_eq!(next(&mut changes).await, Ok("two".to_owned()), "it is back");
        assert!(changes.try_recv().is_err(), "nothing without a change");
        watcher.trigger();
        assert_eq!(next(&mut changes).await, Ok("two".to_owned()), "asked for");
        drop(watcher);
        assert!(changes.recv().await.is_none());
    }
}
