"""Each command of each runbook, run as it stands there by an operator, against the real scheduler, agents and API."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Scene, operator_of, run
from inprocess import Service, quick_settings, service_thread
from origin import Origin, OriginThread

from rayhaul import Client
from serve_app.seaweed import Seaweed

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
PAGES = sorted(RUNBOOKS.glob("*.md"))
#: Commands that stand on several pages are run once.
RUN: set[str] = set()


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, store: Seaweed) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("runbooks")
    settings = quick_settings(store.settings.model_copy(update={"prefix": f"{directory.name}/"}))
    with service_thread(directory, settings) as service:
        yield service


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with OriginThread() as running:
        yield running


@pytest.fixture
def environ(service: Service, store: Seaweed, tmp_path: Path) -> Iterator[None]:
    with operator_of(service, store.settings, tmp_path):
        yield


@pytest.mark.usefixtures("environ")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_works(service: Service, origin: Origin, page: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each command ends with 0, complains of nothing and shows something, in the order of the page."""
    with Client(service.url, service.operator) as client:
        scene = Scene(client, origin, page.stem)
        commands = commands_of(page)
        assert commands, "a page without a command helps nobody"
        for command in commands:
            if command in RUN:
                continue
            names = scene.names(command)
            capfd.readouterr()
            code = run(command, names)
            shown = capfd.readouterr()
            assert code == 0, f"{command}\n{shown.out}{shown.err}"
            assert "rayhaul: " not in shown.err, f"{command}\n{shown.err}"
            # There need not be errors to be shown.
            assert shown.out or command.startswith("rayhaul logs"), command
            if "$" not in command:
                RUN.add(command)
        scene.close()
