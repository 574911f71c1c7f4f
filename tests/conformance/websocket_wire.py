"""A WebSocket client that sends what it is told to, over the four ways to the echo server: straight, by HTTP/1.1, by HTTP/1.1 over TLS,
by HTTP/2's extended CONNECT.
"""

import os
import socket
import ssl
import struct
import time

import h2.config
import h2.connection
import h2.events
import h2.settings

from report import Failed

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LIMIT = 10.0


def frame(opcode, payload=b"", fin=True, rsv=0):
    """A client's frame, masked (RFC 6455, 5.2)."""
    size = len(payload)
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += b"\xfe" + struct.pack(">H", size)
    else:
        head += b"\xff" + struct.pack(">Q", size)
    mask = os.urandom(4)
    masks = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(masks, "big")).to_bytes(size, "big")
    return head + mask + masked


class Plain:
    """A socket to `address`; with TLS where a name is given."""

    def __init__(self, address, name=None):
        self.address, self.name = address, name

    def open(self, path, offer):
        stream = socket.create_connection(self.address, timeout=LIMIT)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.name:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["http/1.1"])
            stream = context.wrap_socket(stream, server_hostname=self.name)
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {self.name or 'conform.test'}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: c2x1aWNlIHNsdWljZSBzIQ==",
            "Sec-WebSocket-Version: 13",
        ]
        if offer:
            lines.append(f"Sec-WebSocket-Extensions: {offer}")
        stream.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        got = b""
        while b"\r\n\r\n" not in got:
            part = stream.recv(4096)
            if not part:
                raise Failed(f"no handshake: {got!r}")
            got += part
        head, rest = got.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Failed(f"no handshake: {head.splitlines()[0]!r}")
        fields = [line.split(b":", 1) for line in head.split(b"\r\n")[1:]]
        agreed = [v.strip().decode() for n, v in fields if n.lower() == b"sec-websocket-extensions"]
        return PlainStream(stream, rest), ", ".join(agreed)


class PlainStream:
    def __init__(self, stream, rest):
        self.stream, self.rest = stream, rest

    def send(self, data):
        self.stream.sendall(data)

    def recv(self, limit):
        """b"" at the end; None where nothing came in time."""
        if self.rest:
            rest, self.rest = self.rest, b""
            return rest
        self.stream.settimeout(max(limit, 0.001))
        try:
            return self.stream.recv(65536)
        except (TimeoutError, ssl.SSLWantReadError):
            return None
        except OSError:
            return b""

    def close(self):
        self.stream.close()


class Multiplexed:
    """RFC 8441, on a connection of its own."""

    def __init__(self, address):
        self.address = address

    def open(self, path, offer):
        stream = H2Stream(socket.create_connection(self.address, timeout=LIMIT))
        fields = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "conform.test"),
            ("sec-websocket-version", "13"),
        ]
        if offer:
            fields.append(("sec-websocket-extensions", offer))
        stream.open(fields)
        answer = dict(stream.head)
        if answer.get(":status") != "200":
            raise Failed(f"no handshake: {answer}")
        return stream, answer.get("sec-websocket-extensions", "")


class H2Stream:
    def __init__(self, stream):
        self.stream = stream
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.own = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.received, self.ended, self.ready, self.head = b"", False, False, None

    def open(self, fields):
        self.own.initiate_connection()
        self._flush()
        self._until(lambda: self.ready)
        if not self.own.remote_settings.enable_connect_protocol:
            raise Failed("SETTINGS_ENABLE_CONNECT_PROTOCOL is not told")
        self.own.send_headers(1, fields)
        self._flush()
        self._until(lambda: self.head is not None)

    def _flush(self):
        data = self.own.data_to_send()
        if data:
            self.stream.settimeout(LIMIT)
            self.stream.sendall(data)

    def _until(self, done, limit=LIMIT):
        until = time.monotonic() + limit
        while not done() and not self.ended:
            left = until - time.monotonic()
            if left <= 0:
                return False
            self.stream.settimeout(left)
            try:
                data = self.stream.recv(65536)
            except TimeoutError:
                return False
            except OSError:
                data = b""
            if not data:
                self.ended = True
                return True
            for event in self.own.receive_data(data):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    self.ready = True
                elif isinstance(event, h2.events.ResponseReceived):
                    self.head = event.headers
                elif isinstance(event, h2.events.DataReceived):
                    self.received += event.data
                    if event.flow_controlled_length:
                        self.own.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    self.ended = True
            self._flush()
        return True

    def send(self, data):
        while data and not self.ended:
            window = lambda: self.own.local_flow_control_window(1)
            if not self._until(lambda: window() > 0):
                raise Failed("the window stays shut")
            if self.ended:
                break
            size = min(len(data), window(), self.own.max_outbound_frame_size)
            self.own.send_data(1, data[:size])
            data = data[size:]
            self._flush()

    def recv(self, limit):
        self._until(lambda: self.received, max(limit, 0.001))
        if self.received:
            data, self.received = self.received, b""
            return data
        return b"" if self.ended else None

    def close(self):
        self.stream.close()


class Session:
    """One WebSocket connection: what came on it, in order."""

    def __init__(self, way, offer=""):
        self.stream, self.agreed = way.open("/", offer)
        self.data, self.events, self.parts = b"", [], None
        self.compressed = None
        self.code = None
        self.eof = self.failed = False

    def send(self, *frames, chop=None, each=False):
        """`chop`: octets of a write; `each`: every frame is one."""
        writes = frames if each else [b"".join(frames)]
        try:
            for write in writes:
                for i in range(0, len(write), chop or len(write) or 1):
                    self.stream.send(write[i : i + (chop or len(write))])
        except OSError:
            # The other side has closed; what it said is still read.
            self.failed = True

    def read(self, enough, limit=LIMIT):
        """Reads until `enough()`, a close frame, the end, or too long."""
        until = time.monotonic() + limit
        while not enough() and self.code is None and not self.eof:
            if self._parse():
                continue
            got = self.stream.recv(until - time.monotonic())
            if got is None:
                return False
            if not got:
                self.eof = True
            self.data += got
        return True

    def end(self, limit=LIMIT):
        until = time.monotonic() + limit
        while not self.eof:
            got = self.stream.recv(until - time.monotonic())
            if got is None:
                break
            self.eof = not got
        self.stream.close()

    def _parse(self):
        data = self.data
        if len(data) < 2:
            return False
        size, at = data[1] & 0x7F, 2
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, at = int.from_bytes(data[2:10], "big"), 10
        if len(data) < at or len(data) < at + size:
            return False
        payload, self.data = data[at : at + size], data[at + size :]
        fin, rsv, opcode = data[0] >> 7, data[0] >> 4 & 7, data[0] & 15
        if opcode == CLOSE:
            self.code = int.from_bytes(payload[:2], "big") if payload else 1005
        elif opcode == PONG:
            self.events.append(("pong", payload))
        elif opcode in (0, TEXT, BINARY):
            if opcode:
                self.parts = [opcode, rsv, []]
            self.parts[2].append(payload)
            if fin:
                kind, rsv, parts = self.parts
                message = b"".join(parts)
                if rsv & 4 and self.compressed:
                    message = self.compressed.decode(message)
                self.events.append(("text" if kind == TEXT else "binary", message))
        return True
