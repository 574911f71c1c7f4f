//! apisix.yaml or apisix.json as a source of changes: after the first load, a new version is compared with the last
//! accepted one, and only the items of the list that changed are parsed. What a whole parse would find is what comes
//! out, always; where that is not certain (see `index`), the whole file is parsed.
//!
//! The surprise: an update covers everything since the last one that was applied, not since the last one that was
//! read, so that one that got lost on its way does no harm.

use super::difference::Difference;
use super::index::{self, Item, List, Patch, Reading};
use super::{PluginEntry, RawConfig, StandaloneFile, is_complete, is_json};
use crate::compile::{ChangeSet, Object, Problem};
use crate::document::Limits;
use crate::environment::Environment;
use crate::position::readable_path;
use crate::problem::{ConfigError, Notice};
use foldhash::{HashMap, HashSet, HashSetExt};
use sluice_model::{Body, Kind};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Changes that are remembered one by one until they are applied; beyond, everything is delivered.
const MAX_PENDING: usize = 10_000;
/// Problems whose places are found one by one; beyond, parsing the whole file again is cheaper.
const MAX_PLACED: usize = 20;

/// What to hand to the compiler.
#[derive(Clone, Debug)]
pub enum Changes {
    /// All objects there are.
    Whole(Vec<Object>),
    Part(ChangeSet),
}

/// A version of the file that was accepted.
#[derive(Clone, Debug)]
pub struct Update {
    /// For [`StandaloneSource::applied`].
    pub revision: u64,
    pub changes: Changes,
    /// The file's own list of plugins. None: config.yaml's holds.
    pub plugins: Option<Vec<PluginEntry>>,
    /// What is new to report.
    pub notices: Vec<Notice>,
    /// Objects that are no objects: left out, the rest holds.
    pub errors: Vec<ConfigError>,
}

/// A standalone file and its last accepted version.
pub struct StandaloneSource {
    path: PathBuf,
    file: Arc<str>,
    json: bool,
    environment: Environment,
    /// The revision that the compiler has.
    applied: AtomicU64,
    state: Mutex<Option<State>>,
}

struct State {
    text: Vec<u8>,
    lists: Vec<List>,
    plugins: Option<Vec<PluginEntry>>,
    notices: Vec<Notice>,
    errors: Vec<ConfigError>,
    /// Values in the file, at most.
    nodes: usize,
    revision: u64,
    /// What changed since the last applied revision, the later of one object last; absent: everything.
    pending: Option<Vec<Pending>>,
}

/// An object's new value, or that it is gone.
type Pending = (Kind, Arc<str>, Option<Body>);

