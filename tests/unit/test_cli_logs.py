"""How `rayhaul logs` shows lines, and what times it understands."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from rayhaul.cli.connect import UsageError
from rayhaul.cli.logs import Shown, line_text, since_of

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def line(**fields: Any) -> dict[str, Any]:
    return {"ts": "2026-01-02T03:04:05.678Z", "level": "info", "service": "api", "msg": "hello", **fields}


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("90s", "2026-01-02T11:58:30+00:00"),
        ("15m", "2026-01-02T11:45:00+00:00"),
        ("2h", "2026-01-02T10:00:00+00:00"),
        ("1d", "2026-01-01T12:00:00+00:00"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00"),
    ],
)
def test_since(text: str, when: str) -> None:
    """A span before now, or a time."""
    found = since_of(text, NOW)
    assert found is not None
    assert found.isoformat() == when


@pytest.mark.parametrize("text", ["", "15", "15 minutes", "-1m", "9999999d", "tomorrow"])
def test_nonsense(text: str) -> None:
    """Anything else is said to be wrong, before the cluster is asked."""
    with pytest.raises(UsageError, match="--since takes"):
        since_of(text, NOW)


def test_nothing() -> None:
    """Without a time there is none, and one without a zone is this machine's."""
    assert since_of(None, NOW) is None
    found = since_of("2026-01-02T03:04:05", NOW)
    assert found is not None
    assert found.tzinfo is not None


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (line(), "info  api        hello"),
        (line(service="agent", agentId="agent-1", level="warn"), "warn  agent-1    hello"),
        (line(handler="ray/raylet", service="agent"), "info  ray/raylet hello"),
        (line(handler="GET /jobs", statusCode=200, code="x"), "info  api        hello  code=x statusCode=200"),
        (line(level="error", msg="broke\nTraceback"), "error api        broke\n    Traceback"),
        (line(msg="\x1b[2Jgone"), "info  api        \ufffd[2Jgone"),
    ],
)
def test_line(found: dict[str, Any], shown: str) -> None:
    """When, how bad, who, what; then what else it says. Nothing in it steers the terminal."""
    clock, _, rest = line_text(found).plain.partition(" ")
    assert clock.endswith(":04:05.678")
    assert rest == shown


def test_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A look that begins a little earlier brings lines again; an empty one forgets nothing."""
    shown = Shown(Console(), as_json=True)
    one, two = line(msg="one"), line(msg="two", ts="2026-01-02T03:04:06.000Z")
    shown.show([one])
    shown.show([])
    shown.show([one, two])
    shown.show([two])
    assert [json.loads(text)["msg"] for text in capsys.readouterr().out.splitlines()] == ["one", "two"]
    assert shown.newest == datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC)
