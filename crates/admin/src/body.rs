//! The body of a request as JSON. The surprise: strings may hold line ends and other control characters as they are, which
//! JSON forbids and APISIX's parser allows (`.proto` files are sent that way).
use crate::message::{Reply, Request};
use serde_json::{Value, json};

/// The body's JSON; None where there is none. `max`: bytes of it that are taken.
pub(crate) fn parse(request: &Request, max: usize) -> Result<Option<Value>, Reply> {
    if request.too_large {
        let size = request.header("content-length").map(|size| format!(" {size}")).unwrap_or_default();
        let message = format!("request size{size} is greater than the maximum size {max} allowed");
        tracing::error!("failed to read request body: {message}");
        return Err(Reply::error(400, format!("invalid request body: {message}")));
    }
    if request.body.is_empty() {
        return Ok(None);
    }
    json(&request.body).map(Some).map_err(|error| {
        tracing::error!("invalid request body: {error}");
        let text = String::from_utf8_lossy(&request.body);
        Reply::json(400, &json!({"error_msg": format!("invalid request body: {error}"), "req_body": text}))
    })
}

/// Parses JSON whose strings may hold control characters.
pub(crate) fn json(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(text).or_else(|error| match escaped(text) {
        Some(escaped) => serde_json::from_slice(&escaped).map_err(|_| error),
        None => Err(error),
    })
}

/// The text with the control characters of its strings escaped; None where there are none.
fn escaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() + 64);
    let (mut inside, mut after_backslash, mut changed) = (false, false, false);
    for &byte in text {
        if inside && byte < 0x20 && !after_backslash {
            changed = true;
            out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
            continue;
        }
        if byte == b'"' && !after_backslash {
            inside = !inside;
        }
        after_backslash = inside && byte == b'\\' && !after_backslash;
        out.push(byte);
    }
    changed.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_strings_are_taken() {
        let value = json(b"{\n\"a\": \"x\ny\t\\\"z\\\\\", \"b\":\r\n1}").unwrap();
        assert_eq!(value, json!({"a": "x\ny\t\"z\\", "b": 1}));
        // The first error counts, with its own place.
        let error = json(b"{\"a\": \"x\ny\" 1}").unwrap_err().to_string();
        assert!(error.contains("control character"), "{error}");
        assert!(json(b"{\n").is_err());
    }

    #[test]
    fn a_body_over_the_limit_is_named_with_its_size() {
        let mut request = Request::new("PUT", "/apisix/admin/routes/1");
        request.too_large = true;
        request.headers.push(("content-length".into(), "2000".into()));
        let refused = parse(&request, 1000).unwrap_err();
        assert_eq!(refused.status, 400);
        let message = "invalid request body: request size 2000 is greater than the maximum size 1000 allowed";
        assert_eq!(refused, Reply::error(400, message));
    }

    #[test]
    fn what_is_no_json_is_shown_again() {
        let mut request = Request::new("PUT", "/");
        request.body = "{a".into();
        let refused = parse(&request, 1000).unwrap_err();
        let body: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!((refused.status, &body["req_body"]), (400, &json!("{a")));
        assert!(body["error_msg"].as_str().unwrap().starts_with("invalid request body: "));
        request.body = Default::default();
        assert_eq!(parse(&request, 1000), Ok(None));
    }
}
