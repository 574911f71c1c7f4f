//! Routes by URI for one host (or for all): a hash of exact paths, one of prefixes that end in `/`, a tree of other
//! prefixes, and the regular expressions.
//!
//! Nearly all prefixes end in `/` (`/foo/*`): they are found by one hash probe per depth (number of slashes) that any of
//! them has, where a tree costs two cache misses per level.
//!
//! The surprise: a bucket with many routes (one path, thousands of hosts) is indexed by host; merging the two ordered
//! lists gives the very order a single list would have, as routes of other hosts lose anyway.
use std::cmp::Reverse;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::Mode;
use crate::hamt::Hamt;
use crate::pattern::{Filing, Pattern};
use crate::predicate::{Host, Route, Subject};
use crate::radix::Radix;

/// Routes a bucket keeps in one list; above, routes with plain hosts only are indexed.
const FEW: usize = 8;

/// The order within a bucket; the smallest is tried first. lua-resty-radixtree: higher priority, then the longer URI as
/// configured, then the earlier route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    priority: Reverse<i64>,
    length: Reverse<u32>,
    /// 0 plain hosts, 1 wildcards among them, 2 no host; always 0 but in strict-priority mode.
    host_rank: u8,
    sequence: u64,
    uri: u32,
}

impl Place {
    /// Of the URI with this index.
    pub(crate) fn of<T>(route: &Route<T>, uri: usize, mode: Mode) -> Place {
        let host_rank = match &*route.hosts {
            _ if mode != Mode::Priority => 0,
            [] => 2,
            hosts => u8::from(!hosts.iter().all(|h| h.wildcard().is_none())),
        };
        let length = route.patterns.get(uri).map_or(0, |pattern| pattern.text.len());
        Place {
            priority: Reverse(route.priority),
            length: Reverse(u32::try_from(length).unwrap_or(u32::MAX)),
            host_rank,
            sequence: route.sequence,
            uri: u32::try_from(uri).unwrap_or(u32::MAX),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) place: Place,
    /// The URI demands nothing beyond its filing; the route nothing beyond its URI. Known here, so that the common route is
    /// not read before it has won.
    direct: bool,
    open: bool,
    pub(crate) route: Arc<Route<T>>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Entry { place: self.place, direct: self.direct, open: self.open, route: Arc::clone(&self.route) }
    }
}

impl<T> Entry<T> {
    pub(crate) fn pattern(&self) -> Option<&Pattern> {
        self.route.patterns.get(self.place.uri as usize)
    }

    pub(crate) fn matches(&self, subject: &Subject<'_>) -> bool {
        (self.direct || self.pattern().is_some_and(|p| p.matches(subject.request.path)))
            && (self.open || self.route.allows(subject))
    }
}

#[derive(Debug)]
enum Bucket<T> {
    Few(SmallVec<[Entry<T>; 1]>),
    Many(Box<Many<T>>),
}

#[derive(Debug, Clone)]
struct Many<T> {
    general: Vec<Entry<T>>,
    by_host: Hamt<Vec<Entry<T>>>,
}

impl<T> Clone for Bucket<T> {
    fn clone(&self) -> Self {
        match self {
            Bucket::Few(list) => Bucket::Few(list.clone()),
            Bucket::Many(many) => {
                Bucket::Many(Box::new(Many { general: many.general.clone(), by_host: many.by_host.clone() }))
            }
        }
    }
}

impl<T> Default for Bucket<T> {
    fn default() -> Self {
        Bucket::Few(SmallVec::new())
    }
}

/// Two ordered lists as one.
struct Merged<'a, T> {
    a: &'a [Entry<T>],
    b: &'a [Entry<T>],
}

impl<'a, T> Merged<'a, T> {
    fn peek(&self) -> Option<&'a Entry<T>> {
        match (self.a.first(), self.b.first()) {
            (Some(a), Some(b)) => Some(if a.place <= b.place { a } else { b }),
            (a, b) => a.or(b),
        }
    }
}

