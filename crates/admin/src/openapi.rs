//! The OpenAPI 3.1 document of the Admin API, made from the schemas of resources and plugins. The surprise: paths come from
//! the same list of kinds and unsupported methods that the dispatcher uses, so they cannot differ.
use crate::resource::unsupported;
use serde_json::{Map, Value, json};
use sluice_model::{Kind, schemas};
use sluice_plugin::Registry;

/// Paths besides those of resources: path, method, what it does, the name of its body's schema.
const OTHERS: [(&str, &str, &str, Option<&str>); 20] = [
    ("/plugins/list", "get", "Names of the plugins that may be configured, by priority", None),
    ("/plugins/reload", "put", "Reads config.yaml's lists of plugins again", None),
    ("/plugins", "get", "All plugins with `all=true`", None),
    ("/plugins/{name}", "get", "The schema of a plugin", None),
    ("/schema/plugins", "get", "All plugins with `all=true`", None),
    ("/schema/plugins/{name}", "get", "The schema of a plugin", None),
    ("/schema/{kind}", "get", "The schema of a resource, by its singular", None),
    ("/schema/validate/{resource}", "post", "Checks a resource, named as in its path, against its schema", None),
    ("/configs", "get", "The whole configuration (API-driven standalone mode)", None),
    ("/configs", "head", "Its digest and time (API-driven standalone mode)", None),
    ("/configs", "put", "Replaces the whole configuration (API-driven standalone mode)", Some("configs")),
    ("/configs/validate", "post", "Checks a whole configuration; nothing is written", Some("configs")),
    ("/revisions", "get", "The history, newest first", None),
    ("/revisions/{revision}", "get", "One revision with its changes", None),
    ("/revisions/{from}..{to}", "get", "What differs between two revisions", None),
    ("/revisions/{revision}/rollback", "post", "Brings everything back as it was after a revision", None),
    ("/transactions", "post", "Several writes, all or none", Some("transaction")),
    ("/explain", "post", "Which route a request would take and why the others lose", Some("question")),
    ("/status", "get", "Revision, source and what is left out", None),
    ("/openapi.json", "get", "This document", None),
];

/// The document.
pub fn document(registry: &Registry) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for (path, method, summary, body) in OTHERS {
        add(&mut paths, path, method, operation(path, method, summary, body, &[]));
    }
    for kind in Kind::ALL {
        resource(kind, &mut paths);
    }
    let mut components: Map<String, Value> =
        Kind::ALL.iter().map(|kind| (component(*kind), schemas::document(*kind).clone())).collect();
    components.extend(own_schemas());
    for definition in registry.list() {
        if let Some(document) = registry.document(definition.info.name) {
            components.insert(format!("plugin.{}", definition.info.name), document["schema"].clone());
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Manages the gateway. Resources, verbs and answers are those of Apache APISIX 3.18.",
        },
        "servers": [{"url": "/apisix/admin"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-KEY"}},
        },
    })
}

/// The name of a kind's schema.
fn component(kind: Kind) -> String {
    kind.name().replace(' ', "_")
}

fn add(paths: &mut Map<String, Value>, path: &str, method: &str, operation: Value) {
    let item = paths.entry(path).or_insert_with(|| json!({}));
    item[method] = operation;
}

/// Query arguments and headers of a write.
const WRITE: [(&str, &str, &str); 6] = [
    ("ttl", "query", "Seconds after which the object goes by itself"),
    ("dry_run", "query", "true: only tells what would change"),
    ("warnings", "query", "true: tells in `warnings` which routes can never match"),
    ("wait", "query", "true: answers when the change is in force"),
    ("If-Match", "header", "The object's ETag; 412 when it was changed meanwhile"),
    ("X-Message", "header", "Why; kept in the history"),
];
const ONE: [(&str, &str, &str); 1] =
    [("include", "query", "status: beside an object with an upstream, the state of its nodes")];
const LIST: [(&str, &str, &str); 6] = [
    ONE[0],
    ("page", "query", "Number of the page, from 1"),
    ("page_size", "query", "Objects of a page, 10 to 500"),
    ("name", "query", "Objects whose name matches this regular expression"),
    ("label", "query", "Objects with this label"),
    ("uri", "query", "Routes with a URI that matches this regular expression"),
];
const DELETE: [(&str, &str, &str); 1] = [("force", "query", "true: deletes it even where it is in use")];

