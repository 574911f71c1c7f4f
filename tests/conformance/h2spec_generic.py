"""h2spec's sections `generic` and `hpack`: what every server must take, and what no decoder may take."""

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hyperframe import frame as read

from frames import (
    CANCEL,
    COMPRESSION,
    ENABLE_PUSH,
    INITIAL_WINDOW,
    MAX_FRAME,
    MAX_LIST,
    MAX_STREAMS,
    PADDED,
    PREFACE,
    PRIORITIZED,
    TABLE_SIZE,
    data,
    frame,
    goaway,
    ping,
    priority,
    rst,
    settings,
    weighted,
    window_update,
)
from report import expect

HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
NAME, VALUE = b"x-case", b"sluice"
USER_AGENT = 58
"""Its place in HPACK's static table."""


def integer(value, bits, first=0):
    """RFC 7541, 5.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def string(text, huffman):
    coded = HUFFMAN.encode(text) if huffman else text
    return integer(len(coded), 7, 0x80 if huffman else 0) + coded


def literal(first, bits, indexed, huffman):
    """A field in one of HPACK's literal forms."""
    name = integer(USER_AGENT, bits, first) if indexed else bytes([first]) + string(NAME, huffman)
    return name + string(VALUE, huffman)


def declare(suite):
    _connection(suite)
    _frames(suite)
    _messages(suite)
    _accepted_fields(suite)
    _refused_fields(suite)


def _connection(suite):
    def first_frame(opened):
        c = opened.raw()
        c.send(PREFACE, settings((INITIAL_WINDOW, 65535)))
        got = c.event()
        expect(isinstance(got, read.SettingsFrame) and "ACK" not in got.flags, f"saw {c.story()}")

    suite.case("generic/1/1", "RFC 9113 3.4", "the preface is answered by SETTINGS")(first_frame)
    suite.case("http2/3.5/1", "RFC 9113 3.4", "SETTINGS is the server's first frame")(first_frame)

    @suite.case("generic/2/1", "RFC 9113 5.1", "PRIORITY on an idle stream")
    def _(opened):
        return opened.hello().send(priority(1, 0), ping()).pong()

    @suite.case("generic/2/2", "RFC 9113 5.1", "WINDOW_UPDATE on a half-closed (remote) stream")
    def _(opened):
        c = opened.hello()
        c.send(settings((INITIAL_WINDOW, 0)), c.request(), window_update(1, 1)).wait(read.DataFrame)

    @suite.case("generic/2/3", "RFC 9113 5.1", "PRIORITY on a half-closed (remote) stream")
    def _(opened):
        c = opened.hello()
        c.send(settings((INITIAL_WINDOW, 0)), c.request(), priority(1, 0), window_update(1, 1)).wait(read.DataFrame)

    @suite.case("generic/2/4", "RFC 9113 5.1", "RST_STREAM on a half-closed (remote) stream")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(), rst(1, CANCEL), ping()).pong_or_close()

    @suite.case("generic/2/5", "RFC 9113 5.1", "PRIORITY on a closed stream")
    def _(opened):
        c = opened.hello()
        c.send(c.request()).stream_end()
        c.send(priority(1, 0), ping()).pong()


def _frames(suite):
    def posted(opened, *bodies):
        c = opened.hello()
        return c.send(c.request(fields=c.fields("POST"), end=False), *bodies).answer()

    def asked(opened, *before, **how):
        c = opened.hello()
        return c.send(*before, c.request(**how)).answer()

    case = suite.case
    case("generic/3.1/1", "RFC 9113 6.1", "DATA")(lambda o: posted(o, data(1, b"test")))
    case("generic/3.1/2", "RFC 9113 6.1", "several DATA")(
        lambda o: posted(o, data(1, b"test", False), data(1, b"test"))
    )
    case("generic/3.1/3", "RFC 9113 6.1", "DATA with padding")(
        lambda o: posted(o, frame(0, PADDED | 1, 1, b"\x05test" + bytes(5)))
    )
    case("generic/3.2/1", "RFC 9113 6.2", "HEADERS")(asked)
    case("generic/3.2/2", "RFC 9113 6.2", "HEADERS with padding")(
        lambda o: asked(o, flags=PADDED, before=b"\x08", after=bytes(8))
    )
    case("generic/3.2/3", "RFC 9113 6.2", "HEADERS with priority")(
        lambda o: asked(o, flags=PRIORITIZED, before=weighted(0))
    )
    case("generic/3.3/1", "RFC 9113 6.3", "PRIORITY of weight 1")(lambda o: asked(o, priority(1, 0, 0)))
    case("generic/3.3/2", "RFC 9113 6.3", "PRIORITY of weight 256")(lambda o: asked(o, priority(1, 0, 255)))
    case("generic/3.3/3", "RFC 9113 6.3", "PRIORITY with a dependency")(lambda o: asked(o, priority(3, 1, 0)))
    case("generic/3.3/4", "RFC 9113 6.3", "PRIORITY, exclusive")(lambda o: asked(o, priority(1, 0, 0, exclusive=True)))
    case("generic/3.3/5", "RFC 9113 6.3", "PRIORITY of an idle stream, then HEADERS of a lower one")(
        lambda o: asked(o, priority(3, 0))
    )

    @case("generic/3.4/1", "RFC 9113 6.4", "RST_STREAM")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(end=False), rst(1, CANCEL), ping()).pong_or_close()

    @case("generic/3.5/1", "RFC 9113 6.5", "SETTINGS with every parameter")
    def _(opened):
        pairs = (TABLE_SIZE, 4096), (ENABLE_PUSH, 1), (MAX_STREAMS, 100), (INITIAL_WINDOW, 65535), (MAX_FRAME, 16384)
        return opened.hello().send(settings(*pairs, (MAX_LIST, 100))).settings_ack()

    case("generic/3.7/1", "RFC 9113 6.7", "PING")(lambda o: o.hello().send(ping()).pong())
    case("generic/3.8/1", "RFC 9113 6.8", "GOAWAY")(
        lambda o: o.hello().send(goaway(0, 0, b"sluice"), ping()).pong_or_close()
    )
    case("generic/3.9/1", "RFC 9113 6.9", "WINDOW_UPDATE of the connection")(
        lambda o: o.hello().send(window_update(0, 1), ping()).pong()
    )

    @case("generic/3.9/2", "RFC 9113 6.9", "WINDOW_UPDATE of a stream")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(), window_update(1, 1)).answer()

    def continued(opened, *cuts):
        c = opened.hello()
        block = c.block(c.fields())
        parts = [block[a:b] for a, b in zip((0, *cuts), (*cuts, len(block)))]
        rest = [c.continuation(1, part is parts[-1], part) for part in parts[1:]]
        return c.send(c.request(block=parts[0], ended=False), *rest).answer()

    case("generic/3.10/1", "RFC 9113 6.10", "CONTINUATION")(lambda o: continued(o, 5))
    case("generic/3.10/2", "RFC 9113 6.10", "several CONTINUATION")(lambda o: continued(o, 5, 10))