impl<'a, T> Iterator for Merged<'a, T> {
    type Item = &'a Entry<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let from = match (self.a.first(), self.b.first()) {
            (Some(a), Some(b)) if a.place <= b.place => &mut self.a,
            (Some(_), None) => &mut self.a,
            _ => &mut self.b,
        };
        let (first, rest) = from.split_first()?;
        *from = rest;
        Some(first)
    }
}

impl<T> Bucket<T> {
    fn is_empty(&self) -> bool {
        match self {
            Bucket::Few(list) => list.is_empty(),
            Bucket::Many(many) => many.general.is_empty() && many.by_host.is_empty(),
        }
    }

    /// Those that a route with these hosts may meet, at most `limit`; in no order.
    fn meeting<'a>(&'a self, hosts: impl Iterator<Item = &'a str>, limit: usize) -> Vec<&'a Entry<T>> {
        match self {
            Bucket::Few(list) => list.iter().take(limit).collect(),
            Bucket::Many(many) => {
                let indexed = hosts.filter_map(|host| many.by_host.get(host)).flatten();
                many.general.iter().chain(indexed).take(limit).collect()
            }
        }
    }

    /// In order, those that this host does not exclude (by index; others exclude themselves later).
    fn candidates(&self, host: &str) -> Merged<'_, T> {
        match self {
            Bucket::Few(list) => Merged { a: list, b: &[] },
            Bucket::Many(many) => Merged { a: &many.general, b: many.by_host.get(host).map_or(&[], |v| v) },
        }
    }

    /// All, in order.
    fn all(&self) -> Vec<Entry<T>> {
        let mut all = Vec::new();
        match self {
            Bucket::Few(list) => all.extend(list.iter().cloned()),
            Bucket::Many(many) => {
                all.extend(many.general.iter().cloned());
                many.by_host.for_each(&mut |list| all.extend(list.iter().cloned()));
            }
        }
        all.sort_by_key(|e| e.place);
        all.dedup_by_key(|e| e.place);
        all
    }

    fn with(&self, entry: &Entry<T>) -> Bucket<T> {
        let mut bucket = self.clone();
        match &mut bucket {
            Bucket::Few(list) => {
                if let Err(at) = list.binary_search_by_key(&entry.place, |e| e.place) {
                    list.insert(at, entry.clone());
                }
                // One list serves as well when no route can leave it.
                if list.len() > FEW && list.iter().any(indexable) {
                    let mut many = Many { general: Vec::new(), by_host: Hamt::default() };
                    list.iter().for_each(|e| many.insert(e));
                    bucket = Bucket::Many(Box::new(many));
                }
            }
            Bucket::Many(many) => many.insert(entry),
        }
        bucket
    }

    fn without(&self, entry: &Entry<T>) -> Bucket<T> {
        let mut bucket = self.clone();
        match &mut bucket {
            Bucket::Few(list) => list.retain(|e| e.place != entry.place),
            Bucket::Many(many) if indexable(entry) => {
                for host in &entry.route.hosts {
                    many.by_host.alter(&host.text, |old| {
                        let mut list = old?.clone();
                        list.retain(|e| e.place != entry.place);
                        (!list.is_empty()).then_some(list)
                    });
                }
            }
            Bucket::Many(many) => many.general.retain(|e| e.place != entry.place),
        }
        bucket
    }
}

/// All its hosts are plain, and it has some.
fn indexable<T>(entry: &Entry<T>) -> bool {
    !entry.route.hosts.is_empty() && entry.route.hosts.iter().all(|h| h.is_plain())
}

impl<T> Many<T> {
    fn insert(&mut self, entry: &Entry<T>) {
        let add = |list: &mut Vec<Entry<T>>| {
            if let Err(at) = list.binary_search_by_key(&entry.place, |e| e.place) {
                list.insert(at, entry.clone());
            }
        };
        if !indexable(entry) {
            return add(&mut self.general);
        }
        for host in &entry.route.hosts {
            self.by_host.alter(&host.text, |old| {
                let mut list = old.cloned().unwrap_or_default();
                add(&mut list);
                Some(list)
            });
        }
    }
}

