"""The other side of h2spec: its 57 cases for clients of HTTP/2, asked of the gateway as the client of a node; answers that no client may be
given; and what becomes of a request of HTTP/1 on its way to such a node.

    python3 tests/conformance/h2spec_node.py --plain 127.0.0.1:9080 --node 1980

The gateway must pass everything to 127.0.0.1:1980 in HTTP/2, where this program listens, with one request on each connection
(`keepalive_pool: {requests: 1}`).
"""

import argparse
import http.client
import queue
import socket
import threading

from hpack import Decoder, Encoder
from hyperframe import frame as read

import h2spec_node_cases
from frames import ACK, INITIAL_WINDOW, LIMIT, MAX_FRAME, PREFACE, SETTINGS, Connection, frame, settings
from report import Failed, Suite, end, expect


class Node(Connection):
    """A connection that the gateway has opened, once its request has come (stream 1)."""

    def __init__(self, stream):
        self.encoder, self.decoder = Encoder(), Decoder()
        self.server = {INITIAL_WINDOW: 65535, MAX_FRAME: 16384}
        self.pending, self.closed, self.seen = b"", False, []
        self.socket = stream
        stream.settimeout(LIMIT)
        preface = b""
        while len(preface) < len(PREFACE):
            part = stream.recv(len(PREFACE) - len(preface))
            expect(part, "no preface")
            preface += part
        expect(preface == PREFACE, f"the preface {preface!r}")
        first = self.event()
        expect(isinstance(first, read.SettingsFrame) and "ACK" not in first.flags, f"first came {self.story()}")
        self.server.update(first.settings)
        # In one piece with the acknowledgement, so that nothing of this side's is still to come.
        self.send(settings((INITIAL_WINDOW, 65535)), frame(SETTINGS, ACK, 0))
        request = self.wait(read.HeadersFrame)
        # A body may come before the acknowledgement.
        self.early = []
        while not (isinstance(got := self.event(), read.SettingsFrame) and "ACK" in got.flags):
            expect(got not in (None, "closed"), f"no acknowledgement: {self.story()}")
            self.early.append(got)
        self.asked = request.fields
        self.ended = "END_STREAM" in request.flags

    def fields(self, more=()):
        return [(":status", "200"), *more]


class Answer(http.client.HTTPResponse):
    """`http.client` takes an interim head for the answer, but for 100."""

    def _read_status(self):
        while True:
            got = super()._read_status()
            if not 101 < got[1] < 200:
                return got
            http.client.parse_headers(self.fp)


class Opened:
    """One case: a client of the gateway asks, the node gets the request."""

    def __init__(self, gateway, nodes, number):
        self.gateway, self.nodes, self.path = gateway, nodes, f"/case/{number}"
        self.answer, self.arrived = queue.Queue(), threading.Event()

    def hello(self, unfinished=False, raw=None):
        """`unfinished`: the request's body does not come to its end; `raw`: bytes of a whole request of HTTP/1, with `x-case: CASE`."""
        self.unfinished, self.raw = unfinished, raw
        self.nodes.expected[self.path] = queue.Queue()
        threading.Thread(target=self._ask, daemon=True).start()
        got = self.again()
        got.opened = self
        self.arrived.set()
        return got

    def again(self):
        """The connection with the request, or with the same request once more."""
        try:
            return self.nodes.expected[self.path].get(timeout=LIMIT)
        except queue.Empty:
            raise Failed("the request does not come") from None

    def _ask(self):
        host, port = self.gateway.rsplit(":", 1)
        if self.raw is not None:
            return self._say(host, int(port))
        client = http.client.HTTPConnection(host, int(port), timeout=LIMIT)
        client.response_class = Answer
        try:
            if self.unfinished:
                client.putrequest("POST", self.path)
                client.putheader("Content-Length", "10")
                client.endheaders(b"12345")
            else:
                client.request("GET", self.path)
            answer = client.getresponse()
            self.answer.put((answer.status, answer.getheaders(), answer.read()))
        except (OSError, http.client.HTTPException) as error:
            self.answer.put(type(error).__name__)
        client.close()

    def _say(self, host, port):
        client = socket.create_connection((host, port), timeout=LIMIT)
        client.sendall(self.raw.replace(b"CASE", self.path.encode()))
        if self.unfinished:
            self.arrived.wait(LIMIT)
            client.close()
            return
        source = client.makefile("rb")
        self.answer.put((source.readline() + source.read(1)).decode())
        client.close()

    def told(self):
        """What the client gets: (status, fields, body), or how the answer breaks off."""
        try:
            return self.answer.get(timeout=LIMIT)
        except queue.Empty:
            raise Failed("the client is told nothing") from None


class Nodes:
    def __init__(self, port):
        self.expected = {}
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream):
        try:
            node = Node(stream)
            case = dict(node.asked)
            self.expected[case.get("x-case") or case[":path"]].put(node)
        except Exception as error:
            print(f"a connection without request: {error}", flush=True)
            stream.close()


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--plain", required=True, help="host:port of the gateway")
    options.add_argument("--node", type=int, required=True, help="the port to listen on")
    options.add_argument("--only", help="cases whose name begins so")
    given = options.parse_args()
    nodes = Nodes(given.node)
    suite = Suite()
    h2spec_node_cases.declare(suite)
    numbers = iter(range(1, 1000))
    end(suite.run("node", lambda: Opened(given.plain, nodes, next(numbers)), given.only))


if __name__ == "__main__":
    main()
