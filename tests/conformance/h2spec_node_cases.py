"""The cases of h2spec_node.py. `client/` are h2spec's; `answer/` are our own: malformed answers, of which no client may get a whole
one; and so are `request/`: what a request of HTTP/1 becomes.
"""

from hyperframe import frame as read

from frames import (
    CANCEL,
    CLOSED,
    COMPRESSION,
    DATA,
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
    PRIORITY,
    PROTOCOL,
    PUSH_PROMISE,
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
    window_update,
)
from report import expect

UNKNOWN = 0x16


def declare(suite):
    _connections(suite)
    _streams(suite)
    _frames(suite)
    _answers(suite)
    _requests(suite)


def _connections(suite):
    def case(name, title, run):
        suite.case(f"client/{name}", f"RFC 9113 {name.split('/')[0]}", title)(lambda o: run(o.hello()))

    case("1/1", "the server's preface", lambda c: c.send(ping()).pong())
    case("4.1/1", "frame of an unknown type", lambda c: c.send(frame(UNKNOWN, 0, 0, bytes(8)), ping()).pong())
    flagged = lambda stream: lambda c: c.send(frame(PING, UNKNOWN, stream, bytes(8))).wait(read.PingFrame) and None
    case("4.1/2", "frame with undefined flags", flagged(0))
    case("4.1/3", "frame with the reserved bit", flagged(0x80000000))

    def sized(c, more):
        return c.send(c.request(end=False), data(1, bytes(c.server[MAX_FRAME] + more)), ping())

    case("4.2/1", "DATA of 2^14 octets", lambda c: sized(c, 0).pong())
    case("4.2/2", "DATA beyond SETTINGS_MAX_FRAME_SIZE", lambda c: sized(c, 1).stream_error(FRAME_SIZE))
    large = lambda c: c.send(c.request(fields=c.fields(c.dummies(6)))).connection_error(FRAME_SIZE)
    case("4.2/3", "HEADERS beyond SETTINGS_MAX_FRAME_SIZE", large)
    broken = frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x40")
    case("4.3/1", "field block that breaks off", lambda c: c.send(broken).connection_error(COMPRESSION))
    wrong = frame(PING, 0, 3, bytes(8))
    case("5.4.1/1", "a connection error closes the connection", lambda c: c.send(wrong).close())
    case("5.4.1/2", "a connection error is told by GOAWAY", lambda c: c.send(wrong).wait(read.GoAwayFrame) and None)
    case("5.5/1", "unknown frame", lambda c: c.send(frame(UNKNOWN, 0, 0, bytes(8)), ping()).pong())


def _streams(suite):
    def case(number, title, run):
        suite.case(f"client/5.1/{number}", "RFC 9113 5.1", title)(lambda o: run(o.hello()))

    more = lambda c: c.continuation(1, True, c.block(c.dummies()))
    reset = lambda c, last: c.send(c.request(end=False), rst(1, CANCEL), last(c))
    closed = lambda c, last: c.send(c.request(), last(c))
    body, again = lambda c: data(1, b"test"), lambda c: c.request()
    case(1, "idle: DATA", lambda c: c.send(data(2, b"test")).connection_error(PROTOCOL))
    case(2, "idle: RST_STREAM", lambda c: c.send(rst(2, CANCEL)).connection_error(PROTOCOL))
    case(3, "idle: WINDOW_UPDATE", lambda c: c.send(window_update(2, 100)).connection_error(PROTOCOL))
    idle = lambda c: c.send(c.continuation(2, True, c.block(c.fields()))).connection_error(PROTOCOL)
    case(4, "idle: CONTINUATION", idle)
    case(5, "reset: DATA", lambda c: reset(c, body).stream_error(CLOSED))
    case(6, "reset: HEADERS", lambda c: reset(c, again).stream_error(CLOSED))
    case(7, "reset: CONTINUATION", lambda c: reset(c, more).stream_error(CLOSED, PROTOCOL))
    case(8, "closed: DATA", lambda c: closed(c, body).connection_error(CLOSED))
    case(9, "closed: HEADERS", lambda c: closed(c, again).connection_error(CLOSED))
    case(10, "closed: CONTINUATION", lambda c: closed(c, more).connection_error(CLOSED, PROTOCOL))
    suite.case("client/5.1.1/1", "RFC 9113 5.1.1", "stream that was not asked for")(
        lambda o: (lambda c: c.send(c.request(101)).connection_error(PROTOCOL))(o.hello())
    )


