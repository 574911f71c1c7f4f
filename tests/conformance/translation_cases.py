"""The cases of translation.py."""

from frames import data
from report import expect

INSIDE = b"GET /smuggled HTTP/1.1\r\nHost: conform.test\r\nx-smuggled: 1\r\n\r\n"
"""A request within a body: it must stay there. No backend may see it as one of its own."""


def declare(suite, refused):
    _refused_heads(suite, refused)
    _refused_bodies(suite, refused)
    _passed(suite)


def _refused_heads(suite, kept):
    numbers = {}

    def refused(section, title, fields):
        numbers[section] = numbers.get(section, 0) + 1

        def run(attempt):
            kept.append(attempt)
            attempt.send(fields(attempt))
            return attempt.refused()

        suite.case(f"{section}/{numbers[section]}", f"RFC 9113 {section}", title)(run)

    def field(section, title, name, value=b"v"):
        refused(section, title, lambda a: a.fields(more=[(name, value)]))

    # 8.2.1: names and values.
    for what, byte in ("CR", b"\r"), ("LF", b"\n"), ("NUL", b"\0"), ("CR LF and a field", b"\r\nx-smuggled: 1"):
        field("8.2.1", f"{what} in a value", "x-a", b"a" + byte + b"b")
    field("8.2.1", "CR LF CR LF and a request in a value", "x-a", b"a\r\n\r\n" + INSIDE)
    field("8.2.1", "LF at a value's end", "x-a", b"a\n")
    field("8.2.1", "space before a value", "x-a", b" a")
    field("8.2.1", "space behind a value", "x-a", b"a ")
    field("8.2.1", "tab before a value", "x-a", b"\ta")
    field("8.2.1", "a value of one space", "x-a", b" ")
    field("8.2.1", "DEL in a value", "x-a", b"a\x7fb")
    for what, name in (
        ("upper case", b"X-a"),
        ("CR LF and a field", b"x-a: 1\r\nx-smuggled"),
        ("NUL", b"x\0a"),
        ("space", b"x a"),
        ("space at the end", b"transfer-encoding "),
        ("colon", b"x:a"),
        ("colon at the end", b"transfer-encoding:"),
        ("byte beyond ASCII", b"x-\xc3\xa4"),
        ("nothing", b""),
    ):
        field("8.2.1", f"{what} in a name", name)

    # 8.2.2: fields of the connection.
    for name, value in (
        (b"connection", b"close"),
        (b"connection", b"x-case"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
        (b"te", b"trailers;q=0.5"),
    ):
        field("8.2.2", f"{name.decode()}: {value.decode()}", name, value)
    refused("8.2.2", "te: trailers and te: gzip", lambda a: a.fields(more=[("te", "trailers"), ("te", "gzip")]))

    # 8.3: pseudo-fields.
    def changed(pseudo, value):
        return lambda a: [(n, value if n == pseudo else v) for n, v in a.fields()]

    def added(*more):
        return lambda a: [*a.fields()[:4], *more, *a.fields()[4:]]

    refused("8.3", ":authority twice", added((":authority", "conform.test")))
    refused("8.3", ":authority twice, of two hosts", added((":authority", "other.test")))
    refused("8.3", ":path twice", added((":path", "/other")))
    refused("8.3", ":protocol without CONNECT", added((":protocol", "websocket")))
    refused("8.3", "unknown pseudo-field", added((":host", "other.test")))
    refused("8.3", "pseudo-field behind a field", lambda a: [*a.fields()[:3], ("x-b", "1"), *a.fields()[3:]])
    refused("8.3", "no pseudo-fields", lambda a: a.fields()[4:])

    # 8.3.1: of requests.
    for what, value in (
        ("empty", b""),
        ("without /", b"x"),
        ("absolute", b"http://other.test/"),
        ("* of GET", b"*"),
        ("with space", b"/a b"),
        ("with a version and a field", b"/a HTTP/1.1\r\nx-smuggled: 1\r\n\r\n"),
        ("with CR", b"/a\rb"),
        ("with LF", b"/a\nb"),
        ("with NUL", b"/a\0b"),
        ("with tab", b"/a\tb"),
        ("with DEL", b"/a\x7fb"),
        ("above the root", b"/../.."),
    ):
        refused("8.3.1", f":path {what}", changed(":path", value))
    for what, value in (
        ("empty", b""),
        ("with space", b"GET /smuggled HTTP/1.1 x"),
        ("with CR LF", b"GET / HTTP/1.1\r\nx-smuggled: 1\r\n\r\nGET"),
        ("with NUL", b"GE\0T"),
        ("with colon", b"GET:"),
    ):
        refused("8.3.1", f":method {what}", changed(":method", value))
    for what, value in (
        ("empty", b""),
        ("with slash", b"http://other.test/"),
        ("with CR LF", b"http\r\nx-smuggled: 1"),
        ("with space", b"ht tp"),
    ):
        refused("8.3.1", f":scheme {what}", changed(":scheme", value))
    for what, value in (
        ("with userinfo", b"user@conform.test"),
        ("with user and password", b"user:pass@conform.test"),
        ("with slash", b"conform.test/x"),
        ("with question mark", b"conform.test?x"),
        ("with fragment", b"conform.test#x"),
        ("with space", b"conform.test other"),
        ("with CR LF", b"conform.test\r\nx-smuggled: 1"),
        ("with NUL", b"conform\0.test"),
        ("of two hosts", b"conform.test,other.test"),
        ("with a wrong port", b"conform.test:80x"),
        ("empty", b""),
    ):
        refused("8.3.1", f":authority {what}", changed(":authority", value))
    refused("8.3.1", "host differs from :authority", lambda a: a.fields(more=[("host", "other.test")]))
    refused("8.3.1", "host differs in its port", lambda a: a.fields(more=[("host", "conform.test:81")]))
    twice = [("host", "conform.test"), ("host", "conform.test")]
    refused("8.3.1", "host twice", lambda a: a.fields(more=twice))
    refused("8.3.1", "host twice, of two hosts", lambda a: a.fields(more=[*twice[:1], ("host", "other.test")]))
    bare = lambda a, *more: [f for f in a.fields(more=more) if f[0] != ":authority"]
    refused("8.3.1", "neither :authority nor host", lambda a: bare(a))
    refused("8.3.1", "host empty, no :authority", lambda a: bare(a, ("host", "")))
    refused("8.3.1", "host twice, no :authority", lambda a: bare(a, ("host", "a.test"), ("host", "b.test")))
    refused("8.3.1", "host with a list, no :authority", lambda a: bare(a, ("host", "a.test, b.test")))
    refused("8.3.1", "host with a path, no :authority", lambda a: bare(a, ("host", "a.test/x")))

    # 8.5 and RFC 8441: CONNECT.
    refused("8.5", "CONNECT", lambda a: [(":method", "CONNECT"), (":authority", "other.test:443"), ("x-case", a.mark)])
    refused("8.5", "CONNECT with :path and :scheme", lambda a: a.fields("CONNECT"))
    refused("8.5", "CONNECT without :authority", lambda a: [(":method", "CONNECT"), ("x-case", a.mark)])
    extended = lambda a, protocol: [*a.fields("CONNECT")[:4], (":protocol", protocol), ("x-case", a.mark)]
    refused("8.5", "extended CONNECT of an unknown protocol", lambda a: extended(a, "connect-udp"))
    refused("8.5", "extended CONNECT with CR LF in :protocol", lambda a: extended(a, b"websocket\r\nx-smuggled: 1"))
    refused("8.5", "extended CONNECT without :path", lambda a: [f for f in extended(a, "websocket") if f[0] != ":path"])
    refused(
        "8.5", "extended CONNECT without :scheme", lambda a: [f for f in extended(a, "websocket") if f[0] != ":scheme"]
    )


def _refused_bodies(suite, kept):
    """8.1.1: `content-length` and what comes. Whole requests are refused; where bytes had passed, the backend sees no whole one."""
    number = 0

    def case(title):
        nonlocal number
        number += 1
        return suite.case(f"8.1.1/{number}", "RFC 9113 8.1.1", title)

    def refused(title, lengths, *bodies, **how):
        def run(attempt):
            kept.append(attempt)
            attempt.send(attempt.fields("POST", more=[("content-length", n) for n in lengths]), bodies, **how)
            return attempt.refused()

        case(title)(run)

    def broken(title, lengths, *bodies, **how):
        def run(attempt):
            attempt.send(attempt.fields("POST", more=[("content-length", n) for n in lengths]), bodies, **how)
            got = attempt.outcome()
            reached = attempt.backend.holding(attempt.mark.encode())
            allowed = int(lengths[0])
            for message in reached:
                expect(len(message.body) <= allowed, f"the backend got the body {message.body!r}")
                expect(not message.whole or len(b"".join(bodies)) > allowed, "the backend got a whole request")
            return got if isinstance(got, str) else str(got[0])

        case(title)(run)

    refused("content-length 5, ended at once", ["5"])
    broken("content-length 1, an empty DATA", ["1"], b"")
    broken("content-length 5, 3 octets", ["5"], b"abc")
    broken("content-length 5, 3 octets and trailers", ["5"], b"abc", trailers=[("x-trailer", "1")])
    broken("content-length 3, 5 octets", ["3"], b"abcde")
    broken("content-length 3, 3 octets and a request", ["3"], b"abc", INSIDE)
    broken("content-length 0, a request", ["0"], INSIDE)
    refused("two equal content-lengths", ["3", "3"], b"abc")
    refused("two content-lengths", ["3", "4"], b"abc")
    for value in ("3, 3", "3,4", "+3", "-3", "0x3", "3a", "", "3 3", "3.0", "18446744073709551619", "9" * 30):
        refused(f"content-length {value or 'empty'!r}", [value], b"abc")

    @case("content-length and transfer-encoding")
    def _(attempt):
        kept.append(attempt)
        attempt.send(attempt.fields("POST", more=[("content-length", "3"), ("transfer-encoding", "chunked")]), [b"0\r\n"])
        return attempt.refused()

    @case("pseudo-field in trailers: nothing of it passes")
    def _(attempt):
        attempt.send(attempt.fields("POST"), [b"abc"], trailers=[(":path", "/other"), ("x-trailer", "1")])
        got = attempt.outcome()
        for message in attempt.backend.holding(attempt.mark.encode()):
            wanted = attempt.head("POST /", [], True, None)
            expect(message.head == wanted and message.body in (b"abc", b""), f"the backend got {message.head!r}")
        return got if isinstance(got, str) else str(got[0])

    @case("a body that is reset has no end")
    def _(attempt):
        attempt.send(attempt.fields("POST"), [b"abc"], end=False)
        attempt.c.send(b"\0\0\4\3\0\0\0\0\1\0\0\0\x08", data(0, b""))
        attempt.outcome()
        whole = [m for m in attempt.backend.holding(attempt.mark.encode()) if m.whole]
        expect(not whole, "the backend got a whole request")


def _passed(suite):
    number = 0

    def case(source, title):
        nonlocal number
        number += 1
        return suite.case(f"passed/{number}", source, title)

    def plain(source, title, fields, line, lines, host=None):
        def run(attempt):
            attempt.send(fields(attempt))
            attempt.passed(line, lines, host=host)

        case(source, title)(run)

    plain("RFC 9113 8.3.1", "GET", lambda a: a.fields(), "GET /", [])
    plain("RFC 9113 8.3.1", "GET with a query", lambda a: a.fields(path="/a/%20b?c=d&e"), "GET /a/%20b?c=d&e", [])
    plain("RFC 9113 8.3.1", "a path is passed as it came", lambda a: a.fields(path="//a/./b/%2e%2E/c"), "GET //a/./b/%2e%2E/c", [])
    plain("RFC 9113 8.3.1", "OPTIONS *", lambda a: a.fields("OPTIONS", "*"), "OPTIONS /", [])
    plain("RFC 9113 8.3.1", "an own method", lambda a: a.fields("MKCOL", "/x"), "MKCOL /x", [])
    more = [("x-b", "1"), ("accept", "*/*"), ("x-b", "2"), ("x-empty", "")]
    lines = ["x-b: 1", "x-b: 2", "accept: */*", "x-empty: "]
    plain("RFC 9110 5.3", "fields in their order, those of one name together", lambda a: a.fields(more=more), "GET /", lines)
    latin = [("x-b", b"\xc3\xa4\t\xff")]

    @case("RFC 9113 8.2.1", "bytes beyond ASCII in a value")
    def _(attempt):
        attempt.send(attempt.fields(more=latin))
        got = attempt.outcome()
        reached = attempt.backend.holding(attempt.mark.encode())
        expect(isinstance(got, tuple) and b"x-b: \xc3\xa4\t\xff\r\n" in reached[0].head, f"{got} {reached}")

    plain("RFC 9113 8.2.2", "te: trailers stays here", lambda a: a.fields(more=[("te", "trailers")]), "GET /", [])
    same = [("host", "conform.test"), ("x-b", "1")]
    plain("RFC 9113 8.3.1", "host equal to :authority", lambda a: a.fields(more=same), "GET /", ["x-b: 1"])
    plain("RFC 9113 8.3.1", "a port in :authority", lambda a: a.fields(authority="a.test:81"), "GET /", [], "a.test:81")
    plain("RFC 9113 8.3.1", "an address of IPv6", lambda a: a.fields(authority="[::1]:81"), "GET /", [], "[::1]:81")
    bare = lambda a: [f for f in a.fields(more=[("host", "b.test")]) if f[0] != ":authority"]
    plain("RFC 9113 8.3.1", "host without :authority", bare, "GET /", [], "b.test")
    crumbs = [("cookie", "a=1"), ("x-b", "1"), ("cookie", "b=2; c=3")]
    plain("RFC 9113 8.2.3", "crumbs of cookies", lambda a: a.fields(more=crumbs), "GET /", ["x-b: 1", "cookie: a=1; b=2; c=3"])
    claims = [("x-forwarded-proto", "gopher"), ("x-forwarded-host", "other.test"), ("forwarded", "for=6")]
    plain("no RFC", "claims about the client are not believed", lambda a: a.fields(more=claims), "GET /", [])

    def posted(title, bodies, length=None, trailers=None):
        def run(attempt):
            more = [("content-length", length)] if length else []
            attempt.send(attempt.fields("POST", more=more), bodies, trailers=trailers)
            lines = [f"content-length: {length}"] if length else []
            attempt.passed("POST /", lines, b"".join(bodies), chunked=not length)

        case("RFC 9113 8.1", title)(run)

    posted("body of a length", [b"abc", b"de"], "5")
    posted("body without length", [b"abc", b"de"])
    posted("a request within a body of a length", [INSIDE], str(len(INSIDE)))
    posted("a request within a body without length", [b"0\r\n\r\n" + INSIDE, b"0\r\n\r\n"])
    posted("empty DATA between others", [b"abc", b"", b"de"], "5")
    smuggling = [("transfer-encoding", "chunked"), ("content-length", "7"), ("host", "other.test")]
    posted("trailers stay here", [b"abc"], trailers=[("x-trailer", "1")])

    @case("RFC 9113 8.1", "trailers that frame or route stay here, too")
    def _(attempt):
        attempt.send(attempt.fields("POST"), [b"abc"], trailers=smuggling[1:])
        got = attempt.outcome()
        for message in attempt.backend.holding(attempt.mark.encode()):
            wanted = attempt.head("POST /", [], True, None)
            expect(message.head == wanted and message.body in (b"abc", b""), f"the backend got {message.head!r}")
        return got if isinstance(got, str) else str(got[0])

    @case("RFC 9113 8.1", "content-length 0, ended behind the head")
    def _(attempt):
        attempt.send(attempt.fields("POST", more=[("content-length", "0")]), [b""])
        attempt.passed("POST /", ["content-length: 0"])


def declare_answers(suite):
    """The same the other way: what an HTTP/1 backend says, as a client of HTTP/2 sees it."""
    number = 0

    def answer(source, title, raw):
        nonlocal number
        number += 1
        path = f"/answer/{number}"

        def declare(check):
            def run(attempt):
                attempt.backend.on(path, raw)
                attempt.send(attempt.fields(path=path))
                got = attempt.outcome()
                return check(got)

            suite.case(path[1:], source, title)(run)

        return declare

    def relayed(source, title, raw, fields=None, body=b"hello", trailers=()):
        def check(got):
            expect(isinstance(got, tuple) and got[0] == 200, f"answered {got}")
            shown = [(n, v) for n, v in got[1] if n not in (":status", "date", "server")]
            expect(fields is None or shown == list(fields), f"fields {shown}")
            expect((got[2], got[3]) == (body, list(trailers)), f"body {got[2]!r}, trailers {got[3]}")

        answer(source, title, raw)(check)

    def refused(source, title, raw):
        def check(got):
            expect(isinstance(got, str) or got[0] == 502, f"answered {got}")
            return got if isinstance(got, str) else str(got[0])

        answer(source, title, raw)(check)

    head = b"HTTP/1.1 200 OK\r\n"
    hops = b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nX-Own: 1\r\n"
    length = [("content-length", "5")]
    relayed("RFC 9113 8.2.2", "fields of the connection stay there", head + hops + b"Content-Length: 5\r\n\r\nhello", [("x-own", "1"), *length])
    chunks = b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n"
    relayed("RFC 9113 8.1", "chunks", head + chunks + b"\r\n", [])
    relayed("RFC 9113 8.2.1", "names in lower case", head + b"X-OwN: A\r\nContent-Length: 5\r\n\r\nhello", [("x-own", "A"), *length])
    relayed("RFC 9112 6.3", "a body that ends with the connection", head + b"Connection: close\r\n\r\nhello", [])
    refused("RFC 9113 8.1.1", "a body shorter than its length", head + b"Content-Length: 9\r\nConnection: close\r\n\r\nhello")
    refused("RFC 9112 7.1", "chunks that break off", head + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhe")
    refused("RFC 9112 6.3", "two lengths", head + b"Content-Length: 5\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello!")
    refused("RFC 9112 5.2", "NUL in a value", head + b"X-A: a\0b\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    refused("RFC 9112 5.1", "space behind a name", head + b"X-A : a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    refused("RFC 9112 4", "no status", b"HTTP/1.1 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    refused("RFC 9112 4", "no answer", b"Connection: close")
