//! hyper as an oracle: random messages, cut at random places, go to its parser and to ours.
//!
//! Whenever ours takes a message, hyper must see the same method, target, fields, body and end; what ours refuses and hyper
//! takes must be of a named strictness class; what has no quirk both must take. Several requests in a row catch a
//! disagreement about where one ends, which is what request smuggling is made of.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test, its own functions included")]

mod oracle_parts;

use oracle_parts::ours::{self, Seen};
use oracle_parts::theirs;
use proptest::prelude::*;

/// A piece of a message: harmless, odd, or wrong.
#[derive(Clone, Debug)]
struct Quirk {
    text: &'static str,
    class: Class,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Class {
    /// Both take it and see the same.
    Fine,
    /// Ours refuses it, for this reason; hyper may take it.
    Stricter(&'static str),
    /// Both refuse it.
    Bad,
}

const fn quirk(text: &'static str, class: Class) -> Quirk {
    Quirk { text, class }
}

use Class::{Bad, Fine, Stricter};

/// Complete header lines.
const LINES: &[Quirk] = &[
    quirk("", Fine),
    quirk("X-Empty:\r\n", Fine),
    quirk("X-Space: \t a b \t \r\n", Fine),
    quirk("x-high: \u{e9}\r\n", Fine),
    quirk("X-Colon: a: b\r\nX-COLON: c\r\n", Fine),
    quirk("Connection: close\r\n", Fine),
    quirk("Connection: keep-alive\r\n", Fine),
    quirk("Connection: close\r\nConnection: keep-alive\r\n", Fine),
    quirk("X-Bare: a\n", Stricter("bare LF as line end")),
    quirk("X-Bare:\n", Stricter("bare LF as line end")),
    quirk("Transfer-Encoding: gzip, chunked\r\n", Stricter("any Transfer-Encoding but chunked")),
    quirk("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Stricter("both Content-Length and Transfer-Encoding")),
    quirk("Content-Length: 3\r\nContent-Length: 3\r\n", Stricter("several Content-Length, though equal")),
    quirk("Content-Length: 3\r\nContent-Length: 4\r\n", Bad),
    quirk("Content-Length: +3\r\n", Bad),
    quirk("Content-Length: 3 3\r\n", Bad),
    quirk("X-Space : a\r\n", Bad),
    quirk(" folded: a\r\n", Bad),
    quirk("X-Nul: a\0b\r\n", Bad),
    quirk("X-Cr: a\rb\r\n", Bad),
    quirk(": nameless\r\n", Bad),
];

/// Lines that mean something in requests alone.
const REQUEST_LINES: &[Quirk] = &[
    quirk("Expect: 100-continue\r\n", Fine),
    quirk("Expect: more\r\n", Stricter("an expectation that nobody knows")),
    quirk("Host: b\r\n", Stricter("several Host")),
];

/// What stands between a chunk's size and its data.
const SIZE_ENDS: &[Quirk] = &[
    quirk("\r\n", Fine),
    quirk(";a=b\r\n", Fine),
    quirk(";a=\"b;c\"\r\n", Fine),
    quirk(" ;a\r\n", Fine),
    quirk(" \t\r\n", Fine),
    quirk(";\u{1}\r\n", Stricter("control characters in a chunk extension")),
    quirk("\n", Bad),
    quirk(";a\n", Bad),
    quirk(" 1\r\n", Bad),
    quirk("x\r\n", Bad),
    quirk("\r\r\n", Bad),
];

const TRAILERS: &[Quirk] = &[
    quirk("", Fine),
    quirk("X-Sum: 1\r\n", Fine),
    quirk("X-Sum: 1\r\nX-Other:\r\n", Fine),
    quirk("X Sum: 1\r\n", Bad),
    quirk(": 1\r\n", Bad),
];

const TARGETS: &[Quirk] = &[
    quirk("/", Fine),
    quirk("/a/b?c=d&e=%20", Fine),
    quirk("/a//b/./c;x=1,'(y)'!*@:$", Fine),
    quirk("/%7e?", Fine),
    quirk("http://a.example/x?y", Fine),
    quirk("http://a.example", Fine),
    quirk("/a#b", Stricter("fragment in the target")),
    quirk("/..", Stricter("path above the root")),
    quirk("/%zz", Stricter("broken escape in the path")),
    quirk("*", Stricter("asterisk-form")),
    quirk("a.example:443", Stricter("authority-form")),
    quirk("", Bad),
];

const METHODS: &[&str] = &["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW", "X-Y_z"];
const STATUSES: &[&str] = &["200 OK", "204 No Content", "304 Not Modified", "404 ", "500", "299 \u{e9}t\u{e9}"];
const INTERIM: &[&str] = &["", "", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"];

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 1..40)]
}

/// Mostly one of the harmless, sometimes any.
fn pick(all: &'static [Quirk]) -> impl Strategy<Value = Quirk> {
    let fine: Vec<Quirk> = all.iter().filter(|q| q.class == Fine).cloned().collect();
    prop_oneof![8 => prop::sample::select(fine), 1 => prop::sample::select(all)]
}

/// The framing's line, the body's bytes, and what is wrong with them.
fn framed() -> impl Strategy<Value = (String, Vec<u8>, Class)> {
    let length = body().prop_map(|body| (format!("Content-Length: {}\r\n", body.len()), body, Fine));
    let chunk = (prop::collection::vec(any::<u8>(), 1..30), pick(SIZE_ENDS), any::<bool>());
    let chunks = (prop::collection::vec(chunk, 0..4), pick(SIZE_ENDS), pick(TRAILERS));
    let chunked = chunks.prop_map(|(chunks, end, trailer)| {
        let (mut wire, mut class) = (Vec::new(), worse(end.class, trailer.class));
        for (data, end, upper) in &chunks {
            let size = if *upper { format!("0{:X}", data.len()) } else { format!("{:x}", data.len()) };
            wire.extend_from_slice(format!("{size}{}", end.text).as_bytes());
            wire.extend_from_slice(data);
            wire.extend_from_slice(b"\r\n");
            class = worse(class, end.class);
        }
        wire.extend_from_slice(format!("0{}{}\r\n", end.text, trailer.text).as_bytes());
        ("transfer-encoding: Chunked\r\n".to_owned(), wire, class)
    });
    prop_oneof![2 => Just((String::new(), Vec::new(), Fine)), 2 => length, 3 => chunked]
}

/// Where two quirks meet, only that ours refuses is certain.
fn worse(a: Class, b: Class) -> Class {
    match (a, b) {
        (Fine, other) | (other, Fine) => other,
        (Stricter(why), _) | (_, Stricter(why)) => Stricter(why),
        _ => Bad,
    }
}

/// Whether the framing's line meets others in the head.
fn is_mixed(lines: &str, framing: &str) -> bool {
    let others = lines.matches("Content-Length").count() + lines.matches("Transfer-Encoding").count();
    others > 0 && !framing.is_empty() || others > 2
}

fn request() -> impl Strategy<Value = (Vec<u8>, Class)> {
    let lines = prop::collection::vec(pick(LINES), 0..3);
    let special = prop_oneof![4 => Just(quirk("", Fine)), 1 => pick(REQUEST_LINES)];
    let old = prop::bool::weighted(0.1);
    (prop::sample::select(METHODS), pick(TARGETS), lines, special, framed(), old).prop_map(
        |(method, target, lines, special, (framing, body, body_class), old)| {
            let version = if old { "HTTP/1.0" } else { "HTTP/1.1" };
            let text: String = lines.iter().map(|l| l.text).collect();
            let head = format!("{method} {} {version}\r\nHost: a\r\n{text}{}{framing}\r\n", target.text, special.text);
            let chunked = framing.starts_with('t') || text.contains("Transfer-Encoding");
            let class = if is_mixed(&text, &framing) || old && chunked {
                Stricter("ambiguous framing")
            } else {
                lines.iter().fold(worse(worse(target.class, special.class), body_class), |c, l| worse(c, l.class))
            };
            ([latin1(&head), body].concat(), class)
        },
    )
}

/// A response, what is wrong with it, and whether HEAD asked for it.
fn response() -> impl Strategy<Value = (Vec<u8>, Class, bool)> {
    let lines = prop::collection::vec(pick(LINES), 0..3);
    let start = (prop::sample::select(STATUSES), prop::sample::select(INTERIM));
    (start, lines, framed(), body(), prop::bool::weighted(0.2)).prop_map(
        |((status, interim), lines, (framing, body, body_class), rest, to_head)| {
            let text: String = lines.iter().map(|l| l.text).collect();
            let head = latin1(&format!("{interim}HTTP/1.1 {status}\r\n{text}{framing}\r\n"));
            let bodiless = to_head || status.starts_with("204") || status.starts_with("304");
            let mut class = lines.iter().fold(Fine, |c, l| worse(c, l.class));
            if is_mixed(&text, &framing) || bodiless && class == Bad {
                // hyper does not look at the length of a response that has no body.
                class = Stricter("ambiguous framing");
            }
            if bodiless {
                return (head, class, to_head);
            }
            let body = if framing.is_empty() { rest } else { body };
            ([head, body].concat(), worse(class, body_class), to_head)
        },
    )
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| c as u8).collect()
}

