"""Metalink documents of one file, and a web server that serves them."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from lease_bench import PART
from origin import content_bytes

SIZE = 3 * PART + 7
PIECE = 1_000_000
MEDIA_TYPE = "application/metalink4+xml"


class Describer:
    """A web server that serves one document under every path, and says what of a request it saw."""

    def __init__(self) -> None:
        self.text = ""
        self.media_type = MEDIA_TYPE
        self.port = 0
        self.headers: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        return web.Response(text=self.text, content_type=self.media_type)

    def url(self, path: str = "file") -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


@asynccontextmanager
async def describing() -> AsyncIterator[Describer]:
    describer = Describer()
    app = web.Application()
    app.router.add_get("/{tail:.*}", describer.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    describer.port = runner.addresses[0][1]
    try:
        yield describer
    finally:
        await runner.cleanup()


def described(
    *urls: str,
    size: int | None = SIZE,
    sha256: str | None = None,
    pieces: bool = True,
    wrong_piece: int | None = None,
) -> str:
    """Return a document that names these URLs, the best first, and tells of the bytes of seed 7."""
    cuts = [content_bytes(7, start, min(SIZE, start + PIECE)) for start in range(0, SIZE, PIECE)]
    hashes = [hashlib.sha256(cut).hexdigest() for cut in cuts]
    if wrong_piece is not None:
        hashes[wrong_piece] = "0" * 64
    listed = "".join(f"<hash>{value}</hash>" for value in hashes)
    # The best one is not the first that is written.
    places = "".join(f'<url priority="{index + 1}">{url}</url>' for index, url in reversed([*enumerate(urls)]))
    return f"""<?xml version="1.0" encoding="UTF-8"?><metalink xmlns="urn:ietf:params:xml:ns:metalink">
    <file name="named by it.bin">{"" if size is None else f"<size>{size}</size>"}
    {"" if sha256 is None else f'<hash type="sha-256">{sha256}</hash>'}
    {f'<pieces length="{PIECE}" type="sha-256">{listed}</pieces>' if pieces else ""}{places}</file></metalink>"""
