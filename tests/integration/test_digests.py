"""Digests that a source tells are compared with what it sends, whatever header they stand in."""

import base64
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from awscrt.checksums import crc32c
from fetching import SEED, SIZE, ask, pinned, read_range, read_whole
from origin import Origin, content_bytes, content_sha256
from origin_files import DIGESTS

from rayhaul.errors import SourceChanged
from tasks.egress import GuardedClient
from tasks.source import CorruptBody, open_range, open_whole

WHOLE = ["Repr-Digest", "Digest", "Content-MD5", "x-goog-hash", "Content-Digest"]


async def collect(opened: AbstractAsyncContextManager[AsyncIterator[bytes]], got: bytearray) -> None:
    async with opened as body:
        async for piece in body:
            got += piece


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("header", WHOLE)
async def test_a_flipped_bit_of_a_whole_file(origin: Origin, client: GuardedClient, header: str, framing: str) -> None:
    """Bytes that have another digest than the source told are an error before the last of them is given."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, digests=(header,), framing=framing)
    assert await read_whole(client, url, pinned(origin)) == content_bytes(SEED, 0, SIZE)
    url = origin.add("f.bin", size=SIZE, seed=SEED, digests=(header,), framing=framing, flip_at=SIZE - 1)
    got = bytearray()
    with pytest.raises(CorruptBody) as corrupt:
        await collect(open_whole(client, url=url, headers={}, pin=pinned(origin)), got)
    assert corrupt.value.retryable
    assert corrupt.value.code == "checksum_mismatch"
    assert len(got) < SIZE


async def test_a_flipped_bit_of_a_range(origin: Origin, client: GuardedClient) -> None:
    """Content-Digest is of the range; the other headers are of the whole file, and say nothing of a range."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, digests=tuple(DIGESTS))
    assert await read_range(client, url, pinned(origin), 100, 90_000) == content_bytes(SEED, 100, 90_000)
    url = origin.add("f.bin", size=SIZE, seed=SEED, digests=tuple(DIGESTS), flip_at=200)
    with pytest.raises(CorruptBody):
        await read_range(client, url, pinned(origin), 100, 90_000)
    got = bytearray()
    with pytest.raises(CorruptBody):
        await collect(open_range(client, url=url, headers={}, pin=pinned(origin), first_byte=0, end_byte=300), got)
    assert got == b"", "no byte of a small range is given before all are compared"


@pytest.mark.parametrize(
    ("digests", "algorithm"),
    [
        (("Repr-Digest", "x-goog-hash"), "sha256"),
        (("Digest",), "sha256"),
        (("x-goog-hash",), "md5"),
        (("Content-Digest",), None),
        (("Content-MD5",), None),
        ((), None),
    ],
)
async def test_probe_learns_the_digest_of_the_file(
    origin: Origin, client: GuardedClient, digests: tuple[str, ...], algorithm: str | None
) -> None:
    """The answer to a range of one byte tells the whole file's digest, but for headers that are of the body."""
    pin = await ask(client, origin.add("f.bin", size=SIZE, seed=SEED, digests=digests))
    assert pin.digest is None if algorithm is None else (pin.digest or "").startswith(f"{algorithm}:")
    if algorithm == "sha256":
        assert pin.digest == f"sha256:{content_sha256(SEED, SIZE)}"
    right = crc32c(content_bytes(SEED, 0, SIZE)).to_bytes(4, "big")
    assert pin.crc32c == (base64.b64encode(right).decode() if "x-goog-hash" in digests else None)


async def test_probe_learns_a_sole_sha_512(origin: Origin, client: GuardedClient) -> None:
    """Beside it, SHA-256 goes first: receipts and copies have a use for that."""
    sha512, sha256 = (base64.b64encode(bytes(size)).decode() for size in (64, 32))
    headers = {"Repr-Digest": f"sha-512=:{sha512}:"}
    pin = await ask(client, origin.add("f.bin", size=SIZE, seed=SEED, headers=headers))
    assert pin.digest == f"sha512:{'0' * 128}"
    headers = {"Repr-Digest": f"sha-512=:{sha512}:, sha-256=:{sha256}:"}
    pin = await ask(client, origin.add("f.bin", size=SIZE, seed=SEED, headers=headers))
    assert pin.digest == f"sha256:{'0' * 64}"


async def test_probe_of_a_whole_answer_learns_content_md5(origin: Origin, client: GuardedClient) -> None:
    """Where ranges are not served, the body is the file, and so are its digests."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, ranges=False, digests=("Content-MD5",))
    assert ((await ask(client, url)).digest or "").startswith("md5:")


@pytest.mark.parametrize(
    "headers",
    [
        {"Repr-Digest": "sha-256=:AAAA:"},
        {"Repr-Digest": "sha-256=AAAA"},
        {"Digest": "adler32=03da0195"},
        {"Content-MD5": "not base64!"},
        {"x-goog-hash": "md5=AAAAAAAAAAAAAAAAAAAAAA==", "x-goog-stored-content-encoding": "gzip"},
    ],
)
async def test_a_digest_that_cannot_be_used_is_none(
    origin: Origin, client: GuardedClient, headers: dict[str, Any]
) -> None:
    """What is malformed, of an unknown algorithm, or of bytes that Google decodes on the way, is passed over."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, headers=headers)
    pin = await ask(client, url)
    assert pin.digest is None
    assert await read_whole(client, url, pin) == content_bytes(SEED, 0, SIZE)


async def test_a_digest_is_a_validator(origin: Origin, client: GuardedClient) -> None:
    """The same digest makes answers with different ETags one version; another one makes equal ETags two."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, digests=("Repr-Digest",), edges_count=2, last_modified=None)
    pin = await ask(client, url)
    for first in (0, 1000, 2000):
        assert await read_range(client, url, pin, first, first + 1000) == content_bytes(SEED, first, first + 1000)
    url = origin.add("f.bin", size=SIZE, seed=SEED, digests=("Repr-Digest",), changes_after=0, validators_change=False)
    with pytest.raises(SourceChanged):
        await read_range(client, url, pinned(origin, digest=pin.digest), 0, 1000)
