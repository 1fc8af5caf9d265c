"""The dashboards as code: complete, unambiguous, and what is committed is what the code makes."""

import json
import re
from typing import Any

import pytest

from dashboards import grafana
from dashboards.board import Board, Panel
from dashboards.boards import BOARDS
from rayhaul.metrics import CATALOGUE, Kind

#: Units of Grafana's that we use (packages/grafana-data/src/valueFormats/categories.ts).
UNITS = {"Bps", "cpm", "cps", "none", "percent", "percentunit", "reqps", "s", "short"}
#: Made by the recording rules for the objectives.
RECORDED = re.compile(r"slo:[a-z_]+:[a-z0-9_]+")

PANELS = [
    pytest.param(board, panel, id=f"{board.uid}-{panel.title}")
    for board in BOARDS
    for row in board.rows
    for panel in row.panels
]


def test_what_is_committed_is_what_the_code_makes() -> None:
    """`make dashboards` changes nothing, and nothing else lies there."""
    committed = {path.name: path.read_text() for path in grafana.GENERATED.glob("*")}
    assert committed == grafana.documents()


def test_addresses_and_titles_are_unique() -> None:
    """A dashboard is found by its uid: Grafana takes at most 40 of letters, digits, `-` and `_`."""
    assert len({board.uid for board in BOARDS}) == len({board.title for board in BOARDS}) == len(BOARDS) == 7
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", board.uid) for board in BOARDS)


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_each_panel_says_what_it_shows(board: Board, panel: Panel) -> None:
    """Unit, a sentence, at least one query; metrics that exist, of the cluster that was chosen."""
    assert panel.unit in UNITS
    assert panel.description.endswith(".")
    assert len(panel.description.split()) >= 4
    assert panel.queries
    assert len({query.legend for query in panel.queries}) == len(panel.queries)
    assert [value for value, _ in panel.thresholds] == sorted(value for value, _ in panel.thresholds)
    for query in panel.queries:
        named = re.findall(r"rayhaul_[a-z0-9_]+|slo:[a-z0-9_:]+", query.expr)
        assert named
        for name in named:
            assert RECORDED.fullmatch(name) or of_the_catalogue(name), f"{board.uid}: {name}"
        assert query.expr.count('job=~"$job"') == len(named)
        assert set(re.findall(r"\$\w+", query.expr)) <= {"$job", "$__rate_interval"}
        # What a legend names must be there.
        for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
            assert label == "slo" or re.search(rf"by \((le, )?{label}\)", query.expr), query


def of_the_catalogue(name: str) -> bool:
    """Say whether Prometheus gets a series of that name from us."""
    bare = re.sub(r"_(bucket|count|sum)$", "", name)
    if bare != name and bare in CATALOGUE:
        return CATALOGUE[bare].kind is Kind.HISTOGRAM
    return name in CATALOGUE and CATALOGUE[name].kind is not Kind.HISTOGRAM


def panels_of(text: str) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(text)["panels"]
    return panels


@pytest.mark.parametrize("name", sorted(grafana.documents()))
def test_panels_lie_beside_each_other(name: str) -> None:
    """No panel covers another, none is wider than the grid, and each has a number of its own."""
    panels = panels_of(grafana.documents()[name])
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", sorted(grafana.documents()))
def test_each_query_asks_the_chosen_data_source(name: str) -> None:
    """Nothing points at a data source by its id: the same file works in any Grafana."""
    document = json.loads(grafana.documents()[name])
    assert f"{document['uid']}.json" == name
    assert document["tags"] == ["rayhaul"]
    datasource, job = document["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    assert (job["name"], job["query"]) == ("job", "label_values(rayhaul_workers, job)")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in document["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == chosen
        for number, target in enumerate(panel["targets"]):
            assert target["datasource"] == chosen
            assert target["refId"] == "ABCDEFGH"[number]


def test_every_metric_is_shown() -> None:
    """What is counted can be looked at."""
    text = "".join(grafana.documents().values())
    assert not {name for name in CATALOGUE if name not in text}
