"""The cases of autobahn.py: what is sent, what must come back, and who closes with which code."""

import random
import struct
import time
import zlib

from report import Failed
from websocket_wire import BINARY, CLOSE, LIMIT, PING, PONG, TEXT, Session, frame

HELLO = b"Hello, world!"
NORMAL, PROTOCOL, INVALID = 1000, 1002, 1007
OFFERS = [
    "permessage-deflate",
    "permessage-deflate; server_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=15",
    "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
    "permessage-deflate; server_no_context_takeover; server_max_window_bits=15",
    "permessage-deflate; server_no_context_takeover; server_max_window_bits=9, "
    "permessage-deflate; server_no_context_takeover, permessage-deflate",
]
"""Section 13's, in its order: what the client asks the server for."""
SIZES = [(n, 0) for n in (16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072)]
SIZES += [(n, 256) for n in (8192, 16384, 32768, 65536, 131072)] + [(131072, n) for n in (1024, 4096, 32768)]
"""Octets of a message, and of its frames where it is fragmented: sections 12 and 13."""


class Case:
    """`steps` send; `wanted` must come; then `closer` closes: "client" with 1000, "server" with one of `codes`, or "sent" where a step did."""

    def __init__(self, number, title, steps, wanted=(), loose=None, closer="client", codes=(NORMAL,), info=False, clean=None):
        self.number, self.title, self.steps, self.wanted = number, title, steps, list(wanted)
        self.loose, self.closer, self.codes, self.info = loose, closer, codes, info
        self.clean = closer != "server" if clean is None else clean

    def run(self, way):
        session = Session(way)
        late = 0
        for step in self.steps:
            late += step(session) or 0
        if self.closer == "client":
            session.read(lambda: len(session.events) >= len(self.wanted))
            session.send(frame(CLOSE, struct.pack(">H", NORMAL)))
        session.read(lambda: False)
        if session.code is not None and self.closer == "server":
            session.send(frame(CLOSE, struct.pack(">H", session.code)))
        session.end()
        return self.judge(session, late)

    def judge(self, session, late):
        if self.info:
            return "INFO", f"closed {session.code}"
        if not session.eof:
            return "FAILED", f"not closed; {session.events!r:.80}"
        if session.code is None and self.clean:
            return "FAILED", "the connection is dropped without a close"
        if session.code is not None and session.code not in self.codes:
            return "FAILED", f"closed with {session.code}, not {self.codes}"
        if session.events == self.wanted:
            return ("NON-STRICT", "closed late") if late else ("OK", "")
        if self.loose is not None and session.events == self.loose:
            return "NON-STRICT", ""
        return "FAILED", f"got {session.events!r:.120}"


def send(*frames, **how):
    return lambda session: session.send(*frames, **how)


def echoed(number, title, *frames, wanted, **how):
    return Case(number, title, [send(*frames, **how)], wanted)


def refused(number, title, *frames, wanted=(), codes=(PROTOCOL,), **how):
    """Where something came first, its echo need not be waited for by the server."""
    return Case(number, title, [send(*frames, **how)], wanted, [] if wanted else None, "server", codes)


def all(full=False):
    cases = [*_messages(), *_pings(), *_reserved(), *_fragments(), *_utf8(), *_sequences(), *_closing(), *_sizes()]
    cases.append(_auto_fragmented())
    return cases + list(_compressed(full))


def _messages():
    for section, opcode, kind, fill in ((1, TEXT, "text", b"*"), (2, BINARY, "binary", b"\xfe")):
        for i, size in enumerate((0, 125, 126, 127, 128, 65535, 65536), 1):
            body = fill * size
            yield echoed(f"1.{section}.{i}", f"{kind} of {size} octets", frame(opcode, body), wanted=[(kind, body)])
        body = fill * 65536
        title = f"{kind} of 65536 octets in writes of 997"
        yield echoed(f"1.{section}.8", title, frame(opcode, body), wanted=[(kind, body)], chop=997)


