"""The notebook's bar in a real IPython shell: what a cell shows, and how often it is drawn anew."""

from collections.abc import Iterator

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from rayhaul.client.many import Tally
from rayhaul.job import JobStatus
from rayhaul.notebook_bar import Bar
from rayhaul.wire import EventView
from serve_app import examples

EVENT = EventView.model_validate(examples.BY_MODEL["EventView"])
FACTS = {"bytes": 512, "bytesTotal": 2048, "bytesPerSecond": 1024, "etaSeconds": 61}


class Cell:
    """What a notebook's cell is given to show."""

    def __init__(self, published: CapturingDisplayPublisher) -> None:
        self._published = published
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    @property
    def drawn_count(self) -> int:
        return len(self._published.outputs)

    @property
    def shown(self) -> tuple[str, str]:
        """The last drawing, as text and as HTML. All after the first one take its place."""
        first, last = self._published.outputs[0], self._published.outputs[-1]
        assert first["transient"] == last["transient"]
        assert last.get("update", False) == (self.drawn_count > 1)
        return last["data"]["text/plain"], last["data"]["text/html"]


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cell]:
    shell = InteractiveShell.instance()
    published = CapturingDisplayPublisher()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(shell, "display_pub", published)
    # A terminal shows no HTML by itself.
    monkeypatch.setattr(shell.display_formatter, "active_types", ["text/plain", "text/html"])
    yield Cell(published)
    InteractiveShell.clear_instance()


def progress(**facts: object) -> EventView:
    return EVENT.model_copy(update={"event": "progress", "seq": None, "payload": {**FACTS, **facts}})


def test_a_job(cell: Cell) -> None:
    """Its bytes, speed and time left, drawn at most five times a second; its end is shown at once."""
    bar = Bar(cell.clock)
    assert cell.shown[0] == "waiting"
    bar.event(progress())
    assert cell.drawn_count == 1
    cell.now_s += 0.25
    bar.event(progress(bytes=1024))
    text = "50% · 1.0 KiB of 2.0 KiB · 1.0 KiB/s · 1:01 left"
    assert cell.shown == (text, f'<progress max="2048" value="1024" aria-label="{text}"></progress> {text}')
    bar.event(EVENT.model_copy(update={"event": "completed", "status": JobStatus.COMPLETED}))
    assert cell.shown[0] == "100% · completed"
    assert cell.drawn_count == 3


def test_what_is_not_known_is_not_shown(cell: Cell) -> None:
    bar = Bar(cell.clock)
    cell.now_s += 1
    bar.event(progress(bytesTotal=None, bytesPerSecond=0, etaSeconds=None))
    assert cell.shown[0] == "512 B of ?"


def test_many_jobs(cell: Cell) -> None:
    """How many have ended, and how; the last one is shown at once."""
    bar = Bar(cell.clock)
    cell.now_s += 1
    bar.tally(Tally(total=3, completed=1))
    assert cell.shown[0] == "33% · 1 of 3 jobs · 1 completed"
    bar.tally(Tally(total=3, completed=2, failed=1))
    assert cell.shown[0] == "100% · 3 of 3 jobs · 2 completed · 1 failed"
    assert 'max="3" value="3"' in cell.shown[1]


def test_a_plain_script(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no cell it is printed once, and stops nobody."""
    InteractiveShell.clear_instance()
    Bar().bytes(5, 5)
    assert capsys.readouterr().out == "waiting\n"


def test_a_download(cell: Cell) -> None:
    bar = Bar(cell.clock)
    bar.bytes(2048, 2048)
    assert cell.shown[0] == "100% · 2.0 KiB of 2.0 KiB"
