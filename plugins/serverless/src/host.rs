//! A [`Context`] as scripts see it.
//!
//! The surprise: what a script writes to the response's header before there is a response waits in the context, so that
//! it stands in whichever response comes.
use crate::variables::variable;
use serde_json::{Map, Value as Json, json};
use sluice_engine_lua::{Host, State};
use sluice_expr::{Lookup, Value, Variable};
use sluice_plugin::{Context, ExternalUser, Phase};

/// The engine's name of a phase.
pub(crate) fn lua_phase(phase: Phase) -> sluice_engine_lua::Phase {
    use sluice_engine_lua::Phase as Lua;
    match phase {
        Phase::Rewrite => Lua::Rewrite,
        Phase::Access => Lua::Access,
        Phase::BeforeProxy => Lua::BeforeProxy,
        Phase::HeaderFilter => Lua::HeaderFilter,
        Phase::BodyFilter => Lua::BodyFilter,
        Phase::Log => Lua::Log,
    }
}

/// What scripts keep with a request.
#[derive(Default)]
struct Kept(State);

/// The upstream's target was made here from path and query, and not by another plugin.
struct Retargeted;

type Done = Result<(), &'static str>;
const TOO_LATE: &str = "headers have already been sent";

/// A context lent to a script.
pub(crate) struct Seen<'a> {
    cx: &'a mut Context,
    phase: Phase,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(cx: &'a mut Context, phase: Phase) -> Seen<'a> {
        Seen { cx, phase }
    }

    /// There is no response yet.
    fn early(&self) -> bool {
        matches!(self.phase, Phase::Rewrite | Phase::Access | Phase::BeforeProxy)
    }

    /// Whether the request can still be changed.
    fn changeable(&self) -> Done {
        if self.early() { Ok(()) } else { Err("API disabled in the current context") }
    }

    /// Puts path (escaped) and query into the upstream's target, unless a plugin has set another.
    fn retarget(&mut self, path: Option<&[u8]>, query: Option<&[u8]>) {
        if self.cx.upstream.target.is_some() && self.cx.get::<Retargeted>().is_none() {
            return;
        }
        let (old_path, old_query) = sluice_http::target::split(self.cx.upstream_target());
        let mut target = path.unwrap_or(old_path).to_vec();
        if let Some(query) = query.or(old_query).filter(|q| !q.is_empty()) {
            target.push(b'?');
            target.extend_from_slice(query);
        }
        self.cx.upstream.target = Some(target);
        self.cx.insert(Retargeted);
    }
}

/// nginx's escaping of a path that goes upstream (`NGX_ESCAPE_URI`).
fn escape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for byte in path {
        if *byte <= 32 || *byte >= 127 || b"#%?".contains(byte) {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            out.push(*byte);
        }
    }
    out
}

fn is_token(name: &str) -> Done {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if !name.is_empty() && name.bytes().all(token) { Ok(()) } else { Err("invalid header name") }
}

fn are_values(values: &[Vec<u8>]) -> Done {
    let bad = |v: &Vec<u8>| v.iter().any(|b| matches!(b, b'\r' | b'\n' | 0));
    if values.iter().any(bad) { Err("invalid header value") } else { Ok(()) }
}

