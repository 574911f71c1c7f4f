//! `sluice schema NAME`: the schema of a plugin or of a resource.
use sluice_model::Kind;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Schema {
    /// A plugin (`key-auth`) or a resource (`route`, `upstream` …).
    name: String,
}

impl Schema {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let registry = crate::boot::registry()?;
        let by_kind = Kind::ALL.into_iter().find(|k| k.dir() == self.name || k.name().replace(' ', "_") == self.name);
        let plugin = registry.document(&self.name).or_else(|| registry.stream_document(&self.name));
        let document = match (plugin, by_kind) {
            (Some(document), _) => document,
            (None, Some(kind)) => sluice_model::schemas::document(kind).clone(),
            (None, None) => {
                let kinds = Kind::ALL.map(|k| k.name().replace(' ', "_"));
                let mut known: Vec<&str> = registry.names();
                known.extend(registry.stream_names());
                known.extend(kinds.iter().map(String::as_str));
                let nearest = sluice_config::suggestion::nearest(&self.name, known.iter().copied());
                let hint = nearest.map(|n| format!(", did you mean {n:?}?")).unwrap_or_default();
                anyhow::bail!("no plugin or resource is named {:?}{hint}", self.name);
            }
        };
        println!("{}", serde_json::to_string_pretty(&document)?);
        Ok(ExitCode::SUCCESS)
    }
}
