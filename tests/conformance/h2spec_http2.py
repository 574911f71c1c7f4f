"""h2spec's section `http2`: what is wrong on a connection or a stream, and how it must be refused."""

from hyperframe import frame as read

from frames import (
    CANCEL,
    CLOSED,
    COMPRESSION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL,
    FRAME_SIZE,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME,
    MAX_STREAMS,
    PADDED,
    PING,
    PRIORITIZED,
    PRIORITY,
    PROTOCOL,
    PUSH_PROMISE,
    REFUSED,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    code_name,
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

UNKNOWN = 0x16
"""A type of frames, and flags, that mean nothing."""


def declare(suite):
    _frames(suite)
    _stream_states(suite)
    _streams(suite)
    _data_and_headers(suite)
    _small_frames(suite)
    _flow_control(suite)
    _messages(suite)


def _frames(suite):
    case = suite.case

    @case("http2/3.5/2", "RFC 9113 3.4", "another preface")
    def _(opened):
        return opened.raw().send(b"INVALID CONNECTION PREFACE\r\n\r\n").connection_error(PROTOCOL)

    case("http2/4.1/1", "RFC 9113 4.1", "frame of an unknown type")(
        lambda o: o.hello().send(frame(UNKNOWN, 0, 0, bytes(8)), ping()).pong()
    )
    case("http2/4.1/2", "RFC 9113 4.1", "frame with undefined flags")(
        lambda o: o.hello().send(frame(PING, UNKNOWN, 0, bytes(8))).wait(read.PingFrame) and None
    )
    case("http2/4.1/3", "RFC 9113 4.1", "frame with the reserved bit")(
        lambda o: o.hello().send(frame(PING, UNKNOWN, 0x80000000, bytes(8))).wait(read.PingFrame) and None
    )

    def sized(opened, more):
        c = opened.hello()
        body = bytes(c.server[MAX_FRAME] + more)
        return c.send(c.request(fields=c.fields("POST"), end=False), data(1, body))

    case("http2/4.2/1", "RFC 9113 4.2", "DATA of 2^14 octets")(lambda o: sized(o, 0).answer())
    case("http2/4.2/2", "RFC 9113 4.2", "DATA beyond SETTINGS_MAX_FRAME_SIZE")(
        lambda o: sized(o, 1).stream_error(FRAME_SIZE)
    )

    @case("http2/4.2/3", "RFC 9113 4.2", "HEADERS beyond SETTINGS_MAX_FRAME_SIZE")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(fields=c.fields(more=c.dummies(6)))).connection_error(FRAME_SIZE)

    case("http2/4.3/1", "RFC 9113 4.3", "field block that breaks off")(
        lambda o: o.hello().send(frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x40")).connection_error(COMPRESSION)
    )
    _interrupted(suite, "http2/4.3", 2, "RFC 9113 4.3")
    _interrupted(suite, "http2/6.2", 1, "RFC 9113 6.2")


def _interrupted(suite, section, number, source):
    """h2spec asks the same two questions in sections 4.3 and 6.2."""

    def interrupted(opened, between):
        c = opened.hello()
        first = c.request(end=False, ended=False)
        second = between(c)
        return c.send(first, second, c.continuation(1, True, c.block(c.dummies()))).connection_error(PROTOCOL)

    suite.case(f"{section}/{number}", source, "PRIORITY within a field block")(
        lambda o: interrupted(o, lambda c: priority(1, 0))
    )
    suite.case(f"{section}/{number + 1}", source, "HEADERS of another stream within a field block")(
        lambda o: interrupted(o, lambda c: c.request(3))
    )


def _stream_states(suite):
    def case(number, title, refused, *frames_of):
        suite.case(f"http2/5.1/{number}", "RFC 9113 5.1", title)(lambda o: refused(o.hello()))

    def half_closed(c, more):
        return c.send(c.request(), more(c))

    def reset(c, more):
        return c.send(c.request(end=False), rst(1, CANCEL), more(c))

    def closed(c, more):
        c.send(c.request()).stream_end()
        return c.send(more(c))

    body = lambda c: data(1, b"test")
    again = lambda c: c.request()
    rest = lambda c: c.continuation(1, True, c.block(c.dummies()))
    case(1, "idle: DATA", lambda c: c.send(body(c)).stream_error(PROTOCOL, CLOSED))
    case(2, "idle: RST_STREAM", lambda c: c.send(rst(1, CANCEL)).connection_error(PROTOCOL))
    case(3, "idle: WINDOW_UPDATE", lambda c: c.send(window_update(1, 100)).connection_error(PROTOCOL))
    case(4, "idle: CONTINUATION", lambda c: c.send(rest(c)).connection_error(PROTOCOL))
    case(5, "half-closed (remote): DATA", lambda c: half_closed(c, body).stream_error(CLOSED))
    case(6, "half-closed (remote): HEADERS", lambda c: half_closed(c, again).stream_error(CLOSED))
    case(7, "half-closed (remote): CONTINUATION", lambda c: half_closed(c, rest).stream_error(CLOSED, PROTOCOL))
    case(8, "reset: DATA", lambda c: reset(c, body).stream_error(CLOSED))
    case(9, "reset: HEADERS", lambda c: reset(c, again).stream_error(CLOSED))
    case(10, "reset: CONTINUATION", lambda c: reset(c, rest).stream_error(CLOSED, PROTOCOL))
    case(11, "closed: DATA", lambda c: closed(c, body).stream_error(CLOSED))
    case(12, "closed: HEADERS", lambda c: closed(c, again).connection_error(CLOSED))
    case(13, "closed: CONTINUATION", lambda c: closed(c, rest).connection_error(CLOSED, PROTOCOL))


def _streams(suite):
    case = suite.case

    @case("http2/5.1.1/1", "RFC 9113 5.1.1", "stream of an even number")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(2)).connection_error(PROTOCOL)

    @case("http2/5.1.1/2", "RFC 9113 5.1.1", "stream of a lower number than one before")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(5), c.request(3)).connection_error(PROTOCOL)

    @case("http2/5.1.2/1", "RFC 9113 5.1.2", "more streams than SETTINGS_MAX_CONCURRENT_STREAMS")
    def _(opened):
        c = opened.hello()
        expect(MAX_STREAMS in c.server, "no limit of streams is told")
        c.send(settings((INITIAL_WINDOW, 0)))
        c.send(*(c.request(2 * i + 1) for i in range(c.server[MAX_STREAMS] + 1)))
        return c.stream_error(PROTOCOL, REFUSED)

    @case("http2/5.3.1/1", "RFC 7540 5.3.1", "HEADERS that depends on itself")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(flags=PRIORITIZED, before=weighted(1))).stream_error(PROTOCOL)

    case("http2/5.3.1/2", "RFC 7540 5.3.1", "PRIORITY that depends on itself")(
        lambda o: o.hello().send(priority(1, 1)).stream_error(PROTOCOL)
    )
    wrong = frame(PING, 0, 3, bytes(8))
    case("http2/5.4.1/1", "RFC 9113 5.4.1", "a connection error closes the connection")(
        lambda o: o.hello().send(wrong).close()
    )
    case("http2/5.4.1/2", "RFC 9113 5.4.1", "a connection error is told by GOAWAY")(
        lambda o: o.hello().send(wrong).wait(read.GoAwayFrame) and None
    )
    case("http2/5.5/1", "RFC 9113 5.5", "unknown frame")(
        lambda o: o.hello().send(frame(UNKNOWN, 0, 0, bytes(8)), ping()).pong()
    )

    @case("http2/5.5/2", "RFC 9113 5.5", "unknown frame within a field block")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(ended=False), frame(UNKNOWN, 0, 0, bytes(8))).connection_error(PROTOCOL)


