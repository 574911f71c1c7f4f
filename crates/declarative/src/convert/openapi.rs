//! OpenAPI 3.0 and 3.1: a service with its upstream, and a route for each operation. The surprise: path parameters become
//! APISIX's `:name`, which only the router `radixtree_uri_with_parameter` understands; the first note says so.
use super::{Converted, labels, put_plugin, quote, slug};
use serde_json::{Map, Value, json};
use sluice_model::Kind;
use sluice_plugin::{Registry, Scope};

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// Why a document cannot be converted at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenApiError {
    #[error("not an OpenAPI 3 document: `openapi` is {0}")]
    Version(String),
    #[error("no server with a host: name one with --upstream http://HOST:PORT")]
    NoServer,
}

/// Converts a document. `upstream` stands in place of its servers.
pub fn convert(document: &Value, upstream: Option<&str>, registry: &Registry) -> Result<Converted, OpenApiError> {
    let version = document["openapi"].as_str().unwrap_or_default();
    if !version.starts_with("3.") {
        return Err(OpenApiError::Version(document["openapi"].to_string()));
    }
    let mut out = Converted::default();
    let title = document["info"]["title"].as_str().unwrap_or("api");
    let declared = document["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let first = declared.first().map(server_url).unwrap_or_default();
    for (index, server) in declared.iter().enumerate().skip(1) {
        out.note(
            format!("servers[{index}]"),
            format!("not carried over: {}: only the first server is", server_url(server)),
        );
    }
    let base = split_url(&first).map_or_else(|| first.clone(), |(.., path)| path.to_owned());
    let (scheme, host, port, _) = split_url(upstream.unwrap_or(&first)).ok_or(OpenApiError::NoServer)?;
    let mut service = json!({
        "name": title,
        "upstream": {
            "type": "roundrobin",
            "scheme": scheme,
            "pass_host": "node",
            "nodes": [{"host": host, "port": port, "weight": 1}],
        },
    });
    if let Some(text) = document["info"]["description"].as_str() {
        service["desc"] = text.chars().take(256).collect::<String>().into();
    }
    let service = out.add(Kind::Service, title, service);
    let convert = Convert { document, base: base.trim_end_matches('/'), service: &service, title, registry };
    let (mut parameters, mut schemas) = (false, false);
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        let at = format!("paths.{path}");
        let item = match item["$ref"].as_str() {
            Some(reference) => match resolve(document, reference) {
                Some(item) => item,
                None => {
                    out.note(at, format!("not carried over: {reference} is in another file"));
                    continue;
                }
            },
            None => item,
        };
        if !item["servers"].is_null() {
            out.note(format!("{at}.servers"), "not carried over: the document's server is used");
        }
        for method in METHODS.into_iter().filter(|method| item[*method].is_object()) {
            let operation = &item[method];
            parameters |= path.contains('{');
            schemas |= !operation["requestBody"].is_null() || !operation["parameters"].is_null();
            convert.operation(&mut out, path, method, operation);
        }
    }
    for part in ["webhooks"] {
        if document[part].as_object().is_some_and(|map| !map.is_empty()) {
            out.note(part, "not carried over: requests from the server to others");
        }
    }
    if parameters {
        let text = "paths have parameters: set `apisix.router.http: radixtree_uri_with_parameter` in config.yaml";
        out.notes.insert(0, super::Note { at: "paths".into(), text: text.into() });
    }
    if schemas {
        out.note("paths", "schemas of parameters and bodies are not checked by the gateway");
    }
    Ok(out)
}

struct Convert<'a> {
    document: &'a Value,
    base: &'a str,
    service: &'a str,
    title: &'a str,
    registry: &'a Registry,
}

impl Convert<'_> {
    fn operation(&self, out: &mut Converted, path: &str, method: &str, operation: &Value) {
        let at = format!("paths.{path}.{method}");
        let (uri, exact) = uri(&format!("{}{path}", self.base));
        let own = operation["operationId"].as_str();
        let name = own.map_or_else(|| format!("{method} {path}"), str::to_owned);
        let mut route = Map::new();
        route.insert("name".into(), name.chars().take(100).collect::<String>().into());
        if let Some(text) = operation["summary"].as_str().or_else(|| operation["description"].as_str()) {
            route.insert("desc".into(), text.chars().take(256).collect::<String>().into());
        }
        if let Some(labels) = labels(&operation["tags"]) {
            route.insert("labels".into(), labels);
        }
        route.insert("uri".into(), uri.into());
        route.insert("methods".into(), json!([method.to_ascii_uppercase()]));
        if let Some(pattern) = exact {
            route.insert("vars".into(), json!([["uri", "~~", pattern]]));
        }
        route.insert("service_id".into(), self.service.into());
        for part in ["servers", "callbacks"].into_iter().filter(|part| !operation[*part].is_null()) {
            out.note(format!("{at}.{part}"), "not carried over");
        }
        let (plugins, guarded) = self.security(out, &at, operation);
        if !guarded {
            route.insert("status".into(), 0.into());
            out.note(format!("{at}.security"), "the route is switched off (status 0) until it has a plugin for this");
        }
        if !plugins.is_empty() {
            route.insert("plugins".into(), Value::Object(plugins));
        }
        out.add(Kind::Route, &format!("{}-{}", slug(self.title), slug(&name)), Value::Object(route));
    }

    /// The plugins of `security`, of several alternatives the first; and whether all of it is carried over.
    fn security(&self, out: &mut Converted, at: &str, operation: &Value) -> (Map<String, Value>, bool) {
        let mut plugins = Map::new();
        let declared = operation["security"].as_array().or_else(|| self.document["security"].as_array());
        let alternatives = declared.map(Vec::as_slice).unwrap_or_default();
        let open = |alternative: &Value| alternative.as_object().is_some_and(Map::is_empty);
        if alternatives.iter().any(open) {
            if alternatives.len() > 1 {
                out.note(format!("{at}.security"), "optional authentication is not carried over: the route is open");
            }
            return (plugins, true);
        }
        if alternatives.len() > 1 {
            out.note(format!("{at}.security"), "of several alternatives only the first is carried over");
        }
        let mut wanted = 0;
        let schemes = &self.document["components"]["securitySchemes"];
        for (name, scopes) in alternatives.first().and_then(Value::as_object).into_iter().flatten() {
            wanted += 1;
            let scheme = &schemes[name.as_str()];
            let scheme = scheme["$ref"].as_str().and_then(|at| resolve(self.document, at)).unwrap_or(scheme);
            if scopes.as_array().is_some_and(|scopes| !scopes.is_empty()) {
                out.note(format!("{at}.security.{name}"), "scopes are not carried over");
            }
            match plugin(scheme) {
                Ok((plugin, config)) => {
                    put_plugin(
                        out,
                        &mut plugins,
                        (plugin, Scope::Route),
                        config,
                        &format!("{at}.security.{name}"),
                        self.registry,
                    );
                }
                Err(why) => out.note(format!("{at}.security.{name}"), format!("not carried over: {why}")),
            }
        }
        let guarded = plugins.len() >= wanted;
        (plugins, guarded)
    }
}

