"""The waiting queue against a plain reference, and what it promises: shares, turns, limits, nobody starves."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_queue import Plain

from rayhaul.job import Priority
from rayhaul.policy import queueing
from rayhaul.policy.queueing import PROMOTED_MAX, SHARES, Waiting, WaitingQueue, shares_of
from rayhaul.policy.scheduling import Load, Spread
from rayhaul.settings import QueueSettings

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
USERS = ("ann", "bob", "cid")
NOW_S = 1_000.0


def job(job_id: str, priority: Priority = NORMAL, *, user: str = "ann", since_s: float = 1.0) -> Waiting:
    return Waiting(since_s, job_id, user, priority)


def jobs(count: int, priority: Priority = NORMAL, *, user: str = "ann") -> list[Waiting]:
    return [
        job(f"{user}-{priority}-{number:06d}", priority, user=user, since_s=float(number)) for number in range(count)
    ]


def filled(*waiting: Waiting) -> WaitingQueue:
    queue = WaitingQueue()
    for each in waiting:
        queue.push(each, NOW_S)
    return queue


def ids(taken: Iterable[Waiting]) -> list[str]:
    return [waiting.job_id for waiting in taken]


JOB_IDS = st.integers(0, 30).map(str)
WAITING = st.builds(
    Waiting,
    since_s=st.integers(0, 9).map(float),
    job_id=JOB_IDS,
    user_id=st.sampled_from(USERS),
    priority=st.sampled_from(Priority),
    ready_at_s=st.integers(0, 60).map(float),
)
PUSH = st.tuples(st.just("push"), WAITING)
DISCARD = st.tuples(st.just("discard"), JOB_IDS)
TAKE = st.tuples(
    st.just("take"),
    st.fixed_dictionaries(
        {
            "most": st.integers(0, 6),
            "but": st.frozensets(st.sampled_from(Priority), max_size=2),
            "running": st.dictionaries(st.sampled_from(USERS), st.integers(0, 4)),
            "running_max": st.none() | st.integers(1, 3),
        }
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(PUSH, PUSH, DISCARD, TAKE), max_size=80))
def test_like_the_plain_one(steps: Sequence[tuple[str, object]]) -> None:
    """Pushed, discarded and taken at random, with time passing: the same jobs as by looking at all, in order."""
    _compare(steps, job_ids=[str(number) for number in range(31)])


@pytest.mark.parametrize("seed", range(4))
def test_like_the_plain_one_at_length(seed: int) -> None:
    """The same with hundreds of jobs, most of which go before their turn: lines are thinned out many times."""
    rng = Random(seed)
    job_ids = [str(number) for number in range(300)]

    def step() -> tuple[str, object]:
        job_id = rng.choice(job_ids)
        match rng.choices(["push", "discard", "take"], weights=[20, 16, 1])[0]:
            case "push":
                since_s, ready_at_s = float(rng.randrange(1000)), rng.choice([0.0, rng.randrange(3000)])
                return "push", Waiting(since_s, job_id, rng.choice(USERS), rng.choice(list(Priority)), ready_at_s)
            case "discard":
                return "discard", job_id
            case _:
                running = {user: rng.randrange(5) for user in USERS}
                return "take", {"most": 3, "but": frozenset(), "running": running, "running_max": rng.choice([None, 3])}

    _compare([step() for _ in range(3_000)], job_ids=job_ids)


def _compare(steps: Iterable[tuple[str, object]], *, job_ids: Sequence[str]) -> None:
    queue, plain, now_s = WaitingQueue(), Plain(), 0.0
    for step in steps:
        now_s += 1
        match step:
            case ("push", Waiting() as waiting):
                queue.push(waiting, now_s)
                plain.push(waiting, now_s)
            case ("discard", str(job_id)):
                queue.discard(job_id)
                plain.discard(job_id)
            case ("take", dict(asked)):
                assert queue.take(now_s, **asked) == plain.take(now_s, **asked)
        assert len(queue) == len(plain.waiting) + len(plain.delayed)
        assert queue.depth() == plain.depth()
        assert queue.oldest_since_s() == min((entry.since_s for entry in plain.waiting.values()), default=None)
        assert queue.due_at_s() == min((entry.ready_at_s for entry in plain.delayed.values()), default=None)
        known = plain.waiting.keys() | plain.delayed.keys()
        assert all((job_id in queue) == (job_id in known) for job_id in job_ids)


def test_shares() -> None:
    """While all three wait, starts go 16:4:1, high ones first in each round."""
    queue = filled(*jobs(100, HIGH), *jobs(100, NORMAL), *jobs(100, LOW))
    first = [waiting.priority for waiting in queue.take(NOW_S, 21)]
    assert Counter(first) == {HIGH: 16, NORMAL: 4, LOW: 1}
    assert first[:5] == [HIGH, HIGH, HIGH, HIGH, NORMAL]
    assert first[-1] is LOW
    assert Counter(waiting.priority for waiting in queue.take(NOW_S, 42)) == {HIGH: 32, NORMAL: 8, LOW: 2}


def test_shares_are_settings() -> None:
    """Other shares, other proportions; equal ones go round."""
    queue = WaitingQueue(shares_of(QueueSettings(share_high=3, share_normal=2, share_low=2)))
    for waiting in (*jobs(70, HIGH), *jobs(70, NORMAL), *jobs(70, LOW)):
        queue.push(waiting, NOW_S)
    assert Counter(waiting.priority for waiting in queue.take(NOW_S, 70)) == {HIGH: 30, NORMAL: 20, LOW: 20}


def test_a_priority_alone_gets_all() -> None:
    """Shares only matter between those that wait: nothing is kept free for the absent."""
    queue = filled(*jobs(50, LOW))
    assert len(queue.take(NOW_S, 50)) == 50


def test_the_absent_do_not_save_up() -> None:
    """After 1,000 low starts high does not get 16,000 in a row, and low, long alone, has no debts."""
    queue = filled(*jobs(1_000, LOW))
    queue.take(NOW_S, 900)
    for waiting in jobs(1_000, HIGH):
        queue.push(waiting, NOW_S)
    assert Counter(waiting.priority for waiting in queue.take(NOW_S, 34)) == {HIGH: 32, LOW: 2}


def _onslaught(seed: int, priority: Priority) -> list[Waiting]:
    """Return 1,000 starts while ann has jobs of one priority all the time, and others come, go and reach limits."""
    rng, queue, serial = Random(seed), WaitingQueue(), itertools.count()
    others = list("bcdefgh")

    def push(priority: Priority, user: str) -> None:
        queue.push(job(f"{user}-{next(serial):06d}", priority, user=user, since_s=rng.random()), NOW_S)

    push(priority, "ann")
    starts: list[Waiting] = []
    while len(starts) < 1_000:
        for _ in range(rng.choice([0, 0, 1, 5, 40])):
            push(rng.choice(list(Priority)), rng.choice(others))
        for _ in range(rng.choice([0, 0, 10])):
            queue.discard(f"{rng.choice(others)}-{rng.randrange(next(serial)):06d}")
        but = frozenset(rng.sample([other for other in Priority if other is not priority], rng.choice([0, 0, 0, 1, 2])))
        running = {user: 1 for user in others if rng.random() < 0.2}
        taken = queue.take(NOW_S, 1, but=but, running=running, running_max=1)
        for _ in range(sum(waiting.user_id == "ann" for waiting in taken)):
            push(priority, "ann")
        starts += taken
    return starts


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("priority", Priority)
def test_nobody_starves(priority: Priority, seed: int) -> None:
    """Laws 1 and 2: whatever the others do, ann's priority and ann herself start again within the bounds."""
    starts = _onslaught(seed, priority)
    between: Counter[Priority] = Counter()
    for start in starts:
        if start.priority is priority:
            between.clear()
        else:
            between[start.priority] += 1
            assert between[start.priority] <= SHARES[start.priority] // SHARES[priority] + 1
    turns: Counter[str] = Counter()
    for start in starts:
        if start.priority is not priority:
            continue
        turns[start.user_id] += 1
        if start.user_id == "ann":
            turns.clear()
        assert not turns or max(turns.values()) == 1
    assert len({start.user_id for start in starts}) > 5, "there was nobody to starve ann"


