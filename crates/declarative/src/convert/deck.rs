//! decK files (Kong 3): services, routes, upstreams, consumers with credentials, plugins, certificates. The surprise: Kong
//! tries every regular expression before any prefix, so routes of expressions get a higher priority here.
use super::openapi::split_url;
use super::{Converted, deck_plugins, labels, quote};
use serde_json::{Map, Value, json};
use sluice_model::Kind;
use sluice_plugin::{Registry, Scope};
use std::collections::HashMap;

/// Priority of a route by regular expression; Kong's `regex_priority` is added.
const REGEX_PRIORITY: i64 = 100;

#[derive(Debug, thiserror::Error)]
#[error("not a decK file: `_format_version` is missing")]
pub struct DeckError;

/// Converts a file.
pub fn convert(document: &Value, registry: &Registry) -> Result<Converted, DeckError> {
    if document["_format_version"].is_null() {
        return Err(DeckError);
    }
    let mut deck = Deck { out: Converted::default(), registry, upstreams: HashMap::new(), services: HashMap::new() };
    for (index, upstream) in list(document, "upstreams") {
        deck.upstream(&format!("upstreams[{index}]"), upstream);
    }
    for (index, service) in list(document, "services") {
        deck.service(&format!("services[{index}]"), service);
    }
    for (index, route) in list(document, "routes") {
        let name = route["service"]["name"].as_str().or_else(|| route["service"].as_str());
        let service = name.and_then(|name| deck.services.get(name).cloned());
        deck.route(&format!("routes[{index}]"), route, service.as_ref());
    }
    for (index, group) in list(document, "consumer_groups") {
        let at = format!("consumer_groups[{index}]");
        let plugins = deck.plugins(&at, group);
        deck.out.add(Kind::ConsumerGroup, text(group, "name"), json!({"plugins": plugins}));
    }
    for (index, consumer) in list(document, "consumers") {
        deck.consumer(&format!("consumers[{index}]"), consumer);
    }
    deck.global(document);
    for (index, certificate) in list(document, "certificates") {
        let names: Vec<&Value> = list(certificate, "snis").map(|(_, sni)| &sni["name"]).collect();
        if names.is_empty() {
            deck.out.note(format!("certificates[{index}]"), "not carried over: it has no snis");
            continue;
        }
        let value = json!({"cert": certificate["cert"], "key": certificate["key"], "snis": names});
        deck.out.add(Kind::Ssl, names.first().and_then(|name| name.as_str()).unwrap_or("certificate"), value);
    }
    const KNOWN: [&str; 9] = [
        "upstreams",
        "services",
        "routes",
        "consumer_groups",
        "consumers",
        "plugins",
        "certificates",
        "_format_version",
        "_transform",
    ];
    for key in document.as_object().into_iter().flat_map(Map::keys).filter(|key| !KNOWN.contains(&key.as_str())) {
        deck.out.note(key, "not carried over: no equivalent");
    }
    Ok(deck.out)
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default().iter().enumerate()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// A service as its routes need it.
#[derive(Clone)]
struct Service {
    id: String,
    name: String,
    path: String,
    preserve_host: bool,
}

struct Deck<'a> {
    out: Converted,
    registry: &'a Registry,
    /// Ids by Kong's names.
    upstreams: HashMap<String, String>,
    services: HashMap<String, Service>,
}

