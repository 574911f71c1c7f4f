"""A WebSocket server that sends every message back, on a port of its own that its first line of output names."""

import asyncio

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass


async def main():
    options = {"max_size": None, "ping_interval": None, "close_timeout": 1, "max_queue": None}
    async with serve(echo, "127.0.0.1", 0, **options) as server:
        print(f"listening {server.sockets[0].getsockname()[1]}", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
