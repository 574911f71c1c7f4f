//! Secrets in consumer configurations, and the comparing of them.
//!
//! A reference to a secret store that could not be resolved is no secret: whoever guesses the reference would be let in
//! (apisix/consumer.lua, `create_consume_cache`), so such a consumer is left out.
use serde::de::{Deserialize, Deserializer, Error};
use sluice_model::secret::is_reference;

/// For `deserialize_with`: a text that is not an unresolved reference.
pub fn resolved<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_reference(&text) {
        return Err(D::Error::custom(
            "failed to resolve secret reference in consumer auth credential, skipping consumer",
        ));
    }
    Ok(text)
}

/// As [`resolved`], for a field that may be missing (with `serde(default)`).
pub fn resolved_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    resolved(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_no_secrets() {
        for (text, expected) in [
            ("$secret://vault/1/a/key", true),
            ("$ENV://KEY", true),
            ("$env://KEY", true),
            ("$SECRET://vault", false),
            ("$env:/", false),
            ("plain $env://KEY", false),
        ] {
            assert_eq!(resolved(serde_json::json!(text)).is_err(), expected, "{text}");
        }
    }
}