#[derive(Debug)]
pub(crate) struct Table<T> {
    exact: Hamt<Bucket<T>>,
    /// Prefixes that end in `/` and have fewer than [`DEPTHS`] slashes.
    folders: Hamt<Bucket<T>>,
    depths: Depths,
    /// The other prefixes, with their length.
    prefixes: Radix<(usize, Bucket<T>)>,
    regexes: Option<Arc<Bucket<T>>>,
}

const DEPTHS: usize = 16;

/// How many keys of `folders` have so many slashes; `present` has a bit for each count above 0.
#[derive(Debug, Clone, Default)]
struct Depths {
    present: u16,
    counts: Option<Arc<[u32; DEPTHS]>>,
}

impl Depths {
    fn change(&mut self, depth: usize, by: i32) {
        let counts = Arc::make_mut(self.counts.get_or_insert_default());
        if let Some(count) = counts.get_mut(depth) {
            *count = count.saturating_add_signed(by);
            let bit = 1 << depth;
            self.present = if *count > 0 { self.present | bit } else { self.present & !bit };
        }
    }
}

/// The depth of a prefix that belongs into `folders`.
fn depth(prefix: &str) -> Option<usize> {
    let slashes = prefix.bytes().filter(|b| *b == b'/').count();
    (prefix.ends_with('/') && slashes < DEPTHS).then_some(slashes)
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Table {
            exact: self.exact.clone(),
            folders: self.folders.clone(),
            depths: self.depths.clone(),
            prefixes: self.prefixes.clone(),
            regexes: self.regexes.clone(),
        }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table {
            exact: Hamt::default(),
            folders: Hamt::default(),
            depths: Depths::default(),
            prefixes: Radix::default(),
            regexes: None,
        }
    }
}

