//! Commands, always run from the root of the repository, echoed before they run.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// The cargo that runs us.
pub fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// A command in the root, not yet run.
pub fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    command
}

/// Runs it with our own output; an error when it fails.
pub fn run(program: &str, args: &[&str]) -> Result<()> {
    eprintln!("> {program} {}", args.join(" "));
    let status = command(program, args).status().with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} {} failed: {status}", args.join(" "));
    }
    Ok(())
}

/// Its standard output; an error when it fails.
pub fn output(program: &str, args: &[&str]) -> Result<Vec<u8>> {
    let out =
        command(program, args).stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {program}"))?;
    if !out.status.success() {
        bail!("{program} {} failed: {}", args.join(" "), out.status);
    }
    Ok(out.stdout)
}

/// Runs it with these variables, shows its standard error as it comes and returns the last line of it that holds `mark`.
pub fn run_watching(
    program: &str,
    args: &[&str],
    variables: &[(&str, PathBuf)],
    mark: &str,
) -> Result<(bool, Option<String>)> {
    eprintln!("> {program} {}", args.join(" "));
    let mut command = command(program, args);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let mut child = command.stderr(Stdio::piped()).spawn().with_context(|| format!("cannot run {program}"))?;
    let mut found = None;
    if let Some(pipe) = child.stderr.take() {
        let mut shown = std::io::stderr();
        for line in BufReader::new(pipe).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            writeln!(shown, "{line}")?;
            if line.contains(mark) {
                found = Some(line.trim().to_owned());
            }
        }
    }
    Ok((child.wait()?.success(), found))
}

/// Whether a program of this name is on the PATH.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Debian keeps daemons where an ordinary user's PATH does not look.
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.iter().any(|folder| folder.join(program).is_file())
}
