//! The observe family of plugins: one file per plugin.
use sluice_plugin::Definition;

/// The plugins of this family, alphabetical.
pub const PLUGINS: &[Definition] = &[];