impl Deck<'_> {
    fn upstream(&mut self, at: &str, upstream: &Value) {
        let name = text(upstream, "name");
        let mut nodes = Vec::new();
        for (index, target) in list(upstream, "targets") {
            let address = text(target, "target");
            match split_url(&format!("http://{address}")) {
                Some((_, host, port, _)) => {
                    let port = if address.contains(':') { port } else { 8000 };
                    nodes.push(json!({"host": host, "port": port, "weight": target["weight"].as_i64().unwrap_or(100)}));
                }
                None => self.out.note(format!("{at}.targets[{index}]"), format!("not carried over: {address:?}")),
            }
        }
        let mut value = json!({"name": name, "nodes": nodes, "type": "roundrobin"});
        match text(upstream, "algorithm") {
            "" | "round-robin" => {}
            "least-connections" => value["type"] = "least_conn".into(),
            "latency" => value["type"] = "ewma".into(),
            "consistent-hashing" => {
                value["type"] = "chash".into();
                let (on, key) = match text(upstream, "hash_on") {
                    "consumer" => ("consumer", String::new()),
                    "header" => ("header", format!("http_{}", variable(text(upstream, "hash_on_header")))),
                    "cookie" => ("cookie", format!("cookie_{}", text(upstream, "hash_on_cookie"))),
                    "path" => ("vars", "uri".to_owned()),
                    "query_arg" => ("vars", format!("arg_{}", text(upstream, "hash_on_query_arg"))),
                    _ => ("vars", "remote_addr".to_owned()),
                };
                value["hash_on"] = on.into();
                if !key.is_empty() {
                    value["key"] = key.into();
                }
            }
            other => self.out.note(format!("{at}.algorithm"), format!("{other:?} became roundrobin")),
        }
        if let Some(host) = upstream["host_header"].as_str() {
            value["pass_host"] = "rewrite".into();
            value["upstream_host"] = host.into();
        }
        if !upstream["healthchecks"].is_null() {
            self.out.note(format!("{at}.healthchecks"), "not carried over: thresholds mean other things; see `checks`");
        }
        if let Some(labels) = labels(&upstream["tags"]) {
            value["labels"] = labels;
        }
        let id = self.out.add(Kind::Upstream, name, value);
        self.upstreams.insert(name.to_owned(), id);
    }

    fn service(&mut self, at: &str, service: &Value) {
        let name = text(service, "name");
        let url = text(service, "url");
        let number = |field: &str| service[field].as_u64();
        let (scheme, host, port, path) = match split_url(url) {
            Some((scheme, host, port, path)) => (scheme, host, port, path),
            None => {
                let scheme = service["protocol"].as_str().unwrap_or("http");
                let default = if ["https", "grpcs"].contains(&scheme) { 443 } else { 80 };
                let port = number("port").and_then(|port| u16::try_from(port).ok()).unwrap_or(default);
                (scheme, text(service, "host"), port, text(service, "path"))
            }
        };
        if !["http", "https", "grpc", "grpcs"].contains(&scheme) {
            self.out.note(at, format!("service {name:?} not carried over: protocol {scheme:?} needs a stream route"));
            return;
        }
        let preserve_host = service["routes"]
            .as_array()
            .is_some_and(|routes| !routes.is_empty() && routes.iter().all(|route| route["preserve_host"] == true));
        let mut value = json!({"name": name});
        match self.upstreams.get(host) {
            Some(id) => {
                value["upstream_id"] = id.as_str().into();
                self.finish_upstream(at, &id.clone(), scheme, preserve_host);
            }
            None => {
                let pass_host = if preserve_host { "pass" } else { "node" };
                value["upstream"] = json!({
                    "type": "roundrobin",
                    "scheme": scheme,
                    "pass_host": pass_host,
                    "nodes": [{"host": host, "port": port, "weight": 1}],
                });
                if let Some(retries) = number("retries") {
                    value["upstream"]["retries"] = retries.into();
                }
                let seconds = |field: &str| number(field).unwrap_or(60_000) as f64 / 1000.0;
                if ["connect_timeout", "write_timeout", "read_timeout"].iter().any(|field| number(field).is_some()) {
                    value["upstream"]["timeout"] = json!({"connect": seconds("connect_timeout"),
                        "send": seconds("write_timeout"), "read": seconds("read_timeout")});
                }
            }
        }
        if let Some(labels) = labels(&service["tags"]) {
            value["labels"] = labels;
        }
        let plugins = self.plugins(at, service);
        if !plugins.is_empty() {
            value["plugins"] = Value::Object(plugins);
        }
        for field in ["client_certificate", "ca_certificates", "tls_verify"] {
            if !service[field].is_null() {
                self.out.note(format!("{at}.{field}"), "not carried over: see `upstream.tls`");
            }
        }
        let id = self.out.add(Kind::Service, name, value);
        let known = Service { id, name: name.to_owned(), path: path.trim_end_matches('/').to_owned(), preserve_host };
        for (index, route) in list(service, "routes") {
            let mut route = route.clone();
            if service["enabled"] == false || deck_plugins::lost_guard(service) {
                route["status"] = 0.into();
            }
            self.route(&format!("{at}.routes[{index}]"), &route, Some(&known));
        }
        self.services.insert(name.to_owned(), known);
    }

    /// What Kong keeps on the service belongs to the upstream here.
    fn finish_upstream(&mut self, at: &str, id: &str, scheme: &str, preserve_host: bool) {
        let found = self.out.objects.iter_mut().find(|o| o.key.kind == Kind::Upstream && o.key.id == id);
        let Some(upstream) = found else { return };
        let before = upstream.value["scheme"].as_str().map(str::to_owned);
        upstream.value["scheme"] = scheme.into();
        if upstream.value["pass_host"].is_null() && !preserve_host {
            upstream.value["pass_host"] = "node".into();
        }
        if before.is_some_and(|before| before != scheme) {
            self.out
                .note(at, format!("two services use the upstream {id} with different protocols; {scheme} is taken"));
        }
    }

    fn route(&mut self, at: &str, route: &Value, service: Option<&Service>) {
        let protocols = strings(&route["protocols"]);
        if protocols.iter().any(|protocol| ["tcp", "tls", "udp", "tls_passthrough"].contains(protocol)) {
            self.out.note(at, "not carried over: a route of tcp, tls or udp needs a stream route and a port");
            return;
        }
        if !route["expression"].is_null() {
            self.out.note(at, "not carried over: routes by `expression`");
            return;
        }
        for field in ["snis", "sources", "destinations"].into_iter().filter(|f| !strings(&route[*f]).is_empty()) {
            self.out.note(format!("{at}.{field}"), "not carried over");
        }
        let mut base = Map::new();
        let mut vars = Vec::new();
        let name = route["name"]
            .as_str()
            .map_or_else(|| format!("{}-route", service.map_or("kong", |service| &service.name)), str::to_owned);
        base.insert("name".into(), name.as_str().into());
        if let Some(labels) = labels(&route["tags"]) {
            base.insert("labels".into(), labels);
        }
        if !strings(&route["methods"]).is_empty() {
            base.insert("methods".into(), route["methods"].clone());
        }
        if route["status"] == 0 || deck_plugins::lost_guard(route) {
            base.insert("status".into(), 0.into());
            self.out.note(
                at,
                "switched off (status 0): the service is disabled, or a plugin that guards it is not carried over",
            );
        }
        self.hosts(at, route, &mut base, &mut vars);
        for (header, values) in route["headers"].as_object().into_iter().flatten() {
            let variable = format!("http_{}", variable(header));
            let values = strings(values);
            match values.as_slice() {
                [one] if one.starts_with("~*") => vars.push(json!([variable, "~*", one.trim_start_matches("~*")])),
                [one] => vars.push(json!([variable, "==", one])),
                many => vars.push(json!([variable, "in", many])),
            }
        }
        match service {
            Some(service) => drop(base.insert("service_id".into(), service.id.as_str().into())),
            None => self.out.note(at, "it has no service: requests are answered by plugins alone"),
        }
        if let Some(service) = service
            && (route["preserve_host"] == true) != service.preserve_host
        {
            self.out
                .note(format!("{at}.preserve_host"), "not carried over: it differs among the routes of the service");
        }
        let mut plugins = self.plugins(at, route);
        if protocols == ["https"] {
            let config = json!({"http_to_https": true});
            let place = format!("{at}.protocols");
            super::put_plugin(&mut self.out, &mut plugins, ("redirect", Scope::Route), config, &place, self.registry);
        }
        let strip = route["strip_path"] != false;
        let path = service.map_or("", |service| service.path.as_str());
        let paths = match strings(&route["paths"]) {
            paths if paths.is_empty() => vec!["/"],
            paths => paths,
        };
        let (patterns, mut prefixes): (Vec<&str>, Vec<&str>) =
            paths.into_iter().partition(|path| path.starts_with('~'));
        // The longest first: the first rule of `regex_uri` that matches counts.
        prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
        if !prefixes.is_empty() {
            let uris: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}*")).collect();
            let rules: Vec<String> = prefixes.iter().flat_map(|prefix| rewrite_prefix(prefix, strip, path)).collect();
            let mut value = base.clone();
            value.insert("uris".into(), uris.into());
            self.finish_route(at, &name, value, vars.clone(), plugins.clone(), rules);
        }
        for pattern in patterns {
            let pattern = pattern.trim_start_matches('~');
            let anchored = format!("^{}", pattern.trim_start_matches('^'));
            let mut value = base.clone();
            value.insert("uri".into(), format!("{}*", literal_prefix(pattern)).into());
            let priority = route["regex_priority"].as_i64().unwrap_or(0);
            value.insert("priority".into(), (REGEX_PRIORITY + priority).into());
            let mut vars = vars.clone();
            vars.push(json!(["uri", "~~", anchored]));
            let rules = rewrite_pattern(&anchored, strip, path);
            self.finish_route(at, &name, value, vars, plugins.clone(), rules);
        }
    }

    fn hosts(&mut self, at: &str, route: &Value, base: &mut Map<String, Value>, vars: &mut Vec<Value>) {
        let (suffixed, plain): (Vec<&str>, Vec<&str>) =
            strings(&route["hosts"]).into_iter().partition(|host| host.ends_with(".*"));
        if !plain.is_empty() && suffixed.is_empty() {
            base.insert("hosts".into(), plain.into());
            return;
        }
        if !suffixed.is_empty() {
            let alternatives: Vec<String> = suffixed
                .iter()
                .map(|host| format!("{}\\..+", quote(host.trim_end_matches(".*"))))
                .chain(plain.iter().map(|host| quote(host).replace("\\*", "[^.]+")))
                .collect();
            vars.push(json!(["host", "~~", format!("^({})$", alternatives.join("|"))]));
            self.out.note(format!("{at}.hosts"), "hosts that end with `*` became a condition on the host");
        }
    }

    fn finish_route(
        &mut self,
        at: &str,
        name: &str,
        mut value: Map<String, Value>,
        vars: Vec<Value>,
        mut plugins: Map<String, Value>,
        rules: Vec<String>,
    ) {
        if !vars.is_empty() {
            value.insert("vars".into(), vars.into());
        }
        if !rules.is_empty() {
            match plugins.get_mut("proxy-rewrite") {
                Some(rewrite) if rewrite.get("uri").is_none() => rewrite["regex_uri"] = rules.into(),
                Some(_) => {
                    self.out.note(format!("{at}.strip_path"), "not carried over: request-transformer sets the path")
                }
                None => drop(plugins.insert("proxy-rewrite".into(), json!({"regex_uri": rules}))),
            }
        }
        if !plugins.is_empty() {
            value.insert("plugins".into(), Value::Object(plugins));
        }
        self.out.add(Kind::Route, name, Value::Object(value));
    }

    fn consumer(&mut self, at: &str, consumer: &Value) {
        let given = consumer["username"].as_str().or_else(|| consumer["custom_id"].as_str()).unwrap_or_default();
        let name: String =
            given.chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' }).collect();
        if name.is_empty() {
            self.out.note(at, "not carried over: it has no username");
            return;
        }
        if name != given {
            self.out.note(at, format!("{given:?} became {name:?}: usernames are letters, digits, - and _"));
        }
        let mut value = json!({"username": name});
        let groups: Vec<&str> = list(consumer, "groups").filter_map(|(_, group)| group["name"].as_str()).collect();
        if let Some(first) = groups.first() {
            value["group_id"] = super::slug(first).into();
        }
        if groups.len() > 1 {
            self.out.note(format!("{at}.groups"), format!("only the first of {} groups is carried over", groups.len()));
        }
        if !consumer["acls"].is_null() {
            self.out.note(format!("{at}.acls"), "not carried over: see consumer-restriction and consumer groups");
        }
        if let Some(labels) = labels(&consumer["tags"]) {
            value["labels"] = labels;
        }
        let plugins = self.plugins(at, consumer);
        if !plugins.is_empty() {
            value["plugins"] = Value::Object(plugins);
        }
        self.out.add_as(Kind::Consumer, &name, value);
        for (field, plugin, names) in [
            ("keyauth_credentials", "key-auth", &[("key", "key")] as &[(&str, &str)]),
            ("basicauth_credentials", "basic-auth", &[("username", "username"), ("password", "password")]),
            (
                "jwt_secrets",
                "jwt-auth",
                &[("key", "key"), ("secret", "secret"), ("algorithm", "algorithm"), ("rsa_public_key", "public_key")],
            ),
            ("hmacauth_credentials", "hmac-auth", &[("username", "key_id"), ("secret", "secret_key")]),
        ] {
            for (index, credential) in list(consumer, field) {
                let at = format!("{at}.{field}[{index}]");
                let config: Map<String, Value> = names
                    .iter()
                    .filter(|(from, _)| !credential[*from].is_null())
                    .map(|(from, to)| ((*to).to_owned(), credential[*from].clone()))
                    .collect();
                let mut plugins = Map::new();
                let place = (plugin, Scope::Consumer);
                super::put_plugin(&mut self.out, &mut plugins, place, Value::Object(config), &at, self.registry);
                if !plugins.is_empty() {
                    let id = format!("{name}/credentials/{plugin}-{}", index + 1);
                    self.out.add_as(Kind::Credential, &id, json!({"plugins": plugins}));
                }
            }
        }
        for field in ["oauth2_credentials", "mtls_auth_credentials"].into_iter().filter(|f| !consumer[*f].is_null()) {
            self.out.note(format!("{at}.{field}"), "not carried over: no equivalent");
        }
    }

    fn global(&mut self, document: &Value) {
        for (index, plugin) in list(document, "plugins") {
            let at = format!("plugins[{index}]");
            if ["service", "route", "consumer", "consumer_group"].iter().any(|field| !plugin[*field].is_null()) {
                self.out.note(at, "not carried over: nest the plugin in its service, route or consumer");
                continue;
            }
            let plugins = deck_plugins::convert(&mut self.out, &at, &[plugin], self.registry);
            for (name, config) in plugins {
                self.out.add(Kind::GlobalRule, &name, json!({"plugins": {name.clone(): config}}));
            }
        }
    }

    fn plugins(&mut self, at: &str, owner: &Value) -> Map<String, Value> {
        let all: Vec<&Value> = list(owner, "plugins").map(|(_, plugin)| plugin).collect();
        deck_plugins::convert(&mut self.out, &format!("{at}.plugins"), &all, self.registry)
    }
}

