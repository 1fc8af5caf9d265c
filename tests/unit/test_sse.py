"""The parser of server-sent events, against the rules of WHATWG HTML 9.2.6."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.client.sse import EVENT_CHARACTERS_MAX, EventTooLarge, ServerSentEvent, SseParser


def event(data: str, *, name: str = "message", last_event_id: str = "") -> ServerSentEvent:
    return ServerSentEvent(event=name, data=data, last_event_id=last_event_id)


CASES: dict[str, tuple[bytes, list[ServerSentEvent]]] = {
    "one event": (b"event: started\nid: 7\ndata: {}\n\n", [event("{}", name="started", last_event_id="7")]),
    "several data lines": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [event("YHOO\n+2\n10")]),
    "comments": (b": here\n\n:\ndata: a\n: b\n\n", [event("a")]),
    "one space goes, the second stays": (b"data:a\n\ndata: b\n\ndata:  c\n\n", [event("a"), event("b"), event(" c")]),
    "no colon": (b"data\n\ndata\ndata\n\ndata:", [event(""), event("\n")]),
    "carriage returns": (b"data: a\r\rdata: b\r\r", [event("a"), event("b")]),
    "both": (b"data: a\r\n\r\ndata: b\r\n\r\n", [event("a"), event("b")]),
    "both, within an event": (b"data: a\r\ndata: b\r\n\r\n", [event("a\nb")]),
    "mixed": (b"data: a\r\n\ndata: b\n\rdata: c\r\r\n", [event("a"), event("b"), event("c")]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [event("a")]),
    "a second mark is content": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    "no data, no event": (b"event: started\nid: 3\n\ndata: a\n\n", [event("a", last_event_id="3")]),
    "the name is of one event": (b"event: x\ndata: a\n\ndata: b\n\n", [event("a", name="x"), event("b")]),
    "the id stays": (b"id: 1\ndata: a\n\ndata: b\n\n", [event("a", last_event_id="1"), event("b", last_event_id="1")]),
    "an empty id resets": (b"id: 1\ndata: a\n\nid\ndata: b\n\n", [event("a", last_event_id="1"), event("b")]),
    "an id with NUL is ignored": (b"id: 1\nid: 2\0\ndata: a\n\n", [event("a", last_event_id="1")]),
    "unknown fields": (b"data: a\nfoo: b\nDATA: c\n data: d\n\n", [event("a")]),
    "cut off at the end": (b"data: a\n\ndata: b\n", [event("a")]),
    "bad bytes": (b"data: a\xff\n\n", [event("a\ufffd")]),
    "empty": (b"", []),
}


@pytest.mark.parametrize("name", CASES)
def test_specification(name: str) -> None:
    """Each rule of the specification holds, however the stream is cut: at once, and byte by byte."""
    stream, events = CASES[name]
    assert SseParser().feed(stream) == events
    parser = SseParser()
    assert [found for byte in stream for found in parser.feed(bytes([byte]))] == events


def test_event_comes_with_its_last_byte() -> None:
    """A blank line that ends in CR is not held back until the next byte tells whether LF follows."""
    parser = SseParser()
    assert parser.feed(b"data: a\r\n\r") == [event("a")]
    assert parser.feed(b"\ndata: b\r\n\r\n") == [event("b")]


def test_id_of_an_unfinished_event_does_not_count() -> None:
    """After a cut the last complete event is where to go on, or the next one would be lost."""
    parser = SseParser("4")
    parser.feed(b"id: 5\ndata: a\n\nid: 6\ndata: b\n")
    assert parser.last_event_id == "5"
    assert SseParser("4").last_event_id == "4"


@pytest.mark.parametrize(
    ("line", "retry_ms"), [("3000", 3000), ("", None), ("-1", None), ("1.5", None), ("٣", None), ("9" * 5000, None)]
)
def test_retry(line: str, retry_ms: int | None) -> None:
    """Only digits, and only so many, are a time to wait."""
    parser = SseParser()
    parser.feed(f"retry: {line}\n\n".encode())
    assert parser.retry_ms == retry_ms


@pytest.mark.parametrize("flood", [b"data: " + b"x" * 65_536, b"data: " + b"x" * 65_536 + b"\n"])
def test_endless_event_is_refused(flood: bytes) -> None:
    """A line without an end, and an event without an end, do not fill the memory."""
    parser = SseParser()
    for _ in range(EVENT_CHARACTERS_MAX // len(flood)):
        parser.feed(flood)
    with pytest.raises(EventTooLarge):
        parser.feed(2 * flood)


_TEXTS = st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=["Cs"]))
_EVENTS = st.lists(st.tuples(_TEXTS.filter(bool), st.lists(_TEXTS, min_size=1, max_size=3), _TEXTS), max_size=5)


@given(events=_EVENTS, line_end=st.sampled_from(["\n", "\r", "\r\n"]), cuts=st.lists(st.integers(0, 400), max_size=9))
def test_what_is_written_is_read(events: list[tuple[str, list[str], str]], line_end: str, cuts: list[int]) -> None:
    """Any events, with any line ends, cut anywhere, come out as they went in."""
    lines = [
        line
        for name, data, event_id in events
        for line in (f"event: {name}", *(f"data: {one}" for one in data), f"id: {event_id}", "")
    ]
    stream = "".join(line + line_end for line in lines).encode()
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    parser = SseParser()
    found = [one for start, end in pairwise(places) for one in parser.feed(stream[start:end])]
    assert found == [event("\n".join(data), name=name, last_event_id=event_id) for name, data, event_id in events]
