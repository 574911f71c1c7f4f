//! The house rules a machine can check: file length, the opening `//!`, names that say nothing, lints inherited.
//!
//! `unwrap` and `expect` outside tests are clippy's part (`[workspace.lints]`, `clippy.toml`).

use std::path::Path;

use anyhow::{Context, Result};

const LONGEST: usize = 800;
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc", "manager"];
/// Not ours to judge: build output, run-time data, what git keeps.
const SKIPPED: &[&str] = &["target", "data", ".git", "corpus", "crashes", "seeds"];

/// One line for each violation, with its file.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    visit(root, root, &mut wrong)?;
    wrong.sort();
    Ok(wrong)
}

fn visit(root: &Path, folder: &Path, wrong: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let stem = name.split('.').next().unwrap_or("");
        if EMPTY_NAMES.contains(&stem) {
            wrong.push(format!("{shown}: the name says nothing; name what it is"));
        }
        if entry.file_type()?.is_dir() {
            visit(root, &path, wrong)?;
        } else if name.ends_with(".rs") {
            source(&shown, &std::fs::read_to_string(&path)?, wrong);
        } else if name == "Cargo.toml" {
            let text = std::fs::read_to_string(&path)?;
            if !text.contains("[lints]\nworkspace = true") && !text.contains("[workspace]") {
                wrong.push(format!("{shown}: has no `[lints] workspace = true`"));
            }
        }
    }
    Ok(())
}

fn source(shown: &str, text: &str, wrong: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LONGEST {
        wrong.push(format!("{shown}: {lines} lines, at most {LONGEST}"));
    }
    if !text.starts_with("//!") {
        wrong.push(format!("{shown}: does not open with `//!`"));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_rule_bites() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("src/good.rs", "//! Good.\n");
        write("target/bad.rs", "fn x() {}\n");
        assert_eq!(super::check(root.path()).unwrap(), Vec::<String>::new());
        write("src/silent.rs", "fn x() {}\n");
        write("src/long.rs", &format!("//! Long.\n{}", "\n".repeat(900)));
        write("src/utils/a.rs", "//! A.\n");
        write("src/manager.rs", "//! B.\n");
        write("crate/Cargo.toml", "[package]\n");
        let wrong = super::check(root.path()).unwrap().join("\n");
        for part in [
            "silent.rs: does not open",
            "long.rs: 901 lines",
            "src/utils: the name",
            "manager.rs: the name",
            "crate/Cargo.toml",
        ] {
            assert!(wrong.contains(part), "{part} is missing in:\n{wrong}");
        }
        assert_eq!(wrong.lines().count(), 5);
    }
}
