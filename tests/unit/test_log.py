"""Log lines: their shape, what gets into them, and what does not."""

import json
import logging
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from log_watch import valid

from rayhaul.lease import JobContext
from rayhaul.log import FIELDS, LEVELS, SERVICES, JsonFormatter, bind, bind_job
from rayhaul.settings import Settings

SCHEMA = json.loads((files("rayhaul") / "log_schema.json").read_text())


def line(record: logging.LogRecord, *secrets: str) -> dict[str, Any]:
    text = JsonFormatter("agent", secrets).format(record)
    assert len(text.splitlines()) == 1
    text.encode()
    found: dict[str, Any] = json.loads(text)
    valid(found)
    return found


def record(message: str, *arguments: object, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("test", level, "file.py", 1, message, arguments, None)
    made.created = 1771418096.789
    made.__dict__.update(extra)
    return made


def test_shape() -> None:
    """The specification's fields, time in UTC with milliseconds; what is bound and what is given; nothing else."""
    context = JobContext(
        job_id="job_01",
        user_id="usr_1",
        correlation_id="8F42B1C3",
        attempt=2,
        traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
    )
    with bind(agentId="agent-1", handler=None), bind_job(context):
        found = line(
            record("a %s", "line", code="source_busy", durationMs=4.5, statusCode=201, password="x", userId=None)
        )
    assert found == {
        "ts": "2026-02-18T12:34:56.789Z",
        "level": "info",
        "service": "agent",
        "correlationId": "8F42B1C3",
        "jobId": "job_01",
        "durationMs": 4.5,
        "statusCode": 201,
        "attempt": 2,
        "agentId": "agent-1",
        "traceId": "a" * 32,
        "code": "source_busy",
        "msg": "a line",
    }


def test_schema_is_what_we_write() -> None:
    """The schema that is shipped knows our fields, levels and services, and no others."""
    fields = SCHEMA["properties"]
    assert set(fields) == {*FIELDS, "ts", "level", "service", "msg"}
    assert tuple(fields["level"]["enum"]) == LEVELS
    assert tuple(fields["service"]["enum"]) == SERVICES


@pytest.mark.parametrize(
    ("number", "word"),
    [(1, "debug"), (10, "debug"), (20, "info"), (30, "warn"), (40, "error"), (50, "error"), (99, "error")],
)
def test_levels(number: int, word: str) -> None:
    """Four words; what is worse than an error is one."""
    assert line(record("x", level=number))["level"] == word


@pytest.mark.parametrize("text", ["two\nlines", "a\u2028b\x85c", "half of one: \ud83d", "\x1b[2J\0", "ünï"])
def test_any_text_is_one_line(text: str) -> None:
    """Whatever is said stays one line of valid JSON, and comes back as it was."""
    assert line(record("%s", text))["msg"] == text


def test_long_text_is_cut_in_the_middle() -> None:
    """The end of a traceback says what happened."""
    said = line(record("%s", f"first {'x' * 10_000} last"))["msg"]
    assert len(said) == 4000
    assert said.startswith("first ")
    assert said.endswith(" last")


def test_secrets_in_messages_and_tracebacks() -> None:
    """What is known as a secret, and what looks like one, is neither in the message nor in what was raised."""
    try:
        raise OSError("GET https://me:hunter2@files.example/a?sig=hunter2 with s3-key-itself")
    except OSError:
        found = record("no %s", {"Authorization": "Basic hunter2"})
        found.exc_info = sys.exc_info()
    said = line(found, "s3-key-itself")["msg"]
    assert "OSError: GET https://files.example/a with ***" in said
    assert "hunter2" not in said


PROCESS = """
import logging, sys, threading, warnings
from rayhaul import log
sys.stderr = None  # as Ray Serve does with its replicas: it is somebody else's
log.setup("agent", "debug", secrets=["s3cr3t"], file_bytes_max=%d)
%s
"""


def spoken(tmp_path: Path, code: str, *, file_bytes_max: int = 1 << 20, code_expected: int = 0) -> list[dict[str, Any]]:
    """Return the lines of a process of ours that runs `code`."""
    path = tmp_path / "process.err"
    with path.open("ab") as stderr:
        done = subprocess.run([sys.executable, "-c", PROCESS % (file_bytes_max, code)], stderr=stderr, check=False)
    assert done.returncode == code_expected
    found = [json.loads(text) for text in path.read_bytes().splitlines()]
    for one in found:
        valid(one)
    return found


@pytest.mark.parametrize(
    ("code", "level", "said", "code_expected"),
    [
        ("logging.getLogger('actors.x').debug('hello')", "debug", "hello", 0),
        ("logging.getLogger('botocore').warning('hello')", "warn", "hello", 0),
        ("raise ValueError('password=s3cr3t')", "error", "ValueError: password=***", 1),
        ("threading.Thread(target=lambda: 1 / 0).start()", "error", "ZeroDivisionError", 0),
        ("warnings.warn('old')", "warn", "old", 0),
        ("logging.getLogger('tasks').info('%d', 's3cr3t')", "error", "unreadable line of <string>:6", 0),
        ("import os; logging.getLogger('tasks').info('last words'); os._exit(3)", "info", "last words", 3),
        ("import os; logging.getLogger('tasks').info('last words'); os.kill(os.getpid(), 9)", "info", "last words", -9),
    ],
)
def test_processes_say_it_in_lines(tmp_path: Path, code: str, level: str, said: str, code_expected: int) -> None:
    """Libraries, warnings, bad calls and what nobody caught; and the last line before a sudden end is there."""
    lines = spoken(tmp_path, code, code_expected=code_expected)
    assert len(lines) == 1
    assert lines[0]["level"] == level
    assert said in lines[0]["msg"]
    assert "s3cr3t" not in lines[0]["msg"]


def test_libraries_do_not_chat(tmp_path: Path) -> None:
    """At debug ours are heard, and a library is not: it would show headers and signatures."""
    code = "logging.getLogger('botocore.auth').debug('StringToSign'); logging.getLogger('asyncio').info('x')"
    assert spoken(tmp_path, code) == []


def test_a_file_begins_anew(tmp_path: Path) -> None:
    """Two files of the size that is set, and no more; no line is torn."""
    code = "for n in range(1000): logging.getLogger('tasks').info('line %d', n)"
    lines = spoken(tmp_path, code, file_bytes_max=20_000)
    assert lines[-1]["msg"] == "line 999"
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"process.err", "process.err.1"}
    assert max(sizes.values()) <= 20_000
    before = (tmp_path / "process.err.1").read_text().splitlines()
    numbers = [int(json.loads(text)["msg"].split()[1]) for text in before] + [
        int(one["msg"].split()[1]) for one in lines
    ]
    assert numbers == list(range(numbers[0], 1000))


@pytest.mark.parametrize(("given", "level"), [("warn", "warn"), ("WARNING", "warn"), ("debug", "debug")])
def test_level_setting(monkeypatch: pytest.MonkeyPatch, given: str, level: str) -> None:
    """The four words, and Python's own for one of them."""
    monkeypatch.setenv("RAYHAUL_LOG_LEVEL", given)
    assert Settings().log_level == level


def test_secrets_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting that is secret is known to the log."""
    monkeypatch.setenv("RAYHAUL_S3__SECRET_ACCESS_KEY", "abcdefgh")
    monkeypatch.setenv("RAYHAUL_WEBHOOK__SECRET", f"whsec_{'A' * 32}")
    assert Settings().secrets == ("abcdefgh", f"whsec_{'A' * 32}")
