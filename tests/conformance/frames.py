"""A client of HTTP/2 that sends what it is told to, right or wrong, and looks at what comes frame by frame.

Frames are written here byte by byte, since `hyperframe` refuses to build wrong ones; it reads what comes.
"""

import socket
import ssl
import struct
import time

from hpack import Decoder, Encoder
from hyperframe import frame as read

from report import Failed

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_LIST = range(1, 7)
NO_ERROR, PROTOCOL, INTERNAL, FLOW_CONTROL, SETTINGS_TIMEOUT, CLOSED, FRAME_SIZE, REFUSED, CANCEL, COMPRESSION = range(10)
CONNECT_ERROR, CALM, SECURITY, HTTP_1_1 = range(10, 14)
ERRORS = (
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
    "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY HTTP_1_1_REQUIRED"
).split()
LIMIT = 10.0
"""Seconds without which an expected frame is late."""


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(*pairs):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def ping(data=b"sluice-1", ack=False):
    return frame(PING, ACK if ack else 0, 0, data)


def window_update(stream, increment):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def rst(stream, code):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def goaway(last, code, text=b""):
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text)


def weighted(depends, weight=255, exclusive=False):
    return struct.pack(">IB", depends | (0x80000000 if exclusive else 0), weight)


def priority(stream, *args, **named):
    return frame(PRIORITY, 0, stream, weighted(*args, **named))


def data(stream, payload, end=True):
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def code_name(code):
    return ERRORS[code] if code < len(ERRORS) else hex(code)


class Target:
    """Where connections go: `host:port`, with TLS where `tls` names the server."""

    def __init__(self, address, tls=None, path="/"):
        host, port = address.rsplit(":", 1)
        self.address, self.tls, self.path = (host, int(port)), tls, path
        self.authority = tls or address
        self.scheme = "https" if tls else "http"
        self.context = None
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.context.check_hostname = False
            self.context.verify_mode = ssl.CERT_NONE
            self.context.set_alpn_protocols(["h2"])

    def socket(self):
        plain = socket.create_connection(self.address, timeout=LIMIT)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.context:
            return plain
        secured = self.context.wrap_socket(plain, server_hostname=self.tls)
        if secured.selected_alpn_protocol() != "h2":
            raise Failed("the server does not choose h2")
        return secured


