"""What a Ray cluster must have before Rayhaul is deployed on it."""

import warnings
from typing import Any

import pytest

from rayhaul.settings import S3Settings, Settings

with warnings.catch_warnings():
    # Serve's own models use what pydantic will drop one day.
    warnings.simplefilter("ignore", DeprecationWarning)
    from serve_app.attached import check
    from serve_app.starting import StartRefused

POSTGRESQL = "postgresql://ledger.example/rayhaul"
SQLITE = "sqlite:////data/ledger.db"
WITH_BUCKET = Settings(s3=S3Settings(bucket="files"))


def node(address: str, **resources: float) -> dict[str, Any]:
    """Return a node as `ray.nodes()` describes it."""
    return {"Alive": True, "NodeManagerAddress": address, "Resources": {f"node:{address}": 1.0, **resources}}


HEAD = node("10.0.0.1", head=1)
AGENT = node("10.0.0.2", agent=1)
#: Two raylets on one machine are one machine.
BESIDE = node("10.0.0.1", agent=1)


@pytest.mark.parametrize(
    ("ledger_url", "nodes"),
    [(POSTGRESQL, [HEAD, AGENT]), (POSTGRESQL, [HEAD]), (SQLITE, [HEAD]), (SQLITE, [HEAD, BESIDE])],
)
def test_what_is_enough(ledger_url: str, nodes: list[dict[str, Any]]) -> None:
    """A head is; agents may join later; SQLite will do on one machine."""
    check(WITH_BUCKET, ledger_url, nodes)


@pytest.mark.parametrize(
    ("settings", "ledger_url", "nodes", "why"),
    [
        (Settings(s3=S3Settings(bucket=None)), POSTGRESQL, [HEAD, AGENT], "no bucket is configured"),
        (WITH_BUCKET, SQLITE, [HEAD, AGENT], "for one machine, and the cluster has 2"),
        (WITH_BUCKET, POSTGRESQL, [AGENT], "no node has the resource `head`"),
        (WITH_BUCKET, POSTGRESQL, [], "no node has the resource `head`"),
    ],
)
def test_what_is_refused(settings: Settings, ledger_url: str, nodes: list[dict[str, Any]], why: str) -> None:
    """Each with one sentence that says what to do."""
    with pytest.raises(StartRefused, match=why) as refused:
        check(settings, ledger_url, nodes)
    assert "\n" not in refused.value.message