def _pings():
    binary = bytes([0, 255, 254, 253, 252, 251, 0, 255])
    for number, title, body, how in (
        ("2.1", "ping without payload", b"", {}),
        ("2.2", "ping with text", HELLO, {}),
        ("2.3", "ping with bytes that are no text", binary, {}),
        ("2.4", "ping of 125 octets", b"\xfe" * 125, {}),
        ("2.6", "ping of 125 octets, octet by octet", b"\xfe" * 125, {"chop": 1}),
    ):
        yield echoed(number, title, frame(PING, body), wanted=[("pong", body)], **how)
    yield refused("2.5", "ping of 126 octets", frame(PING, b"\xfe" * 126))
    yield echoed("2.7", "unsolicited pong without payload", frame(PONG), wanted=[])
    yield echoed("2.8", "unsolicited pong", frame(PONG, HELLO), wanted=[])
    yield echoed("2.9", "unsolicited pong, then ping", frame(PONG, HELLO), frame(PING, b"ping"), wanted=[("pong", b"ping")])
    ten = [b"payload-%d" % i for i in range(10)]
    pongs = [("pong", body) for body in ten]
    yield echoed("2.10", "ten pings", *(frame(PING, body) for body in ten), wanted=pongs)
    yield echoed("2.11", "ten pings, octet by octet", *(frame(PING, body) for body in ten), wanted=pongs, chop=1)


def _reserved():
    text, ping = frame(TEXT, HELLO), frame(PING)
    first = [("text", HELLO)]
    yield refused("3.1", "RSV 1", frame(TEXT, HELLO, rsv=1))
    yield refused("3.2", "RSV 2 behind a message", text, frame(TEXT, HELLO, rsv=2), ping, wanted=first)
    yield refused("3.3", "RSV 3, frame by frame", text, frame(TEXT, HELLO, rsv=3), ping, wanted=first, each=True)
    yield refused("3.4", "RSV 4, octet by octet", text, frame(TEXT, HELLO, rsv=4), ping, wanted=first, chop=1)
    yield refused("3.5", "RSV 5, binary", frame(BINARY, b"\0\xff\xfe", rsv=5))
    yield refused("3.6", "RSV 6, ping", frame(PING, HELLO, rsv=6))
    yield refused("3.7", "RSV 7, close", frame(CLOSE, rsv=7))
    for section, base, what in ((1, 3, "data"), (2, 11, "control")):
        for i in range(5):
            opcode = base + i
            name, title = f"4.{section}.{i + 1}", f"opcode {opcode}, reserved for {what}"
            if i < 2:
                yield refused(name, title, frame(opcode, HELLO if i else b""))
            else:
                bad = frame(opcode, HELLO if i == 3 else b"")
                yield refused(name, title, text, bad, ping, wanted=first, chop=None if i == 2 else 1)


