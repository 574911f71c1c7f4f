//! One replacement in a body, of `response-rewrite` and `request-rewrite`.
//!
//! The surprise: PCRE's `$` also matches before a line feed that ends the body, and bodies mostly end so; our engine's
//! does not. A pattern with `$` is therefore also tried on the body without its last line feed.
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_expr::{Regex, Replacement};
use sluice_plugin::BuildError;

#[derive(Deserialize, JsonSchema)]
pub(crate) struct FilterConfig {
    regex: String,
    scope: String,
    replace: String,
    options: String,
}

/// The schema of a list of replacements.
pub(crate) fn schema() -> Value {
    json!({
        "description": "Replacements by regular expressions, one after the other.",
        "type": "array", "minItems": 1,
        "items": {
            "type": "object",
            "required": ["regex", "replace"],
            "properties": {
                "regex": {"description": "Pattern.", "type": "string", "minLength": 1},
                "scope": {
                    "description": "Whether the first match or every match is replaced.",
                    "type": "string", "enum": ["once", "global"], "default": "once"
                },
                "replace": {"description": "What stands in; `$1` is the first group.", "type": "string"},
                "options": {"description": "Letters of OpenResty's regex options.", "type": "string", "default": "jo"}
            }
        }
    })
}

pub(crate) struct Filter {
    regex: Regex,
    replacement: Replacement,
    global: bool,
    /// The pattern may mean the place before a final line feed.
    dollar: bool,
}

pub(crate) fn check(filter: &FilterConfig) -> Result<(), BuildError> {
    match Regex::new(&filter.regex, &filter.options) {
        Ok(_) => Ok(()),
        Err(e) => Err(BuildError(format!("regex \"{}\" validation failed: {e}", filter.regex))),
    }
}

impl Filter {
    pub(crate) fn compile(config: FilterConfig) -> Option<Filter> {
        let compiled =
            Regex::new(&config.regex, &config.options).and_then(|r| Ok((r, Replacement::compile(&config.replace)?)));
        match compiled {
            Ok((regex, replacement)) => {
                let dollar = config.regex.contains('$') && !config.options.contains(['m', 'D']);
                Some(Filter { regex, replacement, global: config.scope == "global", dollar })
            }
            Err(error) => {
                tracing::error!(regex = %config.regex, %error, "this filter is left out");
                None
            }
        }
    }

    pub(crate) fn apply(&self, body: Vec<u8>) -> Vec<u8> {
        let limit = if self.global { usize::MAX } else { 1 };
        if self.dollar
            && let Some(line) = body.strip_suffix(b"\n")
            && let Some((at, _)) = self.first_match(line)
            && self.first_match(&body).is_none_or(|(whole, _)| at < whole)
        {
            let (mut changed, _) = self.regex.replace(line, &self.replacement, limit);
            changed.push(b'\n');
            return changed;
        }
        match self.regex.replace(&body, &self.replacement, limit) {
            (changed, 1..) => changed,
            _ => body,
        }
    }

    /// Where the pattern first matches: the earlier reading of `$` counts.
    fn first_match(&self, text: &[u8]) -> Option<(usize, usize)> {
        self.regex.find(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(regex: &str, replace: &str, scope: &str, body: &str) -> String {
        let config =
            FilterConfig { regex: regex.into(), scope: scope.into(), replace: replace.into(), options: "jo".into() };
        String::from_utf8(Filter::compile(config).unwrap().apply(body.into())).unwrap()
    }

    #[test]
    fn dollar_means_the_last_line_feed_too() {
        assert_eq!(filtered(r"\w\S+$", "*", "once", "hello world\n"), "hello *\n");
        assert_eq!(filtered(r"\w\S+$", "*", "once", "hello world"), "hello *");
        assert_eq!(filtered(r"\s+$", "", "once", "hello  \n"), "hello");
        assert_eq!(filtered(r"^x$", "y", "once", "a\nx\n"), "a\nx\n");
    }

    #[test]
    fn scopes_and_groups() {
        assert_eq!(filtered("l", "t", "once", "hello world\n"), "hetlo world\n");
        assert_eq!(filtered("l", "t", "global", "hello world\n"), "hetto wortd\n");
        assert_eq!(filtered("(h)(e)", "$2${1}$$", "global", "hehe"), "eh$eh$");
        assert_eq!(filtered("nothing", "t", "global", "hello"), "hello");
    }
}