impl Host for Seen<'_> {
    fn variable(&mut self, name: &str) -> Option<Value<'_>> {
        let variable = variable(name);
        if matches!(&*variable, Variable::RequestId | Variable::ApisixRequestId) {
            self.cx.request_id();
        }
        if name == "upstream_uri" && self.cx.upstream.target.is_none() {
            return Some(Value::str(""));
        }
        self.cx.variable(&variable)
    }

    fn set_variable(&mut self, name: &str, value: Option<&[u8]>) -> Done {
        let upstream = &mut self.cx.upstream;
        match (name, value) {
            ("upstream_uri", value) => upstream.target = value.filter(|v| !v.is_empty()).map(<[u8]>::to_vec),
            ("upstream_host", value) => upstream.host = value.map(<[u8]>::to_vec),
            ("upstream_scheme", value) => upstream.scheme = value.map(|v| String::from_utf8_lossy(v).into()),
            ("args", value) => return self.set_query(value.unwrap_or_default()),
            (name, Some(value)) => self.cx.set_variable(&variable(name).to_string(), value),
            (name, None) => self.cx.unset_variable(&variable(name).to_string()),
        }
        Ok(())
    }

    fn fact(&self, name: &str) -> Json {
        fact(self.cx, name).unwrap_or(Json::Null)
    }

    fn set_fact(&mut self, name: &str, value: &Json) {
        if name == "external_user" {
            self.cx.insert(ExternalUser(value.clone()));
        }
    }

    fn request_headers(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.cx.request.headers.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect()
    }

    fn request_header(&self, name: &str) -> Vec<Vec<u8>> {
        self.cx.request.headers.get_all(name).map(<[u8]>::to_vec).collect()
    }

    fn set_request_header(&mut self, name: &str, values: &[Vec<u8>], append: bool) -> Done {
        self.changeable()?;
        is_token(name)?;
        are_values(values)?;
        // What a variable of the header was set to ends with the old value.
        let shadow = format!("http_{}", name.to_ascii_lowercase().replace('-', "_"));
        self.cx.unset_variable(&shadow);
        let headers = &mut self.cx.request.headers;
        if !append {
            headers.remove(name);
        }
        values.iter().for_each(|value| headers.append(name, value));
        Ok(())
    }

    fn response_headers(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        if self.early() {
            return self.cx.early_headers().map(|(n, v)| (n.as_bytes().to_vec(), v.to_vec())).collect();
        }
        self.cx.response.headers.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect()
    }

    fn response_header(&self, name: &str) -> Vec<Vec<u8>> {
        if self.early() {
            let named = self.cx.early_headers().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            return named.map(|(_, v)| v.to_vec()).collect();
        }
        self.cx.response.headers.get_all(name).map(<[u8]>::to_vec).collect()
    }

    fn set_response_header(&mut self, name: &str, values: &[Vec<u8>], append: bool) -> Done {
        is_token(name)?;
        are_values(values)?;
        match self.phase {
            Phase::BodyFilter | Phase::Log => Err(TOO_LATE),
            Phase::HeaderFilter => {
                let headers = &mut self.cx.response.headers;
                if !append {
                    headers.remove(name);
                }
                values.iter().for_each(|value| headers.append(name, value));
                Ok(())
            }
            _ => {
                if !append {
                    self.cx.clear_response_header(name);
                }
                values.iter().for_each(|value| self.cx.add_response_header(name.to_owned(), value));
                Ok(())
            }
        }
    }

    fn status(&self) -> u16 {
        if self.early() { 0 } else { self.cx.response.status }
    }

    fn set_status(&mut self, status: u16) -> Done {
        if self.phase != Phase::HeaderFilter {
            return Err(TOO_LATE);
        }
        if !(100..=999).contains(&status) {
            return Err("bad status");
        }
        self.cx.response.set_status(status);
        Ok(())
    }

    fn set_method(&mut self, method: &str) -> Done {
        self.changeable()?;
        is_token(method).map_err(|_| "bad method")?;
        self.cx.set_method(method);
        Ok(())
    }

    fn set_path(&mut self, path: &[u8]) -> Done {
        self.changeable()?;
        if path.contains(&0) || !path.starts_with(b"/") {
            return Err("bad uri");
        }
        self.cx.request.set_path(path);
        self.retarget(Some(&escape(path)), None);
        Ok(())
    }

    fn set_query(&mut self, query: &[u8]) -> Done {
        self.changeable()?;
        if query.iter().any(|b| *b <= 32 || *b == 127 || *b == b'#') {
            return Err("bad arguments");
        }
        self.cx.request.set_query(Some(query));
        self.retarget(None, Some(query));
        Ok(())
    }

    fn request_body(&self) -> Option<&[u8]> {
        self.cx.request_body.as_deref()
    }

    fn set_request_body(&mut self, body: &[u8]) -> Done {
        self.changeable()?;
        self.cx.request_body = Some(body.to_vec());
        self.cx.upstream.body = Some(body.to_vec());
        Ok(())
    }

    fn state(&mut self) -> Option<&mut State> {
        if self.cx.get::<Kept>().is_none() {
            self.cx.insert(Kept::default());
        }
        self.cx.get_mut::<Kept>().map(|kept| &mut kept.0)
    }
}

