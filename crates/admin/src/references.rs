//! What stored objects say of each other: whether a reference holds, and who still uses an object.
use crate::admin::Admin;
use crate::encryption;
use serde_json::Value;
use sluice_model::{KeyOwner, Kind, References, id};
use sluice_store::{Entry, Key, State};
use std::cell::RefCell;
use std::sync::PoisonError;

/// The stored state, for the checks of a write. It keeps in mind what was asked for and found.
pub(crate) struct Stored<'a> {
    admin: &'a Admin,
    state: &'a State,
    found: RefCell<Vec<Key>>,
}

impl<'a> Stored<'a> {
    pub fn new(admin: &'a Admin, state: &'a State) -> Stored<'a> {
        Stored { admin, state, found: RefCell::default() }
    }

    /// The keys of objects that the checked body refers to.
    pub fn found(self) -> Vec<Key> {
        self.found.into_inner()
    }

    fn look_up(&self, kind: Kind, id: &str) -> Option<&'a Entry> {
        let key = Key::of(kind, id);
        let entry = self.state.get(&key)?;
        let mut found = self.found.borrow_mut();
        if !found.contains(&key) {
            found.push(key);
        }
        Some(entry)
    }
}

impl References for Stored<'_> {
    fn exists(&self, kind: Kind, id: &str) -> bool {
        self.look_up(kind, id).is_some()
    }
    fn get(&self, kind: Kind, id: &str) -> Option<Value> {
        self.look_up(kind, id).map(|entry| entry.body.value())
    }
    fn global_rule_with(&self, plugin: &str, except: Option<&str>) -> Option<String> {
        let others = self.state.of(Kind::GlobalRule).filter(|(id, _)| Some(*id) != except);
        let mut users = others.filter(|(_, entry)| entry.body.value()["plugins"].get(plugin).is_some());
        users.next().map(|(id, _)| id.to_owned())
    }
    fn key_owner(&self, plugin: &str, field: &str, value: &str) -> Option<KeyOwner> {
        let mut owners = self.admin.key_owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.follow(self.state, &|kind, body| encryption::reveal(self.admin, kind, "", body));
        owners.find(plugin, field, value)
    }
}

/// The message of apisix/admin/*.lua `delete_checker`, if somebody uses the object.
pub fn user_of(state: &State, kind: Kind, id: &str) -> Option<String> {
    match kind {
        Kind::Upstream => upstream_user(state, id),
        Kind::Service => {
            let message = |what: &str, user: &str| {
                format!("can not delete this service directly, {what} [{user}] is still using it now")
            };
            find(state, Kind::Route, |body| refers(body, "service_id", id)).map(|user| message("route", &user)).or_else(
                || {
                    let user = find(state, Kind::StreamRoute, |body| refers(body, "service_id", id));
                    user.map(|user| message("stream_route", &user))
                },
            )
        }
        Kind::PluginConfig => find(state, Kind::Route, |body| refers(body, "plugin_config_id", id))
            .map(|user| format!("can not delete this plugin config, route [{user}] is still using it now")),
        Kind::ConsumerGroup => find(state, Kind::Consumer, |body| refers(body, "group_id", id))
            .map(|user| format!("can not delete this consumer group, consumer [{user}] is still using it now")),
        Kind::Proto => [(Kind::Route, "route"), (Kind::Service, "service")].into_iter().find_map(|(kind, what)| {
            let uses = |body: &Value| refers(&body["plugins"]["grpc-transcode"], "proto_id", id);
            find(state, kind, uses)
                .map(|user| format!("can not delete this proto, {what} [{user}] is still using it now"))
        }),
        Kind::StreamRoute => {
            find(state, Kind::StreamRoute, |body| refers(&body["protocol"], "superior_id", id)).map(|user| {
                format!(
                    "can not delete this stream route directly, stream route [{user}] is still using it as superior_id"
                )
            })
        }
        _ => None,
    }
}

fn refers(body: &Value, field: &str, id: &str) -> bool {
    id::field(body, field).is_some_and(|own| own == id)
}

/// The first of a kind for which `uses` holds.
fn find(state: &State, kind: Kind, uses: impl Fn(&Value) -> bool) -> Option<String> {
    let own_id = |id: &str, entry: &Entry| id::field(&entry.body.value(), "id").unwrap_or_else(|| id.to_owned());
    state.of(kind).find(|(_, entry)| uses(&entry.body.value())).map(|(id, entry)| own_id(id, entry))
}

/// Whether an upstream, or the one inside a route or service, falls back to the upstream of this id.
fn falls_back(body: &Value, id: &str) -> bool {
    [body, &body["upstream"]].into_iter().any(|own| refers(&own["circuit_breaker"], "fallback", id))
}

/// apisix/admin/upstreams.lua; the uses as a fallback are ours.
fn upstream_user(state: &State, id: &str) -> Option<String> {
    let in_plugins = |body: &Value| {
        let rules = body["plugins"]["traffic-split"]["rules"].as_array();
        let targets = rules.into_iter().flatten().filter_map(|rule| rule["weighted_upstreams"].as_array()).flatten();
        targets.into_iter().any(|target| refers(target, "upstream_id", id))
    };
    let kinds = [
        (Kind::Route, "route", true),
        (Kind::Service, "service", true),
        (Kind::PluginConfig, "plugin_config", false),
        (Kind::Consumer, "consumer", false),
        (Kind::ConsumerGroup, "consumer_group", false),
        (Kind::GlobalRule, "global_rules", false),
    ];
    let direct = kinds.into_iter().find_map(|(kind, what, direct)| {
        if let Some(user) = find(state, kind, in_plugins) {
            return Some(format!("can not delete this upstream, plugin in {what} [{user}] is still using it now"));
        }
        let user = direct.then(|| find(state, kind, |body| refers(body, "upstream_id", id))).flatten()?;
        Some(format!("can not delete this upstream, {what} [{user}] is still using it now"))
    });
    direct.or_else(|| {
        let kinds = [(Kind::Upstream, "upstream"), (Kind::Route, "route"), (Kind::Service, "service")];
        kinds.into_iter().find_map(|(kind, what)| {
            let user = find(state, kind, |body| falls_back(body, id))?;
            Some(format!("can not delete this upstream, circuit_breaker in {what} [{user}] is still using it now"))
        })
    })
}
