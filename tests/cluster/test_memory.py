"""Bytes pass through an agent without staying: its memory does not grow with the file."""

import threading
from pathlib import Path
from typing import Self

import pytest
from embedded import Embedded, embedded
from origin import Origin, content_sha256
from test_cluster import MIB, sha256_of_object

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

SIZE_BYTES = 4096 * MIB
RSS_BYTES_MAX = 150 * MIB


def rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmRSS of {pid}")


class Watch:
    """The highest RSS of some processes, looked at ten times a second."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self.highest = {pid: rss_bytes(pid) for pid in pids}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            for pid in self._pids:
                self.highest[pid] = max(self.highest[pid], rss_bytes(pid))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_four_gibibytes(tmp_path: Path, origin: Origin) -> None:
    """A 4 GiB job: no agent grows by more than 150 MiB over idle, and the object is identical."""
    with embedded(tmp_path / "data", agents=2) as cluster, cluster.client() as client:
        warm_up(cluster, origin)
        pids = sorted(cluster.processes("ray::AgentActor"))
        idle = {pid: rss_bytes(pid) for pid in pids}
        with Watch(pids) as watch:
            job_id = client.submit(origin.add("huge.bin", size=SIZE_BYTES, seed=13)).id
            client.wait(job_id, timeout_s=600)
        grown = {pid: watch.highest[pid] - idle[pid] for pid in pids}
        print(f"agent RSS above idle: {[round(value / MIB) for value in grown.values()]} MiB")
        assert max(grown.values()) <= RSS_BYTES_MAX
        assert sha256_of_object(client, job_id) == content_sha256(13, SIZE_BYTES)


def warm_up(cluster: Embedded, origin: Origin) -> None:
    """Have every agent load what it loads once."""
    with cluster.client() as client:
        for job_id in client.submit_many(origin.add(f"warm/{n}.bin", size=MIB, seed=n) for n in range(8)):
            client.wait(job_id, timeout_s=60)
