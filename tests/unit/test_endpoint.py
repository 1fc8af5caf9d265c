"""Where the client looks for its cluster, and the files by which `up` tells it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from rayhaul.client.endpoint import (
    Endpoint,
    find_endpoint,
    last_up_path,
    read_last_up,
    read_up_file,
    remove_up_file,
    start_ticks,
    write_last_up,
    write_up_file,
)
from rayhaul.client.errors import AccessDenied, NoCluster

URL = "http://127.0.0.1:8000"


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    """An environment whose last `up` is this very process, with a key beside it."""
    environ = {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
    data_dir = tmp_path / "data"
    write_up_file(data_dir, url=URL + "/", dashboard_url="http://127.0.0.1:8265", bucket="rayhaul")
    (data_dir / "api-key").write_text("key-of-up\n")
    write_last_up(data_dir, environ)
    return environ


@pytest.mark.parametrize(
    ("arguments", "variables", "found"),
    [
        ({}, {}, (URL, "key-of-up")),
        ({"url": URL}, {}, (URL, "key-of-up")),
        ({}, {"RAYHAUL_URL": URL + "/"}, (URL, "key-of-up")),
        ({}, {"RAYHAUL_API_KEY": "key"}, (URL, "key")),
        ({"api_key": "mine"}, {"RAYHAUL_API_KEY": "key"}, (URL, "mine")),
        ({}, {"RAYHAUL_URL": "https://far.example"}, ("https://far.example", None)),
        ({"url": "https://far.example"}, {}, ("https://far.example", None)),
        ({"url": "https://far.example/"}, {"RAYHAUL_URL": URL}, ("https://far.example", None)),
        ({}, {"RAYHAUL_URL": "https://far.example", "RAYHAUL_API_KEY": " key\n"}, ("https://far.example", "key")),
        ({}, {"RAYHAUL_URL": "", "RAYHAUL_API_KEY": ""}, (URL, "key-of-up")),
    ],
)
def test_order(
    environ: Mapping[str, str], arguments: dict[str, str], variables: dict[str, str], found: tuple[str, str | None]
) -> None:
    """Arguments come before variables, variables before files; the key on disk goes to its own cluster only."""
    url, api_key = found
    assert find_endpoint(**arguments, environ={**environ, **variables}) == Endpoint(url=url, api_key=api_key)


def test_no_cluster(tmp_path: Path) -> None:
    """Where nobody said anything, the error says what to do."""
    with pytest.raises(NoCluster, match=r"start one with `rayhaul up`, or set RAYHAUL_URL"):
        find_endpoint(environ={"HOME": str(tmp_path)})


@pytest.mark.parametrize("change", [{"pidStartTicks": 1}, {"pid": 2**22 + 1}])
def test_ended_cluster(tmp_path: Path, environ: Mapping[str, str], change: dict[str, int]) -> None:
    """What a killed `up` left behind is no cluster, nor is another process with its number."""
    up_file = tmp_path / "data" / "up.json"
    up_file.write_text(json.dumps({**json.loads(up_file.read_text()), **change}))
    with pytest.raises(NoCluster):
        find_endpoint(environ=environ)


@pytest.mark.parametrize("text", ["", "{}", "[]", '"x"', '{"dataDir": 5}', '{"dataDir": "/nowhere"}', "\0"])
def test_broken_pointer(environ: Mapping[str, str], text: str) -> None:
    """A broken pointer file is no pointer file."""
    last_up_path(environ).write_text(text)
    with pytest.raises(NoCluster):
        find_endpoint(environ=environ)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"pid": "x"}'])
def test_broken_up_file(tmp_path: Path, text: str) -> None:
    """A broken up file is no up file."""
    (tmp_path / "up.json").write_text(text)
    assert read_up_file(tmp_path) is None


@pytest.mark.parametrize(
    "url", ["far.example", "ftp://far.example", "https://", "https://me:pw@far.example", "http://[", "http://a:70000"]
)
def test_bad_url(tmp_path: Path, url: str) -> None:
    """What cannot be an API's URL is refused before a key could go there; it is not repeated, for it may hold one."""
    with pytest.raises(NoCluster) as refused:
        find_endpoint(url, "key", environ={"HOME": str(tmp_path)})
    assert "pw" not in str(refused.value)


def test_bad_key(tmp_path: Path) -> None:
    """A key that cannot stand in a header is refused, and not repeated."""
    with pytest.raises(AccessDenied) as refused:
        find_endpoint(URL, "ke\ny", environ={"HOME": str(tmp_path)})
    assert "ke\ny" not in str(refused.value)


def test_up_file(tmp_path: Path) -> None:
    """The file says what was written, in the wire's names, of a process that runs; removing it twice is no error."""
    written = write_up_file(tmp_path / "new", url=URL, dashboard_url="http://127.0.0.1:8265", bucket="b")
    assert read_up_file(tmp_path / "new") == written
    assert written.is_running
    told = json.loads((tmp_path / "new" / "up.json").read_text())
    assert {**told, "startedAt": ""} == {
        "pid": os.getpid(),
        "pidStartTicks": start_ticks(os.getpid()),
        "url": URL,
        "dashboardUrl": "http://127.0.0.1:8265",
        "bucket": "b",
        "startedAt": "",
    }
    assert told["startedAt"].endswith("Z")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["up.json"]
    for _ in range(2):
        remove_up_file(tmp_path / "new")
    assert read_up_file(tmp_path / "new") is None


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({"HOME": "/h"}, "/h/.local/state/rayhaul/last-up.json"),
        ({"HOME": "/h", "XDG_STATE_HOME": ""}, "/h/.local/state/rayhaul/last-up.json"),
        ({"HOME": "/h", "XDG_STATE_HOME": "relative"}, "/h/.local/state/rayhaul/last-up.json"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s"}, "/s/rayhaul/last-up.json"),
    ],
)
def test_state_home(variables: dict[str, str], path: str) -> None:
    """The pointer lies where the XDG base directories say."""
    assert last_up_path(variables) == Path(path)


def test_pointer_is_absolute(tmp_path: Path) -> None:
    """The pointer holds from any working directory."""
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    write_last_up(Path("relative"), environ)
    assert read_last_up(environ) == Path.cwd() / "relative"