/// A header's name as it stands in a variable.
fn variable(header: &str) -> String {
    header.to_ascii_lowercase().replace('-', "_")
}

/// `regex_uri` of proxy-rewrite for a prefix; empty where the path stays.
fn rewrite_prefix(prefix: &str, strip: bool, path: &str) -> Vec<String> {
    let whole = prefix.trim_end_matches('/');
    match (strip && !whole.is_empty(), path) {
        (false, "") => Vec::new(),
        (false, path) => vec!["^/(.*)".into(), format!("{path}/$1")],
        (true, path) => vec![format!("^{}/?(.*)", quote(whole)), format!("{path}/$1")],
    }
}

/// The same for a regular expression, whose own groups come first.
fn rewrite_pattern(pattern: &str, strip: bool, path: &str) -> Vec<String> {
    match (strip, path) {
        (false, "") => Vec::new(),
        (false, path) => vec!["^/(.*)".into(), format!("{path}/$1")],
        (true, path) => {
            let inner = pattern.trim_start_matches('^').trim_end_matches('$');
            vec![format!("^(?:{inner})/?(.*)"), format!("{path}/${}", groups(inner) + 1)]
        }
    }
}

/// Capturing groups of a regular expression.
fn groups(pattern: &str) -> usize {
    let bytes = pattern.as_bytes();
    let (mut count, mut index, mut class) = (0, 0, false);
    while let Some(byte) = bytes.get(index) {
        match byte {
            b'\\' => index += 1,
            b'[' => class = true,
            b']' => class = false,
            b'(' if !class => {
                let rest = bytes.get(index + 1..).unwrap_or_default();
                let named = rest.starts_with(b"?<") && !matches!(rest.get(2), Some(b'=' | b'!'));
                count += usize::from(!rest.starts_with(b"?") || named || rest.starts_with(b"?P<"));
            }
            _ => {}
        }
        index += 1;
    }
    count
}

