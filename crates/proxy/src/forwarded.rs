//! `X-Forwarded-*`: what a client claims is not believed unless its address is trusted (apisix/cli/ngx_tpl.lua,
//! apisix/init.lua `handle_trusted_x_forwarded_headers`), and what the gateway adds for the upstream.
use crate::settings::ProxySettings;
use sluice_http::Known;
use sluice_http::h1::write;
use sluice_plugin::Context;

/// Forgets the client's `X-Forwarded-Proto`, `-Host`, `-Port` and `Forwarded`; with `trusted_addresses` set, also its
/// `X-Forwarded-For`. Peers that are trusted keep theirs.
pub fn neutralize(cx: &mut Context, settings: &ProxySettings) {
    if settings.trusted_addresses.is_some() {
        if settings.trusts(cx.connection.peer.ip().to_canonical()) {
            return;
        }
        cx.request.headers.remove("x-forwarded-for");
    }
    let headers = &mut cx.request.headers;
    for (known, name) in [
        (Known::XForwardedProto, "x-forwarded-proto"),
        (Known::XForwardedHost, "x-forwarded-host"),
        (Known::XForwardedPort, "x-forwarded-port"),
        (Known::Forwarded, "forwarded"),
    ] {
        if headers.may_have(known) {
            headers.remove(name);
        }
    }
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
        write::number(u64::from(cx.connection.local.port()), out);
        out.extend_from_slice(b"\r\n");
    }
}
