//! `sluice dump`: what a server has, in the shape of apisix.yaml.
use super::server::{Select, Server, block_on, read_server};
use anyhow::Context as _;
use clap::ValueEnum;
use sluice_declarative::dump::{Form, document};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
enum Format {
    #[default]
    Yaml,
    Json,
}

#[derive(clap::Args)]
pub struct Dump {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    select: Select,
    /// Write to this file instead of stdout.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// With `create_time` and `update_time`.
    #[arg(long)]
    with_timestamps: bool,
    /// Passwords, keys and tokens as they are, as far as the server tells them; a file gets mode 0600.
    #[arg(long)]
    with_secrets: bool,
    /// `yaml` or `json`.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl Dump {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.server.client()?;
        let current = block_on(read_server(&client, &self.select.selection()))?;
        let registry = crate::boot::registry()?;
        let form = Form { timestamps: self.with_timestamps, secrets: self.with_secrets };
        let document = document(&current.objects, form, &registry);
        let text = match self.output {
            Format::Yaml => format!("{}#END\n", sluice_declarative::yaml::write(&document)),
            Format::Json => format!("{document:#}\n"),
        };
        match &self.file {
            Some(path) => write(path, &text, self.with_secrets).with_context(|| path.display().to_string())?,
            None => std::io::stdout().write_all(text.as_bytes())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write(path: &Path, text: &str, private: bool) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mode = if private { 0o600 } else { 0o644 };
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    if private {
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    file.write_all(text.as_bytes())
}
