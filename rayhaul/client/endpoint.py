"""Where the API is: arguments, else the environment, else the last `rayhaul up` of this user on this machine.

Laws of this file:
1. A key found on disk goes only to the cluster it was written for.
2. A file is there whole or not at all: written beside, then renamed.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from rayhaul.client.errors import AccessDenied, NoCluster
from rayhaul.job import utc
from rayhaul.wire import Timestamp

UP_FILE = "up.json"
API_KEY_FILE = "api-key"
LOG_FILE = "up.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    #: Without a slash at its end.
    url: str
    #: None where nobody gave one: the few open routes still answer.
    api_key: str | None


class UpFile(BaseModel):
    """What a running `rayhaul up` says of itself in its data directory."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, frozen=True, defer_build=True
    )

    pid: int
    #: Tells the process from a later one with the same number; see `start_ticks`.
    pid_start_ticks: int
    url: str
    dashboard_url: str
    bucket: str
    started_at: Timestamp

    @property
    def is_running(self) -> bool:
        return start_ticks(self.pid) == self.pid_start_ticks


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None where it has ended (a zombie has).

    Source: proc_pid_stat(5), fields 3 and 22.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets, and may itself hold spaces and brackets.
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)


def last_up_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the file that points to the data directory of the last `rayhaul up`.

    Source: XDG Base Directory Specification: a relative path in the variable is to be ignored.
    """
    state_home = Path(environ.get("XDG_STATE_HOME", ""))
    if not state_home.is_absolute():
        state_home = Path(environ.get("HOME") or Path.home()) / ".local" / "state"
    return state_home / "rayhaul" / "last-up.json"


def write_last_up(data_dir: Path, environ: Mapping[str, str] = os.environ) -> None:
    _write(last_up_path(environ), json.dumps({"dataDir": str(data_dir.expanduser().resolve())}) + "\n")


def read_last_up(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the data directory of the last `rayhaul up`; None where there is none, or the file is not ours."""
    try:
        pointer = json.loads(last_up_path(environ).read_text())
    except (OSError, ValueError):
        return None
    data_dir = pointer.get("dataDir") if isinstance(pointer, dict) else None
    return Path(data_dir) if isinstance(data_dir, str) else None


def write_up_file(data_dir: Path, *, url: str, dashboard_url: str, bucket: str) -> UpFile:
    """Say in `data_dir` that this very process serves a cluster at `url`."""
    pid = os.getpid()
    ticks = start_ticks(pid)
    assert ticks is not None, "this process runs"
    up = UpFile(
        pid=pid,
        pid_start_ticks=ticks,
        url=url.rstrip("/"),
        dashboard_url=dashboard_url,
        bucket=bucket,
        started_at=utc(time.time()),
    )
    _write(data_dir / UP_FILE, up.model_dump_json(by_alias=True, indent=2) + "\n")
    return up


def read_up_file(data_dir: Path) -> UpFile | None:
    """Return what `up` wrote, whether it still runs or not; None where there is nothing readable."""
    try:
        return UpFile.model_validate_json((data_dir / UP_FILE).read_text())
    except (OSError, ValidationError):
        return None


def remove_up_file(data_dir: Path) -> None:
    (data_dir / UP_FILE).unlink(missing_ok=True)


def _read_api_key(data_dir: Path) -> str | None:
    try:
        return (data_dir / API_KEY_FILE).read_text().strip() or None
    except OSError:
        return None


def _is_base_url(url: str) -> bool:
    """Tell whether this is where an API may be. User info is refused: the key is what lets one in."""
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        return False


def find_endpoint(
    url: str | None = None, api_key: str | None = None, *, environ: Mapping[str, str] = os.environ
) -> Endpoint:
    """Return where to go and with which key.

    Raises: NoCluster, AccessDenied.
    """
    url = (url or environ.get("RAYHAUL_URL") or "").rstrip("/") or None
    api_key = api_key or environ.get("RAYHAUL_API_KEY") or None
    data_dir = read_last_up(environ)
    up = read_up_file(data_dir) if data_dir is not None else None
    if url is None:
        if up is None or not up.is_running:
            raise NoCluster("no cluster is running here: start one with `rayhaul up`, or set RAYHAUL_URL")
        url = up.url
    if not _is_base_url(url):
        raise NoCluster("the URL of the cluster must look like https://host:port; see RAYHAUL_URL")
    if api_key is None and data_dir is not None and up is not None and url == up.url:
        api_key = _read_api_key(data_dir)
    api_key = (api_key or "").strip() or None
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise AccessDenied("unauthorized", 401, "what is given as the API key is none; see RAYHAUL_API_KEY")
    return Endpoint(url=url, api_key=api_key)
