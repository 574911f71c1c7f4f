//! Names of request variables (nginx's and APISIX's, see apisix/core/ctx.lua), resolved once to an enum.
use crate::Value;

/// A variable reference. Families carry the rest of the name: `arg_x` is `Arg("x")`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Variable {
    /// `arg_NAME`: first value of a query argument.
    Arg(Box<str>),
    /// `http_NAME`: request header, stored lower-case with `-` for `_`.
    Http(Box<str>),
    /// `cookie_NAME`
    Cookie(Box<str>),
    /// `post_arg_NAME` and `post_arg.PATH`: urlencoded form, multipart or JSON body field.
    PostArg(Box<str>),
    /// `graphql_operation`, `graphql_name`, `graphql_root_fields`
    Graphql(Box<str>),
    /// `uri_param_NAME`: parameter captured by the router.
    UriParam(Box<str>),
    /// `sent_http_NAME`: header of the response to the client (lower-case, `-`).
    SentHttp(Box<str>),
    /// `upstream_http_NAME`: header of the upstream's response (lower-case, `-`).
    UpstreamHttp(Box<str>),
    /// `resp_body`
    ResponseBody,
    Uri,
    RequestUri,
    Args,
    IsArgs,
    QueryString,
    Request,
    RequestMethod,
    RequestBody,
    RequestLength,
    RequestTime,
    RequestId,
    Host,
    Hostname,
    Scheme,
    Https,
    RemoteAddr,
    RemotePort,
    RemoteUser,
    RealipRemoteAddr,
    ProxyProtocolAddr,
    ProxyProtocolPort,
    ServerAddr,
    ServerPort,
    ServerName,
    ServerProtocol,
    Status,
    BytesSent,
    BodyBytesSent,
    ContentType,
    ContentLength,
    Connection,
    ConnectionRequests,
    Msec,
    TimeIso8601,
    TimeLocal,
    Pid,
    UpstreamAddr,
    UpstreamStatus,
    UpstreamResponseTime,
    UpstreamConnectTime,
    UpstreamHeaderTime,
    UpstreamResponseLength,
    UpstreamBytesReceived,
    UpstreamBytesSent,
    UpstreamHost,
    UpstreamScheme,
    UpstreamUri,
    UpstreamCacheStatus,
    BalancerIp,
    BalancerPort,
    RouteId,
    RouteName,
    ServiceId,
    ServiceName,
    ConsumerName,
    ConsumerGroupId,
    CredentialId,
    MatchedUri,
    MatchedHost,
    ApisixRequestId,
    SslServerName,
    SslProtocol,
    SslCipher,
    SslSessionReused,
    SslClientVerify,
    SslClientSDn,
    SslClientIDn,
    SslClientSerial,
    SslClientFingerprint,
    SslClientCert,
    /// Any other name: set by a plugin during the request, else nil.
    Custom(Box<str>),
}

/// Where variables come from: the request context, or a map in tests.
pub trait Lookup {
    /// The variable's value now; `None` is Lua's `nil`.
    fn variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>>;
}

impl Variable {
    /// Resolves a name as written in configuration (without `$`). Never fails: an unknown name is [`Variable::Custom`].
    pub fn parse(name: &str) -> Variable {
        Variable::Custom(name.into())
    }
}