def test_a_backlog_is_nobody_elses() -> None:
    """100,000 jobs of one user do not delay another's 10, nor those of a third who comes later."""
    queue = filled(*jobs(100_000), *jobs(10, user="bob"))
    assert sum(waiting.user_id == "bob" for waiting in queue.take(NOW_S, 20)) == 10
    queue.take(NOW_S, 5_000)
    for waiting in jobs(5, user="cid"):
        queue.push(waiting, NOW_S)
    assert [waiting.user_id for waiting in queue.take(NOW_S, 11)][1::2] == ["cid"] * 5


def test_coming_and_going_gains_nothing() -> None:
    """Who offers one job at a time gets as many starts as who has many waiting: no more."""
    queue = filled(*jobs(1_000))
    starts: Counter[str] = Counter()
    for number in range(500):
        queue.push(job(f"bob-{number}", user="bob", since_s=0.0), NOW_S)
        starts.update(waiting.user_id for waiting in queue.take(NOW_S, 1))
    assert starts == {"ann": 250, "bob": 250}


def test_within_a_user_by_age() -> None:
    """A user's jobs start in the order of their creation; one handed back keeps its place; ids settle ties."""
    queue = filled(job("b", since_s=2.0), job("c", since_s=3.0), job("a2", since_s=1.0), job("a1", since_s=1.0))
    assert ids(queue.take(NOW_S, 2)) == ["a1", "a2"]
    queue.push(job("a1", since_s=1.0), NOW_S)
    assert ids(queue.take(NOW_S, 9)) == ["a1", "b", "c"]


