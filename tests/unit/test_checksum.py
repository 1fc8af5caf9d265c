"""Checksums are read strictly, and combine as if the parts were one."""

import hashlib

import pytest
from awscrt.checksums import crc32c, crc64nvme
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.errors import ChecksumMismatch, InvalidRequest
from rayhaul.lease import PartDone
from tasks.checksum import (
    Algorithm,
    Checksum,
    Hasher,
    combined_crc,
    combined_crc32c,
    combined_etag,
    crc32c_text,
    crc_text,
    crc_value,
)

SHA256 = hashlib.sha256(b"abc").hexdigest()
SHA512 = hashlib.sha512(b"abc").hexdigest()
MD5 = hashlib.md5(b"abc").hexdigest()


def part(number: int, data: bytes) -> PartDone:
    return PartDone(
        session_id="s",
        number=number,
        size_bytes=len(data),
        etag=hashlib.md5(data).hexdigest(),
        crc64nvme=crc64nvme(data),
        crc32c=crc32c(data),
    )


@pytest.mark.parametrize(
    ("text", "algorithm", "value"),
    [
        (f"sha256:{SHA256}", Algorithm.SHA256, SHA256),
        (f"SHA256:{SHA256.upper()}", Algorithm.SHA256, SHA256),
        (f" md5:{MD5}", Algorithm.MD5, MD5),
        (f"sha512:{SHA512}", Algorithm.SHA512, SHA512),
        ("crc32c:4waSgw==", Algorithm.CRC32C, "4waSgw=="),
        ("crc64nvme:rosUhgp5mIg=", Algorithm.CRC64NVME, "rosUhgp5mIg="),
    ],
)
def test_what_can_be_read(text: str, algorithm: Algorithm, value: str) -> None:
    """Hex in any case, base64 as S3 writes it."""
    assert Checksum.parse(text) == Checksum(algorithm=algorithm, value=value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "sha1:" + "0" * 40,
        "sha256:",
        f"sha256:{MD5}",
        f"sha512:{SHA256}",
        "md5:" + "g" * 32,
        "crc64nvme:AAAA",
        "crc64nvme:é",
        "crc32c:rosUhgp5mIg=",
        "crc32c:e3069283",
    ],
)
def test_what_cannot_be_read(text: str) -> None:
    """Unknown algorithms and values of another length or alphabet are refused."""
    with pytest.raises(InvalidRequest):
        Checksum.parse(text)


@pytest.mark.parametrize(
    ("text", "sha256"), [(f"sha256:{SHA256}", SHA256), (f"sha512:{SHA512}", None), (f"md5:{MD5}", None)]
)
def test_a_hasher_compares(text: str, sha256: str | None) -> None:
    """The right bytes pass in whatever pieces; others do not; a fresh one begins anew."""
    hasher = Hasher(Checksum.parse(text))
    hasher.update(b"a")
    with pytest.raises(ChecksumMismatch):
        hasher.check()
    hasher.update(bytearray(b"bc"))
    hasher.check()
    assert hasher.sha256 == sha256
    again = hasher.fresh()
    again.update(memoryview(b"abc"))
    again.check()


@pytest.mark.parametrize("text", [None, f"md5:{MD5}", f"sha256:{SHA256}", "crc64nvme:rosUhgp5mIg="])
def test_sha256_is_told_where_it_is_wanted(text: str | None) -> None:
    """Whatever else the bytes are compared with; a fresh one wants it too."""
    hasher = Hasher(Checksum.parse(text) if text else None, wants_sha256=True)
    assert hasher.needs_order
    for known in (hasher, hasher.fresh()):
        known.update(b"abc")
        known.check()
        assert known.sha256 == SHA256


def test_without_an_expectation_nothing_is_hashed() -> None:
    """No checksum, or one that is combined of the parts, costs nothing here."""
    for expected in (None, Checksum.parse("crc64nvme:rosUhgp5mIg="), Checksum.parse("crc32c:4waSgw==")):
        hasher = Hasher(expected)
        assert not hasher.needs_order
        hasher.update(b"abc")
        hasher.check()
        assert hasher.sha256 is None


@given(st.integers(0, 2**64 - 1))
def test_crc_text_and_value_are_inverse(value: int) -> None:
    """What is written can be read."""
    assert crc_value(crc_text(value)) == value


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_parts_combine_to_the_whole(pieces: list[bytes]) -> None:
    """The combined CRCs are those of the joined bytes, empty parts and none included."""
    parts = [part(number, data) for number, data in enumerate(pieces, 1)]
    assert combined_crc(parts) == crc64nvme(b"".join(pieces))
    assert combined_crc32c(parts) == crc32c(b"".join(pieces))


def test_the_check_values_of_the_catalogue() -> None:
    """Source: the CRC RevEng catalogue, CRC-64/NVME and CRC-32/ISCSI, check."""
    assert crc64nvme(b"123456789") == 0xAE8B14860A799888
    assert crc32c_text(crc32c(b"123456789")) == "4waSgw=="


def test_an_unknown_part_leaves_the_whole_unknown() -> None:
    """A part without a CRC, or with an ETag that is no MD5, cannot be combined."""
    known = part(1, b"abc")
    unknown = PartDone(session_id="s", number=2, size_bytes=1, etag="not-hex")
    assert combined_crc([known, unknown]) is None
    assert combined_crc32c([known, unknown]) is None
    assert combined_etag([known, unknown]) is None
    assert combined_etag([known]) == hashlib.md5(bytes.fromhex(known.etag)).hexdigest() + "-1"
