//! Plugins on stream routes: what they see of a TCP connection, and how one is defined.
//!
//! The surprise: they are a kind of their own, listed apart from the plugins of HTTP requests (APISIX: `stream_plugins`).
//! One name may be in both lists, with another schema and priority in each.
use crate::context::{Connection, UpstreamRef};
use crate::definition::{BuildError, parse, schema_of};
use crate::env::Env;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_expr::{Lookup, Value as Variables, Variable};
use std::any::Any;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A connection on a stream route before any byte of it has been passed on.
pub struct StreamContext {
    pub connection: Connection,
    /// Id of the matched stream route.
    pub route_id: Arc<str>,
    /// Its name.
    pub route_name: Option<Arc<str>>,
    /// The listening address as configured: `0.0.0.0:9100`.
    pub listen_addr: Arc<str>,
    /// The node that took the connection, or was tried last.
    pub node: Option<SocketAddr>,
    /// How the connection ended, in nginx's codes for streams; for [`StreamPlugin::log`].
    pub status: u16,
    /// The code that a plugin closed with, where it has one.
    pub rejected: Option<u16>,
    /// What the client has sent so far; it goes to the upstream untouched.
    pub head: Vec<u8>,
    /// Another upstream than the route's, chosen by a plugin.
    pub upstream: Option<UpstreamRef>,
    variables: Vec<(&'static str, Vec<u8>)>,
    held: Vec<Box<dyn Any>>,
}

impl StreamContext {
    pub fn new(connection: Connection, route_id: Arc<str>) -> StreamContext {
        StreamContext {
            connection,
            route_id,
            route_name: None,
            listen_addr: "".into(),
            node: None,
            status: 200,
            rejected: None,
            head: Vec::new(),
            upstream: None,
            variables: Vec::new(),
            held: Vec::new(),
        }
    }

    /// The client's address.
    pub fn client_ip(&self) -> IpAddr {
        self.connection.peer.ip().to_canonical()
    }

    /// Keeps a value until the connection ends, in whatever way: what has to be done then is its `Drop`.
    pub fn hold(&mut self, value: impl Any) {
        self.held.push(Box::new(value));
    }

    /// Sets a variable, for `chash` and for plugins that come later.
    pub fn set_variable(&mut self, name: &'static str, value: impl Into<Vec<u8>>) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.into()));
    }

    /// A variable that a plugin has set.
    pub fn custom_variable(&self, name: &str) -> Option<&[u8]> {
        self.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_slice())
    }
}

/// nginx's variables of the stream subsystem that are known before the upstream is.
impl Lookup for StreamContext {
    fn variable<'a>(&'a self, variable: &Variable) -> Option<Variables<'a>> {
        let connection = &self.connection;
        let port = |port: u16| Some(Variables::owned(port.to_string()));
        match variable {
            Variable::Custom(name) => self.custom_variable(name).map(Variables::bytes),
            Variable::RemoteAddr => Some(Variables::str(&connection.peer_text)),
            Variable::BinaryRemoteAddr => Some(match self.client_ip() {
                IpAddr::V4(ip) => Variables::owned(ip.octets()),
                IpAddr::V6(ip) => Variables::owned(ip.octets()),
            }),
            Variable::RemotePort => port(connection.peer.port()),
            Variable::ServerAddr => Some(Variables::owned(connection.local.ip().to_canonical().to_string())),
            Variable::ServerPort => port(connection.local.port()),
            Variable::Protocol => Some(Variables::str("TCP")),
            Variable::RouteId => Some(Variables::str(&self.route_id)),
            Variable::SslServerName => connection.tls.as_ref()?.server_name.as_deref().map(Variables::str),
            _ => None,
        }
    }
}

/// What a stream plugin says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamFlow {
    /// Go on with the next plugin.
    Next,
    /// Go on with the next plugin after this time.
    Wait(Duration),
    /// Ask again when [`StreamContext::head`] has this many bytes.
    NeedBytes(usize),
    /// Close the connection; the reason is for the operator's log.
    Close(Cow<'static, str>),
}

/// A plugin on a stream route, as built from one configuration. Shared by all workers.
pub trait StreamPlugin: Send + Sync + 'static {
    /// Before the upstream is chosen; called again from the start after [`StreamFlow::NeedBytes`]. The client may close
    /// or fall silent before the bytes have come: then the connection is closed.
    fn preread(&self, cx: &mut StreamContext) -> StreamFlow;

    /// Whether [`StreamPlugin::log`] does anything; asked once per connection.
    fn logs(&self) -> bool {
        false
    }

    /// After the connection has ended, also where a plugin closed it.
    fn log(&self, _cx: &StreamContext) {}
}

/// What the file of a stream plugin provides beside its hook. See [`crate::Define`].
pub trait DefineStream: StreamPlugin + Sized {
    /// APISIX's name.
    const NAME: &'static str;
    /// Higher runs first; APISIX's figure.
    const PRIORITY: i32;
    type Config: DeserializeOwned + JsonSchema;

    fn schema() -> Value {
        schema_of::<Self::Config>()
    }
    /// What the schema cannot say.
    fn check(_config: &Self::Config) -> Result<(), BuildError> {
        Ok(())
    }
    fn build(config: Self::Config, env: &Env) -> Result<Self, BuildError>;
}

/// A stream plugin as the registry knows it.
#[derive(Clone, Copy)]
pub struct StreamDefinition {
    pub name: &'static str,
    pub priority: i32,
    pub schema: fn() -> Value,
    pub check: fn(&Value) -> Result<(), BuildError>,
    pub build: BuildStream,
}

/// Makes a stream plugin of a checked configuration.
pub type BuildStream = fn(&Value, &Env) -> Result<Arc<dyn StreamPlugin>, BuildError>;

/// Erases a stream plugin's definition, for a family's `STREAM_PLUGINS` slice.
pub const fn define_stream<P: DefineStream>() -> StreamDefinition {
    StreamDefinition {
        name: P::NAME,
        priority: P::PRIORITY,
        schema: P::schema,
        check: |config| P::check(&parse::<P::Config>(config)?),
        build: |config, env| {
            let config = parse::<P::Config>(config)?;
            P::check(&config)?;
            Ok(Arc::new(P::build(config, env)?))
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_connection() {
        let peer = "[::ffff:10.0.0.1]:5000".parse().unwrap();
        let connection = Connection::new(peer, "127.0.0.1:9100".parse().unwrap(), None);
        let mut cx = StreamContext::new(connection, "r".into());
        cx.set_variable("mqtt_client_id", "a");
        cx.set_variable("mqtt_client_id", "foo");
        for (name, value) in [
            ("remote_addr", "10.0.0.1"),
            ("remote_port", "5000"),
            ("server_addr", "127.0.0.1"),
            ("server_port", "9100"),
            ("binary_remote_addr", "\n\0\0\u{1}"),
            ("mqtt_client_id", "foo"),
            ("route_id", "r"),
        ] {
            let found = cx.variable(&Variable::parse(name)).map(|v| v.as_str().into_owned());
            assert_eq!(found.as_deref(), Some(value), "{name}");
        }
        assert!(cx.variable(&Variable::parse("uri")).is_none());
        assert!(cx.variable(&Variable::SslServerName).is_none());
    }
}
