//! What of the reference only the source has: the `//!` prose of a plugin's file, its cases marked `doc: true`, and the doc
//! comments of settings and variables. The generated pages carry marks for them, which are replaced here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Replaces every mark of every page; a mark whose text is nowhere leaves nothing behind.
pub fn complete(root: &Path, pages: &mut BTreeMap<String, String>) -> Result<()> {
    let settings = settings(root)?;
    let variables = std::fs::read_to_string(root.join("crates/expr/src/variable.rs"))?;
    for text in pages.values_mut() {
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some((before, mark, after)) = next_mark(rest) {
            out.push_str(before);
            match mark.split_once(' ') {
                Some(("prose", name)) => out.push_str(&prose(root, name)?),
                Some(("cases", name)) => out.push_str(&cases(root, name)?),
                Some(("setting", path)) => out.push_str(&settings.about(path)),
                Some(("variable", name)) => out.push_str(&variable(&variables, name)),
                _ => {}
            }
            rest = after;
        }
        out.push_str(rest);
        *text = format!("{}\n", out.trim_end());
    }
    Ok(())
}

/// Text before the first mark, the mark's words, text after it.
fn next_mark(text: &str) -> Option<(&str, String, &str)> {
    let mut from = 0;
    loop {
        let start = from + text.get(from..)?.find("<!-- ")?;
        let end = start + text.get(start..)?.find(" -->")?;
        let words = text.get(start + 5..end)?;
        let mark = ["prose of ", "cases of ", "about setting ", "about variable "].iter().find_map(|kind| {
            let rest = words.strip_prefix(kind)?;
            let word = kind.trim_end_matches(" of ").trim_start_matches("about ").trim_end();
            Some(format!("{word} {rest}"))
        });
        match mark {
            Some(mark) => return Some((text.get(..start)?, mark, text.get(end + 4..)?)),
            None => from = end,
        }
    }
}

/// The file of a plugin: `plugins/<family>/src/<name>.rs`, or a folder's `mod.rs`.
fn plugin_file(root: &Path, name: &str) -> Result<Option<PathBuf>> {
    let word = name.replace('-', "_");
    let mut families: Vec<PathBuf> =
        std::fs::read_dir(root.join("plugins"))?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    families.sort();
    let files = families
        .iter()
        .flat_map(|f| [f.join("src").join(format!("{word}.rs")), f.join("src").join(&word).join("mod.rs")]);
    Ok(files.into_iter().find(|file| file.is_file()))
}

/// The `//!` lines that a plugin's file opens with.
fn prose(root: &Path, name: &str) -> Result<String> {
    let Some(file) = plugin_file(root, name)? else { return Ok(String::new()) };
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok(inner_docs(&text))
}

fn inner_docs(text: &str) -> String {
    let lines = text.lines().take_while(|line| line.starts_with("//!"));
    lines.map(|line| line.trim_start_matches("//!").strip_prefix(' ').unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The cases of a plugin that are marked `doc: true`, as they are, but for the mark.
fn cases(root: &Path, name: &str) -> Result<String> {
    let Ok(entries) = std::fs::read_dir(root.join("tests/cases").join(name)) else { return Ok(String::new()) };
    let mut files: Vec<PathBuf> = entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut out = String::new();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "yaml")) {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        if !text.lines().any(|line| line.trim_end() == "doc: true" || line.starts_with("doc: true ")) {
            continue;
        }
        if out.is_empty() {
            out.push_str(
                "## Examples\n\nEach is a test of this repository: a configuration, requests, and what comes back.\n",
            );
        }
        let shown: Vec<&str> = text.lines().filter(|line| !line.starts_with("doc: true")).collect();
        let title = file.file_stem().unwrap_or_default().to_string_lossy().replace('-', " ");
        out.push_str(&format!("\n### {title}\n\n```yaml\n{}\n```\n", shown.join("\n").trim()));
    }
    Ok(out)
}

