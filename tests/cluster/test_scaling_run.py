"""The rule, the policy, Ray's autoscaler and real raylets together: load brings nodes, and they go when it has gone."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml
from autoscaled import Autoscaled, Node, autoscaled
from embedded import eventually
from origin import Origin
from sampling import Sample, Sampler

from rayhaul.settings import ScalingSettings
from rayhaul.wire import EventView, JobView
from serve_app.seaweed import Seaweed

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

_ROOT = Path(__file__).parents[2]
#: Where the run is recorded, for `python -m bench.scaling_run`; unset: it is not.
_RECORD_TO = "RAYHAUL_SCALING_RUN"

SLOTS = 4
AGENTS_MAX = 3
WINDOW_S = 5
IDLE_TIMEOUT_S = 6
SCALING = ScalingSettings(agents_max=AGENTS_MAX, cooldown_s=6, scale_in_window_s=6, smoothing_s=1)
SETTINGS = {
    "RAYHAUL_AGENT__SLOTS": str(SLOTS),
    "RAYHAUL_LIVENESS__HEARTBEAT_S": "0.5",
    **{
        f"RAYHAUL_SCALING__{name.upper()}": str(value)
        for name, value in SCALING.model_dump(exclude_none=True, exclude_defaults=True).items()
    },
}

RATE_BYTES_PER_S = 128 * 1024
#: 100 jobs of 4 seconds: 100 seconds of work for one agent, 33 for three.
BURST = [4 * RATE_BYTES_PER_S + n for n in range(100)]
#: One longer job for each agent, when the queue is empty: they still run when agents are drained, and end apart.
TAIL = [seconds * RATE_BYTES_PER_S for seconds in (20, 28, 36)]

_DECISION = re.compile(
    r"(?P<reason>scale_out|scale_in): (?P<wanted>\d+) agents wanted; (?P<online>\d+) online, (?P<pending>\d+) pending, "
    r"(?P<draining>\d+) draining, load (?P<load>[\d.]+) %"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A line of the scheduler's log: what it decided, and from what."""

    at_s: float
    reason: str
    wanted: int
    online: int
    pending: int
    draining: int
    load_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What happened, with times since the epoch."""

    loaded_at_s: float
    burst_done_at_s: float
    done_at_s: float
    jobs: Sequence[JobView]
    #: When the attempt at a job began, by job id.
    started_at_s: Mapping[str, float]
    samples: Sequence[Sample]
    decisions: Sequence[Decided]
    nodes: Sequence[Node]
    #: The agents that are online at the end.
    agents_left: Sequence[str]
    metrics: Mapping[tuple[str, str], float]


def rules_file(path: Path, **changes: str) -> Path:
    """Write the alerts as they are shipped, but with changes to the one whose action is auto-scale."""
    alerts = yaml.safe_load((_ROOT / "dashboards" / "alerts.yaml").read_text())
    for alert in alerts["alerts"]:
        if alert.get("action") == "auto-scale":
            alert.update(changes)
    path.write_text(yaml.safe_dump(alerts))
    return path


@pytest.fixture
def ray(tmp_path: Path, store: Seaweed) -> Iterator[Autoscaled]:
    """Rayhaul on a cluster whose nodes come and go; one agent is online."""
    settings = SETTINGS | {
        "RAYHAUL_SCALING__RULES_PATH": str(rules_file(tmp_path / "alerts.yaml", window=f"{WINDOW_S}s"))
    }
    with autoscaled(tmp_path / "ray", nodes_max=AGENTS_MAX, idle_timeout_s=IDLE_TIMEOUT_S) as cluster:
        cluster.deploy(store.settings, settings)
        yield cluster


def scenario(ray: Autoscaled, origin: Origin) -> Run:
    """Load the cluster, then let it fall idle, and watch."""
    with ray.client() as client, Sampler(ray.url, ray.key, lambda: nodes_alive(ray)) as sampler:
        eventually(lambda: bool(sampler.samples), within_s=30, what="a first sample")
        loaded_at_s = time.time()
        job_ids = client.submit_many([serve(origin, "burst", n, size) for n, size in enumerate(BURST)])
        burst = [client.wait(job_id, timeout_s=300) for job_id in job_ids]
        tail_ids = client.submit_many([serve(origin, "tail", n, size) for n, size in enumerate(TAIL)])
        jobs = [*burst, *(client.wait(job_id, timeout_s=300) for job_id in tail_ids)]
        done_at_s = time.time()
        eventually(lambda: is_at_rest(sampler), within_s=120, what="one agent on one node, and so it stays")
        metrics = sampler.metrics()
        agents_left = [agent.agent for agent in client.agents() if agent.state == "online"]
        started = {job.id: epoch_s(only(client.history(job.id), "started").ts) for job in jobs}
    return Run(
        loaded_at_s=loaded_at_s,
        burst_done_at_s=max(epoch_s(job.completed_at) for job in burst),
        done_at_s=done_at_s,
        jobs=jobs,
        started_at_s=started,
        samples=sampler.samples,
        decisions=decisions(ray.logs("worker-*.err")),
        nodes=ray.nodes(),
        agents_left=agents_left,
        metrics=metrics,
    )


def serve(origin: Origin, name: str, number: int, size: int) -> str:
    return origin.add(f"{name}/{number}.bin", size=size, seed=number, rate_bytes_per_s=RATE_BYTES_PER_S)


def nodes_alive(ray: Autoscaled) -> int:
    return sum(node.is_alive and not node.is_head for node in ray.nodes())


def is_at_rest(sampler: Sampler) -> bool:
    sampler.check()
    last = sampler.samples[-3:]
    return {(s.agents_online, s.agents_pending, s.agents_draining, s.nodes) for s in last} == {(1, 0, 0, 1)}


def only(events: Sequence[EventView], name: str) -> EventView:
    """Return the one event of that name: a job that was disturbed has been started twice."""
    found = [event for event in events if event.event == name]
    assert len(found) == 1, [(event.event, event.payload) for event in events]
    return found[0]


def epoch_s(moment: datetime | None) -> float:
    assert moment is not None
    return moment.timestamp()


def decisions(log: str) -> Sequence[Decided]:
    """Return the decisions that were logged, in order."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{") and '"scheduler"' in line]
    found = [(line, match) for line in lines if (match := _DECISION.search(line["msg"]))]
    return sorted(
        (
            Decided(
                at_s=datetime.fromisoformat(line["ts"]).timestamp(),
                reason=match["reason"],
                wanted=int(match["wanted"]),
                online=int(match["online"]),
                pending=int(match["pending"]),
                draining=int(match["draining"]),
                load_pct=float(match["load"]),
            )
            for line, match in found
        ),
        key=lambda decided: decided.at_s,
    )


