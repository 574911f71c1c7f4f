"""Requests of HTTP/2 while a gateway drains: what it has begun it ends, what GOAWAY says it has not begun goes to another gateway, and nothing
is lost, or done twice.

    python3 tests/conformance/drain.py --first 127.0.0.1:9080 --then 127.0.0.1:9081 [--requests 2000]

Prints "drain now" when the first gateway is to be told; every path is asked for once and must be answered 200.
"""

import argparse
import collections
import threading
import time

from hyperframe import frame as read

from frames import ACK, Connection, PING, REFUSED, Target, frame, window_update
from report import end, summary

CONNECTIONS, STREAMS = 4, 25


class Client(threading.Thread):
    def __init__(self, number, targets, paths, answered):
        super().__init__(daemon=True)
        self.number, self.targets, self.answered = number, targets, answered
        self.todo = collections.deque(paths)
        self.lost, self.again, self.first, self.then = [], 0, 0, 0

    def run(self):
        connection, away, active, stream = Connection(self.targets[0]), False, {}, 1
        place = 0
        while self.todo or active:
            if away and not active:
                connection.socket.close()
                place = min(place + 1, len(self.targets) - 1)
                connection, away, stream = Connection(self.targets[place]), False, 1
            frames = []
            while self.todo and len(active) < STREAMS and not away:
                path = self.todo.popleft()
                fields = [(n, path if n == ":path" else v) for n, v in connection.fields()]
                frames.append(connection.request(stream, fields))
                active[stream] = path
                stream += 2
            if frames:
                connection.send(*frames)
            got = connection.event()
            if got is None or got == "closed":
                # A request that got no word is lost, unless GOAWAY had freed it.
                if active:
                    print(f"{len(active)} requests without an answer; place {place}, {connection.story()}", flush=True)
                self.lost += active.values()
                active.clear()
                away = True
            elif isinstance(got, read.GoAwayFrame):
                away = True
                for number in [n for n in active if n > got.last_stream_id]:
                    self.todo.append(active.pop(number))
                    self.again += 1
            elif isinstance(got, read.RstStreamFrame) and got.stream_id in active:
                path = active.pop(got.stream_id)
                if got.error_code == REFUSED:
                    self.todo.append(path)
                    self.again += 1
                else:
                    print(f"reset: {connection.story()}", flush=True)
                    self.lost.append(path)
            elif isinstance(got, read.PingFrame) and "ACK" not in got.flags:
                connection.send(frame(PING, ACK, 0, got.opaque_data))
            elif isinstance(got, (read.HeadersFrame, read.DataFrame)):
                if isinstance(got, read.DataFrame) and got.wire_length:
                    connection.send(window_update(0, got.wire_length))
                elif isinstance(got, read.HeadersFrame) and (":status", "200") not in got.fields:
                    print(f"not 200: {got.fields}", flush=True)
                    self.lost.append(active.get(got.stream_id))
                if "END_STREAM" in got.flags and active.pop(got.stream_id, None):
                    self.answered.append(place)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--first", required=True, help="host:port of the gateway that will drain")
    options.add_argument("--then", required=True, help="host:port of the other one")
    options.add_argument("--requests", type=int, default=2000)
    given = options.parse_args()
    begun = time.monotonic()
    targets = [Target(given.first), Target(given.then)]
    paths = [f"/request/{i}" for i in range(given.requests)]
    answered = []
    clients = [Client(i, targets, paths[i::CONNECTIONS], answered) for i in range(CONNECTIONS)]
    for client in clients:
        client.start()
    while len(answered) < given.requests // 5:
        time.sleep(0.005)
    print("drain now", flush=True)
    for client in clients:
        client.join(30)
    lost = [path for client in clients for path in client.lost]
    again = sum(client.again for client in clients)
    print(f"answered by the first {answered.count(0)}, by the other {answered.count(1)}; sent again {again}; lost {len(lost)}")
    whole = not lost and len(answered) == given.requests and answered.count(1) > 0
    end(summary("drain", 1, [] if whole else ["drain"], time.monotonic() - begun))


if __name__ == "__main__":
    main()
