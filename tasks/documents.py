"""Documents that describe a file: read whole, within a limit, before anything in them is believed."""

import asyncio

from rayhaul.errors import SourceRefused, SourceTimeout
from tasks.egress import GuardedClient
from tasks.links import Link
from tasks.source import check_coding, classify_status


async def read_document(client: GuardedClient, link: Link, *, bytes_max: int, kind: str) -> bytes:
    """Return the bytes of a document; `kind` is what the caller is told of it. Raises: SourceError; EgressDenied."""
    document = b""
    try:
        async with asyncio.timeout(client.source.probe_timeout_s):
            async with client.open_now(link.url, headers=link.headers) as answer:
                if answer.status != 200:
                    raise classify_status(answer.status, answer.headers)
                check_coding(answer)
                while piece := await answer.read():
                    document += piece
                    if len(document) > bytes_max:
                        raise SourceRefused(f"The {kind} document has more than {bytes_max} bytes.")
    except TimeoutError as err:
        raise SourceTimeout from err
    return document
