//! `ip-restriction` lets only some client addresses in, or keeps some out.
//!
//! The address is the client's as `real-ip` found it (`$remote_addr`). Use it for internal APIs and for blocking
//! abusers. On a stream route it closes the connections that may not pass; `message` and `response_code` mean nothing there.
//! Difference from APISIX: an IPv4-mapped IPv6 entry or client counts as the IPv4 address. Read in
//! apisix/plugins/ip-restriction/init.lua and apisix/stream/plugins/ip-restriction.lua.
use crate::ip_set::IpSet;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_plugin::{
    BuildError, Context, Define, DefineStream, Env, Flow, Info, Phases, Plugin, Reply, StreamContext, StreamFlow,
    StreamPlugin, schema_of,
};
use std::net::IpAddr;

#[derive(Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = [{"required": ["whitelist"]}, {"required": ["blacklist"]}]))]
pub struct Config {
    /// What a refused client reads.
    #[serde(default = "default_message")]
    #[schemars(length(min = 1, max = 1024))]
    message: String,
    /// Status of the refusal: 403, or 404 to hide that there is something.
    #[serde(default = "default_code")]
    #[schemars(range(min = 403, max = 404))]
    response_code: i64,
    /// Only these addresses and networks may pass.
    #[schemars(length(min = 1))]
    whitelist: Option<Vec<String>>,
    /// These addresses and networks may not pass.
    #[schemars(length(min = 1))]
    blacklist: Option<Vec<String>>,
}

fn default_message() -> String {
    "Your IP address is not allowed".into()
}
fn default_code() -> i64 {
    403
}

/// apisix/schema_def.lua `ip_def`.
fn ip_definition() -> Value {
    let octet = "([0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])";
    let v4 = format!("^{octet}\\.{octet}\\.{octet}\\.{octet}/([12]?[0-9]|3[0-2])$");
    let v6 = "^([a-fA-F0-9]{0,4}:){1,8}(:[a-fA-F0-9]{0,4}){0,8}([a-fA-F0-9]{0,4})?/[0-9]{1,3}$";
    json!({"anyOf": [
        {"title": "IPv4", "type": "string", "format": "ipv4"},
        {"title": "IPv4/CIDR", "type": "string", "pattern": v4},
        {"title": "IPv6", "type": "string", "format": "ipv6"},
        {"title": "IPv6/CIDR", "type": "string", "pattern": v6},
    ]})
}

pub struct IpRestriction {
    set: IpSet,
    /// What being in the set means.
    listed_may_pass: bool,
    refusal: Reply,
}

impl Define for IpRestriction {
    const INFO: Info = Info::new("ip-restriction", 3000, Phases::ACCESS);
    type Config = Config;

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        for list in ["whitelist", "blacklist"] {
            if let Some(list) = schema.pointer_mut(&format!("/properties/{list}")) {
                list["items"] = ip_definition();
            }
        }
        schema
    }

    fn check(config: &Config) -> Result<(), BuildError> {
        for list in [&config.whitelist, &config.blacklist].into_iter().flatten() {
            IpSet::new(list).map_err(BuildError::new)?;
        }
        Ok(())
    }

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        let listed_may_pass = config.whitelist.is_some();
        let list = config.whitelist.or(config.blacklist).unwrap_or_default();
        let status = u16::try_from(config.response_code).unwrap_or(403);
        let refusal = Reply::message(status, &config.message);
        Ok(IpRestriction { set: IpSet::new(&list).map_err(BuildError::new)?, listed_may_pass, refusal })
    }
}

impl IpRestriction {
    fn may_pass(&self, ip: IpAddr) -> bool {
        self.set.contains(ip) == self.listed_may_pass
    }
}

impl Plugin for IpRestriction {
    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        if self.may_pass(cx.client_ip()) { Flow::Next } else { Flow::reply(self.refusal.clone()) }
    }
}

impl DefineStream for IpRestriction {
    const NAME: &'static str = "ip-restriction";
    const PRIORITY: i32 = 3000;
    type Config = Config;

    fn schema() -> Value {
        <Self as Define>::schema()
    }
    fn check(config: &Config) -> Result<(), BuildError> {
        <Self as Define>::check(config)
    }
    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        <Self as Define>::build(config, env)
    }
}

