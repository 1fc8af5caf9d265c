"""Metalink documents: what is read of them, and what is refused."""

import hashlib
from typing import Any

import pytest

from rayhaul.errors import SourceRefused
from tasks.metalink import Metalink, Pieces
from tasks.pieces import checked
from tasks.source import CorruptBody

DATA = bytes(range(250)) * 4


def document(*, files: int = 1, inner: str = "", name: str = "a.bin", tag: str = "metalink") -> bytes:
    file = f'<file name="{name}">{inner}</file>' * files
    return f'<?xml version="1.0"?><{tag} xmlns="urn:ietf:params:xml:ns:metalink">{file}</{tag}>'.encode()


URL = "<url>https://a.example/f</url>"
SHA256 = hashlib.sha256(DATA).hexdigest()


def pieces_of(data: bytes, length: int, *, name: str = "sha-256", algorithm: str = "sha256") -> str:
    cuts = [data[start : start + length] for start in range(0, len(data), length)]
    hashes = "".join(f"<hash>{hashlib.new(algorithm, cut).hexdigest()}</hash>" for cut in cuts)
    return f'<pieces length="{length}" type="{name}">{hashes}</pieces>'


def test_what_a_document_tells() -> None:
    """Name, size, the best URL first, the whole's hash and the strongest list of pieces."""
    found = Metalink.parse(
        document(
            name="d/ä.bin",
            inner=f"""
            <size> {len(DATA)} </size><url priority="2">https://b.example/f</url><url>https://c.example/f</url>
            <url location="de" priority="1"> https://a.example/f </url><metaurl mediatype="torrent">x</metaurl>
            <hash type="sha-256">{SHA256.upper()}</hash><hash type="md5">{hashlib.md5(DATA).hexdigest()}</hash>
            <hash type="whirlpool">00</hash>
            {pieces_of(DATA, 300, name="sha-1", algorithm="sha1")}{pieces_of(DATA, 400)}""",
        )
    )
    assert found.filename == "d/ä.bin"
    assert found.size_bytes == len(DATA)
    assert found.urls == ("https://a.example/f", "https://b.example/f", "https://c.example/f")
    assert found.digest == f"sha256:{SHA256}"
    assert found.pieces is not None
    assert (found.pieces.algorithm, found.pieces.piece_bytes, len(found.pieces.hashes)) == ("sha256", 400, 3)


def test_the_least_document() -> None:
    """A URL is enough; pieces without a size, and pieces that are too long, are of no use."""
    found = Metalink.parse(document(inner=URL + pieces_of(DATA, 400)))
    assert (found.size_bytes, found.digest, found.pieces) == (None, None, None)
    long = f'<size>1</size><pieces length="99999999" type="sha-256"><hash>{SHA256}</hash></pieces>'
    assert Metalink.parse(document(inner=URL + long)).pieces is None


BOMB = b"""<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="&b;"><url>https://a.example/f</url></file></metalink>"""
OUTSIDE = BOMB.replace(b'"aaaaaaaaaa"', b'SYSTEM "file:///etc/passwd"')


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"\xff\xfe\x00",
        b'<?xml version="1.0" encoding="none"?><a/>',
        BOMB,
        OUTSIDE,
        document(),
        document(inner="<size>1</size>"),
        document(inner=URL, files=0),
        document(inner=URL, files=2),
        document(inner=URL, tag="other"),
        document(inner=URL).replace(b"urn:ietf:params:xml:ns:metalink", b"http://www.metalinker.org/"),
        document(inner=URL * 101),
        document(inner=f"{URL}<size>-1</size>"),
        document(inner=f"{URL}<size>1e9</size>"),
        document(inner=f"{URL}<size>{'9' * 19}</size>"),
        document(inner=f'{URL}<hash type="sha-256">00</hash>'),
        document(inner=f'{URL}<hash type="sha-256">{"g" * 64}</hash>'),
        document(inner=f'{URL}<hash type="md5">{"0" * 32}</hash><hash type="md5">{"1" * 32}</hash>'),
        document(inner=f"{URL}<size>{len(DATA) + 1000}</size>{pieces_of(DATA, 400)}"),
        document(inner=f'{URL}<size>1</size><pieces length="0" type="md5"/>'),
    ],
)
def test_what_is_refused(text: bytes) -> None:
    """What is no document, what could blow up, and what says a thing twice or wrongly."""
    with pytest.raises(SourceRefused):
        Metalink.parse(text)


class TestPieces:
    """Bytes compared with the hashes of their pieces."""

    pieces = Metalink.parse(document(inner=f"{URL}<size>{len(DATA)}</size>{pieces_of(DATA, 300)}")).pieces

    async def read(self, data: bytes, first: int, end: int, *, begins_at: int, step: int, got: bytearray) -> None:
        assert isinstance(self.pieces, Pieces)

        async def body() -> Any:
            for start in range(0, len(data), step):
                yield data[start : start + step]

        right = checked(body(), self.pieces, begins_at=begins_at, size_bytes=len(DATA), first_byte=first, end_byte=end)
        async for piece in right:
            got += piece

    @pytest.mark.parametrize("step", [1, 7, 300, 301, 1000])
    @pytest.mark.parametrize(("first", "end"), [(0, 1000), (0, 1), (299, 301), (650, 660), (999, 1000)])
    async def test_exactly_the_range(self, first: int, end: int, step: int) -> None:
        """However the body is cut, the range comes out of it."""
        begins_at, ends_at = first // 300 * 300, min(len(DATA), -(-end // 300) * 300)
        got = bytearray()
        await self.read(DATA[begins_at:ends_at], first, end, begins_at=begins_at, step=step, got=got)
        assert got == DATA[first:end]

    @pytest.mark.parametrize("wrong", [0, 299, 300, 650, 999])
    @pytest.mark.parametrize("step", [7, 1000])
    async def test_a_flipped_bit(self, wrong: int, step: int) -> None:
        """One wrong bit anywhere, around the range too, and its last bytes are never given."""
        data = bytearray(DATA)
        data[wrong] ^= 1
        got = bytearray()
        with pytest.raises(CorruptBody):
            await self.read(bytes(data), 10, 990, begins_at=0, step=step, got=got)
        assert len(got) < 980