/// What every path that matches begins with.
fn literal_prefix(pattern: &str) -> &str {
    let pattern = pattern.trim_start_matches('^');
    let end = pattern.find(|c: char| !(c.is_alphanumeric() || "/-_".contains(c))).unwrap_or(pattern.len());
    let literal = pattern.get(..end).unwrap_or("/");
    // What follows may make the last character optional.
    let optional = pattern.get(end..).is_some_and(|rest| rest.starts_with(['?', '*', '{']));
    let literal = if optional { literal.get(..literal.len().saturating_sub(1)).unwrap_or("/") } else { literal };
    if pattern.contains('|') || !literal.starts_with('/') { "/" } else { literal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_rewritten_as_kong_strips_them() {
        assert_eq!(rewrite_prefix("/a", true, ""), ["^/a/?(.*)", "/$1"]);
        assert_eq!(rewrite_prefix("/a", true, "/v1"), ["^/a/?(.*)", "/v1/$1"]);
        assert_eq!(rewrite_prefix("/", true, ""), Vec::<String>::new());
        assert_eq!(rewrite_prefix("/a", false, "/v1"), ["^/(.*)", "/v1/$1"]);
        assert_eq!(rewrite_pattern("^/x/(\\d+)$", true, ""), ["^(?:/x/(\\d+))/?(.*)", "/$2"]);
        assert_eq!(groups(r"/(?<id>\d+)/(?:a|b)/[(]\((x)"), 2);
    }

    #[test]
    fn a_pattern_has_a_literal_beginning() {
        assert_eq!(literal_prefix("/users/(\\d+)"), "/users/");
        assert_eq!(literal_prefix("/colou?r"), "/colo");
        assert_eq!(literal_prefix("/a|/b"), "/");
        assert_eq!(literal_prefix("(/a)"), "/");
    }
}
