//! `X-Forwarded-*`: what a client claims is not believed unless its address is trusted (apisix/cli/ngx_tpl.lua,
//! apisix/init.lua `handle_trusted_x_forwarded_headers`), and what the gateway adds for the upstream.
use crate::settings::ProxySettings;
use sluice_http::Known;
use sluice_http::h1::write;
use sluice_plugin::Context;

/// Forgets the client's `X-Forwarded-Proto`, `-Host`, `-Port` and `Forwarded`; with `trusted_addresses` set, also its
/// `X-Forwarded-For`. Peers that are trusted keep theirs.
pub fn neutralize(cx: &mut Context, settings: &ProxySettings) {
    let mut trusted = false;
    if settings.trusted_addresses.is_some() {
        trusted = settings.trusts(cx.connection.peer.ip().to_canonical());
        if !trusted {
            cx.request.headers.remove("x-forwarded-for");
        }
    }
    let headers = &mut cx.request.headers;
    for (known, name) in [
        (Known::XForwardedProto, "x-forwarded-proto"),
        (Known::XForwardedHost, "x-forwarded-host"),
        (Known::XForwardedPort, "x-forwarded-port"),
        (Known::Forwarded, "forwarded"),
    ] {
        // An empty field of a trusted peer counts as not sent.
        if headers.may_have(known) && !(trusted && headers.known(known).is_some_and(|value| !value.is_empty())) {
            headers.remove(name);
        }
    }
}

/// The port that a `Host` field names.
fn port_of(host: &[u8]) -> Option<&[u8]> {
    let digits = host.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (before, port) = host.split_at_checked(host.len() - digits)?;
    (!port.is_empty() && before.ends_with(b":")).then_some(port)
}

/// Writes the fields that the upstream gets from the gateway. What a plugin has set stands, what it removed stays away.
#[inline]
pub fn write(cx: &Context, out: &mut Vec<u8>) {
    let headers = &cx.request.headers;
    write::field(b"X-Real-IP", cx.client_ip_text().as_bytes(), out);
    if headers.known(Known::XForwardedFor).is_some() {
        write::field(b"X-Forwarded-For", &cx.forwarded_for(), out);
    } else {
        write::field(b"X-Forwarded-For", cx.client_ip_text().as_bytes(), out);
    }
    let adds = |known: Known| headers.known(known).is_none() && !cx.upstream.withholds(known);
    if adds(Known::XForwardedProto) {
        write::field(b"X-Forwarded-Proto", cx.connection.scheme().as_bytes(), out);
    }
    if adds(Known::XForwardedHost)
        && let Some(host) = headers.known(Known::Host)
    {
        write::field(b"X-Forwarded-Host", host, out);
    }
    if adds(Known::XForwardedPort) {
        out.extend_from_slice(b"X-Forwarded-Port: ");
        match headers.known(Known::Host).and_then(port_of) {
            Some(port) => out.extend_from_slice(port),
            None => write::number(u64::from(cx.connection.local.port()), out),
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::port_of;

    #[test]
    fn ports_of_hosts() {
        assert_eq!(port_of(b"a.test:8443"), Some(&b"8443"[..]));
        assert_eq!(port_of(b"[::1]:80"), Some(&b"80"[..]));
        for host in [&b"a.test"[..], b"a.test:", b"[::1]", b"10", b""] {
            assert_eq!(port_of(host), None, "{host:?}");
        }
    }
}
