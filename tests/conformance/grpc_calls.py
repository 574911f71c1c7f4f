"""Calls of grpcio through the gateway to grpc_server.py.

    python3 tests/conformance/grpc_calls.py --plain 127.0.0.1:9080 --tls 127.0.0.1:9443 --ca ca.pem

What the gateway must route: /conform.Server/* and /mortal.Server/* to a server each, of which the latter will die, /dead.Server/* to a port
nobody listens on; /forbidden.Server/* it must answer 403, /locked.Server/* 401, /busy.Server/* 429; and nothing else.
"""

import argparse
import asyncio
import json
import threading
import time
import traceback

import grpc

import frames
from report import Failed, end, expect, summary

MIB = 1024 * 1024
LIMIT = 10
CASES = []


def case(title, once=False):
    """`once`: not repeated with TLS."""

    def declare(run):
        CASES.append((run.__name__, title, once, run))
        return run

    return declare


class Client:
    def __init__(self, open_channel, open_blocking, label, address):
        self.open_channel, self.open_blocking = open_channel, open_blocking
        self.label, self.address, self.number = label, address, 0
        self.channel = open_channel()

    def mark(self):
        self.number += 1
        return f"{self.label}-{self.number}"

    def unary(self, method, request, **how):
        how.setdefault("timeout", LIMIT)
        return self.channel.unary_unary(method if "/" in method else f"/conform.Server/{method}")(request, **how)

    def gather(self, requests):
        return self.channel.stream_unary("/conform.Server/Gather")(requests, timeout=LIMIT)

    def repeat(self, request, **how):
        return self.channel.unary_stream("/conform.Server/Repeat")(request, **{"timeout": LIMIT, **how})

    def chat(self, channel=None, service="conform.Server", **how):
        return (channel or self.channel).stream_stream(f"/{service}/Chat")(**{"timeout": LIMIT, **how})

    async def seen(self, mark, key):
        """What the server has noted, waited for."""
        until = time.monotonic() + 5
        while time.monotonic() < until:
            told = json.loads(await self.unary("Seen", mark.encode()))
            if key in told:
                return told
            await asyncio.sleep(0.01)
        raise Failed(f"the server has not seen {key!r}")

    async def failure(self, call, *codes):
        try:
            got = await call
        except grpc.aio.AioRpcError as error:
            expect(error.code() in codes, f"{error.code().name}: {error.details()}")
            return error
        raise Failed(f"answered {got!r:.60}")


@case("unary")
async def unary(c):
    for body in (b"hello", b""):
        expect(await c.unary("Unary", body) == body, "another message")


@case("client streaming")
async def client_streaming(c):
    expect(await c.gather(iter([b"a" * 1000] * 50)) == b"50:50000", "another answer")
    expect(await c.gather(iter([])) == b"0:0", "another answer to nothing")


@case("server streaming")
async def server_streaming(c):
    got = [message async for message in c.repeat(b"200")]
    expect(got == [b"message %d" % i for i in range(200)], f"{len(got)} messages")
    expect([m async for m in c.repeat(b"0")] == [], "messages where there are none")


@case("bidirectional streaming, in step")
async def bidirectional(c):
    call = c.chat()
    for i in range(50):
        await call.write(b"%d" % i)
        expect(await call.read() == b"%d" % i, "another message")
    await call.done_writing()
    expect(await call.read() is grpc.aio.EOF and await call.code() == grpc.StatusCode.OK, "no end")


@case("the server ends while the client still sends")
async def early_end(c):
    call = c.chat()
    await call.write(b"one")
    expect(await call.read() == b"one", "another message")
    await call.write(b"enough")
    expect(await call.read() is grpc.aio.EOF, "no end")
    expect(await call.code() == grpc.StatusCode.OK, f"{await call.code()}")


@case("metadata both ways, binary and repeated")
async def metadata(c):
    sent = [("x-text", "a, b"), ("x-twice", "1"), ("x-twice", "2"), ("x-some-bin", bytes(range(256))), ("x-none-bin", b"")]
    mark = c.mark()
    call = c.unary("Unary", b"", metadata=[("case", mark), *sent])
    initial = [(k.replace("initial-", "x-"), v) for k, v in await call.initial_metadata() if k.startswith("initial-")]
    await call
    trailing = [(k.replace("trailing-", "x-"), v) for k, v in await call.trailing_metadata() if k.startswith("trailing-")]
    expect(sorted(initial, key=str) == sorted(sent, key=str), f"initial {initial}")
    expect(sorted(trailing, key=str) == sorted(sent, key=str), f"trailing {trailing}")
    told = [(k, v) for k, v in (await c.seen(mark, "metadata"))["metadata"] if k.startswith("x-") and k.count("-") and k in dict(sent)]
    wanted = [[k, v if isinstance(v, str) else v.hex()] for k, v in sent]
    expect(sorted(map(list, told)) == sorted(wanted), f"the server saw {told}")


