"""The waiting queue written without a thought for speed: the reference that the real one is held against."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rayhaul.job import Priority
from rayhaul.policy.queueing import SHARES, Waiting


@dataclass
class Plain:
    """The reference: a dict of jobs, looked through from end to end for every choice, virtual time in fractions of 1.

    Only the turns are kept: since when (a growing number) somebody stands in the row of a priority.
    """

    waiting: dict[str, Waiting] = field(default_factory=dict)
    delayed: dict[str, Waiting] = field(default_factory=dict)
    turns: dict[tuple[Priority, str], int] = field(default_factory=dict)
    limited: dict[tuple[Priority, str], int] = field(default_factory=dict)
    came_to: dict[Priority, float] = field(default_factory=lambda: dict.fromkeys(Priority, 0.0))
    took_part: dict[Priority, bool] = field(default_factory=lambda: dict.fromkeys(Priority, False))
    virtual_now: float = 0.0
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def push(self, entry: Waiting, now_s: float) -> None:
        self.discard(entry.job_id)
        if entry.ready_at_s > now_s:
            self.delayed[entry.job_id] = entry
        else:
            self._ready(entry)

    def _ready(self, entry: Waiting) -> None:
        self.waiting[entry.job_id] = entry
        place = (entry.priority, entry.user_id)
        if place not in self.limited:
            self.turns.setdefault(place, next(self.numbers))

    def discard(self, job_id: str) -> None:
        self.delayed.pop(job_id, None)
        self.waiting.pop(job_id, None)
        standing = {(entry.priority, entry.user_id) for entry in self.waiting.values()}
        self.turns = {place: number for place, number in self.turns.items() if place in standing}
        self.limited = {place: number for place, number in self.limited.items() if place in standing}

    def promote(self, now_s: float) -> None:
        for _, entry in sorted((e.ready_at_s, e) for e in self.delayed.values() if e.ready_at_s <= now_s):
            del self.delayed[entry.job_id]
            self._ready(entry)

    def take(
        self, now_s: float, most: int, but: frozenset[Priority], running: Mapping[str, int], running_max: int | None
    ) -> list[Waiting]:
        self.promote(now_s)
        for place in sorted(self.limited, key=self.limited.__getitem__):
            if running_max is None or running.get(place[1], 0) < running_max:
                del self.limited[place]
                self.turns[place] = next(self.numbers)
        for priority in Priority:
            takes_part = priority not in but and any(place[0] is priority for place in self.turns)
            if takes_part and not self.took_part[priority]:
                self.came_to[priority] = max(self.came_to[priority], self.virtual_now)
            self.took_part[priority] = takes_part
        taken: list[Waiting] = []
        while len(taken) < most:
            choice = self._choose(but)
            if choice is None:
                break
            user = choice[1]
            if running_max is not None and running.get(user, 0) + sum(e.user_id == user for e in taken) >= running_max:
                del self.turns[choice]
                self.limited[choice] = next(self.numbers)
            else:
                taken.append(self._start(choice))
            for priority in Priority:
                self.took_part[priority] &= any(place[0] is priority for place in self.turns)
        return taken

    def _choose(self, but: frozenset[Priority]) -> tuple[Priority, str] | None:
        places = [place for place in self.turns if place[0] not in but]
        rank = list(SHARES)
        return min(
            places,
            key=lambda place: (self._after(place[0]), rank.index(place[0]), self.turns[place]),
            default=None,
        )

    def _after(self, priority: Priority) -> float:
        return self.came_to[priority] + 1 / SHARES[priority]  # exact: the shares are powers of two

    def _start(self, place: tuple[Priority, str]) -> Waiting:
        entry = min(entry for entry in self.waiting.values() if (entry.priority, entry.user_id) == place)
        self.virtual_now = self.came_to[place[0]] = self._after(place[0])
        self.turns[place] = next(self.numbers)
        self.discard(entry.job_id)
        return entry

    def depth(self) -> dict[Priority, int]:
        counted = Counter(entry.priority for entry in (*self.waiting.values(), *self.delayed.values()))
        return {priority: counted[priority] for priority in Priority}
