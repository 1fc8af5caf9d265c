"""Drills on Ray itself: its calls get lost, and all of it is killed at once."""

import json
import signal
from pathlib import Path

import pytest
from drill_audit import Content
from drill_cluster import AGENT, KIB, MIB, QUICK, small_files, watched
from drill_hosts import bring_up, machines
from drill_table import Begin
from embedded import Embedded
from hosts import why_not
from origin import Origin

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

#: Ray's own fault injection (src/ray/rpc/rpc_chaos.h): of a process's calls to actors, a quarter is lost on the way,
#: and a quarter is carried out and its answer lost.
LOSS = {
    "CoreWorkerService.grpc_client.PushTask": {"num_failures": 5000, "req_failure_prob": 25, "resp_failure_prob": 25}
}


def test_f41_half_of_all_calls_fail(begin: Begin) -> None:
    """25 % of what agents tell the scheduler does not arrive, 25 % is answered in vain: all jobs complete, once.

    On the head's machine no call is lost: Ray Serve does not even start there then.
    """
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    drill = begin("F41", "RPC loss: 25 % of requests and 25 % of replies of PushTask, on the agents' machines")
    parts = {name: value for name, value in QUICK.items() if "TRANSFER" in name}
    with machines(**parts) as found:
        bring_up(found, workers={"RAY_testing_rpc_failure": json.dumps(LOSS)})
        drill.strike()
        wanted = {}
        refused = 0
        with found.http(60) as http:
            for name, content in [*small_files("f41", 40), ("f41/large.bin", Content(41, 40 * MIB))]:
                url = found.origin.add(name, size=content.size_bytes, seed=content.seed, rate_bytes_per_s=4 * MIB)
                for _ in range(60):
                    answer = http.post("/jobs", json={"url": url}, headers={"Idempotency-Key": name})
                    if answer.status_code == 201:
                        break
                    refused += 1
                wanted[answer.json()["id"]] = content
        found.books.await_final(wanted, within_s=400)
        drill.recover()
        lost = sum(
            path.read_text().count("report not answered")
            for pid in found.processes(AGENT)
            for path in found.log_paths(pid)
        )
        requeues = sum(found.books.job(job_id).requeues for job_id in wanted)
        drill.remark(
            f"reports not answered: {lost}; submissions asked again with their key: {refused}; "
            f"jobs handed back: {requeues}"
        )
        found.check(drill, wanted)
        assert len(found.books.jobs()) == len(wanted), "a job was made twice"
        assert lost > 0, "nothing was lost: the drill shows nothing"


def test_f40_all_of_it_is_killed(tmp_path: Path, origin: Origin, begin: Begin) -> None:
    """SIGKILL of the scheduler, `up` and with it every process of the cluster; the next `up` finishes every job."""
    drill = begin("F40", "everything on the one machine is killed (SIGKILL), and `up` is called again")
    data_dir = tmp_path / "data"
    cluster = Embedded(data_dir, **QUICK)
    try:
        cluster.up(agents=2)
        with cluster.client() as client:
            big = Content(40, 96 * MIB)
            url = origin.add("f40/big.bin", size=big.size_bytes, seed=big.seed, rate_bytes_per_s=2 * MIB)
            wanted = {client.submit(url).id: big}
            small = small_files("f40", 300, size_bytes=40 * KIB)
            urls = [origin.add(n, size=c.size_bytes, seed=c.seed, rate_bytes_per_s=10 * KIB) for n, c in small]
            wanted |= dict(zip(client.submit_many(urls), (content for _, content in small), strict=True))
        drill.strike()
        cluster.signal(signal.SIGKILL)
        drill.see("connection refused")
        cluster.up(agents=2)
        up_s = drill.elapsed_s()
        with watched(cluster) as found:
            found.books.await_final(wanted, within_s=240)
            drill.recover()
            found.check(drill, wanted)
        drill.remark(f"up again after {up_s:.1f} s")
    finally:
        cluster.stop()
