//! `$var` and `${var}` in strings, as apisix/core/utils.lua `resolve_var` does it.
use crate::Lookup;

/// A compiled string with variables.
#[derive(Debug, Clone)]
pub struct Template {}

impl Template {
    /// Compiles; never fails, as `resolve_var` leaves what it does not understand.
    pub fn compile(_text: &str) -> Template {
        Template {}
    }
    /// The whole text if it has no variable.
    pub fn constant(&self) -> Option<&str> {
        None
    }
    /// Appends the rendered text. A variable without a value becomes `missing`.
    pub fn render_into(&self, _lookup: &dyn Lookup, _missing: &str, _out: &mut Vec<u8>) {}
}