@case("every status as trailers alone, with message and metadata")
async def trailers_only(c):
    for code in grpc.StatusCode:
        if code is grpc.StatusCode.OK:
            continue
        error = await c.failure(c.unary("Fail", b"%d" % code.value[0]), code)
        expect(error.details() == 'schön: 100 % "wrong"\n', f"{error.details()!r}")
        own = dict(error.trailing_metadata())
        expect((own.get("x-why"), own.get("x-why-bin")) == ("because", b"\0\xff"), f"trailing metadata {own}")


@case("an error behind messages")
async def late_error(c):
    call, got = c.repeat(b"3!"), []
    try:
        async for message in call:
            got.append(message)
    except grpc.aio.AioRpcError as error:
        expect((len(got), error.code(), error.details()) == (3, grpc.StatusCode.DATA_LOSS, "lost"), f"{len(got)} {error}")
        return
    raise Failed("no error")


@case("a unary call is cancelled: the server sees it")
async def cancel_unary(c):
    mark = c.mark()
    call = c.unary("Sleep", b"30", metadata=[("case", mark)])
    await c.seen(mark, "begun")
    call.cancel()
    await c.seen(mark, "cancelled")


@case("a stream of the server is cancelled: the server sees it")
async def cancel_server_stream(c):
    mark = c.mark()
    call = c.repeat(b"-1", metadata=[("case", mark)])
    await call.read()
    call.cancel()
    await c.seen(mark, "cancelled")


@case("a chat is cancelled: the server sees it")
async def cancel_chat(c):
    mark = c.mark()
    call = c.chat(metadata=[("case", mark)])
    await call.write(b"one")
    await call.read()
    call.cancel()
    await c.seen(mark, "cancelled")


@case("the client's deadline: DEADLINE_EXCEEDED in time, the server is told")
async def deadline(c):
    mark = c.mark()
    begun = time.monotonic()
    await c.failure(c.unary("Sleep", b"30", timeout=0.3, metadata=[("case", mark)]), grpc.StatusCode.DEADLINE_EXCEEDED)
    expect(time.monotonic() - begun < 2, "late")
    left = (await c.seen(mark, "cancelled"))["left"]
    expect(left is not None and 0 < left <= 0.35, f"the server has {left} s")


@case("grpc-timeout reaches the server; without one there is none")
async def timeout_is_passed(c):
    for timeout, accept in ((60, lambda left: left is not None and 50 < left <= 61), (None, lambda left: left is None)):
        mark = c.mark()
        await c.unary("Unary", b"", timeout=timeout, metadata=[("case", mark)])
        left = (await c.seen(mark, "left"))["left"]
        expect(accept(left), f"timeout {timeout}: the server has {left} s")


@case("messages of 16 MiB both ways")
async def large_messages(c):
    body = bytes(16 * MIB)
    expect(await c.unary("Unary", body) == body, "another message")


@case("16 MiB from the server alone", once=True)
async def large_answer(c):
    expect(len(await c.unary("Large", b"%d" % (16 * MIB))) == 16 * MIB, "another length")


@case("compressed messages both ways")
async def compression(c):
    body = b"sluice " * 20000
    call = c.unary("Unary", body, compression=grpc.Compression.Gzip, metadata=[("compress", "yes")])
    expect(await call == body, "another message")


@case("the gateway's own errors are statuses")
async def own_errors(c):
    for service, codes in (
        ("none.Server", "UNIMPLEMENTED"),
        ("dead.Server", "UNAVAILABLE"),
        ("forbidden.Server", "PERMISSION_DENIED"),
        ("locked.Server", "UNAUTHENTICATED"),
        ("busy.Server", "UNAVAILABLE"),
    ):
        error = await c.failure(c.unary(f"/{service}/Unary", b""), getattr(grpc.StatusCode, codes))
        expect(error.details(), f"{service}: no message")
        # The same for a call whose messages are still coming. Not by asyncio: its client may take the failure of its own write for an
        # error of its core.
        code, told = await asyncio.to_thread(streamed, c.open_blocking, service)
        expect(code == getattr(grpc.StatusCode, codes), f"{service}, streaming: {code.name}, {told}")


