"""Whether two sources have the same file, and which is asked for the next part."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rayhaul.job import Job, JobSpec, Metadata
from rayhaul.origins import hosts_of_mirrors, sources_from, sources_of
from rayhaul.policy.mirrors import Match, Standing, choose, crawls, match

SHA256, OTHER_SHA256 = f"sha256:{'ab' * 32}", f"sha256:{'cd' * 32}"
MD5 = f"md5:{'ab' * 16}"
FILE = Metadata(
    size_bytes=1000,
    content_type=None,
    etag='"v1"',
    last_modified="Mon, 06 Jan 2025 00:00:00 GMT",
    rangeable=True,
    filename="file.bin",
    final_url="https://files.example/file.bin",
    fetch_ms=1,
)
PLAIN = replace(FILE, etag=None)


@pytest.mark.parametrize(
    ("pin", "seen", "checksum", "found"),
    [
        (FILE, FILE, None, Match.SAME),
        (FILE, replace(FILE, etag='"v2"'), None, Match.DOUBTFUL),
        (FILE, PLAIN, None, Match.DOUBTFUL),
        # A date and a length are of one server's own file.
        (PLAIN, PLAIN, None, Match.DOUBTFUL),
        (replace(FILE, etag='W/"v1"'), replace(FILE, etag='W/"v1"'), None, Match.DOUBTFUL),
        (FILE, replace(FILE, size_bytes=999), None, Match.OTHER),
        (FILE, replace(FILE, size_bytes=999), SHA256, Match.OTHER),
        (FILE, replace(FILE, size_bytes=None), SHA256, Match.DOUBTFUL),
        (replace(FILE, size_bytes=None), FILE, SHA256, Match.DOUBTFUL),
        (replace(PLAIN, digest=SHA256), replace(PLAIN, digest=SHA256), None, Match.SAME),
        # A digest tells more than a tag.
        (replace(FILE, digest=SHA256), replace(FILE, digest=OTHER_SHA256), None, Match.OTHER),
        (replace(PLAIN, digest=SHA256), replace(PLAIN, digest=MD5), None, Match.DOUBTFUL),
        (PLAIN, replace(PLAIN, digest=SHA256), SHA256, Match.SAME),
        (FILE, replace(FILE, digest=OTHER_SHA256), SHA256, Match.OTHER),
        (PLAIN, PLAIN, SHA256, Match.CHECKED_LATER),
        (PLAIN, replace(PLAIN, digest=MD5), SHA256, Match.CHECKED_LATER),
        (PLAIN, PLAIN, "crc64nvme:AAAAAAAAAAA=", Match.CHECKED_LATER),
        # Too few bits to mix files by.
        (PLAIN, PLAIN, "crc32c:4waSgw==", Match.DOUBTFUL),
    ],
)
def test_the_same_file(pin: Metadata, seen: Metadata, checksum: str | None, found: Match) -> None:
    assert match(pin, seen, checksum) is found


def test_pieces_with_hashes() -> None:
    """Where each part is compared, the length is enough; a digest that is another one still tells of another file."""
    assert match(FILE, PLAIN, None, in_pieces=True) is Match.SAME
    assert match(FILE, replace(PLAIN, size_bytes=999), None, in_pieces=True) is Match.OTHER
    described = replace(FILE, digest=SHA256)
    assert match(described, replace(PLAIN, digest=OTHER_SHA256), None, in_pieces=True) is Match.OTHER


def test_hosts_that_a_document_names() -> None:
    """They count as the hosts of mirrors do: of each one once, and of the one that was looked at not again."""
    job = Job(
        id="job_1",
        user_id="alice",
        correlation_id="corr-1",
        spec=JobSpec(url="https://a.example/f.meta4", mirrors=("https://b.example/f",)),
        created_at=datetime(2025, 1, 1, tzinfo=UTC),
        metadata=replace(FILE, other_hosts=("files.example:443", "b.example:443", "c.example:443")),
    )
    assert hosts_of_mirrors(job) == ["b.example:443", "c.example:443"]
    assert hosts_of_mirrors(replace(job, spec=JobSpec(url="https://a.example/f.meta4"))) == [
        "b.example:443",
        "c.example:443",
    ]


def test_who_is_asked_next() -> None:
    """One that was not tried is tried with one connection; then the quickest, less what failed; who is gone, last."""
    new, quick, slow = Standing(), Standing(bytes_per_s=900.0), Standing(bytes_per_s=100.0)
    assert choose({0: new, 1: new}) == 0
    assert choose({0: new.taken(), 1: new}) == 1
    assert choose({0: quick, 1: new.taken()}) == 0
    assert choose({0: slow, 1: quick}) == 1
    assert choose({0: slow, 1: quick.failed(0, 0.1).failed(0, 0.1).failed(0, 0.1).failed(0, 0.1)}) == 0
    assert choose({0: slow, 1: quick}, but={1}) == 0
    assert choose({0: slow, 1: quick}, but={0, 1}) is None
    assert choose({0: slow, 1: quick.at_gate(is_free=False)}) == 0
    assert choose({1: quick.at_gate(is_free=False)}) == 1


def test_what_a_source_delivers_counts() -> None:
    """The newest part has half of the weight; a part that came makes failures forgotten."""
    standing = Standing().taken().failed(0, 0.1).delivered(1000, 1.0).left()
    assert (standing.bytes_per_s, standing.bytes_count, standing.failures, standing.in_use) == (1000, 1000, 0, 0)
    assert standing.delivered(3000, 1.0).bytes_per_s == 2000
    # What was too slow to be waited for is known by that pace.
    assert standing.failed(30, 3.0).bytes_per_s == 10


def test_a_part_that_crawls() -> None:
    """Only after a while, only beside one that is four times quicker and well, and never where there is none."""
    standings = {0: Standing(bytes_per_s=1000.0), 1: Standing()}
    assert crawls(600, 3.0, 1, standings)
    assert not crawls(900, 3.0, 1, standings)
    assert not crawls(0, 2.9, 1, standings)
    assert not crawls(0, 9.0, 0, standings)
    assert not crawls(0, 9.0, 1, {0: Standing(bytes_per_s=1000.0, failures=1)})
    assert not crawls(0, 9.0, 1, {0: Standing(bytes_per_s=1000.0, is_free=False)})


def test_headers_are_for_the_jobs_own_origin() -> None:
    """A mirror on the same origin has them as well, and no other one: not another port, nor plain HTTP."""
    spec = JobSpec(
        url="https://files.example/a",
        headers={"Authorization": "Bearer t"},
        mirrors=(
            "https://files.example:443/b",
            "http://files.example/a",
            "https://files.example:8443/a",
            "https://m.example/a",
        ),
    )
    assert [bool(source.headers) for source in sources_of(spec)] == [True, True, False, False, False]
    assert [source.index for source in sources_from(spec, 7)] == [2, 3, 4, 0, 1]
