//! Names of request variables (nginx's and APISIX's, see apisix/core/ctx.lua), resolved once to an enum.
//!
//! The surprise: `arg_x` keeps its exact spelling (APISIX reads the query table), while nginx's own names and
//! `http_*`, `sent_http_*`, `upstream_http_*` ignore case.
use std::fmt;

use crate::Value;

macro_rules! variables {
    (
        families { $( $(#[$fdoc:meta])* $family:ident ),* $(,)? }
        plain { $( $(#[$doc:meta])* $plain:ident = $name:literal $(| $alias:literal)* ),* $(,)? }
    ) => {
        /// A variable reference. Families carry the rest of the name: `arg_x` is `Arg("x")`.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Variable {
            $( $(#[$fdoc])* $family(Box<str>), )*
            $( $(#[$doc])* #[doc = concat!("`", $name, "`")] $plain, )*
        }

        impl Variable {
            /// Every variable with a fixed name, for completion and documentation.
            pub const PLAIN: &'static [Variable] = &[$( Variable::$plain ),*];

            fn plain(name: &str) -> Option<Variable> {
                match name {
                    $( $name $(| $alias)* => Some(Variable::$plain), )*
                    _ => None,
                }
            }

            fn fixed_name(&self) -> Option<&'static str> {
                match self {
                    $( Variable::$plain => Some($name), )*
                    _ => None,
                }
            }
        }
    };
}

variables! {
    families {
        /// `arg_NAME`: first value of a query argument.
        Arg,
        /// `http_NAME`: request header, stored lower-case with `-` for `_`.
        Http,
        /// `cookie_NAME`
        Cookie,
        /// `post_arg_NAME`: a field of an `application/x-www-form-urlencoded` body, first value.
        PostArg,
        /// `post_arg.PATH`: a field of a urlencoded, multipart or JSON body. `a.b.c` walks objects; with `[`, `*` or
        /// `..` it is a JSONPath below `$.`.
        PostArgPath,
        /// `graphql_operation`, `graphql_name`, `graphql_root_fields`
        Graphql,
        /// `uri_param_NAME`: parameter captured by the router.
        UriParam,
        /// `sent_http_NAME`: header of the response to the client (lower-case, `-`).
        SentHttp,
        /// `sent_trailer_NAME`: trailer of the response to the client (lower-case, `-`).
        SentTrailer,
        /// `upstream_http_NAME`: header of the upstream's response (lower-case, `-`).
        UpstreamHttp,
        /// `upstream_trailer_NAME`: trailer of the upstream's response (lower-case, `-`).
        UpstreamTrailer,
        /// `upstream_cookie_NAME`: cookie set by the upstream's response.
        UpstreamCookie,
        /// `upstream_node_metadata_KEY`: field of the chosen node's metadata (ours).
        UpstreamNodeMetadata,
        /// Any other name: set by a plugin during the request, else nil.
        Custom,
    }
    plain {
        ResponseBody = "resp_body",
        Uri = "uri" | "document_uri",
        RequestUri = "request_uri",
        Args = "args",
        IsArgs = "is_args",
        QueryString = "query_string",
        /// The whole request line.
        Request = "request",
        RequestLine = "request_line",
        RequestMethod = "request_method" | "method",
        RequestBody = "request_body",
        RequestLength = "request_length",
        RequestTime = "request_time",
        RequestId = "request_id",
        /// `OK` when the request came to its end.
        RequestCompletion = "request_completion",
        RequestType = "request_type",
        Host = "host",
        Hostname = "hostname",
        Scheme = "scheme",
        Https = "https",
        Http2 = "http2",
        Http3 = "http3",
        RemoteAddr = "remote_addr",
        /// 4 or 16 bytes.
        BinaryRemoteAddr = "binary_remote_addr",
        RemotePort = "remote_port",
        RemoteUser = "remote_user",
        RealipRemoteAddr = "realip_remote_addr",
        RealipRemotePort = "realip_remote_port",
        ProxyProtocolAddr = "proxy_protocol_addr",
        ProxyProtocolPort = "proxy_protocol_port",
        ProxyProtocolServerAddr = "proxy_protocol_server_addr",
        ProxyProtocolServerPort = "proxy_protocol_server_port",
        /// `X-Forwarded-For` of the client with `remote_addr` appended.
        ProxyAddXForwardedFor = "proxy_add_x_forwarded_for",
        /// `X-Forwarded-For` as the client sent it.
        OriginalXForwardedFor = "original_x_forwarded_for",
        ServerAddr = "server_addr",
        ServerPort = "server_port",
        ServerName = "server_name",
        ServerProtocol = "server_protocol",
        NginxVersion = "nginx_version",
        Status = "status",
        BytesSent = "bytes_sent",
        /// Stream proxy.
        BytesReceived = "bytes_received",
        BodyBytesSent = "body_bytes_sent",
        ContentType = "content_type",
        ContentLength = "content_length",
        Connection = "connection",
        ConnectionRequests = "connection_requests",
        ConnectionTime = "connection_time",
        ConnectionsActive = "connections_active",
        ConnectionsReading = "connections_reading",
        ConnectionsWriting = "connections_writing",
        ConnectionsWaiting = "connections_waiting",
        /// `p` when the request was pipelined, else `.`.
        Pipe = "pipe",
        Msec = "msec",
        TimeIso8601 = "time_iso8601",
        TimeLocal = "time_local",
        Pid = "pid",
        GzipRatio = "gzip_ratio",
        /// Stream proxy: `TCP` or `UDP`.
        Protocol = "protocol",
        /// Stream proxy, seconds.
        SessionTime = "session_time",
        UpstreamAddr = "upstream_addr",
        UpstreamStatus = "upstream_status",
        UpstreamResponseTime = "upstream_response_time",
        UpstreamConnectTime = "upstream_connect_time",
        UpstreamHeaderTime = "upstream_header_time",
        UpstreamFirstByteTime = "upstream_first_byte_time",
        UpstreamSessionTime = "upstream_session_time",
        UpstreamQueueTime = "upstream_queue_time",
        UpstreamResponseLength = "upstream_response_length",
        UpstreamBytesReceived = "upstream_bytes_received",
        UpstreamBytesSent = "upstream_bytes_sent",
        UpstreamHost = "upstream_host",
        /// The picked node's host before DNS resolution.
        UpstreamUnresolvedHost = "upstream_unresolved_host",
        UpstreamScheme = "upstream_scheme",
        UpstreamUri = "upstream_uri",
        UpstreamUpgrade = "upstream_upgrade",
        UpstreamConnection = "upstream_connection",
        UpstreamCacheStatus = "upstream_cache_status",
        UpstreamCacheZone = "upstream_cache_zone",
        UpstreamCacheZoneInfo = "upstream_cache_zone_info",
        UpstreamCacheKey = "upstream_cache_key",
        UpstreamCacheBypass = "upstream_cache_bypass",
        UpstreamNoCache = "upstream_no_cache",
        UpstreamMirrorHost = "upstream_mirror_host",
        UpstreamMirrorUri = "upstream_mirror_uri",
        /// Response time of the upstream without the AI plugins' own calls, seconds.
        ApisixUpstreamResponseTime = "apisix_upstream_response_time",
        BalancerIp = "balancer_ip",
        BalancerPort = "balancer_port",
        RouteId = "route_id",
        RouteName = "route_name",
        ServiceId = "service_id",
        ServiceName = "service_name",
        ConsumerName = "consumer_name",
        ConsumerGroupId = "consumer_group_id",
        CredentialId = "credential_id",
        MatchedUri = "matched_uri",
        MatchedHost = "matched_host",
        ApisixRequestId = "apisix_request_id",
        RateLimitingInfo = "rate_limiting_info",
        SslServerName = "ssl_server_name",
        SslProtocol = "ssl_protocol",
        SslAlpnProtocol = "ssl_alpn_protocol",
        SslCipher = "ssl_cipher",
        SslCiphers = "ssl_ciphers",
        SslCurve = "ssl_curve",
        SslCurves = "ssl_curves",
        SslEarlyData = "ssl_early_data",
        SslSessionId = "ssl_session_id",
        SslSessionReused = "ssl_session_reused",
        SslClientVerify = "ssl_client_verify",
        SslClientSDn = "ssl_client_s_dn",
        SslClientIDn = "ssl_client_i_dn",
        SslClientSDnLegacy = "ssl_client_s_dn_legacy",
        SslClientIDnLegacy = "ssl_client_i_dn_legacy",
        SslClientSerial = "ssl_client_serial",
        SslClientFingerprint = "ssl_client_fingerprint",
        SslClientCert = "ssl_client_cert",
        SslClientRawCert = "ssl_client_raw_cert",
        SslClientEscapedCert = "ssl_client_escaped_cert",
        SslClientVStart = "ssl_client_v_start",
        SslClientVEnd = "ssl_client_v_end",
        SslClientVRemain = "ssl_client_v_remain",
    }
}

/// Where variables come from: the request context, or a map in tests.
pub trait Lookup {
    /// The variable's value now; `None` is Lua's `nil`.
    fn variable<'a>(&'a self, variable: &Variable) -> Option<Value<'a>>;
}

/// What a request is asked beside expressions (a route's `filter_func`).
pub trait Predicate: Send + Sync + std::fmt::Debug {
    /// Whether it holds for this request.
    fn holds(&self, lookup: &dyn Lookup) -> bool;
    /// Whether it reads the request's body.
    fn reads_body(&self) -> bool;
}

/// No variable has a value.
impl Lookup for () {
    fn variable<'a>(&'a self, _variable: &Variable) -> Option<Value<'a>> {
        None
    }
}

/// A header's name as nginx derives it from a variable's: lower-case, `-` for `_`.
fn header_name(name: &str) -> Box<str> {
    name.chars().map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() }).collect()
}

impl Variable {
    /// Resolves a name as written in configuration (without `$`). Never fails: an unknown name is [`Variable::Custom`].
    ///
    /// Families are tried before fixed names, in the order of apisix/core/ctx.lua; nginx's own names ignore case.
    pub fn parse(name: &str) -> Variable {
        // (prefix, constructor) for names kept as they are
        type Make = fn(Box<str>) -> Variable;
        const EXACT: &[(&str, Make)] = &[
            ("cookie_", Variable::Cookie),
            ("arg_", Variable::Arg),
            ("post_arg_", Variable::PostArg),
            ("uri_param_", Variable::UriParam),
            ("graphql_", Variable::Graphql),
            ("post_arg.", Variable::PostArgPath),
        ];
        const HEADERS: &[(&str, Make)] = &[
            ("http_", Variable::Http),
            ("sent_http_", Variable::SentHttp),
            ("sent_trailer_", Variable::SentTrailer),
            ("upstream_http_", Variable::UpstreamHttp),
            ("upstream_trailer_", Variable::UpstreamTrailer),
        ];
        for (prefix, make) in EXACT {
            if let Some(rest) = name.strip_prefix(prefix) {
                return make(rest.into());
            }
        }
        if let Some(found) = Variable::plain(name) {
            return found;
        }
        let lower = name.to_ascii_lowercase();
        for (prefix, make) in HEADERS {
            if let Some(rest) = lower.strip_prefix(prefix) {
                return make(header_name(rest));
            }
        }
        if lower.starts_with("upstream_cookie_")
            && let Some(rest) = name.get("upstream_cookie_".len()..)
        {
            return Variable::UpstreamCookie(rest.into());
        }
        if let Some(rest) = name.strip_prefix("upstream_node_metadata_") {
            return Variable::UpstreamNodeMetadata(rest.into());
        }
        Variable::plain(&lower).unwrap_or_else(|| Variable::Custom(name.into()))
    }

    /// Whether reading it needs the request body.
    pub fn needs_request_body(&self) -> bool {
        matches!(self, Variable::PostArg(_) | Variable::PostArgPath(_) | Variable::Graphql(_) | Variable::RequestBody)
    }
}

/// The name as it is written in configuration; headers with `_` for `-`. Aliases print their main name.
impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, rest, header) = match self {
            Variable::Arg(n) => ("arg_", n, false),
            Variable::Http(n) => ("http_", n, true),
            Variable::Cookie(n) => ("cookie_", n, false),
            Variable::PostArg(n) => ("post_arg_", n, false),
            Variable::PostArgPath(n) => ("post_arg.", n, false),
            Variable::Graphql(n) => ("graphql_", n, false),
            Variable::UriParam(n) => ("uri_param_", n, false),
            Variable::SentHttp(n) => ("sent_http_", n, true),
            Variable::SentTrailer(n) => ("sent_trailer_", n, true),
            Variable::UpstreamHttp(n) => ("upstream_http_", n, true),
            Variable::UpstreamTrailer(n) => ("upstream_trailer_", n, true),
            Variable::UpstreamCookie(n) => ("upstream_cookie_", n, false),
            Variable::UpstreamNodeMetadata(n) => ("upstream_node_metadata_", n, false),
            Variable::Custom(n) => ("", n, false),
            _ => return f.write_str(self.fixed_name().unwrap_or_default()),
        };
        f.write_str(prefix)?;
        if header { f.write_str(&rest.replace('-', "_")) } else { f.write_str(rest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_case() {
        assert_eq!(Variable::parse("http_X_Foo"), Variable::Http("x-foo".into()));
        assert_eq!(Variable::parse("http_x-foo"), Variable::Http("x-foo".into()));
        assert_eq!(Variable::parse("arg_Foo_Bar"), Variable::Arg("Foo_Bar".into()));
        assert_eq!(Variable::parse("cookie_SID"), Variable::Cookie("SID".into()));
        assert_eq!(Variable::parse("post_arg_a"), Variable::PostArg("a".into()));
        assert_eq!(Variable::parse("post_arg.a.b[0]"), Variable::PostArgPath("a.b[0]".into()));
        assert_eq!(Variable::parse("sent_http_content_type"), Variable::SentHttp("content-type".into()));
        assert_eq!(Variable::parse("upstream_http_x_y"), Variable::UpstreamHttp("x-y".into()));
        assert_eq!(Variable::parse("upstream_cookie_Sid"), Variable::UpstreamCookie("Sid".into()));
        let metadata = Variable::UpstreamNodeMetadata("Zone".into());
        assert_eq!(Variable::parse("upstream_node_metadata_Zone"), metadata);
        assert_eq!(metadata.to_string(), "upstream_node_metadata_Zone");
        assert_eq!(Variable::parse("graphql_name"), Variable::Graphql("name".into()));
        assert_eq!(Variable::parse("REQUEST_METHOD"), Variable::RequestMethod);
        assert_eq!(Variable::parse("http2"), Variable::Http2);
        assert_eq!(Variable::parse("document_uri"), Variable::Uri);
        assert_eq!(Variable::parse("llm_model"), Variable::Custom("llm_model".into()));
    }

    #[test]
    fn display_is_the_inverse() {
        for v in Variable::PLAIN {
            assert_eq!(&Variable::parse(&v.to_string()), v);
        }
        for name in [
            "arg_A-b",
            "http_x_foo",
            "cookie_a",
            "post_arg.x.y",
            "post_arg_x",
            "uri_param_id",
            "upstream_trailer_a_b",
            "zz",
        ] {
            assert_eq!(Variable::parse(name).to_string(), name);
        }
    }
}
