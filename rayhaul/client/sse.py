"""A parser of server-sent events that is fed bytes as they arrive: no network in here.

Laws of this file (WHATWG HTML 9.2.6):
1. A line ends with CR, LF or CRLF, wherever the bytes were cut.
2. An event without data is not dispatched; an event cut off by the end of the stream is dropped, its id with it.
3. What the stream makes us keep is bounded.
"""

import codecs
from dataclasses import dataclass

#: An event of ours has a few KB. A stream that goes on for this long without a blank line is no stream of ours.
EVENT_CHARACTERS_MAX = 4 * 1024 * 1024

#: Eleven days in milliseconds; a longer number is no time to wait.
RETRY_DIGITS_MAX = 9


class EventTooLarge(ValueError):
    """The stream sends an event without an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    event: str
    data: str
    #: The last `id:` of the stream so far, this event's included; empty where there was none.
    last_event_id: str


class SseParser:
    r"""`feed` it bytes, get events.

    >>> SseParser().feed(b"event: started\nid: 7\ndata: {}\n\n")
    [ServerSentEvent(event='started', data='{}', last_event_id='7')]
    """

    def __init__(self, last_event_id: str = "") -> None:
        #: Of the last complete event: what `Last-Event-ID` must say after a reconnect.
        self.last_event_id = last_event_id
        #: The time to wait before a reconnect, as the server last asked; None while it did not.
        self.retry_ms: int | None = None
        # The specification's "UTF-8 decode": bad bytes become U+FFFD, one byte order mark is dropped.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_at_start = True
        self._after_cr = False
        self._line = ""
        self._id = last_event_id
        self._event = ""
        self._data: list[str] = []
        self._data_characters = 0

    def feed(self, received: bytes) -> list[ServerSentEvent]:
        """Return the events that `received` completes.

        Raises: EventTooLarge.
        """
        text = self._decoder.decode(received)
        if text and self._is_at_start:
            self._is_at_start = False
            text = text.removeprefix("\ufeff")
        if text and self._after_cr:
            # The CR has ended its line already: waiting for a LF that may never come would hold the event back.
            self._after_cr = False
            text = text.removeprefix("\n")
        self._after_cr = text.endswith("\r") or (self._after_cr and not text)
        *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        events = []
        for line in lines:
            event = self._take_line(self._line + line)
            self._line = ""
            if event is not None:
                events.append(event)
        self._line += rest
        if len(self._line) + self._data_characters > EVENT_CHARACTERS_MAX:
            raise EventTooLarge(f"an event of more than {EVENT_CHARACTERS_MAX} characters")
        return events

    def _take_line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
                self._data_characters += len(value) + 1
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit() and len(value) <= RETRY_DIGITS_MAX:
                self.retry_ms = int(value)
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_event_id = self._id
        event, data = self._event or "message", self._data
        self._event, self._data, self._data_characters = "", [], 0
        if not data:
            return None
        return ServerSentEvent(event=event, data="\n".join(data), last_event_id=self._id)
