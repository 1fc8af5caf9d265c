"""Reading log lines: ours as they are, and Ray's and Serve's own brought into the same shape.

Ray cannot be told to write our fields. Its parts in C++ write JSON where RAY_BACKEND_LOG_JSON is set, else text;
Serve writes JSON with names of its own; Ray's dashboard, monitor and node agents write text. What a line says
stays what it said; `handler` names the part of Ray (`ray/raylet`), `service` what of ours it stands nearest to.

Laws of this file:
1. Nothing that is read is lost for its shape: what cannot be understood belongs to the line before, as the rest of a
   traceback does.
2. Secrets are taken out of what others wrote, for nobody did it before.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rayhaul.log import LEVELS
from rayhaul.redaction import without_secrets

Line = dict[str, Any]

_MESSAGE_CHARACTERS_MAX = 4000
_EPOCH_TS = "1970-01-01T00:00:00.000Z"

_LEVEL_WORDS: Mapping[str, str] = {
    **{word: word for word in LEVELS},
    **dict.fromkeys(("d", "t", "trace"), "debug"),
    "i": "info",
    **dict.fromkeys(("w", "warning"), "warn"),
    **dict.fromkeys(("e", "f", "c", "critical", "fatal"), "error"),
}
_TIME = r"(?P<ts>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d{3})"
_TEXTS = (
    # [2026-11-26 17:55:10,118 I 9717 9733] (raylet) store.cc:573: Plasma store debug dump
    re.compile(rf"\[{_TIME} (?P<level>[A-Z]) \d+ \d+\] (?:\([a-z_]+\) )?(?P<msg>.*)"),
    # 2026-11-26 17:55:05,073<tab>INFO utils.py:319 -- Get all modules
    re.compile(rf"{_TIME}\s(?P<level>[A-Z]+) (?P<msg>.*)"),
    # INFO 2026-11-26 17:55:25,572 serve 9963 -- Throughput optimized
    re.compile(rf"(?P<level>[A-Z]+) {_TIME} (?P<msg>.*)"),
)
#: Of Ray's JSON: what we have fields for, and what only Ray's authors would miss. The rest is told after the message.
_RAYS_FIELDS = re.compile(
    r"asctime|levelname|message|exc_text|timestamp_ns|filename|lineno|process|component(_name|_id)?|(worker|node|job)_id|"
    r"(actor|task)_(id|name|func_name)"
)
#: What Ray writes into each worker's files for its own log monitor.
_MARK = re.compile(r":(?:job_id|actor_name|task_name):.*")
#: A file of Ray's by its name -> what of ours it stands nearest to, and the part of Ray.
_FILES: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), service, handler)
    for pattern, service, handler in (
        (r"worker-.*\.err(\.1)?", "agent", "ray/worker"),
        (r"serve/.*\.log(\.\d+)?", "api", "ray/serve"),
        (r"gcs_server\.(out|err)(\.\d+)?", "scheduler", "ray/gcs_server"),
        (r"monitor\.(log|err)(\.\d+)?", "scheduler", "ray/monitor"),
        (r"raylet\.(out|err)(\.\d+)?", "agent", "ray/raylet"),
        (r"python-core-(worker|driver)-.*\.log(\.\d+)?", "agent", "ray/core_worker"),
        (r"(dashboard_agent|runtime_env_agent|log_monitor)\.(log|err)(\.\d+)?", "agent", r"ray/node_agent"),
        (r"dashboard(_[A-Z]\w+)?\.(log|err)(\.\d+)?", "dashboards", "ray/dashboard"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Whose file it is: the fields of lines that do not say it themselves."""

    service: str
    handler: str


