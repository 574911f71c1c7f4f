//! `mqtt-proxy` lets only MQTT of one protocol level pass a stream route, and names the client for the balancer.
//!
//! It reads the CONNECT packet (MQTT 3.1.1 section 3.1, MQTT 5 section 3.1) that a client begins with, and sets
//! `$mqtt_client_id` from it, so that an upstream with `type: chash`, `key: mqtt_client_id` sends a client always to the
//! same broker; without an id the client's address is hashed. Read in apisix/stream/plugins/mqtt-proxy.lua. Differences from
//! APISIX: a packet that contradicts itself (strings longer than the packet, a property length of five bytes) closes the
//! connection where APISIX runs into an error, and so does one larger than the gateway reads ahead.
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{BuildError, DefineStream, Env, StreamContext, StreamFlow, StreamPlugin};

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// The protocol's name in the CONNECT packet.
    #[serde(default = "default_name")]
    protocol_name: String,
    /// The protocol's level: 4 is MQTT 3.1.1, 5 is MQTT 5.
    protocol_level: i64,
}

fn default_name() -> String {
    "MQTT".into()
}

pub struct MqttProxy(Config);

impl DefineStream for MqttProxy {
    const NAME: &'static str = "mqtt-proxy";
    const PRIORITY: i32 = 1000;
    type Config = Config;

    fn build(config: Config, _env: &Env) -> Result<Self, BuildError> {
        Ok(MqttProxy(config))
    }
}

impl StreamPlugin for MqttProxy {
    fn preread(&self, cx: &mut StreamContext) -> StreamFlow {
        let connect = match Connect::parse(&cx.head) {
            Parsed::Complete(connect) => connect,
            Parsed::NeedBytes(wanted) => return StreamFlow::NeedBytes(wanted),
            Parsed::Broken(why) => return StreamFlow::Close(why.into()),
        };
        let Config { protocol_name, protocol_level } = &self.0;
        if connect.protocol_name != protocol_name.as_bytes() {
            let found = String::from_utf8_lossy(connect.protocol_name);
            return StreamFlow::Close(format!("expect protocol name: {protocol_name}, but got {found}").into());
        }
        if i64::from(connect.protocol_level) != *protocol_level {
            let found = connect.protocol_level;
            return StreamFlow::Close(format!("expect protocol level: {protocol_level}, but got {found}").into());
        }
        if !connect.client_id.is_empty() {
            let client_id = connect.client_id.to_vec();
            cx.set_variable("mqtt_client_id", client_id);
        }
        StreamFlow::Next
    }
}

/// The beginning of a CONNECT packet, up to the client id.
#[derive(Debug, PartialEq, Eq)]
struct Connect<'a> {
    protocol_name: &'a [u8],
    protocol_level: u8,
    client_id: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed<'a> {
    Complete(Connect<'a>),
    /// Not before this many bytes are there; always more than were given.
    NeedBytes(usize),
    Broken(&'static str),
}

/// Type 1 and no flags; APISIX lets 16 to 32 pass.
const CONNECT: std::ops::RangeInclusive<u8> = 16..=32;

impl<'a> Connect<'a> {
    fn parse(data: &'a [u8]) -> Parsed<'a> {
        let Some((first, rest)) = data.split_first() else { return Parsed::NeedBytes(5) };
        if !CONNECT.contains(first) {
            return Parsed::Broken("Received unexpected MQTT packet type+flags");
        }
        let (length, digits) = match variable_integer(rest) {
            Integer::Value(length, digits) => (length, digits),
            // The shortest packet has more than five bytes, so asking for them never waits in vain.
            Integer::Cut => return Parsed::NeedBytes(5.max(data.len() + 1)),
            Integer::TooLong => return Parsed::Broken("the packet's length takes more than four bytes"),
        };
        let whole = 1 + digits + length;
        match data.get(1 + digits..whole) {
            None => Parsed::NeedBytes(whole),
            Some(packet) => {
                Connect::fields(packet).map_or(Parsed::Broken("not a whole MQTT CONNECT packet"), Parsed::Complete)
            }
        }
    }

    /// Variable header and the payload's first field; `None` where a length leads out of the packet.
    fn fields(packet: &'a [u8]) -> Option<Connect<'a>> {
        let (protocol_name, rest) = string(packet)?;
        let (&protocol_level, rest) = rest.split_first()?;
        // Connect flags and keep alive.
        let mut rest = rest.get(3..)?;
        if protocol_level == 5 {
            let Integer::Value(length, digits) = variable_integer(rest) else { return None };
            rest = rest.get(digits + length..)?;
        }
        let (client_id, _) = string(rest)?;
        Some(Connect { protocol_name, protocol_level, client_id })
    }
}

/// Two bytes of length, and so many bytes.
fn string(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

enum Integer {
    /// The number, and the bytes it takes.
    Value(usize, usize),
    Cut,
    TooLong,
}

/// MQTT 5 section 1.5.5: seven bits a byte, least significant first, at most four bytes.
fn variable_integer(data: &[u8]) -> Integer {
    let mut value = 0;
    for (i, byte) in data.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Integer::Value(value, i + 1);
        }
    }
    if data.len() < 4 { Integer::Cut } else { Integer::TooLong }
}

#[cfg(test)]
mod tests;