def _fragments():
    one, two = frame(TEXT, b"fragment1", fin=False), frame(0, b"fragment2")
    both, ping = [("text", b"fragment1fragment2")], frame(PING, b"ping payload")
    pong = ("pong", b"ping payload")
    yield refused("5.1", "ping in two fragments", frame(PING, b"fragment1", fin=False), two)
    yield refused("5.2", "pong in two fragments", frame(PONG, b"fragment1", fin=False), two)
    for i, (what, how) in enumerate((("", {}), (", frame by frame", {"each": True}), (", octet by octet", {"chop": 1}))):
        yield echoed(f"5.{3 + i}", f"text in two fragments{what}", one, two, wanted=both, **how)
        yield echoed(f"5.{6 + i}", f"ping between two fragments{what}", one, ping, two, wanted=[pong, *both], **how)
        last, more, text = frame(0, b"nothing to continue"), frame(0, b"nothing", fin=False), frame(TEXT, HELLO)
        yield refused(f"5.{9 + i}", f"last fragment of nothing{what}", last, text, **how)
        yield refused(f"5.{12 + i}", f"fragment of nothing{what}", more, text, **how)
    yield refused("5.15", "fragment behind a message", one, two, frame(0, b"3", fin=False), frame(TEXT, b"4"), wanted=both)
    middle, final = frame(TEXT, b"fragment2", fin=False), frame(0, b"fragment3")
    yield refused("5.16", "twice: fragment of nothing, then text", *[frame(0, b"1", fin=False), middle, final] * 2)
    yield refused("5.17", "twice: last fragment of nothing, then text", *[frame(0, b"1"), middle, final] * 2)
    yield refused("5.18", "both fragments with the opcode of text", one, frame(TEXT, b"fragment2"))
    five = [frame(TEXT, b"a", fin=False), frame(0, b"b", fin=False), frame(0, b"c", fin=False), frame(0, b"d", fin=False)]
    pings = [frame(PING, b"pongme 1!"), frame(PING, b"pongme 2!")]
    wanted = [("pong", b"pongme 1!"), ("pong", b"pongme 2!"), ("text", b"abcde")]

    def paused(each):
        def first_pong(session):
            session.read(lambda: session.events)

        return [
            send(five[0], five[1], pings[0], each=each),
            first_pong,
            send(five[2], five[3], pings[1], frame(0, b"e"), each=each),
        ]

    yield Case("5.19", "five fragments, two pings, a pause", paused(False), wanted)
    yield Case("5.20", "the same, frame by frame", paused(True), wanted)


def octets(body):
    """A text of one octet in each frame."""
    last = len(body) - 1
    return [frame(0 if i else TEXT, body[i : i + 1], fin=i == last) for i in range(len(body))]


VALID = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"
SURROGATE = VALID + b"\xed\xa0\x80" + b"edited"
BEYOND = VALID + b"\xf4\x90\x80\x80" + b"edited"


def _utf8():
    text = "Hello-µ@ßöäüàá-UTF-8!!".encode()
    yield echoed("6.1.1", "empty text", frame(TEXT), wanted=[("text", b"")])
    empty = [frame(TEXT, fin=False), frame(0, fin=False), frame(0)]
    yield echoed("6.1.2", "three empty fragments", *empty, wanted=[("text", b"")])
    middle = frame(0, b"middle", fin=False)
    yield echoed("6.1.3", "only the middle of three is not empty", empty[0], middle, empty[2], wanted=[("text", b"middle")])
    yield echoed("6.2.1", "text", frame(TEXT, text), wanted=[("text", text)])
    cut = len("Hello-µ@ßöä".encode())
    halves = frame(TEXT, text[:cut], fin=False), frame(0, text[cut:])
    yield echoed("6.2.2", "text cut between characters", *halves, wanted=[("text", text)])
    yield echoed("6.2.3", "text of one octet a frame", *octets(text), wanted=[("text", text)])
    yield echoed("6.2.4", "the same, other text", *octets(VALID), wanted=[("text", VALID)])
    yield refused("6.3.1", "invalid text", frame(TEXT, SURROGATE), codes=(INVALID,))
    yield refused("6.3.2", "invalid text of one octet a frame", *octets(SURROGATE), codes=(INVALID,))

    def fast(number, title, parts, chopped):
        """The second part makes the text invalid: a strict server closes before the third is sent."""

        def part(data):
            def step(session):
                session.send(data)

            return step

        def closed(session):
            return 0 if session.read(lambda: False, 0.3) else 1

        if chopped:
            whole = frame(TEXT, b"".join(parts))
            head = len(whole) - sum(map(len, parts))
            one = head + len(parts[0])
            pieces = whole[:one], whole[one : one + len(parts[1])], whole[one + len(parts[1]) :]
        else:
            pieces = frame(TEXT, parts[0], fin=False), frame(0, parts[1], fin=False), frame(0, parts[2])
        steps = [part(pieces[0]), part(pieces[1]), closed, part(pieces[2])]
        return Case(number, title, steps, [], None, "server", (INVALID,))

    whole = [VALID, b"\xf4\x90\x80\x80", b"edited"]
    exact = [BEYOND[:12], BEYOND[12:13], BEYOND[13:]]
    yield fast("6.4.1", "invalid in the second of three frames", whole, False)
    yield fast("6.4.2", "the same, cut behind the octet that is wrong", exact, False)
    yield fast("6.4.3", "invalid in the second of three writes of a frame", whole, True)
    yield fast("6.4.4", "the same, cut behind the octet that is wrong", exact, True)


