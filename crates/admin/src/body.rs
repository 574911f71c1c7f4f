//! The body of a request as JSON (apisix/admin/init.lua `run`). The surprise: one that is too large is 400, not 413.
use crate::lenient;
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
    lenient::parse(&request.body).map(Some).map_err(|error| {
        tracing::error!("invalid request body: {error}");
        let text = String::from_utf8_lossy(&request.body);
        Reply::json(400, &json!({"error_msg": format!("invalid request body: {error}"), "req_body": text}))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
