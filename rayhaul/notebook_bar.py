"""A bar for notebooks: what the client's waits and downloads tell, drawn in the cell that asked for it."""

import time
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from rayhaul.units import duration, percent, size

if TYPE_CHECKING:
    from rayhaul.client.many import Tally
    from rayhaul.wire import EventView

#: Each drawing is a message to the browser.
_REDRAW_S = 0.2


class Bar:
    """Shown where it is made, and kept up to date by what its methods are given to:

    >>> client.wait(job.id, on_event=Bar().event)  # doctest: +SKIP
    >>> list(client.wait_many(ids, on_progress=Bar().tally))  # doctest: +SKIP
    >>> client.download(job.id, "data.tar", progress=Bar().bytes)  # doctest: +SKIP
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Show the bar; in a plain script it is printed once.

        Raises: ImportError where there is no IPython, which every notebook has.
        """
        from IPython.display import display  # noqa: PLC0415 - the client needs none

        self._clock = clock
        self._done, self._total = 0, 0
        self._text = "waiting"
        self._drawn_at_s = clock()
        self._handle = display(self, display_id=True)  # type: ignore[no-untyped-call]

    def event(self, event: "EventView") -> None:
        """Take an event of one job: for `wait(on_event=…)`."""
        facts = event.payload
        if event.event == "progress":
            self._done, self._total = facts.get("bytes") or 0, facts.get("bytesTotal") or 0
            speed, left = facts.get("bytesPerSecond"), duration(facts.get("etaSeconds"))
            self._draw(
                f"{size(self._done)} of {size(self._total or None)}",
                f"{size(speed)}/s" if speed else "",
                f"{left} left" if left else "",
            )
            return
        if event.status == "completed":
            self._done = self._total = self._total or 1
        self._draw(event.status, is_news=True)

    def tally(self, tally: "Tally") -> None:
        """Take how many of many jobs have ended: for `wait_many(on_progress=…)`."""
        self._done, self._total = tally.total - tally.left, tally.total
        told = ((tally.completed, "completed"), (tally.failed, "failed"), (tally.cancelled, "cancelled"))
        self._draw(
            f"{self._done} of {self._total} jobs",
            *[f"{count} {how}" for count, how in told if count],
            is_news=tally.left == 0,
        )

    def bytes(self, done_bytes: int, total_bytes: int) -> None:
        """Take how far a file is: for `download(progress=…)`."""
        self._done, self._total = done_bytes, total_bytes
        self._draw(f"{size(done_bytes)} of {size(total_bytes)}", is_news=done_bytes >= total_bytes)

    def _draw(self, *texts: str, is_news: bool = False) -> None:
        self._text = " · ".join(filter(None, (percent(self._done, self._total), *texts)))
        now = self._clock()
        if is_news or now - self._drawn_at_s >= _REDRAW_S:
            self._drawn_at_s = now
            if self._handle is not None:
                self._handle.update(self)

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        text = escape(self._text)
        return f'<progress max="{self._total or 1}" value="{self._done}" aria-label="{text}"></progress> {text}'
