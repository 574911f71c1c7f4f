"""A server of HTTP/1.1 that keeps every byte it is sent, and answers with the bytes it was told to.

It reads strictly: what stands behind a message must be another one, and is kept apart from it.
"""

import re
import socket
import threading

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Message:
    def __init__(self, head, body=b"", whole=False):
        self.head, self.body, self.whole = head, body, whole


class Backend:
    def __init__(self, port):
        self.messages, self.answers, self.lock = [], {}, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=512)
        threading.Thread(target=self._accept, daemon=True).start()

    def on(self, path, answer):
        """`answer`: bytes; the connection is closed behind them where they say so."""
        self.answers[path.encode()] = answer

    def holding(self, mark):
        with self.lock:
            return [message for message in self.messages if mark in message.head or mark in message.body]

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        source = connection.makefile("rb")
        try:
            while self._message(source, connection):
                pass
        except OSError:
            pass
        finally:
            connection.close()

    def _message(self, source, connection):
        message = Message(b"")
        while not message.head.endswith(b"\r\n\r\n"):
            line = source.readline()
            if not line:
                if message.head:
                    self._keep(message)
                return False
            message.head += line
        # Kept at once: a body that never ends is seen, too.
        self._keep(message)
        length = re.search(rb"(?im)^content-length:[ \t]*(\d+)\r$", message.head)
        if re.search(rb"(?im)^transfer-encoding:", message.head):
            while True:
                size = source.readline()
                if not size.endswith(b"\r\n"):
                    return False
                count = int(size, 16)
                part = source.read(count + 2)
                message.body += part[:-2] if len(part) == count + 2 else part
                if len(part) < count + 2:
                    return False
                if not count:
                    break
        elif length:
            message.body = source.read(int(length[1]))
            if len(message.body) < int(length[1]):
                return False
        message.whole = True
        path = message.head.split(b" ", 2)[1]
        answer = self.answers.get(path, OK)
        connection.sendall(answer)
        return b"connection: close" not in answer.lower() and answer != b""

    def _keep(self, message):
        with self.lock:
            self.messages.append(message)