def strays(ray: Autoscaled) -> list[str]:
    """Return the actors that are no agents, and are not on the head."""
    (head,) = (node.node_id for node in ray.nodes() if node.is_head)
    return [name for name, node_id in ray.actors().items() if node_id != head and not name.startswith("agent-")]


def steps(samples: Sequence[Sample], field: str) -> list[int]:
    """Return a figure's values in the order in which they came, without repeats."""
    return [value for value, _ in groupby(getattr(sample, field) for sample in samples)]


def test_nodes_come_with_the_load_and_go_with_it(ray: Autoscaled, origin: Origin) -> None:
    """One agent, then three, each on a node that Ray's autoscaler brought, then one; no job takes notice."""
    assert not strays(ray), "these keep their nodes from going"
    run = scenario(ray, origin)
    print(*run.decisions, sep="\n")
    assert [job.result and job.result.size_bytes for job in run.jobs] == [*BURST, *TAIL]
    assert {(job.attempt, job.requeues) for job in run.jobs} == {(1, 0)}
    # Agents and nodes rose and fell, one by one, and no higher than they may.
    assert [decided.reason for decided in run.decisions] == ["scale_out", "scale_out", "scale_in", "scale_in"]
    assert [decided.wanted for decided in run.decisions] == [2, 3, 2, 1]
    assert all(decided.load_pct > 90 for decided in run.decisions if decided.reason == "scale_out")
    assert steps(run.samples, "nodes") == [1, 2, 3, 2, 1]
    assert max(sample.agents_online for sample in run.samples) == AGENTS_MAX
    assert {sample.agents_offline for sample in run.samples} == {0}
    assert counted(run, "rayhaul_scaling_decisions_total") == {"bounds": 1, "scale_out": 2, "scale_in": 2}
    assert not counted(run, "rayhaul_requeues_total")
    assert not counted(run, "rayhaul_fenced_writes_total")
    # Each agent did its share, and the ones that were drained finished what they held.
    everyone = {f"agent-{number}" for number in range(1, AGENTS_MAX + 1)}
    tail = run.jobs[-len(TAIL) :]
    assert {agent for job in run.jobs[: len(BURST)] for agent in job.agents} == everyone
    assert {agent for job in tail for agent in job.agents} == everyone
    held = [job for job in tail if job.agents != run.agents_left]
    assert all(epoch_s(job.completed_at) > run.decisions[-1].at_s for job in held), (
        "nobody was drained while it held a job"
    )
    figures = timings(run)
    print(json.dumps(figures, indent=1))
    record(run, figures)


