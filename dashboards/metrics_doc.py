"""Writes docs/metrics.md from the catalogue and the indicators: `python -m dashboards.metrics_doc`."""

import sys
from collections.abc import Iterator

from rayhaul.metrics import CATALOGUE
from rayhaul.policy.indicators import INDICATORS

_HEAD = """# Metrics

Generated from `rayhaul/metrics.py` and `rayhaul/policy/indicators.py` by `make docs`.

## Indicators

What alerts and panels are about: the names of the observability specification, and some beside them. The
scheduler reads them every five seconds (`GET /alerts`), the Prometheus rules in `dashboards/generated/` record them;
both from one definition.

| indicator | meaning | made from | recorded as |
| --- | --- | --- | --- |
"""
_EXPORTED = """
## What /metrics shows

| metric | kind | labels | meaning |
| --- | --- | --- | --- |
"""


def metrics_doc() -> str:
    """Return the document."""
    return _HEAD + "".join(_indicators()) + _EXPORTED + "".join(_exported())


def _indicators() -> Iterator[str]:
    for indicator in INDICATORS.values():
        exported = ", ".join(f"`{selection.metric.name}`" for selection in indicator.selections[-1:])
        yield f"| `{indicator.name}` | {indicator.help} | {exported} | `{indicator.record}` |\n"


def _exported() -> Iterator[str]:
    for metric in CATALOGUE.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |\n"


if __name__ == "__main__":
    sys.stdout.write(metrics_doc())
