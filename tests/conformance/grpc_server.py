"""A gRPC server of every kind of call, without generated code: messages are bytes. Its first line of output names its port.

    grpc_server.py [--cert FILE --key FILE]

It keeps what it saw of each call whose metadata has `case`, and tells it by /conform.Server/Seen.
"""

import argparse
import asyncio
import json
import os

import grpc

STATUSES = {code.value[0]: code for code in grpc.StatusCode}
seen = {}


def note(context, key, value=True):
    case = dict(context.invocation_metadata()).get("case")
    if case is not None:
        seen.setdefault(case, {})[key] = value


def begun(context):
    note(context, "begun")
    left = context.time_remaining()
    note(context, "left", left if left is not None and left < 1e6 else None)
    shown = [[k, v if isinstance(v, str) else v.hex()] for k, v in context.invocation_metadata()]
    note(context, "metadata", shown)


async def unary(request, context):
    begun(context)
    if dict(context.invocation_metadata()).get("compress"):
        context.set_compression(grpc.Compression.Gzip)
    metadata = [(k, v) for k, v in context.invocation_metadata() if k.startswith("x-")]
    await context.send_initial_metadata([(k.replace("x-", "initial-", 1), v) for k, v in metadata])
    context.set_trailing_metadata([(k.replace("x-", "trailing-", 1), v) for k, v in metadata])
    return request


async def fail(request, context):
    """`request`: the status; nothing but trailers is answered."""
    begun(context)
    context.set_trailing_metadata([("x-why", "because"), ("x-why-bin", b"\0\xff")])
    await context.abort(STATUSES[int(request)], "schön: 100 % \"wrong\"\n")


async def gather(requests, context):
    begun(context)
    total = [request async for request in requests]
    return b"%d:%d" % (len(total), sum(map(len, total)))


async def repeat(request, context):
    """`request`: how many messages; -1 for as long as it is wanted; N! fails behind them."""
    begun(context)
    count = int(request.rstrip(b"!"))
    try:
        i = 0
        while i != count:
            await context.write(b"message %d" % i)
            i += 1
            if count < 0:
                await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note(context, "cancelled")
        raise
    if request.endswith(b"!"):
        await context.abort(grpc.StatusCode.DATA_LOSS, "lost")


async def chat(requests, context):
    begun(context)
    try:
        async for request in requests:
            if request == b"enough":
                return
            if request == b"die":
                os._exit(1)
            await context.write(request)
        # To one that reads a cancellation may show as the end of the messages first.
        await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        note(context, "cancelled")
        raise


async def sleep(request, context):
    begun(context)
    try:
        await asyncio.sleep(float(request))
    except asyncio.CancelledError:
        note(context, "cancelled")
        raise
    return b"slept"


async def large(request, context):
    begun(context)
    return b"m" * int(request)


async def flood(request, context):
    """More than anybody has windows for."""
    begun(context)
    for _ in range(int(request)):
        await context.write(bytes(16384))


async def tell(request, context):
    return json.dumps(seen.get(request.decode(), {})).encode()


async def main():
    options = argparse.ArgumentParser()
    options.add_argument("--cert")
    options.add_argument("--key")
    given = options.parse_args()
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=limits)
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Gather": grpc.stream_unary_rpc_method_handler(gather),
        "Repeat": grpc.unary_stream_rpc_method_handler(repeat),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Sleep": grpc.unary_unary_rpc_method_handler(sleep),
        "Large": grpc.unary_unary_rpc_method_handler(large),
        "Flood": grpc.unary_stream_rpc_method_handler(flood),
        "Seen": grpc.unary_unary_rpc_method_handler(tell),
    }
    names = "conform.Server", "mortal.Server"
    server.add_generic_rpc_handlers(tuple(grpc.method_handlers_generic_handler(name, handlers) for name in names))
    if given.cert:
        with open(given.cert, "rb") as cert, open(given.key, "rb") as key:
            credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening {port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
