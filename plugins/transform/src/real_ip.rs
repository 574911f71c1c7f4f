//! `real-ip`: takes the client's address from a header, an argument or any other variable, for gateways behind a proxy.
//! Later plugins, variables and logs see it as `remote_addr` and `remote_port`; `realip_remote_addr` stays the peer's.
//!
//! With `trusted_addresses` only requests of these peers are believed. From `http_x_forwarded_for` the last address is
//! taken, or with `recursive` the last one that is not trusted. An address that is missing or malformed changes nothing
//! (apisix/plugins/real-ip.lua). Different from APISIX: IPv6 networks match exactly by their prefix.
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_expr::{Lookup, Variable, parse_number};
use sluice_plugin::{BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, schema_of};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Configuration of `real-ip`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Config {
    /// Peers that are believed: addresses or networks. All, where it is missing.
    #[serde(default)]
    #[schemars(length(min = 1))]
    trusted_addresses: Option<Vec<String>>,
    /// The variable that holds the address, with or without a port: `http_x_forwarded_for`, `arg_realip`.
    #[schemars(length(min = 1))]
    source: String,
    /// Goes through `X-Forwarded-For` from the right past all trusted addresses.
    #[serde(default)]
    recursive: bool,
}

enum Source {
    ForwardedFor,
    Variable(Variable),
}

/// The plugin.
pub struct RealIp {
    trusted: Option<Box<[IpNet]>>,
    source: Source,
    recursive: bool,
}

impl Define for RealIp {
    const INFO: Info = Info::new("real-ip", 23000, Phases::REWRITE).request_body();
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        let byte = "([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])";
        let ipv4 = [byte; 4].join(r"\.");
        let ipv6 = "([a-fA-F0-9]{0,4}:){1,8}(:[a-fA-F0-9]{0,4}){0,8}([a-fA-F0-9]{0,4})?";
        schema["properties"]["trusted_addresses"]["items"] = json!({"anyOf": [
            {"title": "IPv4", "type": "string", "format": "ipv4"},
            {"title": "IPv4/CIDR", "type": "string", "pattern": format!("^{ipv4}/([12]?[0-9]|3[0-2])$")},
            {"title": "IPv6", "type": "string", "format": "ipv6"},
            {"title": "IPv6/CIDR", "type": "string", "pattern": format!("^{ipv6}/[0-9]{{1,3}}$")}
        ]});
        schema
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        networks(config).map(|_| ())
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let source = match config.source.as_str() {
            "http_x_forwarded_for" => Source::ForwardedFor,
            name => Source::Variable(Variable::parse(name)),
        };
        Ok(RealIp { trusted: networks(&config)?, source, recursive: config.recursive })
    }
}

fn networks(config: &Config) -> Result<Option<Box<[IpNet]>>, BuildError> {
    let parse = |text: &String| {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| BuildError(format!("invalid ip address: {text}")))
    };
    config.trusted_addresses.as_ref().map(|list| list.iter().map(parse).collect()).transpose()
}

/// An address with its port, as apisix/core/utils.lua `parse_addr` and then `parse_ipv4` or `parse_ipv6` take it. The
/// port is 0 where there is none or where it is no number; it is an error where it is out of range.
fn parse_address(text: &str) -> Option<(IpAddr, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(inner) => match inner.strip_suffix(']') {
            Some(host) => return Some((host.parse::<Ipv6Addr>().ok()?.into(), 0)),
            None => inner.rsplit_once("]:").map(|(host, port)| (host, Some(port)))?,
        },
        // More than one colon before any dot: IPv6, which has no port without brackets.
        None if text.split('.').next().is_some_and(|start| start.matches(':').count() > 1) => (text, None),
        None => match text.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() => (host, Some(port)),
            _ => (text, None),
        },
    };
    let ip = match text.starts_with('[') {
        true => host.parse::<Ipv6Addr>().ok()?.into(),
        false => {
            host.parse::<Ipv4Addr>().map(IpAddr::from).or_else(|_| host.parse::<Ipv6Addr>().map(IpAddr::from)).ok()?
        }
    };
    match port.and_then(|port| parse_number(port.as_bytes())) {
        None => Some((ip, 0)),
        Some(port) if (1.0..=65535.0).contains(&port) => Some((ip, port as u16)),
        Some(_) => None,
    }
}

impl RealIp {
    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.as_ref().is_none_or(|networks| networks.iter().any(|network| network.contains(&ip)))
    }

    /// The address as it was sent.
    fn claimed<'c>(&self, cx: &'c Context) -> Option<Cow<'c, str>> {
        match &self.source {
            Source::Variable(variable) => match cx.variable(variable)?.into_bytes() {
                Cow::Borrowed(bytes) => Some(String::from_utf8_lossy(bytes)),
                Cow::Owned(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned().into()),
            },
            Source::ForwardedFor => {
                let last = cx.request.headers.get_all("x-forwarded-for").last()?;
                Some(self.pick(std::str::from_utf8(last).ok()?).into())
            }
        }
    }

    fn pick<'t>(&self, list: &'t str) -> &'t str {
        if !self.recursive || self.trusted.is_none() || !list.contains(',') {
            return list.rsplit_once(',').map_or(list, |(_, last)| last.trim_start_matches(' '));
        }
        let mut rest = list;
        while let Some((before, last)) = rest.rsplit_once(',') {
            let last = last.trim_ascii_start();
            if !last.parse().is_ok_and(|ip: IpAddr| self.trusts(ip)) {
                return last;
            }
            rest = before;
        }
        rest
    }
}

impl Plugin for RealIp {
    fn wants_request_body(&self, _cx: &Context) -> bool {
        matches!(&self.source, Source::Variable(variable) if variable.needs_request_body())
    }

    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if !self.trusts(cx.client_ip()) {
            return Flow::Next;
        }
        let Some(claimed) = self.claimed(cx) else {
            tracing::warn!("missing real address");
            return Flow::Next;
        };
        match parse_address(&claimed) {
            Some((ip, port)) => {
                drop(claimed);
                cx.set_client(ip, port);
            }
            None => tracing::warn!(address = %claimed, "bad address"),
        }
        Flow::Next
    }
}

#[cfg(test)]
mod tests;