def _sequences():
    """6.5 and on: texts after Markus Kuhn's UTF-8 decoder test; whether they are valid is for Python to say."""
    k = [b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xfc\x80\x80\x80\x80"]
    k += [b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfb\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf"]
    high, low = [b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf"], [b"\xed\xb0\x80", b"\xed\xbf\xbf"]
    planes = [chr(plane << 16 | last).encode() for plane in range(17) for last in (0xFFFE, 0xFFFF)]
    spaced = lambda first, last: b"".join(bytes([i, 0x20]) for i in range(first, last))
    sections = [
        ("valid text", [f"hello{c}world".encode() for c in "$¢€\U00024b62"] + [VALID]),
        ("beginning of a valid text", [VALID[:i] for i in range(1, len(VALID) + 1)]),
        ("first character of a length", [chr(c).encode() for c in (0, 0x80, 0x800, 0x10000)]),
        ("first of 5 and 6 octets", [b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]),
        ("last character of a length", [chr(c).encode() for c in (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)]),
        ("last of 4, 5 and 6 octets", [b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]),
        ("boundary", [chr(c).encode() for c in (0xD7FF, 0xE000, 0xFFFD, 0x10FFFF)] + [b"\xf4\x90\x80\x80"]),
        ("continuation alone", [b"\x80", b"\xbf", *((b"\x80\xbf" * 3)[:i] for i in range(2, 7)), bytes(range(0x80, 0xBF))]),
        ("start alone", [spaced(*r) for r in ((0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD))]),
        ("last octet missing", k),
        ("many last octets missing", [b"".join(k)]),
        ("impossible octet", [b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]),
        (
            "slash, overlong",
            [b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf"],
        ),
        ("overlong to the utmost", [b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf", b"\xfc\x83\xbf\xbf\xbf\xbf"]),
        ("NUL, overlong", [b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8" + b"\x80" * 4, b"\xfc" + b"\x80" * 5]),
        ("surrogate", [*high, low[0], b"\xed\xbe\x80", low[1]]),
        ("pair of surrogates", [a + b for a in high for b in low]),
        ("character that is none", planes),
        ("special character", [chr(c).encode() for c in range(0xFFF9, 0x10000)]),
    ]
    for i, (title, texts) in enumerate(sections, 5):
        for j, text in enumerate(texts, 1):
            try:
                text.decode()
                yield echoed(f"6.{i}.{j}", title, frame(TEXT, text), wanted=[("text", text)])
            except UnicodeDecodeError:
                yield refused(f"6.{i}.{j}", title, frame(TEXT, text), codes=(INVALID,))


def _closing():
    def sent(number, title, *frames, wanted=(), codes=(NORMAL,), **more):
        return Case(number, title, [send(*frames)], wanted, closer="sent", codes=codes, **more)

    def close(code=NORMAL, reason=b""):
        return frame(CLOSE, struct.pack(">H", code) + reason)

    text = frame(TEXT, b"Hello World!")
    yield echoed("7.1.1", "message, then close", text, wanted=[("text", b"Hello World!")])
    yield sent("7.1.2", "two closes", close(), frame(CLOSE))
    yield sent("7.1.3", "ping behind a close", close(), frame(PING))
    yield sent("7.1.4", "text behind a close", close(), text)
    yield sent("7.1.5", "close within a message", frame(TEXT, b"fragment1", fin=False), close(), frame(0, b"fragment2"))
    large = frame(TEXT, (b"BAsd7&jh23" * 26215)[: 256 * 1024])
    yield sent("7.1.6", "256 KiB, text, close, ping", large, text, close(), frame(PING), info=True)
    yield sent("7.3.1", "close without code", frame(CLOSE), codes=(NORMAL, 1005))
    yield sent("7.3.2", "close of one octet", frame(CLOSE, b"a"), codes=(PROTOCOL,), clean=False)
    yield sent("7.3.3", "close with a code", close())
    yield sent("7.3.4", "close with a reason", close(NORMAL, b"Hello World!"))
    yield sent("7.3.5", "close with a reason of 123 octets", close(NORMAL, b"*" * 123))
    yield sent("7.3.6", "close with a reason of 124 octets", close(NORMAL, b"*" * 124), codes=(PROTOCOL,), clean=False)
    yield sent("7.5.1", "close with a reason that is no text", close(NORMAL, SURROGATE), codes=(PROTOCOL, INVALID), clean=False)
    for i, code in enumerate((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999), 1):
        yield sent(f"7.7.{i}", f"close with {code}", close(code), codes=(NORMAL, code))
    for i, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1):
        yield sent(f"7.9.{i}", f"close with {code}, which is none", close(code), codes=(PROTOCOL,), clean=False)
    yield sent("7.13.1", "close with 5000", close(5000), info=True)
    yield sent("7.13.2", "close with 65535", close(65535), info=True)


def _fragmented(opcode, body, size):
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return [frame(0 if i else opcode, p, fin=i == len(pieces) - 1) for i, p in enumerate(pieces)]


def _sizes():
    """Section 9, an eighth to a sixteenth of its sizes, fifty times fewer messages."""
    kib = 1024
    for section, opcode, kind in ((1, TEXT, "text"), (2, BINARY, "binary")):
        for i, size in enumerate((64, 128, 256, 512, 768, 1024), 1):
            body = b"BAsd7&jh" * (size * kib // 8)
            yield echoed(f"9.{section}.{i}", f"{kind} of {size} KiB", frame(opcode, body), wanted=[(kind, body)])
        body = b"*" * (128 * kib)
        for i, size in enumerate((64, 256, kib, 4 * kib, 16 * kib, 32 * kib, 64 * kib, 96 * kib, 128 * kib), 1):
            title = f"{kind} of 128 KiB in frames of {size}"
            yield echoed(f"9.{section + 2}.{i}", title, *_fragmented(opcode, body, size), wanted=[(kind, body)])
        body = b"BAsd7&jh" * (4 * kib)
        for i, size in enumerate((64, 128, 256, 512, kib, 2 * kib), 1):
            title = f"{kind} of 32 KiB in writes of {size}"
            yield echoed(f"9.{section + 4}.{i}", title, frame(opcode, body), wanted=[(kind, body)], chop=size)
        for i, size in enumerate((0, 16, 64, 256, kib, 4 * kib), 1):
            yield Case(f"9.{section + 6}.{i}", f"20 {kind}s of {size} to and fro", [_to_and_fro(opcode, b"*" * size, 20)], [(kind, b"*" * size)] * 20)


def _to_and_fro(opcode, body, times):
    def step(session):
        for i in range(times):
            session.send(frame(opcode, body))
            session.read(lambda i=i: len(session.events) > i)

    return step


def _auto_fragmented():
    body = b"*" * 65536
    return echoed("10.1.1", "64 KiB in frames of 1300", *_fragmented(TEXT, body, 1300), wanted=[("text", body)])


class Deflate:
    """RFC 7692 with what was agreed."""

    def __init__(self, agreed):
        names = dict((p.strip() + "=").split("=")[:2] for p in agreed.split(";")[1:])
        self.keep_theirs = "server_no_context_takeover" not in names
        self.keep_ours = "client_no_context_takeover" not in names
        self.theirs = int(names.get("server_max_window_bits") or 15)
        self.ours = int(names.get("client_max_window_bits") or 15)
        self.inflater, self.deflater = self._inflater(), self._deflater()

    def _inflater(self):
        return zlib.decompressobj(-self.theirs)

    def _deflater(self):
        return zlib.compressobj(wbits=-self.ours)

    def encode(self, body):
        out = self.deflater.compress(body) + self.deflater.flush(zlib.Z_SYNC_FLUSH)
        if not self.keep_ours:
            self.deflater = self._deflater()
        return out[:-4]

    def decode(self, body):
        out = self.inflater.decompress(body + b"\0\0\xff\xff")
        if not self.keep_theirs:
            self.inflater = self._inflater()
        return out


class Compressed:
    def __init__(self, number, offer, title, bodies, cut):
        self.number, self.offer, self.title, self.bodies, self.cut = number, offer, title, bodies, cut

    def run(self, way):
        session = Session(way, self.offer)
        if not session.agreed.startswith("permessage-deflate"):
            raise Failed(f"agreed: {session.agreed!r}")
        session.compressed = deflate = Deflate(session.agreed)
        for i, (opcode, body) in enumerate(self.bodies):
            coded = deflate.encode(body)
            pieces = [coded[n : n + self.cut] for n in range(0, len(coded), self.cut)] if self.cut else [coded]
            last = len(pieces) - 1
            frames = (frame(0 if n else opcode, p, fin=n == last, rsv=0 if n else 4) for n, p in enumerate(pieces))
            session.send(*frames)
            session.read(lambda i=i: len(session.events) > i)
        session.send(frame(CLOSE, struct.pack(">H", NORMAL)))
        session.read(lambda: False)
        session.end()
        wanted = [("text" if opcode == TEXT else "binary", body) for opcode, body in self.bodies]
        if session.events != wanted or session.code != NORMAL or not session.eof:
            return "FAILED", f"{len(session.events)} messages, closed {session.code}"
        return "OK", ""


def _texts():
    """What section 12 has as files, made up: JSON, a picture, prose, HTML, a document that is compressed already."""
    dice = random.Random(12)
    words = [bytes(dice.choices(b"abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(400)]
    some = lambda n: b" ".join(dice.choices(words, k=n))
    picture = bytes((x * y >> 4) + dice.randint(0, 7) & 0xFF for x in range(256) for y in range(256))
    return [
        ("JSON", TEXT, b",".join(b'{"id":%d,"name":"%s"}' % (i, some(2)) for i in range(4000))),
        ("picture", BINARY, picture * 2),
        ("prose", BINARY, some(20000)),
        ("HTML", TEXT, b"".join(b"<tr><td>%d</td><td>%s</td></tr>\n" % (i, some(3)) for i in range(3000))),
        ("compressed", BINARY, dice.randbytes(131072)),
    ]


def _compressed(full):
    texts, count = _texts(), 10 if full else 3
    groups = [(f"12.{i}", OFFERS[0], *text) for i, text in enumerate(texts, 1)]
    groups += [(f"13.{i}", offer, *texts[0]) for i, offer in enumerate(OFFERS, 1)]
    for number, offer, what, opcode, data in groups:
        for i, (size, cut) in enumerate(SIZES, 1):
            # In part: small ones, a large one, one in fragments.
            if not full and i not in (1, 4, 6, 8, 11, 16):
                continue
            if not full and number.startswith("12.") and i == 16:
                continue
            starts = [n * size % max(1, len(data) - size) for n in range(count)]
            bodies = [(opcode, data[s : s + size]) for s in starts]
            form = f" in frames of {cut}" if cut else ""
            yield Compressed(f"{number}.{i}", offer, f"{count} messages of {size} octets{form}, {what}; {offer}", bodies, cut)
