//! Templates and `vars` expressions: whatever a configuration says, compiling it must not panic or hang.

use sluice_expr::{Expr, Template};

pub fn template(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let template = Template::compile(&text);
    // A text without variables is itself, byte for byte.
    if !text.contains('$')
        && let Some(constant) = template.constant()
    {
        assert_eq!(constant, text);
    }
}

pub fn expression(data: &[u8]) {
    if let Ok(rule) = serde_json::from_slice(data) {
        // Either result is right; a refusal must be an error, never a panic.
        let _ = Expr::compile(&rule);
    }
}
