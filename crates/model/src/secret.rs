//! Settings of a secret manager. Surprise: the id holds the manager's name (`vault/1`).

use serde_json::Value;

/// A secret manager's settings, checked by `schemas::secret::manager`.
#[derive(Clone, Debug, PartialEq)]
pub struct Secret {
    /// `vault`, `aws` or `gcp`.
    pub manager: String,
    /// The id without the manager.
    pub id: String,
    /// The whole body, defaults injected.
    pub body: Value,
}

impl Secret {
    /// `id`: `<manager>/<id>`; `None` if it is not of that form.
    pub fn new(id: &str, body: Value) -> Option<Secret> {
        let (manager, id) = id.split_once('/')?;
        Some(Secret { manager: manager.to_owned(), id: id.to_owned(), body })
    }
}

/// Whether the text refers to a secret (`$secret://…`) or to a variable of the environment (`$env://…`, in any case)
/// (apisix/secret.lua).
pub fn is_reference(text: &str) -> bool {
    text.starts_with("$secret://") || text.get(..7).is_some_and(|head| head.eq_ignore_ascii_case("$env://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_recognised() {
        assert!(is_reference("$secret://vault/1/jack/key") && is_reference("$ENV://KEY") && is_reference("$env://KEY"));
        assert!(!is_reference("$Secret://vault") && !is_reference("key") && !is_reference("$é"));
    }

    #[test]
    fn ids_hold_the_manager() {
        let secret = Secret::new("vault/my/1", Value::Null).unwrap();
        assert_eq!((secret.manager.as_str(), secret.id.as_str()), ("vault", "my/1"));
        assert_eq!(Secret::new("vault", Value::Null), None);
    }
}