/// The same bytes in pieces whose lengths repeat `cuts`.
fn cut(wire: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let (mut pieces, mut rest) = (Vec::new(), wire);
    for n in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*n).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1 << 20]), Just(vec![1]), prop::collection::vec(1usize..30, 1..8)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn requests_are_read_as_hyper_reads_them(all in prop::collection::vec(request(), 1..4), cuts in cuts()) {
        let wire = all.iter().flat_map(|(bytes, _)| bytes.clone()).collect::<Vec<u8>>();
        let shown = wire.escape_ascii().to_string();
        let (ours, refused) = ours::requests(&cut(&wire, &cuts));
        let theirs = theirs::requests(cut(&wire, &cuts));
        for (mine, other) in ours.iter().zip(&theirs) {
            prop_assert_eq!(mine, other, "{}", shown);
        }
        prop_assert!(theirs.len() >= ours.len(), "hyper took {} of our {}: {shown}", theirs.len(), ours.len());
        let class = all.get(ours.len()).map(|(_, class)| *class);
        if theirs.len() > ours.len() {
            prop_assert!(refused && matches!(class, Some(Stricter(_))), "hyper took more; ours: {refused} {class:?} {shown}");
        }
        prop_assert!(!refused || class != Some(Fine), "refused without a quirk: {shown}");
        prop_assert!(!ours.is_empty() || class != Some(Fine), "not read to its end: {shown}");
    }

    #[test]
    fn responses_are_read_as_hyper_reads_them((wire, class, to_head) in response(), cuts in cuts()) {
        let shown = wire.escape_ascii().to_string();
        match (ours::response(&cut(&wire, &cuts), to_head), theirs::response(cut(&wire, &cuts), to_head)) {
            (Some(mine), Some(other)) => prop_assert_eq!(mine, other, "{}", shown),
            (Some(mine), None) => prop_assert!(false, "hyper refuses what ours takes as {mine:?}: {shown}"),
            (None, Some(_)) => prop_assert!(matches!(class, Stricter(_)), "refused as {class:?}: {shown}"),
            (None, None) => prop_assert!(class != Fine, "both refuse: {shown}"),
        }
    }
}

/// Each class is real: hyper takes the message and ours does not. One that no longer is goes from the lists.
#[test]
fn every_strictness_class_is_one() {
    let stricter = |all: &[Quirk]| all.iter().filter(|q| matches!(q.class, Stricter(_))).cloned().collect::<Vec<_>>();
    let mut wires = Vec::new();
    for quirk in stricter(&[LINES, REQUEST_LINES].concat()) {
        let body = match quirk.text {
            text if text.contains("chunked") => "0\r\n\r\n",
            text if text.contains("Length") => "abc",
            _ => "",
        };
        wires.push(format!("POST / HTTP/1.1\r\nHost: a\r\n{}\r\n{body}", quirk.text));
    }
    for quirk in stricter(TARGETS) {
        wires.push(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", quirk.text));
    }
    for quirk in stricter(SIZE_ENDS) {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        wires.push(format!("{head}1{}a\r\n0\r\n\r\n", quirk.text));
    }
    assert_eq!(wires.len(), 13);
    for wire in wires {
        assert_eq!(ours::requests(&[wire.clone().into_bytes()]), (Vec::<Seen>::new(), true), "{wire:?}");
        assert_eq!(theirs::requests(vec![wire.clone().into_bytes()]).len(), 1, "{wire:?}");
    }
}
