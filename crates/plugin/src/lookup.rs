//! Request variables: nginx's and APISIX's names answered from the [`Context`] (apisix/core/ctx.lua).
use crate::context::{Alpn, Attempt, Context};
use sluice_expr::{Lookup, Value, Variable};
use sluice_http::{Known, target};
use sluice_telemetry::time_format;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

impl Lookup for Context {
    fn variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
        if !self.no_variables()
            && let Some(value) = self.overridden(variable)
        {
            return Some(Value::bytes(value));
        }
        self.request_variable(variable)
            .or_else(|| self.connection_variable(variable))
            .or_else(|| self.response_variable(variable))
            .or_else(|| self.upstream_variable(variable))
            .or_else(|| self.configuration_variable(variable))
    }
}

/// Variables that the tracing plugins set where they are told to.
const OF_TRACES: [&str; 6] = [
    "opentelemetry_context_traceparent",
    "opentelemetry_trace_id",
    "opentelemetry_span_id",
    "zipkin_context_traceparent",
    "zipkin_trace_id",
    "zipkin_span_id",
];

/// As `Display` writes it, for IPv4 at a tenth of the cost.
fn push_address(address: SocketAddr, out: &mut String) {
    let SocketAddr::V4(v4) = address else { return out.push_str(&address.to_string()) };
    let mut digits = itoa::Buffer::new();
    for (at, octet) in v4.ip().octets().into_iter().enumerate() {
        if at > 0 {
            out.push('.');
        }
        out.push_str(digits.format(octet));
    }
    out.push(':');
    out.push_str(digits.format(v4.port()));
}

fn text(s: &str) -> Option<Value<'_>> {
    Some(Value::str(s))
}
/// nginx's variables are strings, and `==` never converts them (lua-resty-expr).
fn number(n: u64) -> Option<Value<'static>> {
    Some(Value::owned(n.to_string()))
}
fn formatted(write: fn(SystemTime, &mut Vec<u8>)) -> Value<'static> {
    let mut out = Vec::new();
    write(SystemTime::now(), &mut out);
    Value::owned(out)
}
/// Seconds with milliseconds, as nginx writes times.
fn seconds(d: Duration) -> String {
    format!("{}.{:03}", d.as_secs(), d.subsec_millis())
}

impl Context {
    /// A plugin may set any variable; what it set stands before the real one.
    fn overridden(&self, variable: &Variable) -> Option<&[u8]> {
        match variable {
            Variable::Custom(name) => self.custom_variable(name),
            other => self.custom_variable(&other.to_string()),
        }
    }

