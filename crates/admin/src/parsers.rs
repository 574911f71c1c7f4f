//! What the model's checks ask of other crates: plugins and parsers.
use crate::admin::Gateway;
use serde_json::Value;
use sluice_expr::Variable;
use sluice_model::{Lua, Parsers, PluginScope, Plugins, schemas};
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

/// Refuses what is no JSONPath (apisix/admin/routes.lua `validate_post_arg`): brackets and quotes must be closed and hold
/// something.
fn check_json_path(path: &str) -> Result<(), String> {
    let invalid = || Err(format!("invalid expression \"$.{path}\""));
    let (mut quote, mut depth, mut before) = (None, 0_usize, '.');
    for c in path.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') if depth > 0 => quote = Some(c),
            (None, '[') if depth > 0 && before != '[' && !before.is_alphanumeric() && before != '@' => {
                return invalid();
            }
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 || before == '[' => return invalid(),
            (None, ']') => depth -= 1,
            _ => {}
        }
        before = c;
    }
    if quote.is_some() || depth > 0 || before == '.' { invalid() } else { Ok(()) }
}

/// Parsers of the gateway.
pub struct GatewayParsers<'a> {
    pub gateway: &'a dyn Gateway,
    /// `xrpc.protocols` of config.yaml.
    pub protocols: &'a [String],
}

impl Parsers for GatewayParsers<'_> {
    fn vars(&self, expression: &Value) -> Result<(), String> {
        let compiled = sluice_expr::Expr::compile(expression).map_err(|error| error.0)?;
        for variable in compiled.variables() {
            if let Variable::PostArgPath(path) = variable {
                check_json_path(path)?;
            }
        }
        Ok(())
    }
    /// OpenSSL's words; what is really wrong is in the log.
    fn certificate(&self, pem: &str) -> Result<(), String> {
        sluice_net::tls::check_certificate(pem).map_err(|cause| {
            tracing::warn!("a certificate cannot be read: {cause}");
            String::from("PEM_read_bio_X509_AUX() failed")
        })
    }
    fn private_key(&self, pem: &str) -> Result<(), String> {
        sluice_net::tls::check_private_key(pem).map_err(|cause| {
            tracing::warn!("a private key cannot be read: {cause}");
            String::from("PEM_read_bio_PrivateKey() failed")
        })
    }
    fn proto(&self, content: &str) -> Result<(), String> {
        self.gateway.check_proto(content)
    }
    fn lua(&self, purpose: Lua, source: &str) -> Result<(), String> {
        self.gateway.check_lua(purpose, source)
    }
    /// apisix/stream/xrpc.lua `check_schema`
    fn protocol(&self, protocol: &Value) -> Result<(), String> {
        let name = protocol.get("name").and_then(Value::as_str).unwrap_or_default();
        let schema = schemas::protocol(name).filter(|_| self.protocols.iter().any(|known| known == name));
        let Some(schema) = schema else { return Err(format!("unknown protocol [{name}]")) };
        match protocol.get("conf") {
            Some(conf) => schema.check(&mut conf.clone()).map_err(|violation| violation.message),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_paths_are_checked() {
        for good in ["a", "a.b", "messages[*].content[*].type", "a['b c']", "..type", "a[?(@.b[0] == 1)]"] {
            assert_eq!(check_json_path(good), Ok(()), "{good}");
        }
        for bad in ["messages.[content[*].type", "a[", "a]", "a[]", "a['b", "a."] {
            let message = check_json_path(bad).unwrap_err();
            assert!(message.starts_with("invalid expression"), "{bad}: {message}");
        }
    }
}
