//! The file: making, opening and reopening it, and what its errors mean to the one who runs the gateway. The surprise: a
//! new file is made under another name and then linked to its own, so that a process killed at its first start leaves
//! no half-made store behind.
use crate::embedded::EmbeddedSettings;
use crate::embedded::tables::{self, Trouble};
use crate::store::StoreError;
use redb::Database;
use redb::backends::FileBackend;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

pub(super) struct Disk {
    path: PathBuf,
    settings: EmbeddedSettings,
    /// None while it cannot be opened. Locked for writing only to close and reopen it.
    database: RwLock<Option<Database>>,
}

impl Disk {
    pub(super) fn open(path: &Path, settings: &EmbeddedSettings) -> Result<Disk, StoreError> {
        let disk = Disk { path: path.to_owned(), settings: settings.clone(), database: RwLock::new(None) };
        if !path.exists() {
            disk.make().map_err(|trouble| disk.explain(trouble))?;
        }
        disk.reopen()?;
        disk.sweep();
        Ok(disk)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_open(&self) -> bool {
        self.database.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Gives the file up until it is reopened.
    pub(super) fn close(&self) {
        let old = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        // A database that failed may panic once more when it is closed.
        drop(catch_unwind(AssertUnwindSafe(|| drop(old))));
    }

    /// Closes the database and opens it again, repairing what a failed write left. Afterwards it is open or an error
    /// says why not.
    pub(super) fn reopen(&self) -> Result<(), StoreError> {
        self.close();
        let opened = calmly(|| {
            let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
            let meta = file.metadata()?;
            if meta.len() == 0 {
                return Err(Trouble::Content("it is empty".into()));
            }
            if meta.permissions().mode() & 0o077 != 0 {
                tracing::warn!(file = %self.path.display(), "others could read the store's file; its mode is 0600 now");
                file.set_permissions(Permissions::from_mode(0o600))?;
            }
            self.database(file)
        });
        let database = opened.map_err(|trouble| self.explain(trouble))?;
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(())
    }

    /// Runs something on the database. Errors and panics inside it become errors that name the file.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Database) -> Result<T, Trouble>) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else {
            return Err(StoreError::Away(format!("{} is not open after an error", self.path.display())));
        };
        calmly(|| work(database)).map_err(|trouble| self.explain(trouble))
    }

    fn database(&self, file: File) -> Result<Database, Trouble> {
        let backend = FileBackend::new(file)?;
        #[cfg(test)]
        let backend = crate::embedded::tests::Faulty { inner: backend, fault: self.settings.fault.clone() };
        // Everything is read at start anyhow. The check finds damage then, where a later look would be a panic.
        let database = Database::builder()
            .set_cache_size(self.settings.cache_bytes)
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)?;
        Ok(database)
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Removes what processes killed at their first start left. Who holds the store's file is the only one who needs none.
    fn sweep(&self) {
        let Some(name) = self.path.file_name().and_then(|name| name.to_str()) else { return };
        let Ok(files) = std::fs::read_dir(self.folder()) else { return };
        for file in files.flatten() {
            let half_made = file
                .file_name()
                .to_str()
                .and_then(|file| file.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".new")?.parse::<u32>().ok());
            if half_made.is_some() {
                drop(std::fs::remove_file(file.path()));
            }
        }
    }

    fn make(&self) -> Result<(), Trouble> {
        let folder = self.folder();
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let fresh = folder.join(name);
        // One with this process's number is of a process that is gone.
        drop(std::fs::remove_file(&fresh));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&fresh)?;
        let made = calmly(|| tables::create(&self.database(file)?));
        // A link fails where a rename would replace what another process has just made.
        let linked = made.and_then(|()| match std::fs::hard_link(&fresh, &self.path) {
            Err(error) if !self.path.exists() => Err(error.into()),
            _ => Ok(()),
        });
        drop(std::fs::remove_file(&fresh));
        linked?;
        Ok(File::open(folder)?.sync_all()?)
    }

    fn explain(&self, trouble: Trouble) -> StoreError {
        let path = self.path.display();
        let damaged = |what: String| {
            StoreError::Corrupt(format!(
                "{path} is damaged ({what}): restore it from a backup, or move it away to start with an empty store"
            ))
        };
        match trouble {
            Trouble::Format(found) => StoreError::Corrupt(format!(
                "{path} was written by another version (format {found}): start that version, or move the file away"
            )),
            Trouble::Content(what) => damaged(what),
            Trouble::Disk(redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch) => StoreError::Away(
                format!("{path} is in use by another process: stop it, or give this one its own data directory"),
            ),
            Trouble::Disk(redb::Error::Io(error)) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    StoreError::Away(format!("no room for {path} ({error})"))
                }
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => damaged(error.to_string()),
                _ => StoreError::Away(format!("{path} cannot be used: {error}")),
            },
            Trouble::Disk(redb::Error::UpgradeRequired(format)) => damaged(format!("file format {format}")),
            Trouble::Disk(
                error @ (redb::Error::Corrupted(_)
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TypeDefinitionChanged { .. }
                | redb::Error::TableIsMultimap(_)
                | redb::Error::TableDoesNotExist(_)
                | redb::Error::RepairAborted),
            ) => damaged(error.to_string()),
            Trouble::Disk(error) => StoreError::Away(format!("{path} cannot be used: {error}")),
        }
    }
}

/// A damaged file can make redb panic; here that is an error like others.
fn calmly<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Trouble::Content(text.unwrap_or_else(|| "unknown".into())))
    })
}
