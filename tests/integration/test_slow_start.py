"""`rayhaul up` where Ray does not start within the 30 s that it gives itself, or another program took its port."""

from pathlib import Path

import pytest

from rayhaul.errors import ServiceError
from rayhaul.settings import Settings
from serve_app import embedded
from serve_app.embedded import EmbeddedCluster, Place

SLOW = "Ray did not start: The current node timed out during startup. This could happen because …"
TAKEN = "Ray did not start: Exception: Failed to find a valid port for dashboard after 0 retries: [Errno 98] …"


def starting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *said: str | None) -> tuple[EmbeddedCluster, list[str]]:
    """Return a cluster whose tries to start Ray end as `said`, one after the other; None: it starts."""
    told: list[str] = []
    ends = iter(said)

    def init(self: EmbeddedCluster, temp_dir: Path) -> str:
        end = next(ends)
        if end is not None:
            raise ServiceError(end)
        return "http://dashboard"

    monkeypatch.setattr(EmbeddedCluster, "_init_ray", init)
    monkeypatch.setattr(embedded, "_ray_environment", lambda *_: {})
    place = Place(data_dir=tmp_path / "data", host="127.0.0.1", port=8000)
    return EmbeddedCluster(place, Settings(), told.append), told


def test_it_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster, told = starting(monkeypatch, tmp_path, SLOW, TAKEN, None)
    assert cluster._start_ray() == "http://dashboard"
    assert told == ["Ray once more: this machine is slow", "Ray once more: another program took its port"]
    cluster.stop()


@pytest.mark.parametrize("said", [(SLOW, SLOW, SLOW), ("Ray did not start: no space left on device",)])
def test_not_for_ever_nor_for_another_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: tuple[str, ...]
) -> None:
    cluster, told = starting(monkeypatch, tmp_path, *said)
    with pytest.raises(ServiceError, match=said[-1][:30]):
        cluster._start_ray()
    assert len(told) == len(said) - 1
    cluster.stop()
