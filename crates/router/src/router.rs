//! The router: from the host to a table of URIs, and the persistent update.
//!
//! The surprise: an update that does not compile leaves the route's last good form in force.
use std::borrow::Cow;
use std::sync::Arc;

use crate::hamt::Hamt;
use crate::predicate::{Route, Subject};
use crate::radix::Radix;
use crate::table::{Entry, Table};
use crate::{Candidate, Found, Lookup, Mode, Outcome, Request, RouteError, RouteSpec};

/// Most candidates [`Router::explain`] lists.
pub const MAX_EXPLAINED: usize = 1000;

/// An immutable router; cloning shares everything.
#[derive(Debug)]
pub struct Router<T> {
    pub(crate) mode: Mode,
    pub(crate) routes: Hamt<Arc<Route<T>>>,
    count: usize,
    pub(crate) next_sequence: u64,
    /// Routes without a host and, but in host mode, all others.
    pub(crate) any: Table<T>,
    /// Host mode: plain hosts, and wildcards by the reversed text after the `*`.
    pub(crate) hosts: Hamt<Table<T>>,
    pub(crate) wildcards: Radix<(Box<str>, Table<T>)>,
}

impl<T> Clone for Router<T> {
    fn clone(&self) -> Self {
        Router {
            mode: self.mode,
            routes: self.routes.clone(),
            count: self.count,
            next_sequence: self.next_sequence,
            any: self.any.clone(),
            hosts: self.hosts.clone(),
            wildcards: self.wildcards.clone(),
        }
    }
}

impl<T> Router<T> {
    /// A router without routes.
    pub fn new(mode: Mode) -> Router<T> {
        Router {
            mode,
            routes: Hamt::default(),
            count: 0,
            next_sequence: 0,
            any: Table::default(),
            hosts: Hamt::default(),
            wildcards: Radix::default(),
        }
    }

    /// Routes in the order of their creation. Those that do not compile are left out and reported.
    pub fn build(mode: Mode, specs: Vec<RouteSpec<T>>) -> (Router<T>, Vec<RouteError>) {
        let mut router = Router::new(mode);
        let errors = router.apply(specs, &[]);
        (router, errors)
    }

    /// The router with `deletes` (ids) taken out, then `upserts` put in; a changed route keeps its place in the order. What
    /// is not changed is shared with `self`. A route that does not compile is reported and its last form stays.
    pub fn update(&self, upserts: Vec<RouteSpec<T>>, deletes: &[&str]) -> (Router<T>, Vec<RouteError>) {
        let mut router = self.clone();
        let errors = router.apply(upserts, deletes);
        (router, errors)
    }

    fn apply(&mut self, upserts: Vec<RouteSpec<T>>, deletes: &[&str]) -> Vec<RouteError> {
        for id in deletes {
            if let Some(old) = self.routes.get(id).cloned() {
                self.file(&old, false);
                self.routes.alter(id, |_| None);
                self.count -= 1;
            }
        }
        let mut errors = Vec::new();
        for spec in upserts {
            let id = Arc::clone(&spec.id);
            let old = self.routes.get(&id).cloned();
            let sequence = old.as_ref().map_or(self.next_sequence, |old| old.sequence);
            let route = match Route::compile(spec, sequence, self.mode.has_parameters()) {
                Ok(route) => Arc::new(route),
                Err(reason) => {
                    errors.push(RouteError { id, reason });
                    continue;
                }
            };
            match old {
                Some(old) => self.file(&old, false),
                None => {
                    self.next_sequence += 1;
                    self.count += 1;
                }
            }
            self.file(&route, true);
            self.routes.alter(&id, |_| Some(Arc::clone(&route)));
        }
        errors
    }

    /// Puts a route into every table it belongs to, or takes it out.
    fn file(&mut self, route: &Arc<Route<T>>, add: bool) {
        if self.mode != Mode::HostUri || route.hosts.is_empty() {
            return self.any.file(route, add, self.mode);
        }
        let mode = self.mode;
        for host in &route.hosts {
            let change = |old: Option<&Table<T>>| {
                let mut table = old.cloned().unwrap_or_default();
                table.file(route, add, mode);
                (!table.is_empty()).then_some(table)
            };
            match host.wildcard() {
                None => self.hosts.alter(&host.text, change),
                Some(suffix) => {
                    let key: Vec<u8> = suffix.bytes().rev().collect();
                    self.wildcards.alter(&key, |old| Some((host.text.clone(), change(old.map(|(_, table)| table))?)));
                }
            }
        }
    }

