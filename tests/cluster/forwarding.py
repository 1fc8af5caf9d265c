"""A port on one address that leads to a service on another: hosts on a bridge reach what listens on loopback."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

_PIECE_BYTES = 256 * 1024

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@contextmanager
def forwarded(address: str, connect: Connect) -> Iterator[int]:
    """Yield a port on `address` whose connections are carried on to what `connect` opens, a service on loopback say."""
    ready, done = threading.Event(), threading.Event()
    port = 0
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(_PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await connect()
        except OSError:
            writer.close()
            return
        # Only `serve` cancels, at the end; ending quietly keeps the stream library from logging it.
        with suppress(asyncio.CancelledError):
            await asyncio.gather(pipe(reader, far_writer), pipe(far_reader, writer))

    async def serve() -> None:
        nonlocal port
        async with await asyncio.start_server(carry, address, 0) as server:
            port = server.sockets[0].getsockname()[1]
            ready.set()
            await stop.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())
        done.set()

    threading.Thread(target=run, name=f"forward-{address}", daemon=True).start()
    assert ready.wait(10), "the forwarder did not start"
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        assert done.wait(10), "the forwarder did not stop"
