//! Each transformation on the cases that make it differ from its neighbours.

use super::*;

fn run(names: &str, value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    for name in names.split(',') {
        let mut out = Vec::new();
        if (Transformation::from_name(name).unwrap().apply)(&value, &mut out) {
            value = out;
        }
    }
    value
}

#[test]
fn decodes() {
    let cases: &[(&str, &[u8], &[u8])] = &[
        ("urlDecode", b"a%20b+c%zz%4", b"a b c%zz%4"),
        ("urlDecodeUni", b"%u0041%uff1c%u00zz", b"A<%u00zz"),
        ("htmlEntityDecode", b"&lt;a&#x41;&#66&amp;x&nope;", b"<aAB&x&nope;"),
        ("jsDecode", b"\\u0041\\x42\\103\\n\\q\\", b"ABC\nq"),
        ("cssDecode", b"ja\\vascript\\3a alert\\\nx", b"javascript:alertx"),
        ("escapeSeqDecode", b"\\x41\\102\\n\\q", b"AB\n\\q"),
        ("hexDecode", b"414243", b"ABC"),
        ("sqlHexDecode", b"select 0x414243,0xz", b"select ABC,0xz"),
        ("base64Decode", b"aGVsbG8=xx", b"hello"),
        ("base64DecodeExt", b"aGV.sbG8=", b"hello"),
        ("utf8toUnicode", "aé".as_bytes(), b"a%u00e9"),
        ("hexEncode", b"AB", b"4142"),
    ];
    for (name, input, wanted) in cases {
        assert_eq!(run(name, input), *wanted, "{name} of {}", input.escape_ascii());
    }
}

#[test]
fn normalizes() {
    let cases: &[(&str, &[u8], &[u8])] = &[
        ("cmdLine", b"C^OMMAND  /c \"DIR\" ,x", b"command/c dir x"),
        ("compressWhitespace", b"a \t\n b", b"a b"),
        ("removeWhitespace", b"a \xa0b", b"ab"),
        ("replaceComments", b"a/*x*/b/*y", b"a b "),
        ("removeCommentsChar", b"a/*b*/c--d#e", b"abcde"),
        ("removeComments", b"a/*b*/c--d", b"ac"),
        ("normalizePath", b"/a/./b//../c/", b"/a/c/"),
        ("normalizePath", b"../../etc", b"../../etc"),
        ("normalizePathWin", b"a\\..\\b", b"b"),
        ("removeNulls", b"a\0b", b"ab"),
        ("trim", b" a ", b"a"),
        ("length", b"abc", b"3"),
        ("lowercase", b"AbC", b"abc"),
        ("md5,hexEncode", b"", b"d41d8cd98f00b204e9800998ecf8427e"),
        ("sha1,hexEncode", b"", b"da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    ];
    for (name, input, wanted) in cases {
        assert_eq!(run(name, input), *wanted, "{name} of {}", input.escape_ascii());
    }
}

#[test]
fn chains_share_their_beginnings() {
    let names = |names: &[&str]| names.iter().map(|n| Transformation::from_name(n).unwrap()).collect::<Vec<_>>();
    let mut chains = Chains::default();
    let one = chains.intern(&names(&["urlDecodeUni"]));
    let two = chains.intern(&names(&["urlDecodeUni", "lowercase"]));
    assert_eq!(chains.beginnings(two), [UNCHANGED, one, two]);
    assert_eq!(chains.intern(&names(&["urlDecodeUni", "lowercase"])), two);
    assert!(Transformation::from_name("lowcase").err().unwrap().contains("did you mean lowercase"));
}

proptest::proptest! {
    #[test]
    fn short_texts_of_special_bytes_change_only_where_they_have_triggers(value in "[a-cA-Cx0-9%+&;\\\\ \t/.*#<>!'\"^,(-]{0,8}") {
        for transformation in ALL {
            let mut out = Vec::new();
            let changed = (transformation.apply)(value.as_bytes(), &mut out) && out != value.as_bytes();
            let started = kinds(value.as_bytes()) & transformation.triggers != 0;
            proptest::prop_assert!(started || !changed, "{} of {value:?}", transformation.name);
        }
    }

    #[test]
    fn no_input_panics_and_no_change_writes_nothing_that_differs(value: Vec<u8>) {
        for transformation in ALL {
            let mut out = Vec::new();
            if !(transformation.apply)(&value, &mut out) {
                proptest::prop_assert!(out.is_empty() || out == value, "{}", transformation.name);
            } else if kinds(&value) & transformation.triggers == 0 {
                proptest::prop_assert!(out == value, "{} changes a value without its triggers", transformation.name);
            }
        }
    }
}