/// The plugin for a security scheme.
fn plugin(scheme: &Value) -> Result<(&'static str, Value), String> {
    let text = |name: &str| scheme[name].as_str().unwrap_or_default().to_ascii_lowercase();
    match (text("type").as_str(), text("in").as_str(), text("scheme").as_str()) {
        ("apikey", "header", _) => Ok(("key-auth", json!({"header": scheme["name"]}))),
        ("apikey", "query", _) => Ok(("key-auth", json!({"query": scheme["name"]}))),
        ("apikey", place, _) => Err(format!("key-auth takes no key from a {place}")),
        ("http", _, "basic") => Ok(("basic-auth", json!({}))),
        ("http", _, "bearer") if ["", "jwt"].contains(&text("bearerFormat").as_str()) => Ok(("jwt-auth", json!({}))),
        ("http", _, other) => Err(format!("no plugin for the HTTP scheme {other:?} with this format")),
        ("openidconnect", ..) => Err(format!(
            "openid-connect needs client_id and client_secret besides discovery {}",
            scheme["openIdConnectUrl"].as_str().unwrap_or_default()
        )),
        ("oauth2", ..) => Err("openid-connect needs client_id, client_secret and discovery".into()),
        ("mutualtls", ..) => Err("client certificates are asked for by an ssl object with `client.ca`".into()),
        ("", ..) => Err("the scheme is not defined".into()),
        (other, ..) => Err(format!("unknown type {other:?}")),
    }
}

/// `#/components/pathItems/x`
fn resolve<'a>(document: &'a Value, reference: &str) -> Option<&'a Value> {
    document.pointer(reference.strip_prefix('#')?)
}

/// `/a/{id}` → `/a/:id`; a segment with more than a parameter needs a condition as well.
fn uri(path: &str) -> (String, Option<String>) {
    let (mut uri, mut pattern, mut exact) = (String::new(), "^".to_owned(), false);
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            uri.push('/');
            pattern.push('/');
        }
        let mut rest = segment;
        let mut name = None;
        while let Some((before, (parameter, after))) =
            rest.split_once('{').and_then(|(before, after)| Some((before, after.split_once('}')?)))
        {
            exact |= !before.is_empty() || !after.is_empty();
            pattern.push_str(&quote(before));
            pattern.push_str("[^/]+");
            name.get_or_insert(parameter);
            rest = after;
        }
        pattern.push_str(&quote(rest));
        match name {
            Some(name) => {
                uri.push(':');
                uri.push_str(&slug(name).replace(['-', '.'], "_"));
            }
            None => uri.push_str(segment),
        }
    }
    pattern.push('$');
    let uri = if uri.is_empty() { "/".to_owned() } else { uri };
    (uri, exact.then_some(pattern))
}

/// The URL of a server with the defaults of its variables.
fn server_url(server: &Value) -> String {
    let mut url = server["url"].as_str().unwrap_or_default().to_owned();
    for (name, variable) in server["variables"].as_object().into_iter().flatten() {
        url = url.replace(&format!("{{{name}}}"), variable["default"].as_str().unwrap_or_default());
    }
    url
}

/// Scheme, host, port and path of `https://host:port/path`.
pub(super) fn split_url(url: &str) -> Option<(&str, &str, u16, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
        _ => (authority, None),
    };
    let default = if ["https", "grpcs"].contains(&scheme) { 443 } else { 80 };
    (!host.is_empty()).then(|| (scheme, host, port.unwrap_or(default), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_uris() {
        assert_eq!(uri("/a/{id}/b"), ("/a/:id/b".into(), None));
        assert_eq!(uri("/f/{name}.json"), ("/f/:name".into(), Some("^/f/[^/]+\\.json$".into())));
        assert_eq!(uri(""), ("/".into(), None));
        assert_eq!(uri("/x/{pet-id}").0, "/x/:pet_id");
    }

    #[test]
    fn urls_are_split() {
        assert_eq!(split_url("https://a.b/v1"), Some(("https", "a.b", 443, "/v1")));
        assert_eq!(split_url("http://[::1]:8080"), Some(("http", "[::1]", 8080, "")));
        assert_eq!(split_url("/v1"), None);
        assert_eq!(split_url("http://a:x/"), None);
    }
}
