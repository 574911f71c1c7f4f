//! CONNECT packets whole, in pieces, wrong, and random.
use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_plugin::{Connection, Registry, Scope, define_stream};

/// MQTT 3.1.1, clean session, keep alive of a minute, client `foo`.
const V4: &[u8] = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03foo";
/// MQTT 5 with a session expiry interval (five bytes of properties).
const V5: &[u8] = b"\x10\x15\x00\x04MQTT\x05\x02\x00\x3c\x05\x11\x00\x00\x00\x0a\x00\x03bar";

fn check(mut config: Value) -> Result<Value, String> {
    let registry = Registry::new(&[]).unwrap().with_stream(&[&[define_stream::<MqttProxy>()]]).unwrap();
    registry.check("mqtt-proxy", Scope::Stream, &mut config).map(|()| config).map_err(|e| e.0)
}

fn preread(config: Value, head: &[u8]) -> (StreamFlow, Option<Vec<u8>>) {
    let plugin = (define_stream::<MqttProxy>().build)(&check(config).unwrap(), &Env::for_tests()).unwrap();
    let address = "127.0.0.1:1".parse().unwrap();
    let mut cx = StreamContext::new(Connection::new(address, address, None), "r".into());
    cx.head = head.to_vec();
    (plugin.preread(&mut cx), cx.custom_variable("mqtt_client_id").map(<[u8]>::to_vec))
}

#[test]
fn configurations() {
    assert_eq!(check(json!({"protocol_level": 4})), Ok(json!({"protocol_level": 4, "protocol_name": "MQTT"})));
    assert_eq!(check(json!({"uri": 1})), Err("property \"protocol_level\" is required".into()));
    let message = check(json!({"protocol_level": "4"})).unwrap_err();
    assert_eq!(message, "property \"protocol_level\" validation failed: wrong type: expected integer, got string");
}

#[test]
fn the_schema_is_apisix_s() {
    let mut schema = (define_stream::<MqttProxy>().schema)();
    for field in ["protocol_name", "protocol_level"] {
        schema["properties"][field].as_object_mut().unwrap().remove("description");
    }
    let wanted = json!({
        "type": "object",
        "properties": {"protocol_name": {"type": "string", "default": "MQTT"}, "protocol_level": {"type": "integer"}},
        "required": ["protocol_level"],
    });
    assert_eq!((&schema["properties"], &schema["required"]), (&wanted["properties"], &wanted["required"]));
}

#[test]
fn whole_packets_name_the_client() {
    assert_eq!(preread(json!({"protocol_level": 4}), V4), (StreamFlow::Next, Some(b"foo".to_vec())));
    assert_eq!(preread(json!({"protocol_level": 5}), V5), (StreamFlow::Next, Some(b"bar".to_vec())));
    let more = [V4, b"\xc0\x00"].concat();
    assert_eq!(preread(json!({"protocol_level": 4}), &more).0, StreamFlow::Next, "what follows is not looked at");
    let nameless = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00";
    assert_eq!(preread(json!({"protocol_level": 4}), nameless), (StreamFlow::Next, None));
}

#[test]
fn others_are_closed_with_the_reason() {
    let close = |config: Value, head: &[u8]| match preread(config, head) {
        (StreamFlow::Close(reason), None) => reason.into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(close(json!({"protocol_level": 5}), V4), "expect protocol level: 5, but got 4");
    let other = json!({"protocol_level": 4, "protocol_name": "MQIsdp"});
    assert_eq!(close(other, V4), "expect protocol name: MQIsdp, but got MQTT");
    let level = json!({"protocol_level": 4});
    assert_eq!(close(level.clone(), b"GET / HTTP/1.1\r\n"), "Received unexpected MQTT packet type+flags");
    assert_eq!(close(level.clone(), b"\x10\xff\xff\xff\xff\x01"), "the packet's length takes more than four bytes");
    assert_eq!(close(level.clone(), b"\x10\x06\x00\x04MQTT"), "not a whole MQTT CONNECT packet");
    assert_eq!(close(level, b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x01\x03foo"), "not a whole MQTT CONNECT packet");
}

#[test]
fn a_packet_in_pieces_is_waited_for() {
    for packet in [V4, V5] {
        for end in 0..packet.len() {
            match Connect::parse(&packet[..end]) {
                Parsed::NeedBytes(wanted) => assert!(wanted > end && wanted <= packet.len(), "{end}: {wanted}"),
                other => panic!("{end}: {other:?}"),
            }
        }
    }
    // A packet of 268,435,455 bytes is asked for as such; the reader's limit refuses it.
    assert_eq!(Connect::parse(b"\x10\xff\xff\xff\x7f"), Parsed::NeedBytes(5 + 268_435_455));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn garbage_never_panics_and_progress_is_made(mut data in prop::collection::vec(any::<u8>(), 0..64), connect: bool) {
        if let (true, Some(first)) = (connect, data.first_mut()) {
            *first = 0x10;
        }
        match Connect::parse(&data) {
            Parsed::NeedBytes(wanted) => prop_assert!(wanted > data.len()),
            Parsed::Complete(found) => prop_assert!(found.client_id.len() + found.protocol_name.len() < data.len()),
            Parsed::Broken(_) => {}
        }
    }

    #[test]
    fn what_was_written_is_read(
        name in prop::collection::vec(any::<u8>(), 0..20),
        level in 0u8..7,
        properties in prop::collection::vec(any::<u8>(), 0..300),
        id in prop::collection::vec(any::<u8>(), 0..200),
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let write = |out: &mut Vec<u8>, text: &[u8]| {
            out.extend_from_slice(&(text.len() as u16).to_be_bytes());
            out.extend_from_slice(text);
        };
        let integer = |out: &mut Vec<u8>, mut value: usize| loop {
            let digit = (value % 128) as u8;
            value /= 128;
            out.push(if value > 0 { digit | 0x80 } else { digit });
            if value == 0 {
                break;
            }
        };
        let mut body = Vec::new();
        write(&mut body, &name);
        body.extend_from_slice(&[level, 2, 0, 60]);
        if level == 5 {
            integer(&mut body, properties.len());
            body.extend_from_slice(&properties);
        }
        write(&mut body, &id);
        body.extend_from_slice(&tail);
        let mut packet = vec![0x10];
        integer(&mut packet, body.len());
        packet.extend_from_slice(&body);
        let wanted = Connect { protocol_name: &name, protocol_level: level, client_id: &id };
        prop_assert_eq!(Connect::parse(&packet), Parsed::Complete(wanted));
    }
}