def _data_and_headers(suite):
    case = suite.case
    case("http2/6.1/1", "RFC 9113 6.1", "DATA on stream 0")(
        lambda o: o.hello().send(data(0, b"test")).connection_error(PROTOCOL)
    )

    @case("http2/6.1/2", "RFC 9113 6.1", "DATA on a stream that has ended")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(fields=c.fields("POST")), data(1, b"test")).stream_error(CLOSED)

    @case("http2/6.1/3", "RFC 9113 6.1", "DATA with more padding than payload")
    def _(opened):
        c = opened.hello()
        head = c.request(fields=c.fields("POST", [("content-length", "4")]), end=False)
        return c.send(head, frame(DATA, PADDED | END_STREAM, 1, b"\x06Test")).connection_error(PROTOCOL)

    case("http2/6.2/3", "RFC 9113 6.2", "HEADERS on stream 0")(
        lambda o: (lambda c: c.send(c.request(0)).connection_error(PROTOCOL))(o.hello())
    )

    @case("http2/6.2/4", "RFC 9113 6.2", "HEADERS with more padding than payload")
    def _(opened):
        c = opened.hello()
        block = c.block(c.fields())
        return c.send(c.request(flags=PADDED, block=bytes([len(block) + 2]) + block)).stream_error(PROTOCOL)


