"""The drills' table, and one cluster for the drills that leave it whole."""

from collections.abc import Iterator
from typing import Any

import pytest
from drill_cluster import QUICK, EmbeddedPatient, patient
from drill_table import Begin, Drill, Table
from origin import Origin, OriginThread

_PASSED = pytest.StashKey[bool]()
_TABLE = pytest.StashKey[Table]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash.get(_TABLE, None)
    if table is None or not table.verdicts:
        return
    table.write()
    terminalreporter.section("drills")
    terminalreporter.write_line(table.text())
    terminalreporter.write_line(f"measured in this run: {dict(table.verdicts)}")


@pytest.fixture
def begin(request: pytest.FixtureRequest) -> Iterator[Begin]:
    """`begin("F30", "what happens")` gives a Drill; its row goes to the table when the test is over."""
    begun: list[Drill] = []

    def begin(drill: str, fault: str, *, null: bool = False) -> Drill:
        begun.append(Drill(drill=drill, fault=fault, null=null))
        return begun[-1]

    yield begin
    table = request.config.stash.setdefault(_TABLE, Table())
    for drill in begun:
        table.add(drill.row(passed=request.node.stash.get(_PASSED, False)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPatient]:
    """A cluster of three agents with short waits; a drill leaves it ready, with its agents online.

    One for each file of drills: it would take its share of the machine from the clusters of the others.
    """
    with patient(tmp_path_factory.mktemp("drills") / "data", agents=3, **QUICK) as found:
        yield found


@pytest.fixture
def origin() -> Iterator[Origin]:
    """An origin in a thread of its own."""
    with OriginThread() as running:
        yield running
