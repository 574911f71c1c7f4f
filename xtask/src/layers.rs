//! `cargo xtask layers`: the direction of dependencies, from `cargo metadata`, and the house rules a machine can check.
//!
//! A package that is in no layer is an error: a new crate is given its place here on purpose.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{house_rules, process};

/// Check the direction of dependencies and the house rules.
#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask layers")]
pub struct Args {}

/// From bottom to top. A package may depend on packages of lower layers; within a layer only where [`WITHIN`] says so.
const LAYERS: &[&[&str]] = &[
    &["sluice-model", "sluice-expr", "sluice-parts"],
    &["sluice-telemetry", "sluice-net", "sluice-http", "sluice-secret"],
    &["sluice-router", "sluice-upstream", "sluice-plugin"],
    &["sluice-store", "sluice-config", "sluice-discovery", "sluice-proxy", "sluice-admin", "sluice-declarative"],
];

/// Edges inside a layer. Each is a decision: `expr` reads resources, Lua has variables and regular expressions, the wire
/// stands on sockets, one of the cache's stores is Redis, secrets are fetched over its TLS, plugins call upstreams, the pipeline reads the compiled snapshot,
/// the Admin API writes through the store, the declarative commands read files as the gateway does.
const WITHIN: &[(&str, &str)] = &[
    ("sluice-model", "sluice-expr"),
    ("sluice-net", "sluice-telemetry"),
    ("sluice-http", "sluice-net"),
    ("sluice-http", "sluice-telemetry"),
    ("sluice-engine-lua", "sluice-expr"),
    ("sluice-engine-cache", "sluice-engine-redis"),
    ("sluice-secret", "sluice-net"),
    ("sluice-plugin", "sluice-upstream"),
    ("sluice-proxy", "sluice-config"),
    ("sluice-config", "sluice-store"),
    ("sluice-admin", "sluice-config"),
    ("sluice-admin", "sluice-store"),
    ("sluice-declarative", "sluice-config"),
];

const PLUGIN_PREFIX: &str = "sluice-plugins-";
const ENGINE_PREFIX: &str = "sluice-engine-";
/// Layers that plugins must not see.
const HIDDEN_FROM_PLUGINS: &[&str] =
    &["sluice-store", "sluice-config", "sluice-discovery", "sluice-proxy", "sluice-admin", "sluice-declarative"];
const KIT: &str = "sluice-testkit";
/// Outside the product: they may depend on nothing of it.
const TOOLS: &[&str] = &["xtask", "sluice-bench", KIT];
const BINARY: &str = "sluice";

pub fn run(_: &Args) -> Result<()> {
    let metadata = process::output(&process::cargo(), &["metadata", "--format-version", "1", "--no-deps"])?;
    let edges = edges(&serde_json::from_slice(&metadata)?)?;
    let mut wrong: Vec<String> = edges.iter().filter_map(Edge::wrong).collect();
    wrong.extend(house_rules::check(&process::root())?);
    if wrong.is_empty() {
        println!("layers: {} edges and the house rules are in order", edges.len());
        return Ok(());
    }
    for line in &wrong {
        println!("{line}");
    }
    bail!("{} violations", wrong.len())
}

struct Edge {
    from: String,
    to: String,
    dev: bool,
}

/// The edges between packages of the workspace.
fn edges(metadata: &Value) -> Result<Vec<Edge>> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let names: Vec<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let mut edges = Vec::new();
    for package in packages {
        let from = package["name"].as_str().context("a package without a name")?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            if names.contains(&to) {
                let dev = dependency["kind"].as_str() == Some("dev");
                edges.push(Edge { from: from.to_owned(), to: to.to_owned(), dev });
            }
        }
    }
    Ok(edges)
}

/// The height of a package: `None` for one that has no place.
fn layer(name: &str) -> Option<usize> {
    if let Some(at) = LAYERS.iter().position(|names| names.contains(&name)) {
        return Some(at);
    }
    match name {
        _ if name.starts_with(ENGINE_PREFIX) => Some(0),
        _ if name.starts_with(PLUGIN_PREFIX) => Some(LAYERS.len()),
        BINARY => Some(LAYERS.len() + 1),
        _ => None,
    }
}

impl Edge {
    /// Why this edge may not be; `None` when it may.
    fn wrong(&self) -> Option<String> {
        let (from, to) = (self.from.as_str(), self.to.as_str());
        let say = |why: &str| Some(format!("{from} -> {to}: {why}"));
        if to == KIT {
            return if self.dev { None } else { say("the test kit is a dev-dependency only") };
        }
        if TOOLS.contains(&to) {
            return say("tools are not depended on");
        }
        if TOOLS.contains(&from) {
            return say("tools and the test kit know no package of the product");
        }
        let (Some(low), Some(high)) = (layer(to), layer(from)) else {
            return say("one of them has no layer; give it one in xtask/src/layers.rs and ARCHITECTURE.md");
        };
        if self.dev && low <= high {
            return None;
        }
        if from.starts_with(PLUGIN_PREFIX) {
            if to.starts_with(PLUGIN_PREFIX) {
                return say("a plugin family does not see another family");
            }
            if HIDDEN_FROM_PLUGINS.contains(&to) {
                return say("plugins do not see store, config, proxy or admin");
            }
        }
        if low < high || (low == high && WITHIN.contains(&(from, to))) {
            return None;
        }
        if to.starts_with(PLUGIN_PREFIX) {
            return say("only the binary names plugins");
        }
        say("dependencies point downward")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(from: &str, to: &str, dev: bool) -> Option<String> {
        Edge { from: from.into(), to: to.into(), dev }.wrong()
    }

    #[test]
    fn downward_edges_pass() {
        for (from, to) in [
            ("sluice", "sluice-plugins-auth"),
            ("sluice", "sluice-proxy"),
            ("sluice-plugins-auth", "sluice-plugin"),
            ("sluice-proxy", "sluice-config"),
            ("sluice-http", "sluice-model"),
        ] {
            assert_eq!(wrong(from, to, false), None);
        }
        assert_eq!(wrong("sluice-http", "sluice-testkit", true), None);
    }

    #[test]
    fn every_forbidden_edge_is_named() {
        for (from, to, part) in [
            ("sluice-proxy", "sluice-plugins-auth", "only the binary"),
            ("sluice-plugins-auth", "sluice-plugins-traffic", "another family"),
            ("sluice-plugins-auth", "sluice-config", "do not see"),
            ("sluice-model", "sluice-http", "downward"),
            ("sluice-config", "sluice-proxy", "downward"),
            ("sluice-http", "sluice-testkit", "dev-dependency only"),
            ("sluice-new", "sluice-http", "no layer"),
            ("sluice-testkit", "sluice", "know no package"),
        ] {
            let why = wrong(from, to, false).unwrap_or_default();
            assert!(why.contains(part), "{from} -> {to}: {why:?}");
        }
    }
}
