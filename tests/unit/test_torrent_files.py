"""Links that select several files of a torrent."""

import pytest

from rayhaul import each_file
from rayhaul.client.errors import BadRequest

MAGNET = "magnet:?xt=urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a"


@pytest.mark.parametrize(
    ("url", "numbers"),
    [
        (MAGNET + "&so={}&tr=http://t.example/so=9,9", ["0,2-4", 0, 2, 3, 4]),
        (MAGNET + "&so={}", ["7-7", 7]),
        (MAGNET.replace("?", "?so={}&"), ["5,1,1-2", 5, 1, 2]),
        (MAGNET.replace("magnet", "MAGNET") + "&so={}", ["0%2C3", 0, 3]),
        ("https://files.example/a.torrent?so=8,9#so={}", ["0,3", 0, 3]),
        ("https://files.example/a.torrent#x=1&so={}&y=2", ["0,3", 0, 3]),
    ],
)
def test_one_url_a_file(url: str, numbers: list[str | int]) -> None:
    """In the order of the list, each once; the rest of the link is as it was."""
    listed, *each = numbers
    assert each_file(url.format(listed)) == [url.format(number) for number in each]


@pytest.mark.parametrize(
    "url",
    [
        MAGNET,
        MAGNET + "&so=3",
        MAGNET + "&so=",
        MAGNET + "&so=x",
        MAGNET + "&also=0,2",
        MAGNET + "&tr=http://t.example/?so=1,2",
        "https://files.example/a.torrent#so=3",
        "https://files.example/list?so=0,2",
        "https://files.example/a,b-c",
    ],
)
def test_what_selects_no_several(url: str) -> None:
    """Is left as it is; what is wrong with it the API says."""
    assert each_file(url) == [url]


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("0,", "lists the numbers"),
        ("-1", "lists the numbers"),
        ("0,,2", "lists the numbers"),
        ("0-", "lists the numbers"),
        ("1-2-3", "lists the numbers"),
        ("a,b", "lists the numbers"),
        ("0, 2", "lists the numbers"),
        ("٣,٤", "lists the numbers"),
        ("0,1234567", "lists the numbers"),
        ("5,4-2", "ends before it begins"),
        ("0-10000", "more than 10000"),
        ("0-9999,5", "more than 10000"),
        (",".join(["0-999999"] * 1000), "more than 10000"),
    ],
)
def test_bad_lists(listed: str, says: str) -> None:
    """A sentence says what is wrong."""
    with pytest.raises(BadRequest, match=says) as refused:
        each_file(f"{MAGNET}&so={listed}")
    assert refused.value.code == "invalid_request"


def test_as_many_as_there_may_be() -> None:
    """Ten thousand."""
    assert len(each_file(MAGNET + "&so=0-9999")) == 10_000