/// Fields of `ctx` that the gateway knows (apisix/init.lua, apisix/plugin.lua).
fn fact(cx: &Context, name: &str) -> Option<Json> {
    let route = cx.route.as_deref();
    let consumer = cx.consumer.as_ref();
    let text = |s: &str| Some(Json::from(s));
    match name {
        "matched_route" => {
            let route = route?;
            let mut value = Map::new();
            let mut put = |name: &str, field: Option<Json>| field.and_then(|field| value.insert(name.into(), field));
            let list = |all: &[std::sync::Arc<str>]| (!all.is_empty()).then(|| json!(all));
            put("id", text(&route.route_id));
            put("name", route.route_name.as_deref().map(Json::from));
            put("service_id", route.service_id.as_deref().map(Json::from));
            put("uris", list(&route.uris));
            put("hosts", list(&route.hosts));
            put("labels", (!route.labels.is_empty()).then(|| Json::Object(route.labels.clone())));
            Some(json!({"key": format!("/routes/{}", route.route_id), "value": value}))
        }
        "curr_req_matched" => {
            let mut matched = Map::new();
            matched.insert("_path".into(), json!(cx.matched_uri.as_deref()?));
            if let Some(host) = cx.matched_host.as_deref() {
                matched.insert("_host".into(), json!(host));
            }
            matched.insert("_method".into(), json!(cx.request.method_text()));
            for (name, value) in &cx.uri_params {
                matched.insert(name.to_string(), json!(value));
            }
            Some(Json::Object(matched))
        }
        "req_post_args" => {
            let kind = cx.request.headers.known(sluice_http::Known::ContentType)?;
            let body = cx.request_body.as_deref().filter(|_| kind.starts_with(b"application/x-www-form-urlencoded"))?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Some(sluice_http::target::args(body).map(|(name, value)| (text(&name), Json::from(text(&value)))).collect())
        }
        "_graphql" => {
            let part = |name: &str| Some(cx.variable(&variable(name))?.as_str().into_owned());
            Some(json!({"operation": part("graphql_operation")?, "name": part("graphql_name")}))
        }
        "rewritten_uri" => {
            let target = cx.upstream.target.as_deref().filter(|_| cx.get::<Retargeted>().is_none())?;
            Some(Json::from(String::from_utf8_lossy(sluice_http::target::split(target).0)))
        }
        "conf_type" => text("route"),
        "conf_id" | "route_id" => text(&route?.route_id),
        "route_name" => text(route?.route_name.as_deref()?),
        "service_id" => text(route?.service_id.as_deref()?),
        "service_name" => text(route?.service_name.as_deref()?),
        "consumer_name" => text(&consumer?.consumer.username),
        "consumer_group_id" => text(consumer?.consumer.group_id.as_deref()?),
        "consumer" => {
            let consumer = &consumer?.consumer;
            Some(json!({
                "username": consumer.username,
                "consumer_name": consumer.username,
                "group_id": consumer.group_id,
                "labels": consumer.labels,
            }))
        }
        "balancer_ip" => Some(Json::from(cx.attempts.last()?.address.ip().to_canonical().to_string())),
        "balancer_port" => Some(Json::from(cx.attempts.last()?.address.port())),
        "external_user" => cx.get::<ExternalUser>().map(|ExternalUser(user)| user.clone()),
        "jwt_auth_payload" => serde_json::from_slice(cx.custom_variable("jwt_auth_payload")?).ok(),
        "response_source" => text(match (cx.own_response, cx.attempts.is_empty()) {
            (true, true) => "apisix",
            (true, false) => "nginx",
            (false, _) => "upstream",
        }),
        _ => None,
    }
}

/// Variables alone, for predicates.
pub(crate) struct Looked<'a>(pub(crate) &'a dyn Lookup);

impl Host for Looked<'_> {
    fn variable(&mut self, name: &str) -> Option<Value<'_>> {
        self.0.variable(&variable(name))
    }
}
