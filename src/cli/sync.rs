//! `sluice sync`: makes a server have what files say.
use super::Output;
use super::server::{Progress, Select, Server, block_on, colour, plan, read_files, read_server};
use anyhow::{bail, ensure};
use serde_json::json;
use sluice_declarative::show;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Sync {
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
    /// Show the plan and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// What the history of a Sluice says of the change.
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// `text` or `json`; `json` needs --yes or --dry-run.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Sync {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let json = self.output == Output::Json;
        ensure!(!json || self.yes || self.dry_run, "--output json needs --yes or --dry-run");
        let selection = self.select.selection();
        let source = read_files(&self.files, &selection)?;
        let client = self.server.client()?;
        let applied = block_on(async {
            let current = read_server(&client, &selection).await?;
            let plan = plan(&source, &current, &crate::boot::registry()?, !self.no_delete)?;
            if !json {
                print!("{}", show::text(&plan, colour()));
            }
            if self.dry_run || plan.is_empty() {
                return Ok((plan, None));
            }
            if !self.yes && !confirmed()? {
                bail!("nothing was changed");
            }
            let progress = Progress::new();
            let told = |done: usize, total: usize| progress.show(&format!("{done} of {total}"));
            let applied = sluice_declarative::apply(&client, &plan, self.message.as_deref(), told).await;
            progress.clear();
            Ok((plan, Some(applied?)))
        });
        let (plan, applied) = applied?;
        match (json, applied) {
            (true, applied) => println!("{:#}", json!({"plan": show::json(&plan), "applied": applied})),
            (false, Some(done)) if done.transaction => println!("{} changes made in one transaction", done.changes),
            (false, Some(done)) => println!("{} changes made, one by one", done.changes),
            (false, None) => {}
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks on the terminal; without one nobody can answer.
fn confirmed() -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    ensure!(stdin.is_terminal(), "nobody to ask: give --yes to apply this plan");
    print!("Apply these changes? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
