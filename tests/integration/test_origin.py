"""The tests' own origin, from a synchronous test."""

import hashlib
import itertools
import urllib.error
import urllib.request

import pytest
from fetching import SEED, SIZE
from origin import OriginThread, content_bytes, content_sha256


def test_origin_in_a_thread() -> None:
    """Synchronous tests get the same origin, with content that is the same however it is cut."""
    with OriginThread() as origin:
        url = origin.add("f.bin", size=SIZE, seed=SEED, stall_after=1000, head=False, rate_bytes_per_s=50_000_000)
        origin.resume()
        with urllib.request.urlopen(url) as response:
            body = response.read()
        with pytest.raises(urllib.error.HTTPError, match="405") as refused:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"))
        refused.value.close()
    assert hashlib.sha256(body).hexdigest() == content_sha256(SEED, SIZE)
    assert [seen.method for seen in origin.seen("f.bin")] == ["GET", "HEAD"]
    cuts = [0, 1, 65_535, 65_536, 65_537, 200_000, SIZE]
    assert b"".join(content_bytes(SEED, *pair) for pair in itertools.pairwise(cuts)) == body
