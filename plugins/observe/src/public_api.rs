//! `public-api`: exposes a public endpoint of another plugin on a route, so that other plugins (authentication, IP
//! restriction) can guard it.
//!
//! Plugins such as `prometheus` and `batch-requests` declare endpoints, which nobody can reach until a route with this
//! plugin leads to them. The request is answered by the endpoint whose path is `uri`, or the request's own path where
//! `uri` is not set; 404 where there is none, or none for this method (apisix/plugins/public-api.lua,
//! apisix/api_router.lua). No difference from APISIX.
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{BuildError, Context, Define, Endpoint, Env, Flow, Info, Phases, Plugin, Reply};

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// Path of the endpoint, where it is not the request's.
    pub uri: Option<String>,
}

pub struct PublicApi {
    uri: Option<String>,
    endpoints: Vec<Endpoint>,
}

impl Define for PublicApi {
    const INFO: Info = Info::new("public-api", 501, Phases::ACCESS).request_body();
    type Config = Config;

    fn build(config: Config, env: &Env) -> Result<PublicApi, BuildError> {
        Ok(PublicApi { uri: config.uri, endpoints: env.endpoints() })
    }
}

impl PublicApi {
    fn endpoint(&self, cx: &Context) -> Option<&Endpoint> {
        let path = self.uri.as_ref().map_or(cx.request.path_bytes(), |uri| uri.as_bytes());
        let method = cx.request.method_text();
        self.endpoints.iter().find(|e| e.matches(method, path))
    }
}

impl Plugin for PublicApi {
    fn wants_request_body(&self, cx: &Context) -> bool {
        let limit = self.endpoint(cx).map_or(0, |endpoint| endpoint.body_limit);
        match cx.request.framing {
            sluice_http::h1::Framing::Length(length) => length <= limit,
            _ => limit > 0,
        }
    }

    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if let Some(uri) = &self.uri {
            // Logs and later plugins see the endpoint's path as `$uri`.
            cx.set_variable("uri", uri.as_bytes());
        }
        let Some(endpoint) = self.endpoint(cx) else {
            return Flow::reply(Reply::status(404));
        };
        match (endpoint.handler)(cx) {
            Flow::Next => Flow::reply(Reply::status(404)),
            flow => flow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Definition, Registry, Scope, define};
    use std::sync::Arc;

    const PUBLIC_API: Definition = define::<PublicApi>();

    fn harness(config: serde_json::Value) -> Harness {
        // Any plugin may declare endpoints.
        let declaring = define::<PublicApi>().endpoints(|_| {
            let handler: sluice_plugin::EndpointHandler = Arc::new(|cx: &mut Context| match cx.request.query() {
                Some("decline") => Flow::Next,
                _ => Flow::reply(Reply::text(200, "endpoint")),
            });
            vec![Endpoint { methods: &["GET"], uri: "/apisix/plugin/x".into(), body_limit: 0, handler }]
        });
        let registry = Registry::new(&[&[declaring]]).expect("registry");
        Harness::with_env(PUBLIC_API, config, Env::for_tests().with_registry(Arc::new(registry))).expect("builds")
    }

    #[test]
    fn schema() {
        assert!(check(PUBLIC_API, Scope::Route, &mut json!({})).is_ok());
        assert!(check(PUBLIC_API, Scope::Route, &mut json!({"uri": "/a"})).is_ok());
        let error = check(PUBLIC_API, Scope::Route, &mut json!({"uri": 1})).map_err(|e| e.0);
        assert_eq!(error, Err(r#"property "uri" validation failed: wrong type: expected string, got number"#.into()));
        let expected = json!({"type": "object", "properties": {"uri": {"type": "string"}}});
        let mut schema = (PUBLIC_API.schema)();
        schema["properties"]["uri"].as_object_mut().map(|o| o.remove("description"));
        assert_eq!(schema, expected);
    }

    #[test]
    fn own_path() {
        let harness = harness(json!({}));
        let ask =
            |method: &str, target: &str| harness.request(&mut Context::for_tests(method, target)).map(|r| r.status);
        assert_eq!(ask("GET", "/apisix/plugin/x?a=1"), Some(200));
        assert_eq!(ask("PATCH", "/apisix/plugin/x"), Some(404));
        assert_eq!(ask("GET", "/apisix/plugin/other"), Some(404));
        assert_eq!(ask("GET", "/apisix/plugin/x?decline"), Some(404));
    }

    #[test]
    fn configured_path() {
        let harness = harness(json!({"uri": "/apisix/plugin/x"}));
        let mut cx = Context::for_tests("GET", "/anything");
        assert_eq!(harness.request(&mut cx).map(|r| r.status), Some(200));
        assert_eq!(cx.custom_variable("uri"), Some(&b"/apisix/plugin/x"[..]));
    }
}