impl StandaloneSource {
    pub fn new(path: &Path, environment: Environment) -> StandaloneSource {
        StandaloneSource {
            path: path.to_owned(),
            file: path.to_string_lossy().into(),
            json: is_json(path),
            environment,
            applied: AtomicU64::new(0),
            state: Mutex::new(None),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file. An error means that it is not to be used as a whole; the last accepted version stays.
    pub fn load(&self) -> Result<Update, Vec<ConfigError>> {
        let mut slot = self.lock();
        let unreadable =
            |error: std::io::Error| vec![ConfigError::of_file(&self.file, format!("cannot be read: {error}"))];
        let bytes = match slot.as_mut() {
            None => std::fs::read(&self.path).map_err(unreadable)?,
            Some(state) => {
                let mut file = File::open(&self.path).map_err(unreadable)?;
                let length = file.metadata().map_err(unreadable)?.len();
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                match Difference::read(&mut file, length, &state.text) {
                    Ok(difference) => match self.follow(state, difference) {
                        Ok(update) => return Ok(update),
                        Err(bytes) => bytes,
                    },
                    Err(_) => std::fs::read(&self.path).map_err(unreadable)?,
                }
            }
        };
        self.accept(&mut slot, bytes)
    }

    /// Tells that an update is in force: later ones need not repeat it.
    pub fn applied(&self, revision: u64) {
        self.applied.fetch_max(revision, Ordering::Relaxed);
    }

    /// The compiler's problems at their places in the file.
    pub fn errors(&self, problems: &[Problem]) -> Vec<ConfigError> {
        if problems.is_empty() {
            return Vec::new();
        }
        let state = self.lock();
        let Some(state) = state.as_ref() else { return Vec::new() };
        let mut whole: Option<Option<RawConfig>> = None;
        let mut place = |problem: &Problem| {
            let direct = if problems.len() > MAX_PLACED { None } else { self.place(state, problem) };
            direct.or_else(|| {
                let parse = || StandaloneFile::parse(&self.file, &state.text, self.json, &self.environment).ok();
                let raw = whole.get_or_insert_with(parse).as_ref()?;
                let object = raw.objects.iter().rev().find(|o| o.kind == problem.kind && *o.id == *problem.id)?;
                Some(object.error(&problem.path, &*problem.message))
            })
        };
        problems
            .iter()
            .map(|problem| match place(problem) {
                Some(error) => error.suggest(problem.nearest.as_deref()),
                None => {
                    let message = format!("{}/{}: {}", problem.kind.dir(), problem.id, problem.message);
                    ConfigError::of_file(&self.file, message)
                }
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        // A version is put in place as a whole; after a panic before that, the old one is there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reading(&self) -> Reading<'_> {
        Reading { file: &self.file, json: self.json, environment: &self.environment }
    }

    /// Takes a difference over into the state, or returns the new text, which must be parsed as a whole.
    fn follow(&self, state: &mut State, difference: Option<Difference>) -> Result<Update, Vec<u8>> {
        let Some(difference) = difference else {
            return Ok(state.update(self.applied.load(Ordering::Relaxed)));
        };
        match self.patch(state, &difference) {
            Some(patch) => {
                let applied = self.applied.load(Ordering::Relaxed);
                state.settle(applied);
                state.change(patch, difference);
                Ok(state.update(applied))
            }
            None => Err(spliced(&state.text, &difference)),
        }
    }

    fn patch(&self, state: &State, difference: &Difference) -> Option<Patch> {
        let Difference { start, old_end, new } = difference;
        let length = state.text.len() - (old_end - start) + new.len();
        let limits = Limits::default();
        if length > limits.bytes || !self.json && !ends_completely(&state.text, difference) {
            return None;
        }
        let patch = index::patch(&self.reading(), &state.lists, &state.text, *start, *old_end, new)?;
        let list = state.lists.get(patch.list)?;
        let about = format!("{}[", list.kind.dir());
        let remarks = || {
            let notices = state.notices.iter().map(|notice| (&notice.path, notice.position));
            notices.chain(state.errors.iter().map(|error| (&error.path, error.position)))
        };
        let unmoved =
            if self.json { remarks().next().is_none() } else { remarks().all(|(path, _)| !path.starts_with(&about)) };
        (unmoved && state.nodes + patch.nodes <= limits.nodes).then_some(patch)
    }

    fn accept(&self, slot: &mut Option<State>, text: Vec<u8>) -> Result<Update, Vec<ConfigError>> {
        let (mut raw, outline) = StandaloneFile::parse_outlined(&self.file, &text, self.json, &self.environment)?;
        let (notices, errors) = (raw.notices.clone(), std::mem::take(&mut raw.errors));
        let plugins = raw.plugins.take();
        let lists = index::lists(&text, self.json, raw, &outline);
        let revision = slot.as_ref().map_or(0, |state| state.revision) + 1;
        let state = State { text, lists, plugins, notices, errors, nodes: outline.nodes, revision, pending: None };
        let state = slot.insert(state);
        let update = state.update(self.applied.load(Ordering::Relaxed));
        Ok(Update { notices: state.notices.clone(), errors: state.errors.clone(), ..update })
    }

    /// An error at its place, if the object's list is indexed.
    fn place(&self, state: &State, problem: &Problem) -> Option<ConfigError> {
        let is_it = |item: &Item| item.kind == problem.kind && item.id == problem.id;
        let found = state.lists.iter().find_map(|list| {
            let layout = list.layout.as_ref()?;
            let index = list.items.iter().position(is_it)?;
            Some((list, layout, index))
        });
        let (list, layout, index) = found?;
        let position = index::position(&self.reading(), &state.text, layout, index, &problem.path)?;
        let item = list.items.get(index)?;
        let path = readable_path(&format!("{}[{index}]", list.kind.dir()), &problem.path, Some(&item.body.value()));
        Some(ConfigError::at(&self.file, position, path, &*problem.message))
    }
}

fn spliced(text: &[u8], difference: &Difference) -> Vec<u8> {
    let before = text.get(..difference.start).unwrap_or_default();
    let after = text.get(difference.old_end..).unwrap_or_default();
    [before, &difference.new, after].concat()
}

/// The end mark of the new text, looked for without putting the text together.
fn ends_completely(text: &[u8], difference: &Difference) -> bool {
    let last = |bytes: &[u8]| bytes.get(bytes.len().saturating_sub(10)..).unwrap_or_default().to_vec();
    let before = text.get(..difference.start).unwrap_or_default();
    let after = text.get(difference.old_end..).unwrap_or_default();
    is_complete(&[last(before), last(&difference.new), last(after)].concat())
}

impl State {
    /// Forgets changes that are in force.
    fn settle(&mut self, applied: u64) {
        if applied == self.revision {
            self.pending = Some(Vec::new());
        }
    }

    fn update(&mut self, applied: u64) -> Update {
        self.settle(applied);
        let objects = |item: &Item| Object { kind: item.kind, id: item.id.clone(), body: item.body.clone() };
        let changes = match &self.pending {
            None => Changes::Whole(self.lists.iter().flat_map(|list| list.items.iter().map(objects)).collect()),
            Some(pending) => Changes::Part(change_set(pending)),
        };
        let plugins = self.plugins.clone();
        Update { revision: self.revision, changes, plugins, notices: Vec::new(), errors: Vec::new() }
    }

    fn change(&mut self, patch: Patch, difference: Difference) {
        self.note(&patch);
        if patch.new_lines != patch.old_lines {
            self.move_remarks(&patch);
        }
        self.nodes += patch.nodes;
        self.revision += 1;
        let Difference { start, old_end, new } = difference;
        let (removed, added) = (old_end - start, new.len());
        index::apply(&mut self.lists, patch, |offset| offset - removed + added);
        self.text.splice(start..old_end, new);
    }

    /// Remembers what is not yet in force.
    fn note(&mut self, patch: &Patch) {
        let Some(list) = self.lists.get(patch.list) else { return };
        let Some(pending) = &mut self.pending else { return };
        let old: HashMap<(Kind, &Arc<str>), &Body> = list
            .items
            .get(patch.from..patch.to)
            .unwrap_or_default()
            .iter()
            .map(|item| ((item.kind, &item.id), &item.body))
            .collect();
        let new: HashSet<(Kind, &Arc<str>)> = patch.items.iter().map(|item| (item.kind, &item.id)).collect();
        for (kind, id) in old.keys().filter(|key| !new.contains(*key)) {
            pending.push((*kind, (*id).clone(), None));
        }
        for item in &patch.items {
            if old.get(&(item.kind, &item.id)).is_none_or(|old| **old != item.body) {
                pending.push((item.kind, item.id.clone(), Some(item.body.clone())));
            }
        }
        if pending.len() > MAX_PENDING {
            self.pending = None;
        }
    }

    /// Remarks about places behind the change.
    fn move_remarks(&mut self, patch: &Patch) {
        let notices = self.notices.iter_mut().map(|notice| &mut notice.position);
        let mut positions = notices.chain(self.errors.iter_mut().map(|error| &mut error.position)).flatten().peekable();
        if positions.peek().is_none() {
            return;
        }
        let before = self.text.get(..patch.region_start).unwrap_or_default();
        let first = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        for position in positions {
            let line = usize::try_from(position.line).unwrap_or(usize::MAX);
            if line >= first {
                let line = (line + patch.new_lines).saturating_sub(patch.old_lines);
                position.line = u32::try_from(line).unwrap_or(u32::MAX);
            }
        }
    }
}

/// One entry for each object: its last.
fn change_set(pending: &[Pending]) -> ChangeSet {
    let mut seen = HashSet::with_capacity(pending.len());
    let mut set = ChangeSet::default();
    for (kind, id, body) in pending.iter().rev() {
        if !seen.insert((*kind, id)) {
            continue;
        }
        match body {
            Some(body) => set.upserts.push(Object { kind: *kind, id: id.clone(), body: body.clone() }),
            None => set.deletes.push((*kind, id.clone())),
        }
    }
    set.upserts.reverse();
    set.deletes.reverse();
    set
}

#[cfg(test)]
mod tests;