impl<T> Table<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.folders.is_empty() && self.prefixes.is_empty() && self.regexes.is_none()
    }

    /// Files every URI of the route, or takes them out.
    pub(crate) fn file(&mut self, route: &Arc<Route<T>>, add: bool, mode: Mode) {
        for (i, pattern) in route.patterns.iter().enumerate() {
            let place = Place::of(route, i, mode);
            let entry = Entry {
                place,
                direct: pattern.is_direct(),
                open: route.is_open(mode != Mode::HostUri),
                route: Arc::clone(route),
            };
            let change = |old: Option<&Bucket<T>>| {
                let bucket = match (old, add) {
                    (Some(old), true) => old.with(&entry),
                    (None, true) => Bucket::default().with(&entry),
                    (Some(old), false) => old.without(&entry),
                    (None, false) => return None,
                };
                (!bucket.is_empty()).then_some(bucket)
            };
            match pattern.filing {
                Filing::Exact => self.exact.alter(&pattern.text, change),
                Filing::Prefix(len) => match depth(pattern.prefix()) {
                    Some(depth) => {
                        let mut keys = 0;
                        self.folders.alter(pattern.prefix(), |old| {
                            let new = change(old);
                            keys = i32::from(new.is_some()) - i32::from(old.is_some());
                            new
                        });
                        if keys != 0 {
                            self.depths.change(depth, keys);
                        }
                    }
                    None => self
                        .prefixes
                        .alter(pattern.prefix().as_bytes(), |old| Some((len, change(old.map(|(_, b)| b))?))),
                },
                Filing::Regex => self.regexes = change(self.regexes.as_deref()).map(Arc::new),
            }
        }
    }

    /// The entries that stand where a pattern is filed, and in strict-priority mode where shorter prefixes of it are; at
    /// most `limit` of each place.
    pub(crate) fn beside<'a>(
        &'a self,
        pattern: &Pattern,
        hosts: &'a [Host],
        mode: Mode,
        limit: usize,
    ) -> Vec<&'a Entry<T>> {
        let own = match pattern.filing {
            Filing::Exact => self.exact.get(&pattern.text),
            Filing::Prefix(_) => match depth(pattern.prefix()) {
                Some(_) => self.folders.get(pattern.prefix()),
                None => {
                    let found = self.prefixes.prefixes(pattern.prefix().bytes());
                    found.into_iter().find(|(len, _)| *len == pattern.prefix().len()).map(|(_, bucket)| bucket)
                }
            },
            Filing::Regex => self.regexes.as_deref(),
        };
        let key = if pattern.filing == Filing::Exact { &*pattern.text } else { pattern.prefix() };
        let shorter = (mode == Mode::Priority && pattern.filing != Filing::Regex).then(|| self.prefixed(key));
        let buckets = own.into_iter().chain(shorter.into_iter().flatten());
        buckets.flat_map(|bucket| bucket.meeting(hosts.iter().map(|host| &*host.text), limit)).collect()
    }

    /// The first route that matches: exact paths, then the longest prefix and shorter ones, then regular expressions.
    pub(crate) fn find(&self, subject: &Subject<'_>) -> Option<&Entry<T>> {
        let path = subject.request.path;
        if let Some(bucket) = self.exact.get(path)
            && let Some(found) = bucket.candidates(subject.host).find(|e| e.matches(subject))
        {
            return Some(found);
        }
        for bucket in self.prefixed(path) {
            if let Some(found) = bucket.candidates(subject.host).find(|e| e.matches(subject)) {
                return Some(found);
            }
        }
        self.regexes.as_ref()?.candidates(subject.host).find(|e| e.matches(subject))
    }

    /// The match of the highest priority; among equals in the order of [`Table::find`].
    pub(crate) fn find_by_priority(&self, subject: &Subject<'_>) -> Option<&Entry<T>> {
        let mut lists: SmallVec<[Merged<'_, T>; 8]> =
            self.buckets(subject.request.path).map(|b| b.candidates(subject.host)).collect();
        loop {
            let (mut best, mut priority) = (None, Reverse(i64::MIN));
            for (i, list) in lists.iter().enumerate() {
                // The first of equals stays.
                if let Some(head) = list.peek()
                    && (best.is_none() || head.place.priority < priority)
                {
                    (best, priority) = (Some(i), head.place.priority);
                }
            }
            let entry = lists.get_mut(best?)?.next()?;
            if entry.matches(subject) {
                return Some(entry);
            }
        }
    }

    /// All routes whose filing leads to this path, in the order in which they are considered.
    pub(crate) fn considered(&self, path: &str, by_priority: bool) -> Vec<Entry<T>> {
        let mut all: Vec<Entry<T>> = self.buckets(path).flat_map(Bucket::all).collect();
        if by_priority {
            // Stable: among equals the order of the buckets stays.
            all.sort_by_key(|e| e.place.priority);
        }
        all
    }

    fn buckets(&self, path: &str) -> impl Iterator<Item = &Bucket<T>> {
        self.exact.get(path).into_iter().chain(self.prefixed(path)).chain(self.regexes.as_deref())
    }

    /// The buckets of all prefixes of `path`, longest first.
    fn prefixed<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a Bucket<T>> + use<'a, T> {
        let mut found: SmallVec<[(usize, &'a Bucket<T>); 8]> = SmallVec::new();
        if self.depths.present != 0 {
            let mut left = self.depths.present >> 1;
            for (at, _) in path.bytes().enumerate().filter(|(_, b)| *b == b'/') {
                if left & 1 != 0 {
                    let bucket = path.get(..=at).and_then(|prefix| self.folders.get(prefix));
                    found.extend(bucket.map(|b| (at + 1, b)));
                }
                left >>= 1;
                if left == 0 {
                    break;
                }
            }
        }
        if !self.prefixes.is_empty() {
            let tree = self.prefixes.prefixes(path.bytes());
            let mixed = !found.is_empty();
            found.extend(tree.iter().map(|(len, bucket)| (*len, bucket)));
            if mixed {
                found.sort_unstable_by_key(|(len, _)| *len);
            }
        }
        found.into_iter().rev().map(|(_, bucket)| bucket)
    }
}