class Connection:
    """`hello=False`: nothing has been said yet."""

    def __init__(self, target, hello=True):
        self.target = target
        self.encoder, self.decoder = Encoder(), Decoder()
        self.server = {TABLE_SIZE: 4096, INITIAL_WINDOW: 65535, MAX_FRAME: 16384}
        self.pending = b""
        self.closed = False
        self.seen = []
        self.socket = target.socket()
        if hello:
            self.hello()

    def hello(self, *pairs):
        self.send(PREFACE, settings(*(pairs or ((INITIAL_WINDOW, 65535),))))
        acked = told = False
        while not (acked and told):
            got = self.event()
            if got is None or got == "closed":
                raise Failed(f"no handshake: {self.story()}")
            if isinstance(got, read.SettingsFrame):
                if "ACK" in got.flags:
                    acked = True
                else:
                    told = True
                    self.server.update(got.settings)
                    self.send(frame(SETTINGS, ACK, 0))

    def send(self, *frames):
        """A server may have closed already: that shows in what comes."""
        try:
            self.socket.sendall(b"".join(frames))
        except OSError:
            pass
        return self

    def fields(self, method="GET", more=()):
        return [
            (":method", method),
            (":scheme", self.target.scheme),
            (":path", self.target.path),
            (":authority", self.target.authority),
            *more,
        ]

    def block(self, fields):
        return self.encoder.encode(fields)

    def request(self, stream=1, fields=None, end=True, ended=True, flags=0, block=None, before=b"", after=b""):
        """A HEADERS frame. `end`: the request ends with it; `ended`: so does the head."""
        if block is None:
            block = self.block(fields or self.fields())
        flags |= (END_STREAM if end else 0) | (END_HEADERS if ended else 0)
        return frame(HEADERS, flags, stream, before + block + after)

    def dummies(self, count=1, size=4000):
        return [(f"x-dummy{i}", "x" * size) for i in range(count)]

    def continuation(self, stream, ended, block):
        return frame(CONTINUATION, END_HEADERS if ended else 0, stream, block)

    def _read(self, count, until):
        while len(self.pending) < count:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            got = self.socket.recv(65536)
            if not got:
                raise ConnectionError
            self.pending += got
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken

    def event(self, limit=LIMIT):
        """The next frame; "closed"; None where nothing came in time."""
        if self.closed:
            return "closed"
        until = time.monotonic() + limit
        try:
            head = self._read(9, until)
            got, length = read.Frame.parse_frame_header(memoryview(head))
            body = self._read(length, until)
            got.parse_body(memoryview(body))
        except (TimeoutError, ssl.SSLWantReadError):
            return None
        except (OSError, ConnectionError):
            self.closed = True
            self.socket.close()
            self.seen.append("closed")
            return "closed"
        got.wire_length = length
        if isinstance(got, (read.HeadersFrame, read.PushPromiseFrame)):
            ended = "END_HEADERS" in got.flags
            fields = self.decoder.decode(got.data, raw=True) if ended else ()
            got.fields = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in fields]
        self.seen.append(described(got))
        return got

    def story(self):
        shown = [entry for entry in self.seen if not entry.startswith("SETTINGS")]
        return ", ".join(shown[-6:]) or "nothing"

    def wait(self, wanted, accept=lambda got: True, limit=LIMIT):
        """The first frame of a type; the case fails where it is not accepted or does not come."""
        until = time.monotonic() + limit
        while True:
            got = self.event(max(0.0, until - time.monotonic()))
            if got is None or got == "closed":
                raise Failed(f"expected {wanted.__name__}, saw {self.story()}")
            if isinstance(got, wanted):
                if not accept(got):
                    raise Failed(f"unexpected {self.story()}")
                return got

    def _until(self, accept, what, limit=LIMIT):
        until = time.monotonic() + limit
        while True:
            got = self.event(max(0.0, until - time.monotonic()))
            if got is None:
                raise Failed(f"expected {what}, saw {self.story()}, then nothing")
            if accept(got):
                self.socket.close()
                told = [entry for entry in self.seen if entry.startswith(("GOAWAY", "RST_STREAM"))]
                return ", ".join(dict.fromkeys([*told, self.seen[-1]]))
            if got == "closed":
                raise Failed(f"expected {what}, saw {self.story()}")

    def connection_error(self, *codes):
        """GOAWAY with one of these codes, or the connection closed."""
        return self._until(
            lambda got: got == "closed" or isinstance(got, read.GoAwayFrame) and got.error_code in codes,
            f"a connection error {'/'.join(map(code_name, codes))}",
        )

    def stream_error(self, *codes):
        """The same, or RST_STREAM."""
        return self._until(
            lambda got: got == "closed"
            or isinstance(got, (read.GoAwayFrame, read.RstStreamFrame)) and got.error_code in codes,
            f"a stream error {'/'.join(map(code_name, codes))}",
        )

    def close(self):
        return self._until(lambda got: got == "closed", "a close")

    def answer(self, stream=1):
        self.wait(read.HeadersFrame, lambda got: got.stream_id == stream)

    def pong(self, sent=b"sluice-1"):
        self.wait(read.PingFrame, lambda got: "ACK" in got.flags and got.opaque_data == sent)

    def pong_or_close(self, sent=b"sluice-1"):
        def accept(got):
            return got == "closed" or isinstance(got, read.PingFrame) and "ACK" in got.flags and got.opaque_data == sent

        return self._until(accept, "the PING's answer or a close")

    def settings_ack(self):
        self.wait(read.SettingsFrame, lambda got: "ACK" in got.flags)

    def data_of(self, length):
        self.wait(read.DataFrame, lambda got: got.wire_length == length)

    def stream_end(self):
        def accept(got):
            ended = isinstance(got, (read.DataFrame, read.HeadersFrame)) and "END_STREAM" in got.flags
            return ended or isinstance(got, read.RstStreamFrame) and got.error_code == NO_ERROR

        until = time.monotonic() + LIMIT
        while True:
            got = self.event(max(0.0, until - time.monotonic()))
            if got is None or got == "closed":
                raise Failed(f"expected the stream's end, saw {self.story()}")
            if accept(got):
                return


def described(got):
    name = type(got).__name__.removesuffix("Frame").upper().replace("RSTSTREAM", "RST_STREAM")
    if isinstance(got, (read.GoAwayFrame, read.RstStreamFrame)):
        return f"{name} {code_name(got.error_code)}"
    if isinstance(got, read.DataFrame):
        return f"DATA({got.wire_length}{' end' if 'END_STREAM' in got.flags else ''})"
    if isinstance(got, read.HeadersFrame) and got.fields:
        status = dict(got.fields).get(":status")
        return f"HEADERS {status}"
    return name
