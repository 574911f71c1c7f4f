//! The rules, a function each. The surprise: they look at objects as written; an object that is not valid is another
//! command's matter, so nothing here relies on any form.
use super::{Files, Found, plugins};
use crate::object::{Key, Object};
use crate::secrets;
use serde_json::Value;
use sluice_model::{Kind, id};
use std::collections::HashSet;

const AUTH: [&str; 6] = ["key-auth", "basic-auth", "jwt-auth", "hmac-auth", "ldap-auth", "wolf-rbac"];
/// Shortest secret that is not called weak, in characters.
const SECRET_LENGTH: usize = 16;

/// What an object refers to: pointer, kind and id.
fn references(object: &Object) -> Vec<(String, Kind, String)> {
    let value = &object.value;
    let mut out = Vec::new();
    let mut add = |pointer: &str, kind: Kind| {
        if let Some(id) = value.pointer(pointer).and_then(id::text) {
            out.push((pointer.to_owned(), kind, id));
        }
    };
    match object.key.kind {
        Kind::Route | Kind::StreamRoute | Kind::Service => {
            add("/service_id", Kind::Service);
            add("/upstream_id", Kind::Upstream);
            add("/plugin_config_id", Kind::PluginConfig);
            add("/upstream/tls/client_cert_id", Kind::Ssl);
            add("/protocol/superior_id", Kind::StreamRoute);
        }
        Kind::Upstream => add("/tls/client_cert_id", Kind::Ssl),
        Kind::Consumer => add("/group_id", Kind::ConsumerGroup),
        _ => {}
    }
    add("/plugins/grpc-transcode/proto_id", Kind::Proto);
    let rules = value["plugins"]["traffic-split"]["rules"].as_array();
    for (r, rule) in rules.into_iter().flatten().enumerate() {
        let weighted = rule["weighted_upstreams"].as_array().into_iter().flatten();
        for (w, upstream) in weighted.enumerate() {
            if let Some(id) = id::field(upstream, "upstream_id") {
                let pointer = format!("/plugins/traffic-split/rules/{r}/weighted_upstreams/{w}/upstream_id");
                out.push((pointer, Kind::Upstream, id));
            }
        }
    }
    out
}

pub(super) fn missing_reference(files: &Files<'_>, found: &mut Found) {
    for object in files.objects {
        for (pointer, kind, id) in references(object) {
            if !files.by_key.contains_key(&Key::new(kind, id.clone())) {
                found.add(object, &pointer, format!("there is no {} {id:?} in the files", kind.name()));
            }
        }
        if let (Kind::Credential, Some((consumer, _))) = (object.key.kind, object.key.id.split_once("/credentials/"))
            && !files.by_key.contains_key(&Key::new(Kind::Consumer, consumer))
        {
            found.add(object, "/id", format!("there is no consumer {consumer:?} in the files"));
        }
    }
}

pub(super) fn unreachable_route(files: &Files<'_>, found: &mut Found) {
    for told in files.unreachable {
        if let Some(object) = files.by_key.get(&Key::new(Kind::Route, told.route.as_str())) {
            found.add(object, "", told.text.as_str());
        }
    }
}

pub(super) fn no_upstream(files: &Files<'_>, found: &mut Found) {
    let own = |value: &Value| ["upstream", "upstream_id"].iter().any(|field| !value[*field].is_null());
    let any_plugin = |value: &Value| plugins(value).next().is_some();
    let global = files.objects.iter().any(|o| o.key.kind == Kind::GlobalRule && any_plugin(&o.value));
    for object in files.objects.iter().filter(|object| object.key.kind == Kind::Route) {
        let service = id::field(&object.value, "service_id").map(|id| Key::new(Kind::Service, id));
        let service = service.as_ref().map(|key| files.by_key.get(key));
        let unknown = matches!(service, Some(None)) || !object.value["plugin_config_id"].is_null();
        let service = service.flatten().map(|service| &service.value);
        let answers = ["script", "filter_func"].iter().any(|field| !object.value[*field].is_null());
        let parts = [Some(&object.value), service].into_iter().flatten();
        if !unknown && !answers && !global && !parts.into_iter().any(|value| own(value) || any_plugin(value)) {
            found.add(object, "", "has no upstream and no plugin: every request gets 503");
        }
    }
}

pub(super) fn unused(files: &Files<'_>, found: &mut Found) {
    let used: HashSet<Key> =
        files.objects.iter().flat_map(references).map(|(_, kind, id)| Key::new(kind, id)).collect();
    let shared = [Kind::Upstream, Kind::Service, Kind::PluginConfig, Kind::ConsumerGroup, Kind::Proto];
    for object in files.objects.iter().filter(|object| shared.contains(&object.key.kind)) {
        if !used.contains(&object.key) {
            found.add(object, "", format!("no object refers to this {}", object.key.kind.name()));
        }
    }
}

fn credentials<'a>(files: &'a Files<'_>) -> impl Iterator<Item = &'a Object> {
    files.objects.iter().filter(|object| matches!(object.key.kind, Kind::Consumer | Kind::Credential))
}

