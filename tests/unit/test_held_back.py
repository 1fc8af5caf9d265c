"""Jobs that stand aside: none is lost, none is in the way, and none is looked at again without need."""

from collections import Counter
from typing import Any

from rayhaul.job import Priority
from rayhaul.policy.held_back import HeldBack, choose
from rayhaul.policy.queueing import Waiting, WaitingQueue

NOW_S = 1000.0


def job(number: int, user: str = "ann", priority: Priority = Priority.NORMAL) -> Waiting:
    return Waiting(since_s=float(number), job_id=f"job_{number}", user_id=user, priority=priority)


def test_others_go_by() -> None:
    """Ten thousand jobs of a full host are before the one of another; it is found within a few turns, each of them
    bounded, and what stands aside comes back in order, no more than the host has room for.
    """
    queue, aside = WaitingQueue(), HeldBack()
    for number in range(10_000):
        queue.push(job(number), NOW_S)
    queue.push(job(10_000), NOW_S)
    looked = Counter[str]()
    room = 0

    def may_start(waiting: Waiting) -> bool:
        nonlocal room
        looked[waiting.job_id] += 1
        if waiting.job_id == "job_10000":
            return True
        if room > 0:
            room -= 1
            return True
        aside.push(waiting, "full", NOW_S)
        return False

    turns = 0
    found: list[Waiting] = []
    while not found:
        turns += 1
        found = choose(queue, NOW_S, 16, may_start, running={})
    assert ([one.job_id for one in found], turns) == (["job_10000"], 6)
    assert (len(queue), len(aside), aside.depth()[Priority.NORMAL]) == (0, 10_000, 10_000)
    assert aside.oldest_since_s() == 0.0
    aside.readmit(queue, 16, NOW_S, lambda _: 0)
    assert len(queue) == 0
    room = 3
    aside.readmit(queue, 16, NOW_S, lambda _: room)
    assert len(queue) == 3
    assert [one.job_id for one in choose(queue, NOW_S, 16, may_start, running={})] == ["job_0", "job_1", "job_2"]
    assert looked["job_9999"] == 1
    assert (max(looked.values()), len(aside)) == (2, 9_997)


def test_one_that_is_gone() -> None:
    """A job that ended stands nowhere; the host of the last one is forgotten."""
    aside = HeldBack()
    for number in range(3):
        aside.push(job(number), "h", NOW_S)
    aside.push(job(1), "other", NOW_S)
    assert (aside.count("h"), aside.count("other"), len(aside)) == (2, 1, 3)
    for number in range(3):
        aside.discard(f"job_{number}")
        aside.discard(f"job_{number}")
    assert (len(aside), aside.count("h"), aside.depth()[Priority.NORMAL], aside._queues) == (0, 0, 0, {})


def test_limits_hold() -> None:
    """Nobody is brought above the limit, paused priorities stay, and users take turns also when they come back."""
    queue, aside = WaitingQueue(), HeldBack()
    for number in range(4):
        aside.push(job(number), "h", NOW_S)
        aside.push(job(10 + number, "bob"), "h", NOW_S)
        aside.push(job(20 + number, "bob", Priority.HIGH), "h", NOW_S)
    limits: dict[str, Any] = {"but": frozenset({Priority.HIGH}), "running": {"ann": 1}, "running_max": 2}
    aside.readmit(queue, 10, NOW_S, lambda _: 10, **limits)
    assert (len(queue), queue.depth()[Priority.HIGH]) == (3, 0)
    taken = choose(queue, NOW_S, 10, lambda _: True, **limits)
    assert Counter(one.user_id for one in taken) == {"ann": 1, "bob": 2}


def test_hosts_take_turns() -> None:
    """Where there are few places, each host with room has one in its turn."""
    queue, aside = WaitingQueue(), HeldBack()
    for number in range(12):
        aside.push(job(number), f"host-{number % 3}", NOW_S)
    for _ in range(6):
        aside.readmit(queue, 1, NOW_S, lambda _: 5)
    assert [aside.count(f"host-{number}") for number in range(3)] == [2, 2, 2]
