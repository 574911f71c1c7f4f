//! A plugin's page, and the list of all plugins.

use super::table::{attributes, code};
use sluice_config::environment::Environment;
use sluice_config::settings::Settings;
use sluice_plugin::info::Phase;
use sluice_plugin::{Clock, Definition, Env, Registry, StreamDefinition};
use std::collections::HashMap;
use std::fmt::Write as _;

/// `plugins/README.md`.
pub fn index(registry: &Registry) -> String {
    let mut out = "# Plugins\n\nHigher priority runs first within a phase. Every plugin also takes \
                   [`_meta`](#_meta).\n\n| plugin | priority | phases |\n|---|---|---|\n"
        .to_owned();
    for definition in registry.list() {
        let name = definition.info.name;
        let _ = writeln!(out, "| [{name}]({name}.md) | {} | {} |", definition.info.priority, phases(definition));
    }
    out.push_str("\n## On stream routes\n\n| plugin | priority |\n|---|---|\n");
    for definition in registry.list_stream() {
        let _ = writeln!(out, "| [{0}]({0}.md) | {1} |", definition.name, definition.priority);
    }
    let mut meta = serde_json::json!({"type": "object"});
    sluice_model::inject_meta(&mut meta);
    let _ = write!(out, "\n## `_meta`\n\n{}", attributes(&meta["properties"]["_meta"]));
    out
}

fn phases(definition: &Definition) -> String {
    let names: Vec<&str> =
        Phase::ALL.into_iter().filter(|p| definition.info.phases.has(*p)).map(Phase::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What a plugin sees of a gateway with the default settings.
fn environment() -> Env {
    let settings = Settings::defaults(&Environment::Fixed(HashMap::new()));
    Env::new(Clock::default(), sluice_telemetry::Registry::new())
        .with_attributes(serde_json::Value::Object(settings.plugins.plugin_attr))
}

/// `plugins/<name>.md`.
pub fn page(definition: &Definition) -> String {
    let info = &definition.info;
    let name = info.name;
    let mut out =
        format!("# {name}\n\n<!-- prose of {name} -->\n\n| | |\n|---|---|\n| priority | {} |\n", info.priority);
    let _ = writeln!(out, "| phases | {} |", phases(definition));
    if info.auth {
        out.push_str("| authentication | finds the consumer of a request |\n");
    }
    if !info.secrets.is_empty() {
        let _ = writeln!(
            out,
            "| secret fields | {} |",
            info.secrets.iter().map(|s| code(s)).collect::<Vec<_>>().join(", ")
        );
    }
    if info.request_body {
        out.push_str("| request body | read into memory before the plugin runs, where its configuration needs it |\n");
    }
    if info.encodes {
        out.push_str("| encodes bodies | its response hooks run after those of all other plugins |\n");
    }
    if info.prefer_route {
        out.push_str("| global rules | give way to a route that configures the plugin |\n");
    }
    let endpoints = definition.endpoints.map(|endpoints| endpoints(&environment())).unwrap_or_default();
    for endpoint in endpoints {
        let methods = endpoint.methods.join(", ");
        let _ = writeln!(out, "| public endpoint | {methods} {}, through `public-api` |", code(&endpoint.uri));
    }
    let _ = write!(out, "\n## Attributes\n\n{}", attributes(&(definition.schema)()));
    if let Some(consumer) = &definition.consumer {
        let _ = write!(out, "\n## Attributes on a consumer or credential\n\n{}", attributes(&(consumer.schema)()));
    }
    if let Some(metadata) = definition.metadata_schema {
        let _ = write!(out, "\n## Plugin metadata\n\n{}", attributes(&metadata()));
    }
    let _ = write!(out, "\n<!-- cases of {name} -->\n");
    out
}

/// `plugins/<name>.md` of a plugin that only stream routes can have.
pub fn stream_page(definition: &StreamDefinition) -> String {
    let StreamDefinition { name, priority, .. } = definition;
    let attributes = attributes(&(definition.schema)());
    format!(
        "# {name}\n\n<!-- prose of {name} -->\n\n| | |\n|---|---|\n| priority | {priority} |\n| on | stream routes |\n\n\
         ## Attributes\n\n{attributes}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::info::{Info, Phases};

    #[test]
    fn a_page_names_all_that_the_definition_says() {
        let registry = crate::boot::registry().unwrap();
        let definition = Definition {
            info: Info::new("sample", 7, Phases::REWRITE.and(Phases::LOG))
                .secrets(&["key"])
                .request_body()
                .prefer_route(),
            schema: || json!({"properties": {"key": {"type": "string"}}}),
            metadata_schema: Some(|| json!({"properties": {"log_format": {"type": "object"}}})),
            ..*registry.get("example-plugin").unwrap()
        };
        let page = page(&definition);
        for part in [
            "# sample\n",
            "| priority | 7 |",
            "| phases | rewrite, log |",
            "| secret fields | `key` |",
            "| `key` | string |",
            "## Plugin metadata",
            "| `log_format` |",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        assert!(!page.contains("on a consumer"));
    }
}
