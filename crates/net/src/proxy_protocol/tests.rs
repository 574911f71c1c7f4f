//! The PROXY protocol parser against its writer, against cuts and against rubbish.
use super::*;
use proptest::prelude::*;

fn complete(data: &[u8]) -> Header {
    match parse(data) {
        Ok(Parsed::Complete(h)) => h,
        other => panic!("{other:?}"),
    }
}

fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut v = V2_SIGNATURE.to_vec();
    v.extend([version_command, family]);
    v.extend((body.len() as u16).to_be_bytes());
    v.extend(body);
    v
}

#[test]
fn v1_lines() {
    let h = complete(b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nGET /");
    assert_eq!(h.len, 45);
    let a = h.addresses.unwrap();
    assert_eq!(a.source, "192.0.2.1:56324".parse().unwrap());
    assert_eq!(a.destination, "198.51.100.7:443".parse().unwrap());
    let a = complete(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n").addresses.unwrap();
    assert_eq!(a.source, "[2001:db8::1]:1".parse().unwrap());
    for s in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 ::2 65535 what ever\r\n"] {
        assert_eq!(complete(s.as_bytes()), Header { addresses: None, len: s.len() });
    }
}

#[test]
fn malformed_v1_is_refused() {
    for s in [
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
        "PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
    ] {
        assert!(matches!(parse(s.as_bytes()), Err(ParseError::V1(_))), "{s:?}");
    }
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX));
    assert_eq!(parse(long.as_bytes()), Err(ParseError::V1("line too long")));
    for s in ["GET / HTTP/1.1\r\n", "PROXX", "\r\n\r\nX", "proxy tcp4"] {
        assert_eq!(parse(s.as_bytes()), Err(ParseError::NotProxy), "{s:?}");
    }
}

#[test]
fn v2_headers() {
    let body = [192, 0, 2, 1, 198, 51, 100, 7, 0x12, 0x34, 1, 0xbb];
    let a = complete(&v2(0x21, 0x11, &body)).addresses.unwrap();
    assert_eq!(a.source, "192.0.2.1:4660".parse().unwrap());
    assert_eq!(a.destination, "198.51.100.7:443".parse().unwrap());
    // TLVs: skipped, and counted.
    let mut tlv = body.to_vec();
    tlv.extend([0x04, 0, 3, b'a', b'b', b'c']);
    let h = complete(&[v2(0x21, 0x11, &tlv), b"GET".to_vec()].concat());
    assert_eq!((h.len, h.addresses), (16 + 18, Some(a)));
    // LOCAL, with or without addresses; datagrams and AF_UNSPEC carry no address of a stream.
    for d in [v2(0x20, 0, &[]), v2(0x20, 0x11, &body), v2(0x21, 0x12, &body), v2(0x21, 0, &[1, 2])] {
        assert_eq!(complete(&d), Header { addresses: None, len: d.len() });
    }
}

#[test]
fn malformed_v2_is_refused() {
    let body = [0; 12];
    for d in [
        v2(0x11, 0x11, &body),
        v2(0x22, 0x11, &body),
        v2(0x21, 0x41, &body),
        v2(0x21, 0x13, &body),
        v2(0x21, 0x11, &body[..11]),
        v2(0x21, 0x21, &body),
        v2(0x21, 0x31, &body),
        v2(0x21, 0x11, &[0; V2_MAX]),
    ] {
        assert!(matches!(parse(&d), Err(ParseError::V2(_))), "{d:?}");
        // The verdict needs the first 16 bytes only.
        assert!(parse(&d[..16]).is_err());
    }
}

fn address() -> impl Strategy<Value = (Address, Address)> {
    let v4 = any::<([u8; 4], u16, [u8; 4], u16)>();
    let v6 = any::<([u8; 16], u16, [u8; 16], u16)>();
    prop_oneof![
        v4.prop_map(|(a, p, b, q)| (SocketAddr::from((a, p)).into(), SocketAddr::from((b, q)).into())),
        v6.prop_map(|(a, p, b, q)| (SocketAddr::from((a, p)).into(), SocketAddr::from((b, q)).into())),
        ("/[a-z]{1,100}", "/[a-z]{1,107}").prop_map(|(a, b)| (Address::unix(a), Address::unix(b))),
    ]
}

proptest! {
    #[test]
    fn what_is_written_parses_back((s, d) in address(), tail in prop::collection::vec(any::<u8>(), 0..20), v1: bool) {
        let mut data = Vec::new();
        if v1 { write_v1(&s, &d, &mut data) } else { write_v2(&s, &d, &mut data) }
        let len = data.len();
        // Every cut is incomplete, and everything after the header is ignored.
        for cut in 0..len {
            prop_assert_eq!(parse(&data[..cut]), Ok(Parsed::Incomplete), "cut at {}", cut);
        }
        data.extend(tail);
        let h = complete(&data);
        prop_assert_eq!(h.len, len);
        match h.addresses {
            Some(a) => prop_assert_eq!((a.source, a.destination), (s, d)),
            None => prop_assert!(v1 && matches!(s, Address::Unix(_))),
        }
    }

    #[test]
    fn rubbish_never_panics(mut data in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3u8) {
        match kind {
            1 => { data.splice(0..0, *V2_SIGNATURE); }
            2 => { data.splice(0..0, *V1_SIGNATURE); }
            _ => {}
        }
        if let Ok(Parsed::Complete(h)) = parse(&data) {
            prop_assert!(h.len <= data.len());
        }
    }
}
