//! Conflicts among routes: which route can never match, because another one comes first and takes all its requests, or
//! because no request has its host.
//!
//! A route is compared with those that are filed at the same place of the tree, not with all others: looking at every one
//! of 100,000 routes takes about as long as building their router. The surprise: only a single other route is found guilty;
//! that several together leave nothing to a route is not found out, and what is not certain is not told.
use crate::pattern::{Filing, Pattern};
use crate::predicate::{Host, Route};
use crate::router::Router;
use crate::table::{Entry, Place, Table};
use crate::{Mode, RouteError, RouteSpec};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Routes at one place that a route is compared with.
const COMPARED: usize = 1000;

/// Why a route, or one of its URIs, can never match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// This route has the same conditions and priority and was there before.
    Same(Arc<str>),
    /// This route comes first and takes all its requests.
    Shadowed(Arc<str>),
    /// No request has this host.
    Host(Box<str>),
}

/// Something that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The route that does not get what it asks for.
    pub route: Arc<str>,
    /// Which of its URIs; of a host none.
    pub uri: Option<Box<str>>,
    pub cause: Cause,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (route, uri) = (&self.route, self.uri.as_deref().unwrap_or_default());
        match &self.cause {
            Cause::Same(by) => {
                write!(f, "route {route} never gets {uri}: route {by} has the same conditions and was there before")
            }
            Cause::Shadowed(by) => {
                write!(f, "route {route} never gets {uri}: route {by} comes first and takes all its requests")
            }
            Cause::Host(host) => write!(f, "route {route}: no request has the host {host:?}"),
        }
    }
}

/// Two routes and how they are filed.
struct Pair<'a, A, B> {
    first: (&'a Route<A>, &'a Pattern, Place),
    second: (&'a Route<B>, &'a Pattern, Place),
    mode: Mode,
}

impl<A, B> Pair<'_, A, B> {
    /// Whether the first is asked before the second wherever both are asked.
    fn in_order(&self) -> bool {
        let (first, second) = (&self.first, &self.second);
        match self.mode {
            // Of equal priority, the more exact URI comes first, whatever else there is.
            Mode::Priority if first.1.filing != second.1.filing || first.1.prefix() != second.1.prefix() => {
                first.0.priority > second.0.priority
            }
            _ => first.2 < second.2,
        }
    }

    /// Whether the first takes everything that the second asks for.
    fn covers(&self) -> bool {
        let (first, second) = (&self.first, &self.second);
        let same_text = first.1.text == second.1.text;
        let direct = first.1.is_direct() && first.1.filing != Filing::Regex;
        (same_text || direct) && first.0.covers(second.0, self.mode != Mode::HostUri)
    }

    fn finding(&self) -> Option<Finding> {
        if !self.in_order() || !self.covers() {
            return None;
        }
        let (first, second) = (&self.first, &self.second);
        let back = first.1.text == second.1.text && second.0.covers(first.0, self.mode != Mode::HostUri);
        let by = Arc::clone(&first.0.id);
        let cause = if back && first.0.priority == second.0.priority { Cause::Same(by) } else { Cause::Shadowed(by) };
        Some(Finding { route: Arc::clone(&second.0.id), uri: Some(second.1.text.clone()), cause })
    }
}

impl<T> Router<T> {
    /// What a route would mean if it were put into force: where it gets nothing, and which others would get nothing any more.
    pub fn examine<U>(&self, spec: RouteSpec<U>) -> Result<Vec<Finding>, RouteError> {
        let id = Arc::clone(&spec.id);
        let sequence = self.routes.get(&id).map_or(self.next_sequence, |old| old.sequence);
        let parameters = matches!(self.mode, Mode::UriWithParameter | Mode::Priority);
        let route = Route::compile(spec, sequence, parameters).map_err(|reason| RouteError { id, reason })?;
        let mut findings = BTreeSet::new();
        self.compare(&route, true, &mut findings);
        Ok(findings.into_iter().collect())
    }

    /// Everything that is probably not meant, by route.
    pub fn examine_all(&self) -> Vec<Finding> {
        let mut findings = BTreeSet::new();
        self.routes.for_each(&mut |route| self.compare(route, false, &mut findings));
        findings.into_iter().collect()
    }

    /// `both`: also what the route does to others.
    fn compare<U>(&self, route: &Route<U>, both: bool, findings: &mut BTreeSet<Finding>) {
        let impossible: Vec<&Host> = route.hosts.iter().filter(|host| !reachable(host, self.mode)).collect();
        findings.extend(impossible.iter().map(|host| Finding {
            route: Arc::clone(&route.id),
            uri: None,
            cause: Cause::Host(host.text.clone()),
        }));
        let tables = self.tables(route);
        for (index, pattern) in route.patterns.iter().enumerate() {
            let place = Place::of(route, index, self.mode);
            let mut taken: Vec<Option<Finding>> = Vec::new();
            for table in &tables {
                let Some(table) = table else {
                    taken.push(None);
                    continue;
                };
                let beside = table.beside(pattern, &route.hosts, self.mode, COMPARED);
                let others = beside.into_iter().filter(|entry| entry.route.id != route.id);
                let others: Vec<(&Entry<T>, &Pattern)> =
                    others.filter_map(|entry| Some((entry, entry.pattern()?))).collect();
                let before = others.iter().filter_map(|(entry, own)| {
                    let pair = Pair {
                        first: (&entry.route, own, entry.place),
                        second: (route, pattern, place),
                        mode: self.mode,
                    };
                    pair.finding()
                });
                taken.push(before.min());
                // In host mode a route stands in a table for each host: only where it has one it takes everything.
                if both && tables.len() == 1 {
                    findings.extend(others.iter().filter(|(entry, _)| entry.route.hosts.len() <= 1).filter_map(
                        |(entry, own)| {
                            let pair = Pair {
                                first: (route, pattern, place),
                                second: (&entry.route, own, entry.place),
                                mode: self.mode,
                            };
                            // What is filed under another prefix is not found from here.
                            (own.prefix() == pattern.prefix()).then(|| pair.finding()).flatten()
                        },
                    ));
                }
            }
            // Every host must be taken, or the URI is reached by the others.
            if taken.iter().all(Option::is_some) {
                findings.extend(taken.into_iter().flatten().min());
            }
        }
    }

    /// The tables that a route is or would be filed in; None for one that is not there yet.
    fn tables<U>(&self, route: &Route<U>) -> Vec<Option<&Table<T>>> {
        if self.mode != Mode::HostUri || route.hosts.is_empty() {
            return vec![Some(&self.any)];
        }
        let hosts = route.hosts.iter().filter(|host| reachable(host, self.mode));
        let table = |host: &Host| match host.wildcard() {
            None => self.hosts.get(&host.text),
            Some(suffix) => {
                let found = self.wildcards.prefixes(suffix.bytes().rev());
                found.into_iter().find(|(text, _)| *text == host.text).map(|(_, table)| table)
            }
        };
        hosts.map(table).collect()
    }
}

fn reachable(host: &Host, mode: Mode) -> bool {
    let rest = host.wildcard().unwrap_or(&host.text);
    let port = mode == Mode::HostUri && host.text.contains(':') && !host.text.contains('[');
    !rest.contains(['*', '/', ' ', '?', '#', '@']) && !port && !host.text.is_empty()
}

#[cfg(test)]
mod tests;
