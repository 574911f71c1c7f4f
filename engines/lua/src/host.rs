//! The request as scripts reach it. Everything but reading variables has a default that refuses, so that a predicate
//! needs no more than [`Host::variable`].
//!
//! The surprise: the host is lent to the machine only while a script runs ([`HOST`]), through a slot of the thread. No
//! Lua value ever holds it.
use mlua::Table;
use scoped_tls_hkt::{ReborrowMut, scoped_thread_local};
use serde_json::Value as Json;
use sluice_expr::Value;

/// Why something cannot be done.
pub type Refusal = &'static str;
const NOT_HERE: Refusal = "API disabled in the current context";

/// Where in the request a script runs; APISIX's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Rewrite,
    Access,
    BeforeProxy,
    HeaderFilter,
    BodyFilter,
    Log,
}

impl Phase {
    /// The name in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Rewrite => "rewrite",
            Phase::Access => "access",
            Phase::BeforeProxy => "before_proxy",
            Phase::HeaderFilter => "header_filter",
            Phase::BodyFilter => "body_filter",
            Phase::Log => "log",
        }
    }
    /// Whether the client can still be answered from here.
    pub fn answers(self) -> bool {
        matches!(self, Phase::Rewrite | Phase::Access | Phase::BeforeProxy)
    }
    /// `ngx.get_phase()`: APISIX runs its rewrite and access phases in nginx's access phase.
    pub(crate) fn nginx(self) -> &'static str {
        match self {
            Phase::Rewrite | Phase::Access | Phase::BeforeProxy => "access",
            Phase::HeaderFilter => "header_filter",
            Phase::BodyFilter => "body_filter",
            Phase::Log => "log",
        }
    }
}

/// A piece of the response's body (`ngx.arg`).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Body {
    pub data: Vec<u8>,
    pub last: bool,
}

/// What Lua keeps of one request from phase to phase: the tables `ctx` and `ngx.ctx`. The host stores it and drops it
/// with the request.
#[derive(Debug, Default)]
pub struct State(pub(crate) Option<(u64, Table)>);

/// Header fields.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// One request, as its script sees it.
#[allow(unused_variables, reason = "the names document what a host may implement")]
pub trait Host {
    /// A variable by its name (`ctx.var.NAME`, `ngx.var.NAME`).
    fn variable(&mut self, name: &str) -> Option<Value<'_>>;
    /// Sets a variable, or removes what was set.
    fn set_variable(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), Refusal> {
        Err(NOT_HERE)
    }
    /// What stands in `ctx` of the request's own: `matched_route`, `consumer_name`; null for nothing.
    fn fact(&self, name: &str) -> Json {
        Json::Null
    }
    /// A field of `ctx` was written.
    fn set_fact(&mut self, name: &str, value: &Json) {}

    fn request_headers(&self) -> Fields {
        Vec::new()
    }
    fn request_header(&self, name: &str) -> Vec<Vec<u8>> {
        Vec::new()
    }
    /// Replaces a request header, or adds to it; no values remove it.
    fn set_request_header(&mut self, name: &str, values: &[Vec<u8>], append: bool) -> Result<(), Refusal> {
        Err(NOT_HERE)
    }
    fn response_headers(&self) -> Fields {
        Vec::new()
    }
    fn response_header(&self, name: &str) -> Vec<Vec<u8>> {
        Vec::new()
    }
    fn set_response_header(&mut self, name: &str, values: &[Vec<u8>], append: bool) -> Result<(), Refusal> {
        Err(NOT_HERE)
    }
    /// The response's status; 0 before there is one.
    fn status(&self) -> u16 {
        0
    }
    fn set_status(&mut self, status: u16) -> Result<(), Refusal> {
        Err(NOT_HERE)
    }
    fn set_method(&mut self, method: &str) -> Result<(), Refusal> {
        Err(NOT_HERE)
    }
    /// Replaces the path (not escaped), for what follows and for the upstream.
    fn set_path(&mut self, path: &[u8]) -> Result<(), Refusal> {
        Err(NOT_HERE)
    }
    /// Replaces the query, escaped.
    fn set_query(&mut self, query: &[u8]) -> Result<(), Refusal> {
        Err(NOT_HERE)
    }
    /// The request's body, where it was read.
    fn request_body(&self) -> Option<&[u8]> {
        None
    }
    fn set_request_body(&mut self, body: &[u8]) -> Result<(), Refusal> {
        Err(NOT_HERE)
    }
    /// Where the tables of the request are kept; without it they end with the call.
    fn state(&mut self) -> Option<&mut State> {
        None
    }
}

/// The host that is lent; a type of its own because a trait object's lifetime cannot be named in the slot.
pub(crate) struct Lent<'a>(pub(crate) &'a mut (dyn Host + 'a));

impl<'a, 'b> ReborrowMut<'a> for Lent<'b>
where
    'b: 'a,
{
    type Result = Lent<'a>;
    fn reborrow_mut(&'a mut self) -> Lent<'a> {
        Lent(&mut *self.0)
    }
}

scoped_thread_local!(pub(crate) static mut HOST: for<'a> Lent<'a>);

/// Runs `f` on the host of the running script.
pub(crate) fn with<R>(f: impl FnOnce(&mut dyn Host) -> R) -> mlua::Result<R> {
    if !HOST.is_set() {
        return Err(mlua::Error::runtime("no request found"));
    }
    Ok(HOST.with(|lent| f(lent.0)))
}