def _messages(suite):
    case = suite.case

    @case("generic/4/1", "RFC 9113 8.1", "GET")
    def _(opened):
        c = opened.hello()
        return c.send(c.request()).answer()

    @case("generic/4/2", "RFC 9113 8.1", "HEAD")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(fields=c.fields("HEAD"))).answer()

    @case("generic/4/3", "RFC 9113 8.1", "POST")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(fields=c.fields("POST"), end=False), data(1, b"test")).answer()

    @case("generic/4/4", "RFC 9113 8.1", "POST with trailers")
    def _(opened):
        c = opened.hello()
        head = c.request(fields=c.fields("POST", [("trailer", "x-test")]), end=False)
        return c.send(head, data(1, b"test", False), c.request(fields=[("x-test", "ok")])).answer()


def _with(opened, more, first=False):
    c = opened.hello()
    block = c.block(c.fields())
    return c.send(c.request(block=more + block if first else block + more))


def _accepted_fields(suite):
    forms = [
        ("incremental indexing", 0x40, 6, "6.2.1"),
        ("no indexing", 0x00, 4, "6.2.2"),
        ("never indexed", 0x10, 4, "6.2.3"),
    ]
    suite.case("generic/5/1", "RFC 7541 6.1", "indexed field")(lambda o: _with(o, b"\xba").answer())
    number = 1
    for what, first, bits, section in forms:
        for indexed in (True, False):
            for huffman in (False, True):
                number += 1
                name = "indexed name" if indexed else "new name"
                title = f"literal, {what}, {name}{', Huffman' if huffman else ''}"
                rep = literal(first, bits, indexed, huffman)
                suite.case(f"generic/5/{number}", f"RFC 7541 {section}", title)(lambda o, rep=rep: _with(o, rep).answer())

    @suite.case("generic/5/14", "RFC 7541 6.3", "table size update")
    def _(opened):
        c = opened.hello()
        c.encoder.header_table_size = 128
        return c.send(c.request()).answer()

    suite.case("generic/5/15", "RFC 7541 4.2", "several table size updates")(
        lambda o: _with(o, integer(128, 5, 0x20) + integer(4096, 5, 0x20), first=True).answer()
    )


def _refused_fields(suite):
    name = b"\x00" + string(b"x-test", True)
    eos = b"\xff\xff\xff\xff"
    refused = [
        ("hpack/2.3.3/1", "indexed field beyond both tables", integer(70, 7, 0x80)),
        ("hpack/2.3.3/2", "literal with a name beyond both tables", integer(70, 6, 0x40) + b"\x00"),
        ("hpack/4.2/1", "table size update at a block's end", integer(1, 5, 0x20)),
        ("hpack/5.2/1", "Huffman padding of more than 7 bits", name + b"\x84" + HUFFMAN.encode(b"test") + b"\xff"),
        ("hpack/5.2/2", "Huffman padding of zeros", name + b"\x83\x49\x50\x90"),
        ("hpack/5.2/3", "Huffman text with EOS", name + b"\x87\x49\x51" + eos + b"\x7f"),
        ("hpack/6.1/1", "indexed field of index 0", b"\x80"),
    ]
    for case, title, rep in refused:
        source = f"RFC 7541 {case.split('/')[1]}"
        suite.case(case, source, title)(lambda o, rep=rep: _with(o, rep).connection_error(COMPRESSION))

    @suite.case("hpack/6.3/1", "RFC 7541 6.3", "table size update beyond SETTINGS_HEADER_TABLE_SIZE")
    def _(opened):
        c = opened.hello()
        more = integer(c.server[TABLE_SIZE] + 1, 5, 0x20)
        return c.send(c.request(block=more + c.block(c.fields()))).connection_error(COMPRESSION)
