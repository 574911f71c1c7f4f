//! The pages of resources.

use super::table::attributes;
use sluice_model::{Kind, schemas};
use std::fmt::Write as _;

/// The resource's word in file names: `consumer_group`.
pub fn file(kind: Kind) -> String {
    kind.name().replace(' ', "_")
}

/// `resources/README.md`.
pub fn index() -> String {
    let mut out =
        "# Resources\n\nAn object of `apisix.yaml` stands in the list named here.\n\n| resource | list |\n|---|---|\n"
            .to_owned();
    for kind in Kind::ALL {
        let file = file(kind);
        let _ = writeln!(out, "| [{}]({file}.md) | `{}` |", kind.name(), kind.dir());
    }
    out
}

/// `resources/<kind>.md`.
pub fn page(kind: Kind) -> String {
    let note = match kind {
        Kind::PluginMetadata => {
            "Settings of a plugin that hold for all of its uses. `id` is the plugin's name; the rest is on the plugin's page.\n"
        }
        Kind::Secret => return secrets(),
        Kind::GraphqlCostDecoration => {
            "What a field of a GraphQL schema costs, stored below its service: `services/<id>/graphql_cost_decorations/<id>`.\n"
        }
        Kind::Credential => "Authentication of a consumer, stored below it: `consumers/<name>/credentials/<id>`.\n",
        Kind::StreamRoute => {
            "For connections over TCP on the ports of `apisix.stream_proxy`. The first that fits, in the order of the file, \
             takes a connection; one whose `sni` fits goes before those without. UDP and `protocol` are not served yet.\n"
        }
        _ => "",
    };
    let mut out = format!("# {}\n\nList in `apisix.yaml`: `{}`.\n\n{note}\n", kind.name(), kind.dir());
    if kind != Kind::PluginMetadata {
        out.push_str(&attributes(schemas::document(kind)));
    }
    out
}

fn secrets() -> String {
    let mut out =
        "# secret\n\nList in `apisix.yaml`: `secrets`. The id begins with the manager: `vault/1`.\n".to_owned();
    for manager in ["vault", "aws", "gcp"] {
        if let Some(schema) = schemas::secret::manager(manager) {
            let _ = write!(out, "\n## {manager}\n\n{}", attributes(schema.document()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_attributes_of_its_kind() {
        let route = page(Kind::Route);
        assert!(route.contains("| `upstream.nodes` |") && route.contains("| `uri` | string |"), "{route}");
        assert!(page(Kind::Secret).contains("## vault") && page(Kind::Secret).contains("| `token` |"));
    }
}