/// Doc comments of public fields, by file of `crates/config/src/settings/` and field name.
struct Settings(BTreeMap<(String, String), Vec<String>>);

fn settings(root: &Path) -> Result<Settings> {
    let folder = root.join("crates/config/src/settings");
    let mut all: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (field, docs) in fields(&std::fs::read_to_string(&path)?) {
            all.entry((stem.clone(), field)).or_default().push(docs);
        }
    }
    Ok(Settings(all))
}

impl Settings {
    /// The comment of the field that a key of config.yaml becomes; nothing where two fields share the name.
    fn about(&self, path: &str) -> String {
        let file = match path.split('.').collect::<Vec<_>>().as_slice() {
            ["nginx_config", "http", ..] => "http",
            ["nginx_config", ..] => "nginx",
            [first, ..] => first,
            [] => "",
        };
        let field = path.rsplit('.').next().unwrap_or_default();
        match self.0.get(&(file.to_owned(), field.to_owned())).map(Vec::as_slice) {
            Some([one]) => one.replace('|', "\\|"),
            _ => String::new(),
        }
    }
}

/// Every `pub name: Type` with the doc comment above it, which may be empty.
fn fields(text: &str) -> Vec<(String, String)> {
    let (mut found, mut docs) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            docs.push(doc.trim());
            continue;
        }
        let name = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")).map(|(name, _)| name);
        if let Some(name) = name.filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')) {
            found.push((name.to_owned(), docs.join(" ")));
        }
        if !line.starts_with("#[") {
            docs.clear();
        }
    }
    found
}

/// The comment above `Name = "name"` in the list of variables.
fn variable(source: &str, name: &str) -> String {
    let wanted = format!("= \"{name}\"");
    let mut docs = Vec::new();
    for line in source.lines().map(str::trim) {
        match line.strip_prefix("///") {
            Some(doc) => docs.push(doc.trim()),
            None if line.contains(&wanted) => {
                let aliases: Vec<String> =
                    line.split('|').skip(1).filter_map(|a| a.split('"').nth(1)).map(|a| format!("`{a}`")).collect();
                if !aliases.is_empty() {
                    docs.push("also");
                }
                let aliases = aliases.join(", ");
                return [docs.join(" "), aliases].join(" ").trim().replace('|', "\\|");
            }
            None => docs.clear(),
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_what_the_source_says() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("plugins/auth/src/key_auth.rs", "//! Keys.\n//!\n//! More.\nuse x;\n//! not this"),
            ("tests/cases/key-auth/right-key.yaml", "from: x\ndoc: true\nsteps: []\n"),
            ("tests/cases/key-auth/hidden.yaml", "steps: [1]\n"),
            (
                "crates/config/src/settings/apisix.rs",
                "pub struct A {\n    /// One\n    /// worker.\n    #[serde(skip)]\n    pub dev: bool,\n    pub other: u8,\n}",
            ),
            ("crates/expr/src/variable.rs", "/// The path.\nUri = \"uri\" | \"document_uri\",\nHost = \"host\","),
        ] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let page = "<!-- Generated -->\n<!-- prose of key-auth -->\n|<!-- about setting apisix.dev -->|<!-- about setting apisix.other -->|\
                    <!-- about variable uri -->|<!-- about variable host -->|\n<!-- cases of key-auth --><!-- prose of none -->\n";
        let mut pages = BTreeMap::from([("x.md".to_owned(), page.to_owned())]);
        complete(root.path(), &mut pages).unwrap();
        let text = &pages["x.md"];
        assert!(
            text.starts_with("<!-- Generated -->\nKeys.\n\nMore.\n|One worker.||The path. also `document_uri`||\n"),
            "{text}"
        );
        assert!(text.contains("### right key\n\n```yaml\nfrom: x\nsteps: []\n```"), "{text}");
        assert!(!text.contains("[1]") && !text.contains("of none"), "{text}");
    }
}
