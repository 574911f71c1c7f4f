"""What becomes of requests and answers between HTTP/2 and HTTP/1: RFC 9113's rules on messages that h2spec does not ask for, and attempts
to smuggle. What the backend gets is compared byte by byte; what is refused must not reach it in any part.

    python3 tests/conformance/translation.py --plain 127.0.0.1:9080 --tls 127.0.0.1:9443 --backend 1980

The gateway must pass everything to 127.0.0.1:1980, where this program listens.
"""

import argparse
import time

from hyperframe import frame as read

import translation_cases
from backend import Backend
from frames import LIMIT, Connection, Target, data, goaway
from report import Failed, Suite, end, expect, summary


class Attempt:
    """One request of one case."""

    def __init__(self, target, backend, number, label):
        self.target, self.backend = target, backend
        self.mark = f"{label.replace('+', '-')}-{number}."
        self.c = Connection(target)
        self.authority = "conform.test"

    def fields(self, method="GET", path="/", more=(), authority=None, scheme=None):
        return [
            (":method", method),
            (":scheme", scheme or self.target.scheme),
            (":path", path),
            (":authority", authority or self.authority),
            ("x-case", self.mark),
            *more,
        ]

    def send(self, fields, bodies=(), end=None, trailers=None):
        """`bodies`: DATA frames of these payloads; the last one ends the request unless `end` is False or trailers follow."""
        out = [self.c.request(fields=fields, end=not bodies and trailers is None if end is None else end and not bodies)]
        for i, body in enumerate(bodies):
            out.append(data(1, body, i + 1 == len(bodies) and trailers is None and end is not False))
        if trailers is not None:
            out.append(self.c.request(fields=trailers))
        self.c.send(*out)

    def outcome(self):
        """(status, fields, body, trailers) of a whole answer, or the name of what came instead."""
        status, fields, body, trailers = None, [], b"", []
        until = time.monotonic() + LIMIT
        while True:
            got = self.c.event(max(0.0, until - time.monotonic()))
            if got is None:
                raise Failed(f"no answer; saw {self.c.story()}")
            if got == "closed":
                return "closed"
            if isinstance(got, (read.GoAwayFrame, read.RstStreamFrame)) and got.error_code:
                return self.c.seen[-1]
            if isinstance(got, read.HeadersFrame):
                own = got.fields
                if status is None:
                    code = int(dict(own)[":status"])
                    if code >= 200:
                        status, fields = code, own
                else:
                    trailers = own
            if isinstance(got, read.DataFrame):
                body += got.data
            if isinstance(got, (read.HeadersFrame, read.DataFrame)) and "END_STREAM" in got.flags and status:
                self.c.send(goaway(0, 0))
                self.c.socket.close()
                return status, fields, body, trailers

    def refused(self):
        """By an error of the stream or the connection, or by an answer of 4xx or 501; nothing has reached the backend."""
        got = self.outcome()
        if isinstance(got, tuple):
            expect(400 <= got[0] < 500 or got[0] == 501, f"answered {got[0]}")
        self.untouched()
        return got if isinstance(got, str) else str(got[0])

    def untouched(self):
        reached = self.backend.holding(self.mark.encode())
        expect(not reached, f"the backend got {reached and reached[0].head!r}")

    def passed(self, line, lines, body=b"", chunked=False, host=None):
        """Answered 200; the backend got exactly this head and body."""
        got = self.outcome()
        expect(isinstance(got, tuple) and got[0] == 200, f"answered {got[0] if isinstance(got, tuple) else got}")
        reached = self.backend.holding(self.mark.encode())
        expect(len(reached) == 1, f"the backend got {len(reached)} requests")
        wanted = self.head(line, lines, chunked, host)
        expect(reached[0].head == wanted, f"the backend got {reached[0].head!r}, not {wanted!r}")
        expect(reached[0].whole and reached[0].body == body, f"the backend got the body {reached[0].body!r}")

    def head(self, line, lines, chunked, host):
        host = host or self.authority
        port = host.rsplit(":", 1)[1] if ":" in host else str(self.target.address[1])
        all_lines = [
            f"{line} HTTP/1.1",
            f"Host: {host}",
            "X-Real-IP: 127.0.0.1",
            "X-Forwarded-For: 127.0.0.1",
            f"X-Forwarded-Proto: {self.target.scheme}",
            f"X-Forwarded-Host: {host}",
            f"X-Forwarded-Port: {port}",
            f"x-case: {self.mark}",
            *lines,
            *(["Transfer-Encoding: chunked"] if chunked else []),
        ]
        return "\r\n".join(all_lines).encode() + b"\r\n\r\n"


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--plain", help="host:port that speaks HTTP/2 in the clear")
    options.add_argument("--tls", help="host:port that speaks it with TLS")
    options.add_argument("--name", default="h2.test", help="the server's name for --tls")
    options.add_argument("--backend", type=int, required=True, help="the port to listen on")
    options.add_argument("--only", help="cases whose name begins so")
    given = options.parse_args()
    backend = Backend(given.backend)
    passed = []
    for label, address, name in (("h1", given.plain, None), ("h1+tls", given.tls, given.name)):
        if address:
            passed.append(run(label, Target(address, tls=name), backend, given.only))
    end(*passed)


def run(label, target, backend, only):
    suite = Suite()
    numbers = iter(range(1, 1000))
    refused = []
    translation_cases.declare(suite, refused)
    if target.tls is None:
        # What the HTTP/1 side sends does not depend on how the client came.
        translation_cases.declare_answers(suite)
    ok = suite.run(label, lambda: Attempt(target, backend, next(numbers), label), only)
    # Whatever was refused has not reached the backend later, either.
    late = [m.head for attempt in refused for m in backend.holding(attempt.mark.encode())]
    smuggled = [m for m in backend.holding(b"smuggled") if b"smuggled" in m.head]
    if late or smuggled:
        print(f"FAIL  {label}  reached the backend: {late} {[m.head for m in smuggled]}")
        return summary(label, 1, ["nothing-reached-the-backend"], 0.0)
    return ok


if __name__ == "__main__":
    main()
