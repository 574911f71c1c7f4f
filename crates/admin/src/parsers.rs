//! What the model's checks ask of other crates: plugins and parsers.
use crate::admin::Gateway;
use serde_json::Value;
use sluice_model::{Lua, Parsers, PluginScope, Plugins};
use sluice_plugin::{Registry, Scope};

/// The plugins that may be configured.
pub struct KnownPlugins<'a>(pub &'a Registry);

impl Plugins for KnownPlugins<'_> {
    fn check(&self, name: &str, scope: PluginScope, conf: &mut Value) -> Result<(), String> {
        self.0.check(name, scope_of(scope), conf).map_err(|error| error.0)
    }
    fn exists(&self, name: &str, scope: PluginScope) -> bool {
        match scope {
            PluginScope::Stream => self.0.get_stream(name).is_some(),
            PluginScope::Metadata => self.0.knows(name) || self.0.stream_document(name).is_some(),
            _ => self.0.get(name).is_some(),
        }
    }
    fn is_auth(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|definition| definition.info.auth)
    }
}

fn scope_of(scope: PluginScope) -> Scope {
    match scope {
        PluginScope::Route => Scope::Route,
        PluginScope::Consumer => Scope::Consumer,
        PluginScope::Metadata => Scope::Metadata,
        PluginScope::Stream => Scope::Stream,
    }
}

/// Parsers of the gateway.
pub struct GatewayParsers<'a>(pub &'a dyn Gateway);

impl Parsers for GatewayParsers<'_> {
    fn vars(&self, expression: &Value) -> Result<(), String> {
        sluice_expr::Expr::compile(expression).map(|_| ()).map_err(|error| error.0)
    }
    fn certificate(&self, pem: &str) -> Result<(), String> {
        sluice_net::tls::check_certificate(pem)
    }
    fn private_key(&self, pem: &str) -> Result<(), String> {
        sluice_net::tls::check_private_key(pem)
    }
    fn proto(&self, _content: &str) -> Result<(), String> {
        Ok(())
    }
    fn lua(&self, purpose: Lua, source: &str) -> Result<(), String> {
        self.0.check_lua(purpose, source)
    }
}