    fn request_variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
        let request = &self.request;
        match variable {
            Variable::Arg(name) => request.arg(name).map(Value::Bytes),
            Variable::Http(name) => self.request_header(name),
            Variable::Cookie(name) => request.cookie(name).map(Value::bytes),
            Variable::Uri => Some(Value::bytes(request.path_bytes())),
            Variable::RequestUri => Some(self.normal_request_uri()),
            Variable::Custom(name) if name.as_ref() == "real_request_uri" => text(request.target()),
            // Declared empty in APISIX's nginx (apisix/cli/ngx_tpl.lua); the plugins of these names set them.
            Variable::Custom(name) if OF_TRACES.contains(&name.as_ref()) => text(""),
            Variable::Args | Variable::QueryString => request.query().map(Value::str),
            Variable::IsArgs => text(if request.query().is_some_and(|q| !q.is_empty()) { "?" } else { "" }),
            Variable::Request | Variable::RequestLine => Some(Value::owned(format!(
                "{} {} {}",
                request.method_text(),
                request.target(),
                request.version.as_str()
            ))),
            Variable::RequestMethod => text(request.method_text()),
            Variable::RequestBody => self.request_body.as_deref().map(Value::bytes),
            Variable::RequestLength => number(request.received),
            Variable::RequestTime => Some(Value::owned(seconds(self.started.elapsed()))),
            Variable::RequestId => self.known_request_id().map(Value::str),
            Variable::ApisixRequestId => self.apisix_request_id().map(Value::str),
            Variable::RequestCompletion => text("OK"),
            Variable::RequestType => text("traditional_http"),
            Variable::Host => text(request.host()),
            Variable::ServerProtocol => text(request.version.as_str()),
            Variable::ContentType => request.headers.known(Known::ContentType).map(Value::bytes),
            Variable::ContentLength => request.headers.known(Known::ContentLength).map(Value::bytes),
            Variable::RemoteUser => self.remote_user().map(Value::owned),
            Variable::UriParam(name) => {
                self.uri_params.iter().find(|(n, _)| n.as_ref() == name.as_ref()).map(|(_, v)| Value::str(v))
            }
            Variable::PostArg(name) => self.form_argument(name),
            Variable::PostArgPath(path) => crate::body_variables::post_arg(self, path),
            Variable::Graphql(name) => crate::body_variables::graphql(self, name),
            _ => None,
        }
    }

    /// `request_uri` as APISIX's plugins see it: the normalised path with the query as sent (apisix/init.lua, "To prevent
    /// being hacked by untrusted request_uri"); `real_request_uri` is what the client sent.
    fn normal_request_uri(&self) -> Value<'_> {
        let target = self.request.target();
        let (path, query) = target::split(target.as_bytes());
        let normal = self.request.path_bytes();
        match query {
            Some(query) if !query.is_empty() && path == normal => Value::str(target),
            Some(query) if !query.is_empty() => Value::owned([normal, b"?", query].concat()),
            _ => Value::bytes(normal),
        }
    }

    /// `http_NAME`. The gateway's own `X-Forwarded-*` stand where the client's were neutralised.
    fn request_header(&self, name: &str) -> Option<Value<'_>> {
        match (self.request.headers.joined_for_variable(name), name) {
            (Some(value), _) => Some(Value::Bytes(value)),
            (None, "x-forwarded-proto") => text(self.connection.scheme()),
            (None, "x-forwarded-host") => self.request.headers.known(Known::Host).map(Value::bytes),
            (None, "x-forwarded-port") => number(u64::from(self.connection.local.port())),
            _ => None,
        }
    }

    /// A field of an urlencoded form.
    fn form_argument(&self, name: &str) -> Option<Value<'_>> {
        let kind = self.request.headers.known(Known::ContentType)?;
        if !kind.starts_with(b"application/x-www-form-urlencoded") {
            return None;
        }
        target::args(self.request_body.as_deref()?)
            .find(|(k, _)| k.as_ref() == name.as_bytes())
            .map(|(_, v)| Value::Bytes(v))
    }

    /// The user name of `Authorization: Basic`.
    fn remote_user(&self) -> Option<Vec<u8>> {
        use base64::Engine;
        let value = self.request.headers.get_str("authorization")?;
        let (scheme, token) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = base64::engine::general_purpose::STANDARD.decode(token.trim()).ok()?;
        decoded.split(|b| *b == b':').next().map(<[u8]>::to_vec)
    }

    fn connection_variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
        let connection = &*self.connection;
        let tls = connection.tls.as_ref();
        let peer_of_socket = connection.proxy_peer.unwrap_or(connection.peer);
        match variable {
            Variable::RemoteAddr => text(self.client_ip_text()),
            Variable::BinaryRemoteAddr => Some(Value::owned(match self.client_ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            })),
            // nginx has an empty value where `real-ip` was given an address without port.
            Variable::RemotePort if self.client_port() == 0 => text(""),
            Variable::RemotePort => number(u64::from(self.client_port())),
            Variable::RealipRemoteAddr => text(&connection.peer_text),
            Variable::RealipRemotePort => number(u64::from(connection.peer.port())),
            Variable::ProxyProtocolAddr => connection.proxy_peer.map(|_| Value::str(&connection.peer_text)),
            Variable::ProxyProtocolPort => {
                connection.proxy_peer.and_then(|_| number(u64::from(connection.peer.port())))
            }
            Variable::ProxyProtocolServerAddr => {
                connection.proxy_peer.map(|_| Value::owned(peer_of_socket.ip().to_string()))
            }
            Variable::ProxyAddXForwardedFor => Some(Value::owned(self.forwarded_for())),
            Variable::OriginalXForwardedFor => self.request.headers.joined("x-forwarded-for").map(Value::Bytes),
            Variable::ServerAddr => Some(Value::owned(connection.local.ip().to_canonical().to_string())),
            Variable::ServerPort => number(u64::from(connection.local.port())),
            Variable::Scheme => text(connection.scheme()),
            Variable::Https => text(if tls.is_some() { "on" } else { "" }),
            Variable::ConnectionRequests => number(connection.requests.get()),
            Variable::Hostname | Variable::ServerName => Some(Value::owned(host_name())),
            Variable::Pid => number(u64::from(std::process::id())),
            Variable::Msec => {
                Some(Value::owned(seconds(self.started_wall().duration_since(UNIX_EPOCH).unwrap_or_default())))
            }
            Variable::TimeIso8601 => Some(formatted(time_format::time_iso8601)),
            Variable::TimeLocal => Some(formatted(time_format::time_local)),
            Variable::SslServerName => tls?.server_name.as_deref().map(Value::str),
            Variable::SslProtocol => text(tls?.protocol),
            Variable::SslCipher => text(&tls?.cipher),
            Variable::SslAlpnProtocol => text(tls?.alpn.map_or("", Alpn::name)),
            Variable::SslEarlyData => tls.map(|_| Value::str("")),
            Variable::SslSessionReused => text(if tls?.session_reused { "r" } else { "." }),
            Variable::SslClientVerify => text(&tls?.client_verify),
            Variable::SslClientRawCert
            | Variable::SslClientCert
            | Variable::SslClientEscapedCert
            | Variable::SslClientSDn
            | Variable::SslClientIDn
            | Variable::SslClientSDnLegacy
            | Variable::SslClientIDnLegacy
            | Variable::SslClientSerial
            | Variable::SslClientFingerprint
            | Variable::SslClientVStart
            | Variable::SslClientVEnd
            | Variable::SslClientVRemain => {
                let now = self.started_wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let now = i64::try_from(now).unwrap_or(i64::MAX);
                crate::certificate_variables::variable(tls?.client_certificate.as_deref()?, variable, now)
            }
            _ => None,
        }
    }

    /// `$proxy_add_x_forwarded_for`.
    pub fn forwarded_for(&self) -> Vec<u8> {
        let mut value = match self.request.headers.joined("x-forwarded-for") {
            Some(before) => [before.as_ref(), b", "].concat(),
            None => Vec::new(),
        };
        value.extend_from_slice(self.client_ip_text().as_bytes());
        value
    }

    fn response_variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
        match variable {
            Variable::Status => number(u64::from(self.response.status)),
            Variable::BytesSent => number(self.bytes_sent),
            Variable::BodyBytesSent => number(self.body_bytes_sent),
            Variable::SentHttp(name) => self.response.headers.joined_for_variable(name).map(Value::Bytes),
            Variable::UpstreamHttp(name) if !self.own_response => {
                self.response.headers.joined_for_variable(name).map(Value::Bytes)
            }
            Variable::SentTrailer(name) | Variable::UpstreamTrailer(name) => {
                let sent = matches!(variable, Variable::SentTrailer(_));
                let trailers = self.response.trailers.as_deref().filter(|own| !(sent && own.is_withheld()))?;
                trailers.joined_for_variable(name).map(Value::Bytes)
            }
            _ => None,
        }
    }

    fn upstream_variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
        // Several attempts stand in one value, as nginx writes them.
        let each = |write: &dyn Fn(&Attempt, &mut String)| -> Option<Value<'a>> {
            if self.attempts.is_empty() {
                return None;
            }
            let mut all = String::with_capacity(24);
            for (at, attempt) in self.attempts.iter().enumerate() {
                if at > 0 {
                    all.push_str(", ");
                }
                write(attempt, &mut all);
            }
            Some(Value::owned(all))
        };
        let time = |d: Option<Duration>, out: &mut String| match d {
            Some(d) => out.push_str(&seconds(d)),
            None => out.push('-'),
        };
        match variable {
            Variable::UpstreamAddr => each(&|a, out| push_address(a.address, out)),
            Variable::UpstreamStatus => each(&|a, out| out.push_str(itoa::Buffer::new().format(a.status))),
            Variable::UpstreamResponseTime | Variable::ApisixUpstreamResponseTime => {
                each(&|a, out| out.push_str(&seconds(a.response_time)))
            }
            Variable::UpstreamConnectTime => each(&|a, out| time(a.connect_time, out)),
            Variable::UpstreamHeaderTime => each(&|a, out| time(a.header_time, out)),
            Variable::UpstreamResponseLength | Variable::UpstreamBytesReceived => match self.attempts.len() {
                0 => None,
                1 => number(self.upstream_body_bytes),
                // only the last attempt's body is read
                n => Some(Value::owned(format!("{}{}", "0, ".repeat(n - 1), self.upstream_body_bytes))),
            },
            Variable::BalancerIp => {
                self.attempts.last().map(|a| Value::owned(a.address.ip().to_canonical().to_string()))
            }
            Variable::UpstreamUnresolvedHost => match &self.upstream.node_name {
                Some(name) => Some(Value::str(name)),
                None => self.variable(&Variable::BalancerIp),
            },
            Variable::BalancerPort => self.attempts.last().map(|a| Value::Number(f64::from(a.address.port()))),
            Variable::UpstreamHost => match &self.upstream.host {
                Some(host) => Some(Value::bytes(host)),
                None => self.request.headers.known(Known::Host).map(Value::bytes),
            },
            Variable::UpstreamScheme => text(self.upstream.scheme.as_deref().unwrap_or("http")),
            Variable::UpstreamUri => self.upstream.target.as_deref().map(Value::bytes),
            Variable::UpstreamNodeMetadata(key) => self.node_metadata(key),
            _ => None,
        }
    }

    /// A field of the chosen node's metadata (ours): text as it is, anything else as JSON.
    fn node_metadata(&self, key: &str) -> Option<Value<'_>> {
        match self.upstream.node_metadata.as_ref()?.get(key)? {
            serde_json::Value::String(text) => Some(Value::str(text)),
            other => Some(Value::owned(other.to_string())),
        }
    }

    fn configuration_variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>> {
        let route = self.route.as_deref();
        let consumer = self.consumer.as_ref();
        match variable {
            Variable::RouteId => text(&route?.route_id),
            Variable::RouteName => text(route?.route_name.as_deref()?),
            Variable::ServiceId => text(route?.service_id.as_deref()?),
            Variable::ServiceName => text(route?.service_name.as_deref()?),
            Variable::ConsumerName => text(&consumer?.consumer.username),
            Variable::ConsumerGroupId => text(consumer?.consumer.group_id.as_deref()?),
            Variable::CredentialId => text(consumer?.credential_id.as_deref()?),
            Variable::MatchedUri => text(self.matched_uri.as_deref()?),
            Variable::MatchedHost => text(self.matched_host.as_deref()?),
            Variable::RateLimitingInfo => Some(Value::owned(self.rate_limiting.as_ref()?.to_json())),
            _ => None,
        }
    }
}

/// The machine's name, read once.
pub fn host_name() -> String {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| {
        let read = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match read.trim() {
            "" => "localhost".to_string(),
            name => name.to_string(),
        }
    })
    .clone()
}