def _frames(suite):
    def case(name, title, run):
        suite.case(f"client/{name}", f"RFC 9113 {name.split('/')[0]}", title)(lambda o: run(o.hello()))

    def refused(name, title, wrong, *codes, stream=False, answered=None):
        """`answered`: the head goes first; True where the answer ends with it."""

        def run(c):
            c.send(*([] if answered is None else [c.request(end=answered)]), wrong)
            return c.stream_error(*codes) if stream else c.connection_error(*codes)

        case(name, title, run)

    refused("6.1/1", "DATA on stream 0", data(0, b"test"), PROTOCOL)
    refused("6.1/2", "DATA on a stream that has ended", data(1, b"test"), CLOSED, stream=True, answered=True)

    def padded(c):
        head = c.request(fields=c.fields([("content-length", "4")]), end=False)
        return c.send(head, frame(DATA, PADDED | END_STREAM, 1, b"\x06Test")).connection_error(PROTOCOL)

    case("6.1/3", "DATA with more padding than payload", padded)
    more = lambda c, stream=1, ended=True: c.continuation(stream, ended, c.block(c.dummies()))

    def begun(c, *rest, end=True):
        return c.send(c.request(end=end, ended=False), *rest)

    case("6.2/1", "PRIORITY within a field block", lambda c: begun(c, priority(1, 0), end=False).connection_error(PROTOCOL))
    case("6.2/2", "HEADERS on stream 0", lambda c: c.send(c.request(0)).connection_error(PROTOCOL))
    overlong = lambda c: c.send(frame(HEADERS, PADDED, 1, b"\x11" + c.block(c.fields()))).stream_error(PROTOCOL)
    case("6.2/3", "HEADERS with more padding than payload", overlong)
    refused("6.3/1", "PRIORITY on stream 0", priority(0, 0), PROTOCOL)
    refused("6.3/2", "PRIORITY of 4 octets", frame(PRIORITY, 0, 1, b"\x80\0\0\1"), FRAME_SIZE, stream=True, answered=False)
    refused("6.4/1", "RST_STREAM on stream 0", rst(0, CANCEL), PROTOCOL)
    refused("6.4/2", "RST_STREAM on an idle stream", rst(2, CANCEL), PROTOCOL)
    refused("6.4/3", "RST_STREAM of 3 octets", frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE, stream=True, answered=False)
    refused("6.5/1", "SETTINGS with ACK and payload", frame(SETTINGS, 1, 0, b"\0"), FRAME_SIZE)
    refused("6.5/2", "SETTINGS on a stream", frame(SETTINGS, 0, 1, b"\0\3\0\0\0\x64"), PROTOCOL)
    refused("6.5/3", "SETTINGS of 3 octets", frame(SETTINGS, 0, 0, b"\0\3\0"), PROTOCOL, FRAME_SIZE, stream=True)
    refused("6.5.2/1", "INITIAL_WINDOW_SIZE of 2^31", settings((INITIAL_WINDOW, 1 << 31)), FLOW_CONTROL)
    refused("6.5.2/2", "MAX_FRAME_SIZE of 2^14-1", settings((MAX_FRAME, 16383)), PROTOCOL)
    refused("6.5.2/3", "MAX_FRAME_SIZE of 2^24", settings((MAX_FRAME, 1 << 24)), PROTOCOL)
    case("6.5.2/4", "unknown parameter", lambda c: c.send(settings((0xFF, 1)), ping()).pong())
    case("6.5.3/1", "SETTINGS is acknowledged", lambda c: c.send(settings((MAX_STREAMS, 100))).settings_ack())
    case("6.7/1", "PING is answered with its payload", lambda c: c.send(ping()).pong())
    case("6.7/2", "PING with ACK is not answered", lambda c: c.send(ping(b"answered", ack=True), ping()).pong())
    refused("6.7/3", "PING on a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL)
    refused("6.7/4", "PING of 6 octets", frame(PING, 0, 0, bytes(6)), FRAME_SIZE)
    refused("6.8/1", "GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL)
    refused("6.9/1", "WINDOW_UPDATE of 0", window_update(0, 0), PROTOCOL)
    refused("6.9/2", "WINDOW_UPDATE of 0 on a stream", window_update(1, 0), PROTOCOL, stream=True, answered=False)
    refused("6.9/3", "WINDOW_UPDATE of 3 octets", frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"), FRAME_SIZE)
    most = (1 << 31) - 1

    def connection_window(c):
        c.send(window_update(0, most), window_update(0, most))
        c.wait(read.GoAwayFrame, lambda got: got.error_code == FLOW_CONTROL)

    def stream_window(opened):
        # A stream whose request has ended has no window to speak of.
        c = opened.hello(unfinished=True)
        c.send(c.request(end=False), window_update(1, most), window_update(1, most))
        got = c.wait(read.RstStreamFrame)
        expect((got.stream_id, got.error_code) == (1, FLOW_CONTROL), f"RST_STREAM {code_name(got.error_code)}")

    case("6.9.1/1", "the connection's window beyond 2^31-1", connection_window)
    suite.case("client/6.9.1/2", "RFC 9113 6.9.1", "a stream's window beyond 2^31-1")(stream_window)
    case("6.10/1", "several CONTINUATION", lambda c: begun(c, more(c, 1, False), more(c), ping()).pong())
    unfinished = lambda c: begun(c, more(c, 1, False), data(1, b"test"), end=False).connection_error(PROTOCOL)
    case("6.10/2", "DATA behind an unfinished CONTINUATION", unfinished)
    case("6.10/3", "CONTINUATION on stream 0", lambda c: begun(c, more(c, 0)).connection_error(PROTOCOL))
    behind = lambda c: c.send(c.request(), more(c)).connection_error(PROTOCOL)
    case("6.10/4", "CONTINUATION behind a finished HEADERS", behind)
    twice = lambda c: begun(c, more(c), more(c)).connection_error(PROTOCOL)
    case("6.10/5", "CONTINUATION behind a finished CONTINUATION", twice)
    within = lambda c: begun(c, data(1, b"test"), more(c), end=False).connection_error(PROTOCOL)
    case("6.10/6", "CONTINUATION behind DATA within a field block", within)


def _answers(suite):
    number = 0

    def declared(section, title, send, accept):
        nonlocal number
        number += 1

        def run(opened):
            c = opened.hello()
            send(c)
            got = opened.told()
            c.socket.close()
            note = got if isinstance(got, str) else str(got[0])
            expect(accept(got), f"the client got {got}")
            return note

        suite.case(f"answer/{number}", f"RFC 9113 {section}", title)(run)

    def refused(section, title, send):
        """502, or an answer that breaks off."""
        declared(section, title, send, lambda got: isinstance(got, str) or got[0] == 502)

    def head(section, title, *fields, start=(":status", "200")):
        refused(section, title, lambda c: c.send(c.request(fields=[start, *fields] if start else list(fields))))

    head("8.3.2", ":status missing", ("x-a", "1"), start=None)
    head("8.3.2", ":status twice", (":status", "200"))
    head("8.3.2", ":status behind a field", (":status", "200"), start=("x-a", "1"))
    head("8.3.2", ":status that is no number", start=(":status", "abc"))
    head("8.3.2", ":status of 99", start=(":status", "99"))
    head("8.3", "unknown pseudo-field", (":other", "1"))
    head("8.6", "status 101", start=(":status", "101"))
    head("8.2.1", "a name in upper case", ("X-A", "1"))
    head("8.2.1", "CR LF in a value", ("x-a", b"1\r\nx-smuggled: 1"))
    head("8.2.1", "NUL in a value", ("x-a", b"1\0"))
    head("8.2.1", "colon in a name", ("x-a:", "1"))
    for name, value in (("connection", "close"), ("transfer-encoding", "chunked"), ("keep-alive", "1"), ("upgrade", "h2c")):
        head("8.2.2", f"{name}: {value}", (name, value))
    length = lambda n, *frames: lambda c: c.send(c.request(fields=c.fields([("content-length", n)]), end=False), *frames)
    refused("8.1.1", "content-length 5, 3 octets", length("5", data(1, b"abc")))
    refused("8.1.1", "content-length 3, 5 octets", length("3", data(1, b"abcde")))
    refused("8.1.1", "content-length 5, ended at once", lambda c: c.send(c.request(fields=c.fields([("content-length", "5")]))))
    refused("8.1", "DATA before HEADERS", lambda c: c.send(data(1, b"abc")))
    refused("8.1", "an answer that is reset", lambda c: c.send(c.request(end=False), data(1, b"abc", False), rst(1, 2)))
    refused("8.1", "an interim head that ends the stream", lambda c: c.send(c.request(fields=[(":status", "103")])))
    refused("8.4", "PUSH_PROMISE", lambda c: c.send(frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + c.block([(":method", "GET")]))))

    def passed(section, title, send, status, body):
        declared(section, title, send, lambda got: isinstance(got, tuple) and (got[0], got[2]) == (status, body))

    passed("8.3", "pseudo-field of requests: nothing of it passes", lambda c: c.send(c.request(fields=c.fields([(":path", "/")]))), 200, b"")
    passed("8.1", "head and body", lambda c: c.send(c.request(end=False), data(1, b"abc")), 200, b"abc")
    passed("8.1", "interim heads first", lambda c: c.send(c.request(fields=[(":status", "103")], end=False), c.request()), 200, b"")
    late = lambda c: c.send(c.request(end=False), data(1, b"abc", False), c.request(fields=[("x-t", "1")]))
    passed("8.1", "trailers stay here for HTTP/1 without te", late, 200, b"abc")

    def elsewhere(c):
        c.send(goaway(0, 0)).socket.close()
        other = c.opened.again()
        other.send(other.request())

    passed("6.8", "GOAWAY that leaves the request out: it is asked again", elsewhere, 200, b"")
    passed("6.8", "GOAWAY that lets the request end", lambda c: c.send(goaway(1, 0), c.request()), 200, b"")


def _requests(suite):
    number = 0

    def case(section, title, raw, wanted, body=b"", method="GET", path="/", authority="conform.test", unfinished=False):
        """`wanted`: the fields that the node gets beside pseudo-fields, `x-case` and `te`."""
        nonlocal number
        number += 1

        def run(opened):
            c = opened.hello(raw=raw, unfinished=unfinished)
            pseudo = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)]
            expect(sorted(c.asked[:4]) == sorted(pseudo), f"the node got {c.asked[:4]}")
            own = [("x-case", opened.path), *wanted]
            got = [field for field in c.asked[4:] if field != ("te", "trailers")]
            expect(sorted(got) == sorted(own), f"the node got {got}, not {own}")
            if unfinished:
                c.wait(read.RstStreamFrame)
                return c.story()
            received, ended = b"", c.ended
            while not ended:
                early = [got for got in c.early if isinstance(got, read.DataFrame)]
                c.early = early[1:]
                piece = early[0] if early else c.wait(read.DataFrame)
                received, ended = received + piece.data, "END_STREAM" in piece.flags
            expect(received == body, f"the node got the body {received!r}")
            c.send(c.request())
            told = opened.told()
            expect(told.startswith("HTTP/1.1 200 "), f"the client got {told!r}")
            return None

        suite.case(f"request/{number}", f"RFC 9113 {section}", title)(run)

    def head(*lines, line="GET / HTTP/1.1", host="conform.test"):
        return "\r\n".join([line, f"Host: {host}", "x-case: CASE", *lines]).encode("latin-1") + b"\r\n\r\n"

    case("8.3.1", "GET", head(), [])
    case("8.3.1", "a query, escapes, dots", head(line="GET /a/../%2e/b?c=%20&d HTTP/1.1"), [], path="/a/../%2e/b?c=%20&d")
    case("8.3.1", "a port, a name in upper case", head(host="Conform.TEST:81"), [], authority="Conform.TEST:81")
    case("8.2.1", "names in upper case, bytes beyond ASCII", head("X-A: \xe4\tb", "x-A: 2"), [("x-a", "\xe4\tb"), ("x-a", "2")])
    hops = "Connection: X-Hop, keep-alive", "X-Hop: 1", "Keep-Alive: 5", "Proxy-Connection: x", "TE: gzip", "X-Own: 1"
    case("8.2.2", "fields of the connection stay here", head(*hops), [("x-own", "1")])
    upgrade = "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"
    case("8.2.2", "an upgrade to h2c stays here", head(*upgrade), [])
    post = "POST / HTTP/1.1"
    length = head("Content-Length: 5", line=post) + b"hello"
    case("8.1.1", "a body of a length", length, [("content-length", "5")], b"hello", "POST")
    chunks = head("Transfer-Encoding: chunked", line=post) + b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    case("8.1", "chunks", chunks, [], b"hello", "POST")
    inner = b"\0\0\x05\1\5\0\0\0\3\x82\x86\x84\x41\0"
    framed = head(f"Content-Length: {len(inner)}", line=post) + inner
    case("8.1", "a frame within a body stays there", framed, [("content-length", str(len(inner)))], inner, "POST")
    waits = head("Content-Length: 5", "Expect: 100-continue", line=post) + b"hello"
    case("8.1", "Expect stays here", waits, [("content-length", "5")], b"hello", "POST")
    cut = head("Content-Length: 9", line=post) + b"hello"
    case("8.1", "a body that breaks off is reset", cut, [("content-length", "9")], b"", "POST", unfinished=True)
    cut = head("Transfer-Encoding: chunked", line=post) + b"9\r\nhello"
    case("8.1", "chunks that break off are reset", cut, [], b"", "POST", unfinished=True)
