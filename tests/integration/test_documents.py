"""Every code block of the documents: run as it stands there, read where it is data, or run by a test that it names.

Commands and Python are run by an operator against the real scheduler, agents, ledger, API and a real bucket;
`https://files.example` and `https://mirror.example` stand for an origin. What a page exports, its later commands have
from nowhere else. The runbooks have a test of their own, and what is generated shows no commands.
"""

import base64
import json
import os
import re
import secrets
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Scene, operator_of, run
from documents import PAGES, ROOT, Block, blocks_of
from inprocess import Service, quick_settings, service_thread
from origin import Origin, OriginThread, content_sha256
from prometheus_client.parser import text_string_to_metric_families
from standardwebhooks import Webhook

from rayhaul import Client
from rayhaul.client.sse import SseParser
from rayhaul.metrics import CATALOGUE
from rayhaul.settings import Settings
from rayhaul.settings_doc import settings_table
from rayhaul.wire import EventView
from serve_app.seaweed import Seaweed

ORIGIN = re.compile(r"https://((?:[^@/\s\"']*@)?)(?:files|mirror)\.example/")
SIZE = 3_000_000
#: What nobody can run or read.
NOT_RUN = {"README.md": "not run: a picture"}
#: What the documents fetch. All are one file, so that one checksum fits.
FILES = (
    "data.tar",
    "file.iso",
    "private.bin",
    *(f"many/{name}.bin" for name in "abc"),
    *(f"many/{number}.bin" for number in range(30)),
    *(f"many/part-{number:03}.bin" for number in range(20)),
)
#: What somebody reads of the environment.
VARIABLES = {"RAYHAUL_URL", "RAYHAUL_API_KEY", *re.findall(r"^\| `(\w+)`", settings_table(), re.MULTILINE)}
SHA256 = f"sha256:{content_sha256(5, SIZE)}"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with OriginThread() as running:
        for path in FILES:
            running.add(path, size=SIZE, seed=5)
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, store: Seaweed) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("documents")
    settings = quick_settings(store.settings.model_copy(update={"prefix": f"{directory.name}/"}))
    with service_thread(directory, settings) as service:
        yield service


@pytest.fixture
def environ(service: Service, store: Seaweed, tmp_path: Path) -> Iterator[None]:
    with operator_of(service, store.settings, tmp_path):
        yield


@pytest.mark.usefixtures("environ")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block(
    service: Service, origin: Origin, page: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the page: it works, or it is data that can be read, or another test runs it."""
    ours = dict(os.environ)
    blocks = blocks_of(page)
    # What belongs together is taken away together: a page that names its bucket names all of it.
    groups = {group_of(name) for block in blocks for name, _ in exports_of(block)}
    for name in (name for name in ours if name in VARIABLES and group_of(name) in groups):
        monkeypatch.delenv(name)
    with Client(service.url, service.operator) as client:
        scene = Scene(client, origin, page.stem)
        for block in blocks:
            for name, value in exports_of(block):
                assert name in VARIABLES, f"{block}: nobody reads {name}"
                monkeypatch.setenv(name, ours.get(name, value))
                # It refuses a value that is none.
                Settings()
            if block.mark.startswith(("not run", "tested")):
                continue
            text = with_user_info(block.text, origin).replace("sha256:…", SHA256)
            match block.language:
                case "console":
                    run_commands(block, text, scene, capfd)
                case "python":
                    exec(compile(text, str(block), "exec"), {"__name__": "__main__", **given(page)})
                case "json":
                    json.loads(text)
                case "yaml":
                    yaml.safe_load(text)
                case _:
                    READERS[block.mark](text)
        scene.close()


def exports_of(block: Block) -> list[tuple[str, str]]:
    """Return the variables of ours that a block exports, whoever runs the rest of it."""
    lines = [shlex.split(line, comments=True) for line in block.text.splitlines() if line.startswith("export ")]
    pairs = [word.partition("=") for _, *words in lines for word in words]
    return [(name, value) for name, _, value in pairs if name.startswith("RAYHAUL_")]


def group_of(variable: str) -> str:
    return variable.rpartition("__")[0]


def what_of(block: Block) -> str:
    """Return what becomes of a block. A mark must be one of those that there are, and true."""
    if block.mark in READERS:
        return "read"
    if block.mark.startswith("tested: "):
        assert is_named_by_a_test(block.mark), f"{block}: no test runs it"
        return "tested"
    if block.mark:
        assert NOT_RUN.get(str(block.page.relative_to(ROOT))) == block.mark, f"{block}: {block.mark}"
        return "not run"
    assert block.language in {"console", "python", "json", "yaml"}, f"{block} is neither run nor read, nor says why"
    return "run" if block.language in {"console", "python"} else "read"


def is_named_by_a_test(mark: str) -> bool:
    """Whether a test asks for the block of that mark."""
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    return any(f'block("{mark.removeprefix("tested: ")}")' in test for test in tests)


def read_events(text: str) -> None:
    """As the client reads a stream."""
    (event,) = SseParser().feed(f"{text}\n".encode())
    told = EventView.model_validate_json(event.data)
    assert (told.event, str(told.seq)) == (event.event, event.last_event_id)


def read_metrics(text: str) -> None:
    """As Prometheus reads them; and they are ours."""
    for family in text_string_to_metric_families(text):
        metric = CATALOGUE[family.name]
        assert (metric.help, metric.kind) == (family.documentation, family.type)
        assert all(set(sample.labels) == set(metric.labels) for sample in family.samples)


#: By the mark over an answer.
READERS: Mapping[str, Callable[[str], None]] = {
    "answer: text/event-stream": read_events,
    "answer: text/plain": read_metrics,
}


def with_user_info(text: str, origin: Origin) -> str:
    """Put the origin in the place of the made-up hosts; who signs in there is kept."""
    scheme, _, place = origin.base_url.partition("://")
    return ORIGIN.sub(rf"{scheme}://\g<1>{place}/", text)


def run_commands(block: Block, text: str, scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    for command in text.replace("\\\n", " ").splitlines():
        if command.startswith("export "):
            continue
        capfd.readouterr()
        code = run(command, scene.names(command))
        shown = capfd.readouterr()
        assert code == 0, f"{block}: {command}\n{shown.out}{shown.err}"
        assert "rayhaul: " not in shown.err, f"{block}: {command}\n{shown.err}"


def given(page: Path) -> Mapping[str, Any]:
    """Return the names that the page's Python takes for granted: those of somebody who received a webhook."""
    if page.name != "webhooks.md":
        return {}
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    body, now = '{"type":"job.completed"}', datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", now, body),
    }
    return {"secret": secret, "request_body": body, "request_headers": headers}


def test_the_blocks_are_counted() -> None:
    """The figures are printed. What can be run is, by some test; what is not is known by name."""
    seen = Counter(what_of(block) for page in PAGES for block in blocks_of(page))
    print(", ".join(f"{count} {what}" for what, count in sorted(seen.items())))
    assert seen["run"] >= 20
    assert seen["not run"] == len(NOT_RUN)
