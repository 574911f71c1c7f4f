//! `cargo xtask gen [--check]`: writes `docs/reference/` from the gateway's own definitions.
//!
//! The texts come from `sluice::reference::documents()` through the binary `sluice-reference`, completed by what only the
//! source has ([`source`]); nothing in that folder is written by hand, and a file there that the gateway does not name is
//! drift as well.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// Generate docs/reference/ from the gateway's definitions, or check that it is up to date.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask gen --check")]
pub struct Args {
    /// Write nothing; exit with 1 and the names of the files that differ
    #[arg(long)]
    pub check: bool,
}

const FOLDER: &str = "docs/reference";

pub fn run(args: &Args) -> Result<()> {
    let folder = process::root().join(FOLDER);
    let mut wanted: BTreeMap<String, String> =
        serde_json::from_slice(&ask("documents")?).context("sluice-reference does not speak JSON")?;
    source::complete(&process::root(), &mut wanted)?;
    let drift = drift(&folder, &wanted)?;
    if drift.is_empty() {
        println!("gen: {} documents are up to date", wanted.len());
        return Ok(());
    }
    if args.check {
        for name in &drift {
            println!("{FOLDER}/{name}");
        }
        bail!("{} documents differ from the definitions; run `cargo xtask gen`", drift.len());
    }
    for name in &drift {
        let path = folder.join(name);
        match wanted.get(name) {
            Some(text) => {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                std::fs::write(&path, text).with_context(|| path.display().to_string())?;
                println!("wrote {FOLDER}/{name}");
            }
            None => {
                std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
                println!("removed {FOLDER}/{name}");
            }
        }
    }
    Ok(())
}

/// What the gateway says about itself: `documents` or `schema`, as JSON.
pub fn ask(what: &str) -> Result<Vec<u8>> {
    let args = ["run", "--quiet", "--package", "sluice", "--bin", "sluice-reference", "--", what];
    process::output(&process::cargo(), &args)
}

/// The files that are missing, different, or not wanted.
fn drift(folder: &Path, wanted: &BTreeMap<String, String>) -> Result<BTreeSet<String>> {
    let mut drift = BTreeSet::new();
    for (name, text) in wanted {
        let escapes = name.starts_with('/') || name.split('/').any(|part| part == "..");
        ensure!(!escapes, "{name} lies outside {FOLDER}");
        if std::fs::read(folder.join(name)).ok().as_deref() != Some(text.as_bytes()) {
            drift.insert(name.clone());
        }
    }
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&current) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder)?.display().to_string();
            if !wanted.contains_key(&name) {
                drift.insert(name);
            }
        }
    }
    Ok(drift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_changed_and_unwanted_files_are_drift() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("plugins")).unwrap();
        for (name, text) in [("same.md", "1"), ("changed.md", "old"), ("plugins/gone.md", "x")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let wanted = [("same.md", "1"), ("changed.md", "new"), ("plugins/missing.md", "y")];
        let wanted = wanted.map(|(n, t)| (n.to_owned(), t.to_owned())).into();
        let drift: Vec<String> = drift(folder.path(), &wanted).unwrap().into_iter().collect();
        assert_eq!(drift, ["changed.md", "plugins/gone.md", "plugins/missing.md"]);
        assert!(super::drift(folder.path(), &[("../x".to_owned(), String::new())].into()).is_err());
    }
}
