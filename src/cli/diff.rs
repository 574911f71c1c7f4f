//! `sluice diff`: what `sync` would change.
use super::Output;
use super::server::{Select, Server, block_on, colour, plan, read_files, read_server};
use sluice_declarative::show;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Diff {
    /// Files and folders in the shape of apisix.yaml.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    select: Select,
    /// Leave alone what the files do not have.
    #[arg(long)]
    no_delete: bool,
    /// `text` or `json`.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Diff {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let selection = self.select.selection();
        let source = read_files(&self.files, &selection)?;
        let client = self.server.client()?;
        let current = block_on(read_server(&client, &selection))?;
        let plan = plan(&source, &current, &crate::boot::registry()?, !self.no_delete)?;
        match self.output {
            Output::Text => print!("{}", show::text(&plan, colour())),
            Output::Json => println!("{:#}", show::json(&plan)),
        }
        Ok(if plan.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
    }
}