    /// Routes in force.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The order of matching.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The handle of a route by its id.
    pub fn get(&self, id: &str) -> Option<&T> {
        self.routes.get(id).map(|route| &route.handle)
    }

    /// The route for a request.
    pub fn find<'a>(&'a self, request: &Request<'a>, lookup: &dyn Lookup) -> Option<Found<'a, T>> {
        let host = lower(request.host);
        let subject = self.subject(request, &host, lookup);
        let (entry, host) = match self.mode {
            Mode::HostUri => self.find_by_host(&subject)?,
            Mode::Priority => (self.any.find_by_priority(&subject)?, None),
            Mode::Uri | Mode::UriWithParameter => (self.any.find(&subject)?, None),
        };
        let pattern = entry.pattern()?;
        let route = &*entry.route;
        let host = if subject.check_host && !route.hosts.is_empty() { route.matched_host(&subject) } else { host };
        Some(Found {
            id: &route.id,
            handle: &route.handle,
            uri: &pattern.text,
            host,
            params: pattern.params(request.path),
        })
    }

    /// Exact host, then the longest wildcard and shorter ones, then the routes without host (radixtree_host_uri.lua).
    fn find_by_host(&self, subject: &Subject<'_>) -> Option<(&Entry<T>, Option<&str>)> {
        if let Some(entry) = self.hosts.get(subject.host).and_then(|table| table.find(subject)) {
            let host = entry.route.hosts.iter().find(|h| *h.text == *subject.host);
            return Some((entry, host.map(|h| &*h.text)));
        }
        if !self.wildcards.is_empty() {
            for (host, table) in self.wildcards.prefixes(subject.host.bytes().rev()).into_iter().rev() {
                if let Some(entry) = table.find(subject) {
                    return Some((entry, Some(host)));
                }
            }
        }
        self.any.find(subject).map(|entry| (entry, None))
    }

    /// Every route whose URI (in host mode, also host) leads to the request, in the order considered, and what became of
    /// it. At most [`MAX_EXPLAINED`].
    pub fn explain(&self, request: &Request<'_>, lookup: &dyn Lookup) -> Vec<Candidate> {
        let host = lower(request.host);
        let subject = self.subject(request, &host, lookup);
        let mut entries = Vec::new();
        if self.mode == Mode::HostUri {
            entries.extend(self.hosts.get(&host).map(|t| t.considered(request.path, false)).unwrap_or_default());
            for (_, table) in self.wildcards.prefixes(host.bytes().rev()).into_iter().rev() {
                entries.extend(table.considered(request.path, false));
            }
        }
        entries.extend(self.any.considered(request.path, self.mode == Mode::Priority));
        let mut winner: Option<Arc<str>> = None;
        let mut candidates = Vec::new();
        for entry in entries.into_iter().take(MAX_EXPLAINED) {
            let route = &*entry.route;
            let Some(pattern) = entry.pattern() else { continue };
            let refusal = match pattern.matches(request.path) {
                true => route.refuses(&subject),
                false => Some(format!("path does not match {}", pattern.text)),
            };
            let outcome = match (refusal, &winner) {
                (Some(reason), _) => Outcome::Lost { reason },
                (None, Some(first)) => Outcome::Lost { reason: format!("matches too, but comes after {first}") },
                (None, None) => {
                    winner = Some(Arc::clone(&route.id));
                    Outcome::Won
                }
            };
            candidates.push(Candidate { id: Arc::clone(&route.id), uri: pattern.text.clone(), outcome });
        }
        candidates
    }

    fn subject<'r>(&self, request: &'r Request<'r>, host: &'r str, lookup: &'r dyn Lookup) -> Subject<'r> {
        Subject { request, host, lookup, check_host: self.mode != Mode::HostUri }
    }
}

/// Copies only what a careless caller left in capitals.
fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}
