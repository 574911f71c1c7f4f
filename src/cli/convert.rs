//! `sluice convert`: descriptions of other tools as APISIX's resources.
use super::Output;
use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde_json::json;
use sluice_declarative::convert::{deck, openapi, read};
use sluice_declarative::dump::{Form, document};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum From {
    /// OpenAPI 3.0 or 3.1.
    Openapi,
    /// decK files of Kong 3.
    Deck,
}

#[derive(clap::Args)]
pub struct Convert {
    /// What the file is.
    #[arg(long, value_enum)]
    from: From,
    /// YAML or JSON.
    input: PathBuf,
    /// Write to this file instead of stdout.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Of OpenAPI: the server to use instead of the document's, such as http://10.0.0.1:8080.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// `text`: resources as YAML, and notes on stderr; `json`: both as one document on stdout.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Convert {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let input = match read(&self.input) {
            Ok(input) => input,
            Err(errors) => bail!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        };
        let registry = crate::boot::registry()?;
        let converted = match self.from {
            From::Openapi => openapi::convert(&input, self.upstream.as_deref(), &registry).map_err(anyhow::Error::from),
            From::Deck => deck::convert(&input, &registry).map_err(anyhow::Error::from),
        };
        let converted = converted.with_context(|| self.input.display().to_string())?;
        let resources = document(&converted.objects, Form { timestamps: true, secrets: true }, &registry);
        let text = format!("{}#END\n", sluice_declarative::yaml::write(&resources));
        if self.output == Output::Json {
            println!("{:#}", json!({"resources": resources, "notes": converted.notes}));
        } else {
            for note in &converted.notes {
                eprintln!("{}: {}", note.at, note.text);
            }
            eprintln!("{} objects, {} notes", converted.objects.len(), converted.notes.len());
        }
        match &self.file {
            Some(path) => std::fs::write(path, text).with_context(|| path.display().to_string())?,
            None if self.output == Output::Text => print!("{text}"),
            None => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}