def _small_frames(suite):
    case = suite.case

    def refused(name, title, wrong, *codes, stream=False, asked=False):
        def run(opened):
            c = opened.hello()
            c.send(*([c.request()] if asked else []), wrong)
            return c.stream_error(*codes) if stream else c.connection_error(*codes)

        case(f"http2/{name}", f"RFC 9113 {name.split('/')[0]}", title)(run)

    refused("6.3/1", "PRIORITY on stream 0", priority(0, 0), PROTOCOL)
    refused("6.3/2", "PRIORITY of 4 octets", frame(PRIORITY, 0, 1, b"\x80\0\0\1"), FRAME_SIZE, stream=True, asked=True)
    refused("6.4/1", "RST_STREAM on stream 0", rst(0, CANCEL), PROTOCOL)
    refused("6.4/2", "RST_STREAM on an idle stream", rst(1, CANCEL), PROTOCOL)
    refused("6.4/3", "RST_STREAM of 3 octets", frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE, stream=True, asked=True)
    refused("6.5/1", "SETTINGS with ACK and payload", frame(SETTINGS, 1, 0, b"\0"), FRAME_SIZE)
    refused("6.5/2", "SETTINGS on a stream", frame(SETTINGS, 0, 1, b"\0\3\0\0\0\x64"), PROTOCOL)
    refused("6.5/3", "SETTINGS of 3 octets", frame(SETTINGS, 0, 0, b"\0\3\0"), PROTOCOL, FRAME_SIZE, stream=True)
    refused("6.5.2/1", "ENABLE_PUSH of 2", settings((ENABLE_PUSH, 2)), PROTOCOL)
    refused("6.5.2/2", "INITIAL_WINDOW_SIZE of 2^31", settings((INITIAL_WINDOW, 1 << 31)), FLOW_CONTROL)
    refused("6.5.2/3", "MAX_FRAME_SIZE of 2^14-1", settings((MAX_FRAME, 16383)), PROTOCOL)
    refused("6.5.2/4", "MAX_FRAME_SIZE of 2^24", settings((MAX_FRAME, 1 << 24)), PROTOCOL)
    case("http2/6.5.2/5", "RFC 9113 6.5.2", "unknown parameter")(
        lambda o: o.hello().send(settings((0xFF, 1)), ping()).pong()
    )

    @case("http2/6.5.3/1", "RFC 9113 6.5.3", "the last of two INITIAL_WINDOW_SIZE counts")
    def _(opened):
        c = opened.hello()
        c.send(settings((INITIAL_WINDOW, 100), (INITIAL_WINDOW, 1))).settings_ack()
        return c.send(c.request()).data_of(1)

    case("http2/6.5.3/2", "RFC 9113 6.5.3", "SETTINGS is acknowledged")(
        lambda o: o.hello().send(settings((ENABLE_PUSH, 0))).settings_ack()
    )
    case("http2/6.7/1", "RFC 9113 6.7", "PING is answered with its payload")(lambda o: o.hello().send(ping()).pong())
    case("http2/6.7/2", "RFC 9113 6.7", "PING with ACK is not answered")(
        lambda o: o.hello().send(ping(b"answered", ack=True), ping()).pong()
    )
    refused("6.7/3", "PING on a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL)
    refused("6.7/4", "PING of 6 octets", frame(PING, 0, 0, bytes(6)), FRAME_SIZE)
    refused("6.8/1", "GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL)
    refused("6.9/1", "WINDOW_UPDATE of 0", window_update(0, 0), PROTOCOL)

    @case("http2/6.9/2", "RFC 9113 6.9", "WINDOW_UPDATE of 0 on a stream")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(end=False), window_update(1, 0)).stream_error(PROTOCOL)

    refused("6.9/3", "WINDOW_UPDATE of 3 octets", frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"), FRAME_SIZE)

    def continued(number, title, run):
        case(f"http2/6.10/{number}", "RFC 9113 6.10", title)(lambda o: run(o.hello()))

    def more(c, stream=1, ended=True):
        return c.continuation(stream, ended, c.block(c.dummies()))

    continued(1, "several CONTINUATION", lambda c: c.send(c.request(ended=False), more(c, 1, False), more(c)).answer())
    continued(
        2,
        "DATA behind an unfinished CONTINUATION",
        lambda c: c.send(c.request(end=False, ended=False), more(c, 1, False), data(1, b"test")).connection_error(PROTOCOL),
    )
    continued(3, "on stream 0", lambda c: c.send(c.request(ended=False), more(c, 0)).connection_error(PROTOCOL))
    continued(4, "behind a finished HEADERS", lambda c: c.send(c.request(), more(c)).connection_error(PROTOCOL))
    continued(
        5,
        "behind a finished CONTINUATION",
        lambda c: c.send(c.request(ended=False), more(c), more(c)).connection_error(PROTOCOL),
    )
    continued(
        6,
        "behind DATA within a field block",
        lambda c: c.send(c.request(end=False, ended=False), data(1, b"test"), more(c)).connection_error(PROTOCOL),
    )


def _flow_control(suite):
    case = suite.case
    most = (1 << 31) - 1

    @case("http2/6.9.1/1", "RFC 9113 6.9.1", "a window of 1 lets 1 octet pass")
    def _(opened):
        c = opened.hello()
        c.send(settings((INITIAL_WINDOW, 1))).settings_ack()
        return c.send(c.request()).data_of(1)

    @case("http2/6.9.1/2", "RFC 9113 6.9.1", "the connection's window beyond 2^31-1")
    def _(opened):
        c = opened.hello()
        c.send(window_update(0, most), window_update(0, most))
        got = c.wait(read.GoAwayFrame, lambda got: got.error_code == FLOW_CONTROL)
        return f"GOAWAY {code_name(got.error_code)}"

    @case("http2/6.9.1/3", "RFC 9113 6.9.1", "a stream's window beyond 2^31-1")
    def _(opened):
        c = opened.hello()
        c.send(c.request(end=False), window_update(1, most), window_update(1, most))
        got = c.wait(read.RstStreamFrame, lambda got: (got.stream_id, got.error_code) == (1, FLOW_CONTROL))
        return f"RST_STREAM {code_name(got.error_code)}"

    @case("http2/6.9.2/1", "RFC 9113 6.9.2", "INITIAL_WINDOW_SIZE is raised behind HEADERS")
    def _(opened):
        c = opened.hello()
        c.send(settings((INITIAL_WINDOW, 0))).settings_ack()
        return c.send(c.request(), settings((INITIAL_WINDOW, 1))).data_of(1)

    @case("http2/6.9.2/2", "RFC 9113 6.9.2", "a window that becomes negative")
    def _(opened):
        c = opened.hello()
        c.send(settings((INITIAL_WINDOW, 3))).settings_ack()
        c.send(c.request()).data_of(3)
        c.send(settings((INITIAL_WINDOW, 2))).settings_ack()
        return c.send(window_update(1, 2)).data_of(1)

    case("http2/6.9.2/3", "RFC 9113 6.9.2", "INITIAL_WINDOW_SIZE of 2^31")(
        lambda o: o.hello().send(settings((INITIAL_WINDOW, 1 << 31))).connection_error(FLOW_CONTROL)
    )


def _messages(suite):
    case = suite.case
    case("http2/7/1", "RFC 9113 7", "GOAWAY with an unknown code")(
        lambda o: o.hello().send(goaway(0, 0xFF), ping()).pong_or_close()
    )

    @case("http2/7/2", "RFC 9113 7", "RST_STREAM with an unknown code")
    def _(opened):
        c = opened.hello()
        return c.send(c.request(fields=c.fields("POST"), end=False), rst(1, 0xFF), ping()).pong_or_close()

    def malformed(name, source, title, change):
        """`change` makes the wrong fields of the right ones."""

        def run(opened):
            c = opened.hello()
            return c.send(c.request(fields=change(c.fields()))).stream_error(PROTOCOL)

        case(f"http2/{name}", f"RFC 9113 {source}", title)(run)

    def trailed(name, source, title, trailers):
        def run(opened):
            c = opened.hello()
            head = c.request(fields=c.fields("POST"), end=False)
            return c.send(head, data(1, b"test", False), c.request(fields=trailers, end=False)).stream_error(PROTOCOL)

        case(f"http2/{name}", f"RFC 9113 {source}", title)(run)

    def without(pseudo):
        return lambda fields: [field for field in fields if field[0] != pseudo]

    def twice(pseudo):
        return lambda fields: [*fields, *(field for field in fields if field[0] == pseudo)]

    trailed("8.1/1", "8.1", "a second HEADERS without END_STREAM", [("x-test", "ok")])
    malformed("8.1.2/1", "8.2.1", "a field's name in upper case", lambda f: [*f, ("X-TEST", "ok")])
    malformed("8.1.2.1/1", "8.3", "unknown pseudo-field", lambda f: [*f, (":test", "ok")])
    malformed("8.1.2.1/2", "8.3", "pseudo-field of responses", lambda f: [*f, (":status", "200")])
    trailed("8.1.2.1/3", "8.3", "pseudo-field in trailers", [(":method", "POST")])
    malformed("8.1.2.1/4", "8.3", "pseudo-fields behind a field", lambda f: [("x-test", "ok"), *f])
    malformed("8.1.2.2/1", "8.2.2", "field of the connection", lambda f: [*f, ("connection", "keep-alive")])
    te = [("trailers", "test"), ("te", "trailers, deflate")]
    malformed("8.1.2.2/2", "8.2.2", "te of more than trailers", lambda f: [*f, *te])
    malformed("8.1.2.3/1", "8.3.1", ":path empty", lambda f: [(n, "" if n == ":path" else v) for n, v in f])
    malformed("8.1.2.3/2", "8.3.1", ":method missing", without(":method"))
    malformed("8.1.2.3/3", "8.3.1", ":scheme missing", without(":scheme"))
    malformed("8.1.2.3/4", "8.3.1", ":path missing", without(":path"))
    malformed("8.1.2.3/5", "8.3.1", ":method twice", twice(":method"))
    malformed("8.1.2.3/6", "8.3.1", ":scheme twice", twice(":scheme"))
    malformed("8.1.2.3/7", "8.3.1", ":path twice", twice(":path"))

    def longer(number, *bodies):
        def run(opened):
            c = opened.hello()
            head = c.request(fields=c.fields("POST", [("content-length", "1")]), end=False)
            return c.send(head, *bodies).stream_error(PROTOCOL)

        case(f"http2/8.1.2.6/{number}", "RFC 9113 8.1.1", f"content-length 1, {4 * number} octets in {number} DATA")(run)

    longer(1, data(1, b"test"))
    longer(2, data(1, b"test", False), data(1, b"test"))

    @case("http2/8.2/1", "RFC 9113 8.4", "PUSH_PROMISE of a client")
    def _(opened):
        c = opened.hello()
        promise = frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\3" + c.block(c.fields()))
        return c.send(promise).connection_error(PROTOCOL)
