//! `error-page`: pages of your own for the gateway's errors 404, 500, 502 and 503.
//!
//! The pages stand in `plugin_metadata`, once for the whole gateway, and are shown where the plugin is: usually in a global
//! rule. Answers of upstreams stay as they are, whatever their status; so do errors for which no page is named, and all of
//! them while `enable` is false, its default. A page named without a `body` is a plain one with the status.
//!
//! Different from APISIX (apisix/plugins/error-page.lua): that plain page is signed with the gateway's own name; fields that
//! describe the body which is replaced (`ETag`, `Content-Encoding`, `Last-Modified`) go. The surprise: a page with an empty
//! `body` counts as none.
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Info, Phases, Plugin};

/// The statuses that may have a page, with their reasons.
const STATUSES: [(u16, &str); 4] =
    [(404, "Not Found"), (500, "Internal Server Error"), (502, "Bad Gateway"), (503, "Service Unavailable")];
const CONTENT_TYPE: &str = "text/html";

/// Configuration of `error-page`: nothing; the pages are in its metadata.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {}

fn plain(status: u16, reason: &str) -> String {
    format!(
        "<html>\n<head><title>{status} {reason}</title></head>\n<body>\n<center><h1>{status} {reason}</h1></center>\n<hr><center>Sluice</center>\n</body>\n</html>"
    )
}

/// The schema of `plugin_metadata`.
pub fn metadata_schema() -> Value {
    let mut properties = json!({
        "enable": {"description": "Whether the pages are shown.", "type": "boolean", "default": false}
    });
    for (status, reason) in STATUSES {
        properties[format!("error_{status}")] = json!({
            "description": format!("The page for {status}."),
            "type": "object",
            "properties": {
                "body": {"description": "Its text.", "type": "string", "default": plain(status, reason)},
                "content_type": {"description": "Its media type.", "type": "string", "default": CONTENT_TYPE}
            }
        });
    }
    json!({"type": "object", "properties": properties})
}

struct Page {
    status: u16,
    content_type: Box<str>,
    body: Box<[u8]>,
}

/// The plugin.
pub struct ErrorPage {
    pages: Box<[Page]>,
}

impl Define for ErrorPage {
    const INFO: Info = Info::new("error-page", 450, Phases::HEADER_FILTER.and(Phases::BODY_FILTER));
    type Config = Config;

    fn schema() -> Value {
        json!({})
    }

    fn build(_config: Config, env: &Env) -> Result<Self, BuildError> {
        let metadata = env.metadata("error-page").filter(|metadata| metadata.get("enable") == Some(&Value::Bool(true)));
        let page = |(status, reason): (u16, &str)| {
            let page = metadata?.get(format!("error_{status}"))?;
            let text = |name: &str| page.get(name).and_then(Value::as_str);
            let body = text("body").map_or_else(|| plain(status, reason), str::to_owned);
            let content_type = text("content_type").unwrap_or(CONTENT_TYPE).into();
            (!body.is_empty()).then(|| Page { status, content_type, body: body.into_bytes().into() })
        };
        Ok(ErrorPage { pages: STATUSES.into_iter().filter_map(page).collect() })
    }
}

/// This response gets a page; of the status that its head has, whatever becomes of it later.
struct Shown {
    /// The instance that chose last; a global rule and a route may both have one, and the same pages.
    owner: usize,
    status: u16,
    done: bool,
}

impl ErrorPage {
    fn identity(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

impl Plugin for ErrorPage {
    fn header_filter(&self, cx: &mut Context) {
        let status = cx.response.status;
        if !cx.own_response {
            return;
        }
        let Some(page) = self.pages.iter().find(|page| page.status == status) else { return };
        cx.body_modified();
        cx.response.headers.set("Content-Type", &*page.content_type);
        cx.insert(Shown { owner: self.identity(), status, done: false });
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        let Some(shown) = cx.get_mut::<Shown>().filter(|shown| shown.owner == self.identity()) else { return };
        let Some(page) = self.pages.iter().find(|page| page.status == shown.status) else { return };
        chunk.data.clear();
        if !shown.done {
            chunk.data.extend_from_slice(&page.body);
            shown.done = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Scope, define};
    use std::sync::Arc;

    /// What a client gets: the content type and the body.
    fn answer(metadata: Option<Value>, status: u16, own: bool) -> (String, String) {
        let all = metadata.into_iter().map(|m| ("error-page".to_owned(), m)).collect();
        let env = Env::for_tests().with_metadata(Arc::new(all));
        let harness = Harness::with_env(define::<ErrorPage>(), json!({}), env).unwrap();
        let mut cx = Context::for_tests("GET", "/");
        cx.own_response = own;
        cx.response.status = status;
        cx.response.headers.set("Content-Type", "text/plain");
        cx.response.headers.set("Content-Length", "6");
        let body = harness.response(&mut cx, &[b"bef", b"ore"]);
        let replaced = body != b"before";
        assert_eq!(cx.wants_body(), replaced);
        assert_eq!(cx.response.headers.contains("content-length"), !replaced);
        (cx.response.headers.get_str("content-type").unwrap().to_owned(), String::from_utf8(body).unwrap())
    }

    fn untouched() -> (String, String) {
        ("text/plain".into(), "before".into())
    }

    #[test]
    fn pages_for_the_gateways_errors() {
        let metadata = json!({"enable": true, "error_404": {"body": "gone", "content_type": "text/x"}, "error_502": {"body": "bad"}});
        assert_eq!(answer(Some(metadata.clone()), 404, true), ("text/x".into(), "gone".into()));
        assert_eq!(answer(Some(metadata.clone()), 502, true), ("text/html".into(), "bad".into()));
        for (status, own) in [(404, false), (502, false), (500, true), (405, true), (200, true)] {
            assert_eq!(answer(Some(metadata.clone()), status, own), untouched(), "{status} {own}");
        }
    }

    #[test]
    fn nothing_without_metadata_or_when_off() {
        assert_eq!(answer(None, 404, true), untouched());
        assert_eq!(answer(Some(json!({"error_404": {"body": "gone"}})), 404, true), untouched());
        assert_eq!(answer(Some(json!({"enable": false, "error_404": {"body": "gone"}})), 404, true), untouched());
        assert_eq!(answer(Some(json!({"enable": true, "error_404": {"body": ""}})), 404, true), untouched());
    }

    #[test]
    fn a_page_without_body_is_plain() {
        let (kind, body) = answer(Some(json!({"enable": true, "error_503": {}})), 503, true);
        assert_eq!(kind, "text/html");
        assert!(body.contains("<h1>503 Service Unavailable</h1>"), "{body}");
        assert!(!body.contains("before"));
    }

    #[test]
    fn the_schema_of_metadata() {
        let definition = define::<ErrorPage>().metadata_schema(metadata_schema);
        let mut metadata = json!({"error_500": {"body": "x"}});
        check(definition, Scope::Metadata, &mut metadata).unwrap();
        assert_eq!(metadata, json!({"enable": false, "error_500": {"body": "x", "content_type": "text/html"}}));
        let error = check(definition, Scope::Metadata, &mut json!({"enable": "yes"})).unwrap_err();
        assert!(error.0.starts_with("property \"enable\" validation failed"), "{error}");
        assert!(check(definition, Scope::Metadata, &mut json!({"error_404": {"body": 1}})).is_err());
    }
}