def streamed(open_blocking, service):
    ended = threading.Event()

    def messages():
        yield b"one"
        ended.wait(LIMIT)

    with open_blocking() as channel:
        try:
            list(channel.stream_stream(f"/{service}/Chat")(messages(), timeout=LIMIT))
        except grpc.RpcError as error:
            return error.code(), error.details()
        finally:
            ended.set()
    return grpc.StatusCode.OK, ""


@case("1,000 streams at once on 8 connections", once=True)
async def many_streams(c):
    channels = [c.open_channel() for _ in range(8)]
    release = asyncio.Event()
    waiting = 0

    async def one(i):
        nonlocal waiting
        call = c.chat(channels[i % 8], timeout=30)
        await call.write(b"%d" % i)
        expect(await call.read() == b"%d" % i, "another message")
        waiting += 1
        if waiting == 1000:
            release.set()
        await release.wait()
        await call.done_writing()
        expect(await call.read() is grpc.aio.EOF and await call.code() == grpc.StatusCode.OK, "no end")

    await asyncio.wait_for(asyncio.gather(*(one(i) for i in range(1000))), 30)
    await asyncio.gather(*(channel.close() for channel in channels))


@case("40 calls whose clients read nothing hold up nobody else", once=True)
async def stalled_readers(c):
    await c.unary("Unary", b"hello")
    stalled = [frames.Connection(frames.Target(c.address)) for _ in range(4)]
    for connection in stalled:
        for i in range(10):
            fields = [*connection.fields("POST"), ("content-type", "application/grpc"), ("te", "trailers")]
            fields[2] = (":path", "/conform.Server/Flood")
            head = connection.request(2 * i + 1, fields, end=False)
            # 256 messages of 16 KiB; a message has five octets in front of it.
            connection.send(head, frames.data(2 * i + 1, b"\0\0\0\0\x03256"))
    await asyncio.sleep(0.5)
    for _ in range(5):
        await c.unary("Unary", b"hello", timeout=5)
    for connection in stalled:
        connection.socket.close()


@case("the server dies within a stream", once=True)
async def dying_server(c):
    call = c.chat(service="mortal.Server")
    await call.write(b"one")
    expect(await call.read() == b"one", "another message")
    await call.write(b"die")
    try:
        got = await call.read()
        expect(got is grpc.aio.EOF, f"another message {got}")
    except grpc.aio.AioRpcError:
        pass
    code = await call.code()
    expect(code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL), f"{code}")
    return code.name


async def run(label, open_channel, open_blocking, address, only):
    begun = time.monotonic()
    failed, count = [], 0
    client = Client(open_channel, open_blocking, label, address)
    chosen = [case for case in CASES if not only or case[0] == only]
    for name, title, once, run_case in chosen:
        if once and label != "grpc":
            continue
        count += 1
        started = time.monotonic()
        try:
            note = await asyncio.wait_for(run_case(client), 40)
            ok = True
        except Failed as failure:
            ok, note = False, str(failure)
        except (grpc.RpcError, asyncio.TimeoutError, Exception) as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            ok, note = False, f"{type(error).__name__}: {error} (line {place.lineno})".replace("\n", " ")
        if not ok:
            failed.append(name)
        line = f"{'ok  ' if ok else 'FAIL'}  {label}  {name:<22} {title}, {time.monotonic() - started:.2f} s"
        print(f"{line}  [{note}]" if note else line, flush=True)
    await client.channel.close()
    return summary(label, count, failed, time.monotonic() - begun)


async def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--plain", required=True, help="host:port of the gateway")
    options.add_argument("--tls", help="host:port of the gateway with TLS")
    options.add_argument("--name", default="h2.test", help="the server's name for --tls")
    options.add_argument("--ca", help="file with the authority's certificate")
    options.add_argument("--only", help="one case, by its name")
    given = options.parse_args()
    limits = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    plain = [lambda kind=kind: kind.insecure_channel(given.plain, options=limits) for kind in (grpc.aio, grpc)]
    passed = [await run("grpc", *plain, given.plain, given.only)]
    if given.tls:
        with open(given.ca, "rb") as file:
            trusted = grpc.ssl_channel_credentials(file.read())
        named = [*limits, ("grpc.ssl_target_name_override", given.name)]
        secure = [lambda kind=kind: kind.secure_channel(given.tls, trusted, options=named) for kind in (grpc.aio, grpc)]
        passed.append(await run("grpcs", *secure, given.tls, given.only))
    return passed


if __name__ == "__main__":
    end(*asyncio.run(main()))
