//! Writes that are tried before they are done: on a copy of the stored state, by the same code that writes for good. Dry runs
//! and transactions stand on it. The surprise: the copy is of texts that are shared, so even 100,000 objects cost
//! milliseconds.
use crate::admin::{Admin, Call};
use crate::changes::{self, Difference};
use crate::message::{Reply, Request};
use crate::preconditions::Conditions;
use crate::resource;
use serde_json::Value;
use sluice_store::{Expect, MemoryStore, Op, State};
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

/// An Admin API on a copy.
pub(crate) struct Staged {
    admin: Admin,
    before: State,
}

/// One write.
pub(crate) struct Write {
    pub method: String,
    /// Segments after `/apisix/admin`.
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
    pub if_match: Option<String>,
    pub body: Option<Value>,
}

impl Staged {
    /// A copy of the state as it is now.
    pub fn of(admin: &Admin) -> Staged {
        let before = admin.store.state().read().unwrap_or_else(PoisonError::into_inner).clone();
        let store = Arc::new(MemoryStore::holding(before.clone()));
        let settings = crate::AdminSettings { api_driven: false, ..admin.settings.clone() };
        Staged { admin: Admin::new(settings, store, admin.gateway.clone()), before }
    }

    /// Writes to the copy.
    pub async fn write(&self, write: &Write) -> Reply {
        let mut request = Request::new(&write.method, &format!("/apisix/admin/{}", write.path.join("/")));
        request.query = write.query.iter().filter(|(name, _)| name != "wait").cloned().collect();
        request.headers.extend(write.if_match.iter().map(|text| ("if-match".to_owned(), text.clone())));
        let conditions = Conditions::of(&request);
        let call = Call { request: &request, author: String::new(), body: write.body.clone(), conditions: &conditions };
        let path: Vec<&str> = write.path.iter().map(String::as_str).collect();
        let reply = resource::answer(&self.admin, &path, call).await;
        conditions.finish(reply)
    }

    pub fn before(&self) -> &State {
        &self.before
    }

    /// The copy as it is now.
    pub fn after(&self) -> State {
        self.admin.store.state().read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn changes(&self) -> Vec<Difference> {
        changes::between(&self.before, &self.after())
    }

    /// The operations that do for good what was done to the copy, on the condition that nobody changed these objects.
    pub fn ops(&self) -> Vec<Op> {
        let after = self.after();
        let now = SystemTime::now();
        let op = |change: Difference| {
            let expect = match self.before.get(&change.key) {
                Some(entry) => Expect::Revision(entry.modified),
                None => Expect::Absent,
            };
            match after.get(&change.key) {
                Some(entry) => {
                    let ttl = entry.expires.map(|at| at.duration_since(now).unwrap_or_default());
                    Op::Put { key: change.key, body: entry.body.clone(), expect, ttl }
                }
                None => Op::Delete { key: change.key, expect },
            }
        };
        self.changes().into_iter().map(op).collect()
    }
}
