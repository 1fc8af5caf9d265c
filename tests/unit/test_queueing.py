"""The waiting queue against a plain list, and its order."""

from hypothesis import given
from hypothesis import strategies as st

from rayhaul.job import Priority
from rayhaul.policy.queueing import Waiting, WaitingQueue
from rayhaul.policy.scheduling import Load, Spread

RANK = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}

waitings = st.builds(
    Waiting,
    job_id=st.integers(0, 8).map(str),
    priority=st.sampled_from(Priority),
    since_s=st.integers(0, 5).map(float),
    ready_at_s=st.integers(0, 20).map(float),
)


@given(st.lists(st.one_of(waitings, st.integers(0, 8).map(str), st.integers(1, 6))))
def test_like_a_list(steps: list[Waiting | str | int]) -> None:
    """Pushed, discarded and taken at random, with time passing, it behaves as a sorted list would."""
    queue, model, now_s = WaitingQueue(), dict[str, Waiting](), 0.0
    for step in steps:
        now_s += 1
        match step:
            case Waiting():
                queue.push(step, now_s)
                model[step.job_id] = step
            case str():
                queue.discard(step)
                model.pop(step, None)
            case int():
                taken = list(queue.take(now_s, step))
                ready = [w for w in model.values() if w.ready_at_s <= now_s]
                wanted = sorted(ready, key=lambda w: (RANK[w.priority], w.since_s, w.job_id))[:step]
                assert taken == wanted
                for waiting in taken:
                    del model[waiting.job_id]
        assert len(queue) == len(model)
        assert sum(queue.depth().values()) == len(model)
        assert all((job_id in queue) == (job_id in model) for job_id in map(str, range(9)))


def test_paused_priorities_stay() -> None:
    """What is paused is not taken and keeps its place."""
    queue = WaitingQueue()
    for priority in Priority:
        queue.push(Waiting(priority, priority, 1.0), 2.0)
    assert [w.job_id for w in queue.take(3.0, 9, but=frozenset({Priority.HIGH}))] == ["normal", "low"]
    assert queue.oldest_since_s() == 1.0
    assert [w.job_id for w in queue.take(3.0, 9)] == ["high"]
    assert queue.oldest_since_s() is None


def test_due_time_of_the_next_delayed() -> None:
    """The loop can sleep until the next job becomes ready."""
    queue = WaitingQueue()
    queue.push(Waiting("a", Priority.NORMAL, 1.0, ready_at_s=50.0), 2.0)
    queue.push(Waiting("b", Priority.NORMAL, 1.0, ready_at_s=30.0), 2.0)
    assert queue.due_at_s() == 30.0
    queue.discard("b")
    assert queue.due_at_s() == 50.0
    assert list(queue.take(49.0, 9)) == []
    assert [w.job_id for w in queue.take(50.0, 9)] == ["a"]


def test_spread_fills_evenly_and_stops() -> None:
    """Slots are handed out by the share in use; no agent gets more than it has."""
    spread = Spread({"a": Load("a", 2, 0), "b": Load("b", 4, 1), "full": Load("full", 3, 3)})
    assert spread.free_slots == 5
    given_out = [spread.take() for _ in range(6)]
    assert given_out == ["a", "b", "a", "b", "b", None] or given_out.count("a") == 2
    assert given_out.count("b") == 3
    assert given_out[-1] is None