def part_of(name: str) -> Part | None:
    """Return whose log file that is, by its path below Ray's log directory; None where it holds no log lines.

    >>> part_of("raylet.out").handler, part_of("raylet.out.1").service, part_of("debug_state.txt")
    ('ray/raylet', 'agent', None)
    """
    for pattern, service, handler in _FILES:
        if pattern.fullmatch(name):
            return Part(service=service, handler=handler)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which lines are asked for; None asks for any."""

    job_id: str | None = None
    #: With a job: its lines without a job's id as well, those of the request that asked for it.
    correlation_id: str | None = None
    agent_id: str | None = None
    #: From this level up.
    level: str = "debug"
    #: Ray's own, from this level up.
    ray_level: str = "warn"
    since: datetime | None = None
    _since_text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_since_text", "" if self.since is None else _timestamp(self.since))

    @property
    def is_ours_only(self) -> bool:
        """Whether only lines of ours can be what is asked for: Ray knows no job of ours."""
        return bool(self.needles)

    @property
    def needles(self) -> tuple[str, ...]:
        """Values of which a line that is wanted has at least one; empty: any line may be wanted."""
        if self.agent_id is not None:
            return (self.agent_id,)
        return tuple(needle for needle in (self.job_id, self.correlation_id) if needle is not None)

    def takes(self, line: Mapping[str, Any]) -> bool:
        is_rays = str(line.get("handler", "")).startswith("ray/")
        return (
            LEVELS.index(line["level"])
            >= LEVELS.index(max_level(self.level, self.ray_level) if is_rays else self.level)
            and line["ts"] >= self._since_text
            and (self.agent_id is None or line.get("agentId") == self.agent_id)
            and self._is_about(line)
        )

    def _is_about(self, line: Mapping[str, Any]) -> bool:
        is_correlated = self.correlation_id is None or line.get("correlationId") == self.correlation_id
        if self.job_id is None:
            return is_correlated
        job_id = line.get("jobId")
        return job_id == self.job_id or (job_id is None and self.correlation_id is not None and is_correlated)


def max_level(one: str, other: str) -> str:
    return max(one, other, key=LEVELS.index)


def read_lines(texts: Iterable[str], part: Part) -> Iterator[Line]:
    """Yield the lines of a file, in its order."""
    held: Line | None = None
    for text in texts:
        found = _line(text, part)
        if found is None:
            held = _continued(held, text, part)
            continue
        if held is not None:
            yield held
        held = found or None
    if held is not None:
        yield held


def _line(text: str, part: Part) -> Line | None:
    """Return what the text says: an empty line where it is nothing, None where it continues the one before."""
    if not text.strip() or _MARK.fullmatch(text):
        return {}
    if text.startswith("{"):
        try:
            fields = json.loads(text)
        except ValueError:
            return None
        return fields if _is_ours(fields) else _rays(fields, part)
    for pattern in _TEXTS:
        if match := pattern.fullmatch(text):
            return _made(match["ts"], match["level"], match["msg"], part)
    return None


def _is_ours(fields: Mapping[str, Any]) -> bool:
    return all(isinstance(fields.get(name), str) for name in ("ts", "service", "msg")) and fields.get("level") in LEVELS


def _rays(fields: Mapping[str, Any], part: Part) -> Line | None:
    if not isinstance(fields.get("asctime"), str) or "levelname" not in fields:
        return None
    said = str(fields.get("message", ""))
    more = " ".join(f"{name}={value}" for name, value in fields.items() if not _RAYS_FIELDS.fullmatch(name))
    said = f"{said} {more}" if more else said
    if trace := fields.get("exc_text"):
        said = f"{said}\n{trace}"
    return _made(fields["asctime"], str(fields["levelname"]), said, part)


def _made(local_time: str, level: str, said: str, part: Part) -> Line:
    return {
        "ts": _timestamp(datetime.fromisoformat(local_time.replace(",", ".")).astimezone(UTC)),
        "level": _LEVEL_WORDS.get(level.lower(), "info"),
        "service": part.service,
        "handler": part.handler,
        "msg": without_secrets(said)[:_MESSAGE_CHARACTERS_MAX],
    }


def _continued(held: Line | None, text: str, part: Part) -> Line:
    """Add the text to the line before; where there is none it is a line whose time nobody knows."""
    if held is None:
        held = {"ts": _EPOCH_TS, "level": "info", "service": part.service, "handler": part.handler, "msg": ""}
    room = _MESSAGE_CHARACTERS_MAX - len(held["msg"])
    if room > 1:
        held["msg"] += ("\n" if held["msg"] else "") + without_secrets(text)[: room - 1]
    return held


def _timestamp(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
