//! Variables, `vars` expressions, `$var` templates and the PCRE-compatible regex facade. No I/O.
//!
//! Everything here is compiled once, when configuration is read, and evaluated per request against a
//! [`Lookup`]: names are resolved to [`Variable`]s at compile time, so a request never compares names.

pub mod expression;
pub mod regex;
pub mod template;
pub mod value;
pub mod variable;

pub use expression::{Expr, ExprError};
pub use regex::{Captures, Regex, RegexError, Replacement};
pub use template::{CaptureTemplate, Template};
pub use value::{Value, parse_number, write_number};
pub use variable::{Lookup, Predicate, Variable};
