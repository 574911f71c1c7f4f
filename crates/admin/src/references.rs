//! What stored objects say of each other: whether a reference holds, and who still uses an object.
use serde_json::Value;
use sluice_model::{KeyOwner, Kind, References, id};
use sluice_store::{Entry, Key, State};

/// The stored state, for the checks of a write.
pub struct Stored<'a>(pub &'a State);

impl References for Stored<'_> {
    fn exists(&self, kind: Kind, id: &str) -> bool {
        self.0.get(&Key::of(kind, id)).is_some()
    }
    fn get(&self, kind: Kind, id: &str) -> Option<Value> {
        self.0.get(&Key::of(kind, id)).map(|entry| entry.body.value())
    }
    fn global_rule_with(&self, plugin: &str, except: Option<&str>) -> Option<String> {
        let others = self.0.of(Kind::GlobalRule).filter(|(id, _)| Some(*id) != except);
        others
            .filter(|(_, entry)| entry.body.value()["plugins"].get(plugin).is_some())
            .map(|(id, _)| id.to_owned())
            .next()
    }
    fn key_owner(&self, plugin: &str, field: &str, value: &str) -> Option<KeyOwner> {
        let entries = self.0.of(Kind::Consumer).chain(self.0.of(Kind::Credential));
        // Most bodies do not have the text, and need not be parsed.
        let candidates = entries.filter(|(_, entry)| entry.body.as_str().contains(plugin));
        for (id, entry) in candidates {
            if entry.body.value()["plugins"][plugin][field].as_str() != Some(value) {
                continue;
            }
            return Some(match id.split_once("/credentials/") {
                Some((consumer, credential)) => {
                    KeyOwner { consumer: consumer.to_owned(), credential: Some(credential.to_owned()) }
                }
                None => KeyOwner { consumer: id.to_owned(), credential: None },
            });
        }
        None
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

/// apisix/admin/upstreams.lua
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
    kinds.into_iter().find_map(|(kind, what, direct)| {
        if let Some(user) = find(state, kind, in_plugins) {
            return Some(format!("can not delete this upstream, plugin in {what} [{user}] is still using it now"));
        }
        let user = direct.then(|| find(state, kind, |body| refers(body, "upstream_id", id))).flatten()?;
        Some(format!("can not delete this upstream, {what} [{user}] is still using it now"))
    })
}
