//! Lua of the configuration outside plugins: `filter_func` and `script` of routes, `_meta.pre_function`. The binary hands an
//! engine in ([`crate::Env::with_scripts`]); without one, what needs Lua is reported and left out.
use crate::plugin::Plugin;
use serde_json::Value;
use sluice_expr::Predicate;
use sluice_model::Lua;
use std::sync::Arc;

/// A Lua engine. `owner` is the stored object: `routes/1`.
pub trait Scripts: Send + Sync {
    /// Checks source; the error is APISIX's text, but for a `pre_function` Lua's alone.
    fn check(&self, purpose: Lua, source: &str) -> Result<(), String>;
    /// A route's `filter_func`.
    fn predicate(&self, owner: &str, source: &str) -> Arc<dyn Predicate>;
    /// A route's `script`, which stands in for its plugins.
    fn route_script(&self, owner: &str, source: &str) -> Arc<dyn Plugin>;
    /// `plugin`, whose hooks run its `_meta.pre_function` first.
    fn pre_function(&self, owner: &str, config: &Value, source: &str, plugin: NamedPlugin) -> Arc<dyn Plugin>;
}

/// A plugin and its name.
pub struct NamedPlugin {
    pub name: &'static str,
    pub plugin: Arc<dyn Plugin>,
}