fn resource(kind: Kind, paths: &mut Map<String, Value>) {
    let name = kind.name();
    let body = component(kind);
    let all = match kind.parent() {
        Some(parent) => format!("/{}/{{parent}}/{}", parent.dir(), kind.dir()),
        None => format!("/{}", kind.dir()),
    };
    let one = if kind == Kind::Secret { format!("{all}/{{manager}}/{{id}}") } else { format!("{all}/{{id}}") };
    let has = |method: &str| !unsupported(kind).contains(&method);
    add(paths, &all, "get", operation(&all, "get", &format!("All of kind {name}"), None, &LIST));
    if has("POST") {
        add(paths, &all, "post", operation(&all, "post", &format!("Creates a {name}"), Some(&body), &WRITE));
    }
    let summary = format!("Creates or replaces a {name}, whose id is in the body");
    add(paths, &all, "put", operation(&all, "put", &summary, Some(&body), &WRITE));
    add(paths, &one, "get", operation(&one, "get", &format!("One {name}"), None, &ONE));
    add(paths, &one, "put", operation(&one, "put", &format!("Creates or replaces a {name}"), Some(&body), &WRITE));
    if has("PATCH") {
        let summary = format!("Changes a {name}: what is given is merged, null deletes");
        add(paths, &one, "patch", operation(&one, "patch", &summary, None, &WRITE));
        let part = format!("{one}/{{path}}");
        let summary = format!("Replaces a part of a {name}");
        add(paths, &part, "patch", operation(&part, "patch", &summary, None, &WRITE));
    }
    let delete: Vec<_> = DELETE.into_iter().chain(WRITE.into_iter().filter(|(name, ..)| *name != "ttl")).collect();
    add(paths, &one, "delete", operation(&one, "delete", &format!("Deletes a {name}"), None, &delete));
}

fn operation(path: &str, method: &str, summary: &str, body: Option<&str>, others: &[(&str, &str, &str)]) -> Value {
    let named = path.split('{').skip(1).filter_map(|part| part.split('}').next());
    let mut parameters: Vec<Value> =
        named.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})).collect();
    parameters.extend(others.iter().map(
        |(name, place, what)| json!({"name": name, "in": place, "description": what, "schema": {"type": "string"}}),
    ));
    let refusal = json!({"description": "Refused", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/error"}}}});
    let mut own = json!({
        "operationId": format!("{method} {path}"),
        "summary": summary,
        "parameters": parameters,
        "responses": {"2XX": {"description": "Done"}, "4XX": refusal},
    });
    if let Some(name) = body {
        let schema = json!({"$ref": format!("#/components/schemas/{name}")});
        own["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": schema}}});
    } else if method == "patch" {
        own["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": {}}}});
    }
    own
}

/// Schemas of bodies that are no resources.
fn own_schemas() -> [(String, Value); 4] {
    let text = json!({"type": "string"});
    let sections: Map<String, Value> = crate::configs::SECTIONS
        .iter()
        .flat_map(|section| {
            let list = json!({"type": "array", "items": {"type": "object"}});
            [((*section).to_owned(), list), (crate::configs::version_key(section), json!({"type": "number"}))]
        })
        .collect();
    let operation = json!({
        "type": "object",
        "properties": {
            "method": {"enum": ["PUT", "POST", "PATCH", "DELETE"], "default": "PUT"},
            "path": {"type": "string", "description": "`routes/1`, as after /apisix/admin/"},
            "kind": {"type": "string", "description": "`routes`, instead of a path"},
            "id": text,
            "body": {},
            "if_match": text,
        },
        "additionalProperties": false,
    });
    let question = json!({
        "type": "object",
        "properties": {
            "method": {"type": "string", "default": "GET"},
            "url": {"type": "string", "description": "http://host/path?query, or a path"},
            "headers": {"type": "object", "additionalProperties": text},
            "body": text,
            "client": {"type": "string", "description": "The client's address"},
        },
        "required": ["url"],
    });
    [
        ("configs".into(), json!({"type": "object", "properties": sections})),
        ("transaction".into(), json!({"type": "array", "items": operation})),
        ("question".into(), question),
        ("error".into(), json!({"type": "object", "properties": {"error_msg": text, "message": text}})),
    ]
}

#[cfg(test)]
mod tests;
