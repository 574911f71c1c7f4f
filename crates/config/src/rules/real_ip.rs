//! nginx's realip module (`nginx_config.http.real_ip_*`): the client's address as a trusted peer tells it.
use super::RealIp;
use sluice_http::Known;
use sluice_plugin::Context;
use std::net::{IpAddr, SocketAddr};

/// Replaces the client's address where the peer is trusted and names one (ngx_http_realip_module.c). With `recursive`,
/// the last address that is not itself trusted; without, the last one.
pub(super) fn apply(cx: &mut Context, settings: &RealIp) {
    if settings.known != Known::Other && !cx.request.headers.may_have(settings.known) {
        return;
    }
    let trusted = |ip: IpAddr| settings.from.iter().any(|net| net.contains(&ip.to_canonical()));
    if !trusted(cx.connection.peer.ip()) {
        return;
    }
    if &*settings.header == "proxy_protocol" {
        return;
    }
    let Some(value) = cx.request.headers.joined(&settings.header) else { return };
    let Ok(text) = std::str::from_utf8(&value) else { return };
    let mut found = None;
    for part in text.rsplit(',') {
        let Some(address) = parse(part.trim()) else { break };
        found = Some(address);
        if !settings.recursive || !trusted(address.0) {
            break;
        }
    }
    if let Some((ip, port)) = found {
        cx.set_client(ip.to_canonical(), port);
    }
}

/// `ip`, `ip:port`, `[ip6]`, `[ip6]:port`.
fn parse(text: &str) -> Option<(IpAddr, u16)> {
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse() {
        return Some((ip, 0));
    }
    text.parse::<SocketAddr>().ok().map(|a| (a.ip(), a.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: &str, recursive: bool) -> String {
        let from = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let settings = RealIp { header: "X-Forwarded-For".into(), known: Known::XForwardedFor, recursive, from };
        let mut cx = Context::for_tests("GET", "/");
        cx.request.headers.append("X-Forwarded-For", header);
        apply(&mut cx, &settings);
        format!("{}:{}", cx.client_ip_text(), cx.client_port())
    }

    #[test]
    fn the_last_untrusted_address_is_the_client() {
        assert_eq!(client("1.1.1.1, 2.2.2.2, 10.0.0.1", true), "2.2.2.2:0");
        assert_eq!(client("1.1.1.1, 2.2.2.2, 10.0.0.1", false), "10.0.0.1:0");
        assert_eq!(client("10.0.0.2, 10.0.0.1", true), "10.0.0.2:0");
        assert_eq!(client("2.2.2.2:99", true), "2.2.2.2:99");
        assert_eq!(client("[::1]:5", true), "::1:5");
        assert_eq!(client("nonsense", true), "127.0.0.1:40000");
        assert_eq!(client("1.1.1.1, nonsense", true), "127.0.0.1:40000");
    }
}
