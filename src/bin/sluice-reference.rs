//! Prints what [`sluice::reference`] knows as JSON: `documents` (path → text) or `schema`. A binary of its own, so that the
//! gateway's command line has no commands that only the repository needs.

use std::collections::BTreeMap;

fn main() -> anyhow::Result<()> {
    let what = std::env::args().nth(1).unwrap_or_default();
    let text = match what.as_str() {
        "documents" => serde_json::to_string(&sluice::reference::documents()?.into_iter().collect::<BTreeMap<_, _>>())?,
        "schema" => serde_json::to_string(&sluice::reference::schema()?)?,
        _ => anyhow::bail!("usage: sluice-reference documents|schema"),
    };
    println!("{text}");
    Ok(())
}
