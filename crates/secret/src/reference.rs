//! References: `$secret://<manager>/<id>/<key>` and `$env://NAME` or `$env://NAME/field` (apisix/secret.lua,
//! apisix/core/env.lua). The surprise: `$env` is known in any case, `$secret` in small letters alone.

use serde_json::Value;

const SECRET: &str = "$secret://";
const ENVIRONMENT: &str = "$env://";

/// A reference to what a secret manager holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// `<manager>/<id>`: the id of the `secrets` resource.
    pub source: String,
    /// What the manager is asked for; may hold slashes.
    pub key: String,
}

/// Why a text that begins as a reference is none. APISIX's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("error format: no secret manager")]
    Manager,
    #[error("error format: no secret conf id")]
    Id,
    #[error("error format: no secret key id")]
    Key,
}

impl Reference {
    /// `None` for a text that does not begin with `$secret://`.
    pub fn parse(text: &str) -> Option<Result<Reference, ReferenceError>> {
        let rest = text.strip_prefix(SECRET)?;
        let Some((manager, rest)) = rest.split_once('/') else { return Some(Err(ReferenceError::Manager)) };
        let Some((id, key)) = rest.split_once('/') else { return Some(Err(ReferenceError::Id)) };
        if key.is_empty() {
            return Some(Err(ReferenceError::Key));
        }
        Some(Ok(Reference { source: format!("{manager}/{id}"), key: key.to_owned() }))
    }
}

/// The value of an `$env://` reference; `None` for a text that is none. A field of a variable that holds JSON keeps its
/// type, as in APISIX.
pub fn environment(text: &str) -> Option<Result<Value, String>> {
    let prefix = text.get(..ENVIRONMENT.len())?;
    if !prefix.eq_ignore_ascii_case(ENVIRONMENT) {
        return None;
    }
    let name = text.get(ENVIRONMENT.len()..)?;
    let (name, field) = match name.split_once('/') {
        Some((name, field)) => (name, field),
        None => (name, ""),
    };
    // `std::env::var` panics on none of them, but has no such variable either.
    let variable = if name.contains(['\0', '=']) { None } else { std::env::var(name).ok() };
    let Some(variable) = variable else { return Some(Err("no value".to_owned())) };
    Some(if field.is_empty() { Ok(Value::String(variable)) } else { field_of(&variable, field) })
}

/// A field of a text that is JSON. The text stays out of the message: it is a secret.
pub(crate) fn field_of(text: &str, field: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("decode failed, err: {error}"))?;
    value.get(field).filter(|v| !v.is_null()).cloned().ok_or_else(|| "no value".to_owned())
}

/// A text of a manager's settings, where it may be an `$env://` reference; as it is where that has no value.
pub(crate) fn setting<'a>(settings: &'a Value, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    let text = settings.get(name)?.as_str()?;
    Some(match environment(text) {
        Some(Ok(Value::String(value))) => value.into(),
        _ => text.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_managers() {
        let parse = |text| Reference::parse(text).map(|r| r.map(|r| (r.source, r.key)).map_err(|e| e.to_string()));
        let good = |source: &str, key: &str| Some(Ok((source.to_owned(), key.to_owned())));
        let bad = |why: &str| Some(Err(format!("error format: no secret {why}")));
        for (text, expected) in [
            ("$secret://vault/1/apisix-key/jack/key", good("vault/1", "apisix-key/jack/key")),
            ("$secret://aws/x/name", good("aws/x", "name")),
            ("$secret://vault//key", good("vault/", "key")),
            ("$secret://vault", bad("manager")),
            ("$secret://", bad("manager")),
            ("$secret://vault/1", bad("conf id")),
            ("$secret://vault/1/", bad("key id")),
            ("$Secret://vault/1/a", None),
            ("vault/1/a", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn variables() {
        let path = std::env::var("PATH").unwrap();
        assert_eq!(environment("$ENV://PATH"), Some(Ok(path.clone().into())));
        assert_eq!(environment("$eNv://PATH"), Some(Ok(path.into())));
        assert_eq!(environment("$env://NO_SUCH_VARIABLE_HERE"), Some(Err("no value".into())));
        assert_eq!(environment("$env://A=B"), Some(Err("no value".into())));
        assert!(environment("$env://PATH/key").unwrap().unwrap_err().starts_with("decode failed, err: "));
        assert_eq!((environment("PATH"), environment("$env:/"), environment("$énv://")), (None, None, None));
    }

    #[test]
    fn fields_keep_their_type() {
        let text = r#"{"a": "text", "n": 5, "none": null}"#;
        assert_eq!(field_of(text, "a"), Ok("text".into()));
        assert_eq!(field_of(text, "n"), Ok(5.into()));
        assert_eq!(field_of(text, "none"), Err("no value".into()));
        assert_eq!(field_of("[]", "0"), Err("no value".into()));
    }
}
