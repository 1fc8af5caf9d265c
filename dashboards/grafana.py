"""Writes dashboards/generated/grafana: `python -m dashboards.grafana [--out DIR]`. Needs the extra `dashboards`.

Laws of this file:
1. It says how things look and nothing of what is shown: that is in boards/.
2. The same boards give the same bytes: a test compares them with what is committed.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.dashboard import Row as RowPanel
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)

from dashboards.board import JOB, Board, Look, Panel
from dashboards.boards import BOARDS

GENERATED = Path(__file__).parent / "generated" / "grafana"

#: Of every dashboard of ours; the links between them find each other by it.
TAG = "rayhaul"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
#: Rows of the grid.
_ROW_HEIGHT, _NUMBER_HEIGHT, _PANEL_HEIGHT = 1, 4, 8
_COLUMNS = 24


def documents() -> Mapping[str, str]:
    """Return file name -> JSON of a dashboard, as Grafana 10 and later read it."""
    return {f"{board.uid}.json": document(board) for board in BOARDS}


def document(board: Board) -> str:
    built = (
        Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_job_variable())
        .link(_link_to_the_others())
    )
    _place(board, built)
    return json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _job_variable() -> QueryVariable:
    """Return the choice of the cluster, which is a job in Prometheus; all of them at first."""
    return (
        QueryVariable(JOB.removeprefix("$"))
        .label("Cluster")
        .datasource(_SOURCE)
        .query("label_values(rayhaul_workers, job)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(include_all=True)
        .all_value(".+")
        .current(VariableOption(text="All", value="$__all"))
    )


def _link_to_the_others() -> DashboardLink:
    return (
        DashboardLink("Rayhaul")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(as_dropdown=True)
        .include_vars(include_vars=True)
        .keep_time(keep_time=True)
    )


def _place(board: Board, built: Dashboard) -> None:
    """Put the rows one below the other, and the panels of a row beside each other as far as there is room."""
    y = number = 0
    for row in board.rows:
        number += 1
        built.with_row(RowPanel(row.title).id(number).grid_pos(GridPos(h=_ROW_HEIGHT, w=_COLUMNS, x=0, y=y)))
        y, x, height = y + _ROW_HEIGHT, 0, 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                y, x = y + height, 0
            number += 1
            height = _NUMBER_HEIGHT if panel.look is Look.NUMBER else _PANEL_HEIGHT
            built.with_panel(_panel(panel).id(number).grid_pos(GridPos(h=height, w=panel.width, x=x, y=y)))
            x += panel.width
        y += height


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel:
    look = _number() if panel.look is Look.NUMBER else _lines(panel)
    look.title(panel.title).description(panel.description).unit(panel.unit).datasource(_SOURCE)
    if not panel.is_signed:
        look.min(0)
    look.thresholds(_thresholds(panel))
    for index, query in enumerate(panel.queries):
        asked = Dataquery().ref_id(chr(ord("A") + index)).datasource(_SOURCE).expr(query.expr).range()
        look.with_target(asked.legend_format(query.legend or panel.title))
    return look


def _number() -> stat.Panel:
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(values=False)
    return stat.Panel().graph_mode(BigValueGraphMode.AREA).color_mode(BigValueColorMode.VALUE).reduce_options(reduced)


def _lines(panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(show_legend=True).placement(LegendPlacement.BOTTOM)
    legend.display_mode(LegendDisplayMode.LIST).calcs(["lastNotNull"])
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    lines = timeseries.Panel().legend(legend).tooltip(tooltip).line_width(1).fill_opacity(10)
    if panel.look is Look.STACK:
        lines.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)
    if panel.thresholds:
        lines.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    return lines


def _thresholds(panel: Panel) -> ThresholdsConfig:
    steps = [Threshold(color="green"), *(Threshold(value=value, color=color) for value, color in panel.thresholds)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the dashboards for Grafana.")
    parser.add_argument("--out", type=Path, default=GENERATED, help="directory to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
