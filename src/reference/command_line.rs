//! The command line's page: what `--help` says.

/// `cli.md`.
pub fn page() -> String {
    let mut out = "# Command line\n\nExit codes: 0 fine, 1 the configuration or the run failed, 2 wrong usage. Without a command the \
                   gateway starts.\n"
        .to_owned();
    for (name, help) in crate::cli::help() {
        out.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", help.trim_end()));
    }
    out
}
