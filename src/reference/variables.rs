//! The page of variables.

use sluice_expr::Variable;

/// Families of names; the descriptions are those of `sluice_expr::Variable`.
const FAMILIES: &[(&str, &str)] = &[
    ("arg_NAME", "first value of a query argument"),
    ("http_NAME", "header of the request; any case, `_` for `-`"),
    ("cookie_NAME", "cookie of the request"),
    ("post_arg_NAME", "field of an `application/x-www-form-urlencoded` body, first value"),
    ("post_arg.PATH", "field of a urlencoded, multipart or JSON body: `a.b.c`, or a JSONPath below `$.`"),
    ("graphql_operation, graphql_name, graphql_root_fields", "parts of a GraphQL request"),
    ("uri_param_NAME", "parameter that the router took from the path"),
    ("sent_http_NAME", "header of the response to the client"),
    ("sent_trailer_NAME", "trailer of the response to the client"),
    ("upstream_http_NAME", "header of the upstream's response"),
    ("upstream_trailer_NAME", "trailer of the upstream's response"),
    ("upstream_cookie_NAME", "cookie set by the upstream's response"),
    ("upstream_node_metadata_KEY", "field of the chosen node's `metadata`: text as it is, anything else as JSON"),
];

/// `variables.md`.
pub fn page() -> String {
    let mut out = "# Variables\n\nUsed by `vars` predicates, `_meta.filter`, `$name` and `${name}` in templates, hash keys and log \
                   formats. A name is known everywhere; it has no value where there is nothing to tell (`upstream_*` before an \
                   upstream was asked, `ssl_*` without TLS). Any other name is one that a plugin sets.\n\n\
                   ## Families\n\n| name | is |\n|---|---|\n"
        .to_owned();
    for (name, about) in FAMILIES {
        out.push_str(&format!("| `{name}` | {about} |\n"));
    }
    out.push_str("\n## Fixed names\n\n| name | |\n|---|---|\n");
    for variable in Variable::PLAIN {
        out.push_str(&format!("| `{variable}` | <!-- about variable {variable} --> |\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_real() {
        for (names, _) in FAMILIES {
            for name in names.split(", ") {
                assert!(!matches!(Variable::parse(name), Variable::Custom(_)), "{name}");
            }
        }
        assert!(page().contains("| `upstream_response_time` |"));
    }
}
