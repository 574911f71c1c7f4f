//! `vars` expressions in lua-resty-expr's form.
use crate::Lookup;

/// A compiled expression.
#[derive(Debug)]
pub struct Expr {}

/// Why an expression does not compile, in lua-resty-expr's wording.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ExprError(pub String);

impl Expr {
    /// Compiles the JSON form: `[["arg_a", "==", "1"], "OR", …]`.
    pub fn compile(_rule: &serde_json::Value) -> Result<Expr, ExprError> {
        Ok(Expr {})
    }
    /// Whether the request matches.
    pub fn eval(&self, _lookup: &dyn Lookup) -> bool {
        true
    }
    /// The first condition that does not hold, for `explain`: e.g. `arg_a == "1": arg_a is nil`. `None` when it matches.
    pub fn explain(&self, _lookup: &dyn Lookup) -> Option<String> {
        None
    }
}
