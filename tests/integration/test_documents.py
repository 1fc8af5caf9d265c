"""Every code block of the documents: run as it stands there, read where it is data, or marked with why it is not run.

Commands and Python are run by an operator against the real scheduler, agents, ledger, API and a real bucket;
`https://files.example` and `https://mirror.example` stand for an origin. The runbooks have a test of their own, and
what is generated shows no commands.
"""

import base64
import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Scene, operator_of, run
from inprocess import Service, quick_settings, service_thread
from origin import Origin, OriginThread, content_sha256
from standardwebhooks import Webhook

from rayhaul import Client
from serve_app.seaweed import Seaweed

ROOT = Path(__file__).parents[2]
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("docs/**/*.md")))
    if path.parent.name != "runbooks"
]
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>.+?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
ORIGIN = re.compile(r"https://((?:[^@/\s\"']*@)?)(?:files|mirror)\.example/")
SIZE = 3_000_000
_NOT_RUN_MAX = 18
#: What the documents fetch. All are one file, so that one checksum fits.
FILES = (
    "data.tar",
    "file.iso",
    "private.bin",
    *(f"many/{name}.bin" for name in "abc"),
    *(f"many/{number}.bin" for number in range(30)),
    *(f"many/part-{number:03}.bin" for number in range(20)),
)
SHA256 = f"sha256:{content_sha256(5, SIZE)}"


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    #: What the comment above it says.
    mark: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = [
        Block(
            page,
            text.count("\n", 0, match.start("indent")) + 1,
            match["language"],
            re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
            match["mark"] or "",
        )
        for match in BLOCK.finditer(text)
    ]
    assert len(found) * 2 == len(re.findall(r"^ *```", text, re.MULTILINE)), f"{page}: a block does not end"
    return found


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
def test_every_block(service: Service, origin: Origin, page: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In the order of the page: it works, or it is data that can be read, or it says why it is not run."""
    with Client(service.url, service.operator) as client:
        scene = Scene(client, origin, page.stem)
        for block in blocks_of(page):
            if what_of(block) in {"not run", "tested"}:
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
        scene.close()


def what_of(block: Block) -> str:
    """Return what becomes of a block. A mark must be one of those that there are, and true."""
    if block.mark:
        kind, _, more = block.mark.partition(": ")
        assert kind in {"not run", "tested"}, f"{block}: nobody knows what {block.mark!r} means"
        assert more, f"{block}: no reason"
        if kind == "tested":
            assert is_named_by_a_test(block.mark), f"{block}: no test runs {more!r}"
        return kind
    assert block.language in {"console", "python", "json", "yaml"}, f"{block} is neither run nor read, nor says why"
    return "run" if block.language in {"console", "python"} else "read"


def is_named_by_a_test(mark: str) -> bool:
    """Whether a test looks for such marks, and has all the words of this one."""
    words = mark.removeprefix("tested: ").split()
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    return any("<!-- tested: " in test and all(word in test for word in words) for test in tests)


def with_user_info(text: str, origin: Origin) -> str:
    """Put the origin in the place of the made-up hosts; who signs in there is kept."""
    scheme, _, place = origin.base_url.partition("://")
    return ORIGIN.sub(rf"{scheme}://\g<1>{place}/", text)


def run_commands(block: Block, text: str, scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    for command in text.replace("\\\n", " ").splitlines():
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
    """The figures are printed; most of what looks as if it could be run is."""
    seen = Counter(what_of(block) for page in PAGES for block in blocks_of(page))
    print(", ".join(f"{count} {what}" for what, count in sorted(seen.items())))
    assert seen["run"] >= 20
    # A new block that is not run takes the place of one that is by then.
    assert seen["not run"] <= _NOT_RUN_MAX