def test_paused_priorities_stay() -> None:
    """What is paused is not taken, keeps its place, and has saved up nothing when it goes on."""
    queue = filled(*jobs(100, HIGH), *jobs(200, LOW))
    assert {waiting.priority for waiting in queue.take(NOW_S, 100, but=frozenset({HIGH}))} == {LOW}
    assert queue.oldest_since_s() == 0.0
    assert queue.depth() == {HIGH: 100, NORMAL: 0, LOW: 100}
    assert Counter(waiting.priority for waiting in queue.take(NOW_S, 17)) == {HIGH: 16, LOW: 1}
    assert queue.take(NOW_S, 9, but=frozenset(Priority)) == []


def test_limit() -> None:
    """Nobody is brought above the limit; others take the places; who is below it again goes on, at the back."""
    queue = filled(*jobs(100), *jobs(100, HIGH), *jobs(2, user="bob"), *jobs(9, LOW, user="cid"))
    taken = queue.take(NOW_S, 50, running={"ann": 1, "cid": 3}, running_max=3)
    assert Counter(waiting.user_id for waiting in taken) == {"ann": 2, "bob": 2}
    assert queue.take(NOW_S, 50, running={"ann": 3, "cid": 3}, running_max=3) == []
    assert Counter(w.user_id for w in queue.take(NOW_S, 50, running={"ann": 2}, running_max=3)) == {"ann": 1, "cid": 3}
    assert len(queue.take(NOW_S, 50)) == 50


def test_the_limited_may_leave() -> None:
    """Jobs of a user at the limit can be discarded and come again like any other's."""
    queue = filled(*jobs(3))
    assert queue.take(NOW_S, 9, running={"ann": 1}, running_max=1) == []
    for waiting in jobs(3):
        queue.discard(waiting.job_id)
    assert queue.take(NOW_S, 9) == []
    queue.push(job("again"), NOW_S)
    assert ids(queue.take(NOW_S, 9)) == ["again"]