pub(super) fn nobody_can_pass(files: &Files<'_>, found: &mut Found) {
    let known: HashSet<&str> = credentials(files).flat_map(|o| plugins(&o.value)).map(|(name, ..)| name).collect();
    let guarded = [Kind::Route, Kind::Service, Kind::PluginConfig, Kind::GlobalRule];
    for object in files.objects.iter().filter(|object| guarded.contains(&object.key.kind)) {
        for (name, config, pointer) in plugins(&object.value) {
            let local = ["ldap-auth", "wolf-rbac"].contains(&name);
            let disabled = config["_meta"]["disable"] == true || !config["anonymous_consumer"].is_null();
            if AUTH.contains(&name) && !local && !disabled && !known.contains(name) {
                found.add(object, &pointer, format!("no consumer has a credential for {name}: every request gets 401"));
            }
        }
    }
}

pub(super) fn consumer_without_credential(files: &Files<'_>, found: &mut Found) {
    let owners: HashSet<&str> = credentials(files)
        .filter_map(|object| object.key.id.split_once("/credentials/"))
        .map(|(consumer, _)| consumer)
        .collect();
    let anonymous: HashSet<&str> = files
        .objects
        .iter()
        .flat_map(|object| plugins(&object.value))
        .filter_map(|(_, config, _)| config["anonymous_consumer"].as_str())
        .collect();
    for object in files.objects.iter().filter(|object| object.key.kind == Kind::Consumer) {
        let name = object.key.id.as_str();
        let own = plugins(&object.value).any(|(plugin, ..)| {
            AUTH.contains(&plugin) || files.registry.get(plugin).is_none_or(|definition| definition.info.auth)
        });
        if !own && !owners.contains(name) && !anonymous.contains(name) {
            found.add(object, "", "no request can be of this consumer: it has no credential");
        }
    }
}

pub(super) fn plain_secret(files: &Files<'_>, found: &mut Found) {
    for object in files.objects {
        for pointer in secrets::pointers(&object.key, &object.value, files.registry) {
            if object.value.pointer(&pointer).and_then(Value::as_str) != Some(secrets::MASK) {
                found.add(object, &pointer, "a secret in plain text");
            }
        }
    }
}

pub(super) fn weak_secret(files: &Files<'_>, found: &mut Found) {
    for object in credentials(files) {
        for (name, field) in [("key-auth", "key"), ("jwt-auth", "secret"), ("hmac-auth", "secret_key")] {
            let pointer = format!("/plugins/{name}/{field}");
            let Some(text) = object.value.pointer(&pointer).and_then(Value::as_str) else { continue };
            if text != secrets::MASK
                && !sluice_model::secret::is_reference(text)
                && text.chars().count() < SECRET_LENGTH
            {
                found.add(object, &pointer, format!("shorter than {SECRET_LENGTH} characters: it can be guessed"));
            }
        }
    }
}

pub(super) fn tls_not_verified(files: &Files<'_>, found: &mut Found) {
    for object in files.objects {
        for (name, config, pointer) in plugins(&object.value) {
            switched_off(config, &pointer, &mut |pointer| {
                found.add(object, pointer, format!("{name} does not check the certificate of its server"));
            });
        }
        let upstream = if object.key.kind == Kind::Upstream { "" } else { "/upstream" };
        let pointer = format!("{upstream}/tls/verify");
        if object.value.pointer(&pointer) == Some(&Value::Bool(false)) {
            found.add(object, &pointer, "the certificates of the nodes are not checked");
        }
        if object.key.kind == Kind::Secret && object.value["ssl_verify"] == false {
            found.add(object, "/ssl_verify", "the certificate of the secret manager is not checked");
        }
    }
}

fn switched_off(value: &Value, at: &str, tell: &mut dyn FnMut(&str)) {
    const SWITCHES: [&str; 6] = [
        "ssl_verify",
        "redis_ssl_verify",
        "sentinel_ssl_verify",
        "tls_verify",
        "https_verify_certificate",
        "verify_ssl",
    ];
    for (name, value) in value.as_object().into_iter().flatten() {
        let pointer = format!("{at}/{name}");
        if SWITCHES.contains(&name.as_str()) && value == &Value::Bool(false) {
            tell(&pointer);
        }
        switched_off(value, &pointer, tell);
    }
}

pub(super) fn open_cors(files: &Files<'_>, found: &mut Found) {
    for object in files.objects {
        for (name, config, pointer) in plugins(&object.value).filter(|(name, ..)| *name == "cors") {
            let origins = config["allow_origins"].as_str().unwrap_or("*");
            if origins == "**" && config["allow_credential"] == true {
                found.add(object, &pointer, format!("{name} lets every origin send credentials"));
            }
        }
    }
}

pub(super) fn old_tls(files: &Files<'_>, found: &mut Found) {
    for object in files.objects.iter().filter(|object| object.key.kind == Kind::Ssl) {
        let protocols = object.value["ssl_protocols"].as_array().into_iter().flatten();
        for (index, protocol) in protocols.enumerate() {
            if matches!(protocol.as_str(), Some("TLSv1" | "TLSv1.1")) {
                found.add(object, &format!("/ssl_protocols/{index}"), "a protocol that is broken and not served");
            }
        }
    }
}
