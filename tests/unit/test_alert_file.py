"""Reading alert files: the one that is shipped, and others, with what is wrong said in a sentence."""

from pathlib import Path

import pytest

from rayhaul.alert_file import read_alerts, read_scaling_rule
from rayhaul.errors import ServiceError

SHIPPED = (
    "HighJobFailureRate",
    "QueueBacklog",
    "WorkerOffline",
    "DLQNonEmpty",
    "R2UploadErrors",
    "APIHighLatency",
    "WorkerCapacityHigh",
)


def test_the_shipped_file_has_the_seven() -> None:
    """In the order and by the names of the specification; one of them scales."""
    assert tuple(rule.name for rule in read_alerts()) == SHIPPED
    assert read_scaling_rule().name == "WorkerCapacityHigh"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("alerts: [", "while parsing"),
        ("alerts:\n  - name: A\n    condition: queue.depth is large\n    window: 1m\n    severity: P1\n", "condition"),
        ("alerts: []\n", "auto-scale"),
    ],
)
def test_what_can_not_be_used_is_said(tmp_path: Path, text: str, wrong: str) -> None:
    """The error names the file and what is wrong with it."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ServiceError, match=wrong) as caught:
        read_scaling_rule(path)
    assert str(path) in caught.value.message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is an error in one sentence."""
    with pytest.raises(ServiceError, match=r"none\.yaml can not be used"):
        read_alerts(tmp_path / "none.yaml")
