"""Lists of jobs: what each format says, and which line is wrong."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.client.listing import Entry, ListError, ListFormat, check, fingerprint, read

LINES, CSV, JSONL = ListFormat.LINES, ListFormat.CSV, ListFormat.JSONL


def entries(text: str, written_as: ListFormat) -> list[Entry]:
    return list(read(io.StringIO(text, newline=""), written_as))


def test_lines() -> None:
    """Blank lines and remarks are passed over; a fragment is no remark."""
    text = "# all of them\n\nhttps://a.example/1\r\n  https://a.example/2#part  # the second\n"
    assert entries(text, LINES) == [
        Entry(3, {"url": "https://a.example/1"}),
        Entry(4, {"url": "https://a.example/2#part"}),
    ]


def test_csv() -> None:
    """A column is a field, `tags.x` one tag, mirrors several words; what is empty is not said."""
    text = (
        "url,key,sizeBytesMax,tags.set,headers.Accept,mirrors\r\n"
        '"https://a.example/a,b",k,12,train,,https://b.example/1 https://c.example/1\r\n'
        "https://a.example/2,,,,text/plain,\r\n"
    )
    assert entries(text, CSV) == [
        Entry(
            2,
            {
                "url": "https://a.example/a,b",
                "key": "k",
                "sizeBytesMax": "12",
                "tags": {"set": "train"},
                "mirrors": ["https://b.example/1", "https://c.example/1"],
            },
        ),
        Entry(3, {"url": "https://a.example/2", "headers": {"Accept": "text/plain"}}),
    ]
    assert check(entries(text, CSV)) == 2


def test_json_lines() -> None:
    text = '{"url": "https://a.example/1", "tags": {"set": "a"}}\n\n{"url": "https://a.example/2"}\n'
    assert [entry.line for entry in entries(text, JSONL)] == [1, 3]
    assert check(entries(text, JSONL)) == 2


@pytest.mark.parametrize(
    ("text", "written_as", "said"),
    [
        ("address\nx\n", CSV, "line 1: the header of the CSV names no column `url`"),
        ("", CSV, "line 1: the header of the CSV names no column `url`"),
        ("url,key\nhttps://a.example/1\n", CSV, "line 2: it has 1 columns, the header has 2"),
        ('url\n"https://a.example/1\n', CSV, "line 2: unexpected end of data"),
        ("{}\nnot json\n", JSONL, "line 2: this is no JSON"),
        ("[1]\n", JSONL, "line 1: a job is written as a JSON object"),
    ],
)
def test_what_is_no_list(text: str, written_as: ListFormat, said: str) -> None:
    with pytest.raises(ListError) as refused:
        entries(text, written_as)
    assert str(refused.value) == said


def test_a_field_that_is_wrong() -> None:
    """The line and the field are named, the value, which may be a secret, is not."""
    text = '{"url": "https://a.example/1"}\n{"url": "https://a.example/2", "connections": "hunter2"}\n'
    with pytest.raises(ListError, match=r"^line 2: connections: ") as refused:
        check(entries(text, JSONL))
    assert "hunter2" not in str(refused.value)
    with pytest.raises(ListError, match=r"^line 1: prioritee: "):
        check([Entry(1, {"url": "https://a.example/1", "prioritee": "low"})])


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_a_list_is_known_again(one: bytes, other: bytes) -> None:
    """The same content with the same options, and nothing else, has the same fingerprint."""
    assert (fingerprint(io.BytesIO(one), 1) == fingerprint(io.BytesIO(other), 1)) is (one == other)
    assert fingerprint(io.BytesIO(one), 1) != fingerprint(io.BytesIO(one), 2)