impl StreamPlugin for IpRestriction {
    fn preread(&self, cx: &mut StreamContext) -> StreamFlow {
        if self.may_pass(cx.client_ip()) {
            StreamFlow::Next
        } else {
            cx.rejected = Some(403);
            StreamFlow::Close("the client's address is not allowed".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::{Harness, check};
    use sluice_plugin::{Definition, Scope, define};

    const PLUGIN: Definition = define::<IpRestriction>();

    fn error(mut config: Value) -> String {
        check(PLUGIN, Scope::Route, &mut config).unwrap_err().0
    }
    fn answer(plugin: &Harness, ip: &str) -> Option<Reply> {
        let mut cx = Context::for_tests("GET", "/hello");
        cx.set_client(ip.parse().unwrap(), 1);
        plugin.request(&mut cx)
    }

    #[test]
    fn defaults_are_filled_in() {
        let mut config = json!({"whitelist": ["10.255.254.0/24", "192.168.0.0/16"]});
        check(PLUGIN, Scope::Route, &mut config).unwrap();
        assert_eq!(
            config,
            json!({"whitelist": ["10.255.254.0/24", "192.168.0.0/16"],
                "message": "Your IP address is not allowed", "response_code": 403})
        );
    }

    #[test]
    fn wrong_configurations_are_refused_in_apisix_words() {
        for bad in ["10.255.256.0/24", "10.255.254.0/38", "example.com"] {
            let message = error(json!({"whitelist": [bad]}));
            assert!(message.contains("failed to validate item 1: object matches none of the required"), "{message}");
        }
        assert_eq!(error(json!({})), "value should match only one schema, but matches none");
        assert_eq!(
            error(json!({"whitelist": ["172.17.40.0/24"], "blacklist": ["10.255.0.0/16"]})),
            "value should match only one schema, but matches both schemas 1 and 2"
        );
        assert!(error(json!({"blacklist": []})).contains("expect array to have at least 1 items"));
        assert_eq!(error(json!({"blacklist": ["::1/129"]})), "invalid ip address: ::1/129");
        assert_eq!(error(json!({"blacklist": ["::1::/12"]})), "invalid ip address: ::1::/12");
        assert!(error(json!({"blacklist": ["::1"], "response_code": 405})).contains("response_code"));
        assert!(error(json!({"blacklist": ["::1"], "message": ""})).contains("message"));
    }

    #[test]
    fn whitelist_lets_only_the_listed_in() {
        let plugin =
            Harness::new(PLUGIN, json!({"whitelist": ["127.0.0.0/24", "113.74.26.106", "fe80::/32"]})).unwrap();
        for ip in ["127.0.0.1", "113.74.26.106", "fe80::1"] {
            assert_eq!(answer(&plugin, ip), None, "{ip}");
        }
        for ip in ["114.114.114.114", "2001:db8::2"] {
            assert_eq!(answer(&plugin, ip), Some(Reply::message(403, "Your IP address is not allowed")), "{ip}");
        }
    }

    #[test]
    fn on_stream_routes_the_connection_is_closed() {
        let preread = |config: Value, ip: &str| {
            let definition = sluice_plugin::define_stream::<IpRestriction>();
            let registry = sluice_plugin::Registry::new(&[]).unwrap().with_stream(&[&[definition]]).unwrap();
            let mut config = config;
            registry.check("ip-restriction", Scope::Stream, &mut config).unwrap();
            let plugin = (definition.build)(&config, &Env::for_tests()).unwrap();
            let peer = std::net::SocketAddr::new(ip.parse().unwrap(), 1);
            let connection = sluice_plugin::Connection::new(peer, peer, None);
            plugin.preread(&mut StreamContext::new(connection, "r".into()))
        };
        let closed = StreamFlow::Close("the client's address is not allowed".into());
        assert_eq!(preread(json!({"whitelist": ["10.0.0.0/8"]}), "10.1.1.1"), StreamFlow::Next);
        assert_eq!(preread(json!({"whitelist": ["10.0.0.0/8"]}), "11.1.1.1"), closed);
        assert_eq!(preread(json!({"blacklist": ["::1"]}), "::1"), closed);
    }

    #[test]
    fn blacklist_keeps_the_listed_out() {
        let config = json!({"blacklist": ["127.0.0.0/24", "::1"], "message": "Do you want to do something bad?", "response_code": 404});
        let plugin = Harness::new(PLUGIN, config).unwrap();
        for ip in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(answer(&plugin, ip), Some(Reply::message(404, "Do you want to do something bad?")), "{ip}");
        }
        assert_eq!(answer(&plugin, "114.114.114.114"), None);
        assert_eq!(answer(&plugin, "2001:db8::2"), None);
    }
}