def test_the_limited_leave_their_share() -> None:
    """A priority whose users are all at the limit does not hold up the others, nor does it save up."""
    queue = filled(*jobs(500, HIGH), *jobs(500, LOW, user="bob"))
    assert {w.user_id for w in queue.take(NOW_S, 100, running={"ann": 5}, running_max=5)} == {"bob"}
    assert Counter(waiting.user_id for waiting in queue.take(NOW_S, 17)) == {"ann": 16, "bob": 1}


class _Asked(dict[str, int]):
    """How many jobs run by user, and how often that was asked."""

    count = 0

    def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
        self.count += 1
        return super().get(key, default)


def test_the_limited_are_looked_at_once() -> None:
    """The jobs of users at their limit are not looked through, however many they are, one take after the other."""
    queue = filled(*(each for number in range(50) for each in jobs(100, user=f"user-{number}")))
    running = _Asked({f"user-{number}": 1 for number in range(50)})
    for _ in range(2):
        running.count = 0
        assert queue.take(NOW_S, 32, running=running, running_max=1) == []
        assert running.count == 50


def test_due_time_of_the_next_delayed() -> None:
    """The loop can sleep until the next job becomes ready."""
    queue = WaitingQueue()
    queue.push(Waiting(1.0, "a", "ann", NORMAL, ready_at_s=50.0), 2.0)
    queue.push(Waiting(1.0, "b", "ann", NORMAL, ready_at_s=30.0), 2.0)
    assert queue.due_at_s() == 30.0
    queue.discard("b")
    assert queue.due_at_s() == 50.0
    assert queue.take(49.0, 9) == []
    assert ids(queue.take(50.0, 9)) == ["a"]
    assert queue.due_at_s() is None


def test_a_wave_is_promoted_in_steps() -> None:
    """Very many jobs due at one moment become ready over several calls, and the due time says that more wait."""
    queue = WaitingQueue()
    for number in range(PROMOTED_MAX + 5):
        queue.push(Waiting(1.0, f"{number:06d}", "ann", NORMAL, ready_at_s=50.0), 2.0)
    assert len(queue.take(60.0, PROMOTED_MAX + 5)) == PROMOTED_MAX
    assert queue.due_at_s() == 50.0
    assert len(queue.take(60.0, 9)) == 5


@pytest.mark.parametrize("ready_at_s", [0.0, NOW_S + 50])
def test_what_is_gone_takes_no_room(ready_at_s: float) -> None:
    """Jobs that come and go for ever, behind one that stays, leave nothing behind."""
    queue = filled(job("stays", since_s=0.0), Waiting(0.0, "stays too", "ann", NORMAL, NOW_S + 1))
    again = [Waiting(3.0, f"comes again {number}", "ann", NORMAL, ready_at_s) for number in range(20)]
    for number in range(5_000):
        queue.push(Waiting(2.0 + number, "goes", f"user-{number % 7}", NORMAL, ready_at_s), NOW_S)
        queue.push(Waiting(1.0, "goes back", "ann", NORMAL, ready_at_s), NOW_S)
        queue.discard("goes")
        queue.push(again[number % len(again)], NOW_S)
    lanes = list(queue._lanes.values())
    lines = [queue._by_age, *(line for lane in lanes for line in (*lane.turns.values(), *lane.limited.values()))]
    assert len(lines) == 2
    rows: list[Sequence[object]] = [queue._due]
    for line in lines:
        rows += [line._in_order, line._late]
    assert max(map(len, rows)) <= 2 * len(queue) + queueing._GONE_MIN + 1


def test_spread_fills_evenly_and_stops() -> None:
    """Slots are handed out by the share in use; no agent gets more than it has."""
    spread = Spread({"a": Load("a", 2, 0), "b": Load("b", 4, 1), "full": Load("full", 3, 3)})
    assert spread.free_slots == 5
    given_out = [spread.take() for _ in range(6)]
    assert given_out == ["a", "b", "a", "b", "b", None] or given_out.count("a") == 2
    assert given_out.count("b") == 3
    assert given_out[-1] is None