def counted(run: Run, metric: str) -> Mapping[str, float]:
    """Return the last values of a metric with one label, by that label."""
    return {label: value for (name, label), value in run.metrics.items() if name == metric}


def timings(run: Run) -> Mapping[str, float]:
    """Return the seconds from the load's coming, and from its going, to what followed."""
    out = [decided for decided in run.decisions if decided.reason == "scale_out"]
    back = [decided for decided in run.decisions if decided.reason == "scale_in"]
    workers = [node for node in run.nodes if not node.is_head]
    came = sorted(node.started_at_s for node in workers)[1:]
    went = sorted(node.ended_at_s for node in workers if node.ended_at_s is not None)
    begun = sorted(run.started_at_s[job.id] for job in run.jobs if job.agents != ["agent-1"])
    drained = [later.at_s for was, later in zip(run.samples, run.samples[1:], strict=False) if has_left(was, later)]
    since_load = {"decided": out[0].at_s, "node up": came[0], "first job there": begun[0]}
    since_idle = {
        "drain decided": back[0].at_s,
        "first drained": drained[0],
        "first node gone": went[0],
        "last drained": drained[-1],
        "last node gone": went[-1],
    }
    return {
        **{f"load to {name}": round(at_s - run.loaded_at_s, 1) for name, at_s in since_load.items()},
        "burst done": round(run.burst_done_at_s - run.loaded_at_s, 1),
        **{f"burst done to {name}": round(at_s - run.burst_done_at_s, 1) for name, at_s in since_idle.items()},
    }


def has_left(was: Sample, later: Sample) -> bool:
    """Whether an agent that was draining has gone between the two samples."""
    fewer = was.agents_online + was.agents_draining > later.agents_online + later.agents_draining
    return was.agents_draining > 0 and fewer


def record(run: Run, figures: Mapping[str, float]) -> None:
    """Write the run where the environment says; times are seconds since the load came."""
    if not os.environ.get(_RECORD_TO):
        return

    def shifted(row: Any) -> dict[str, Any]:
        return {**asdict(row), "at_s": round(row.at_s - run.loaded_at_s, 2)}

    recorded = {
        "setup": {
            "ray": version("ray"),
            "node_idle_timeout_s": IDLE_TIMEOUT_S,
            "slots": SLOTS,
            "window_s": WINDOW_S,
            **SCALING.model_dump(include={"agents_max", "cooldown_s", "scale_in_window_s", "smoothing_s"}),
            "burst_jobs": len(BURST),
            "tail_jobs": len(TAIL),
            "rate_bytes_per_s": RATE_BYTES_PER_S,
        },
        "seconds": figures,
        "jobs": [
            {
                "agent": job.agents[0],
                "started_s": round(run.started_at_s[job.id] - run.loaded_at_s, 2),
                "completed_s": round(epoch_s(job.completed_at) - run.loaded_at_s, 2),
            }
            for job in run.jobs
        ],
        "decisions": [shifted(decided) for decided in run.decisions],
        "samples": [shifted(sample) for sample in run.samples],
    }
    Path(os.environ[_RECORD_TO]).write_text(as_text(recorded))


def as_text(recorded: Mapping[str, Any]) -> str:
    """Return JSON with a line for each row."""
    rows = {
        name: "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]" if isinstance(value, list) else json.dumps(value)
        for name, value in recorded.items()
    }
    return "{\n " + ",\n ".join(f'"{name}": {text}' for name, text in rows.items()) + "\n}\n"
