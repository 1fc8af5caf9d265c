"""What the scheduler remembers of an agent: what it says of itself, and how far it is trusted with leases."""

from dataclasses import dataclass, field, replace

from rayhaul.capacity import AgentState, Capacity
from rayhaul.report import AgentReport

#: An agent that leases do not reach, again and again, gets no others for so long; each time twice as long, up to this.
AVOIDED_S = 5.0
AVOIDED_S_MAX = 300.0


@dataclass(slots=True)
class AgentRecord:
    """An agent as its last report described it."""

    agent: str
    incarnation: str
    seen_at_s: float
    seq: int = 0
    capacity: Capacity = field(default_factory=lambda: Capacity(slots=0, slots_used=0))
    draining: bool = False
    #: Ids of all orders in its hands.
    held: frozenset[str] = frozenset()
    offline: bool = False
    #: Why it can not take leases, in one sentence, and since when.
    unfit: str | None = None
    unfit_since_s: float = 0.0
    #: When it was ordered to drain; None: it was not, in this life of the scheduler.
    drained_at_s: float | None = None
    #: Earlier lives of the same name: they have lost all they had.
    past: tuple[str, ...] = ()
    #: Leases in a row that did not arrive there, and until when it gets no others for it.
    missed: int = 0
    missed_at_s: float = 0.0
    avoided_until_s: float = 0.0

    @property
    def state(self) -> AgentState:
        if self.offline:
            return AgentState.OFFLINE
        if self.draining or self.drained_at_s is not None:
            return AgentState.DRAINING
        return AgentState.ONLINE if self.unfit is None else AgentState.UNFIT

    def hear(self, report: AgentReport, now_s: float, *, slots_max: int) -> None:
        """Take what the agent says of itself; nobody has more than `slots_max` slots."""
        self.seq, self.seen_at_s, self.offline = report.seq, now_s, False
        self.draining, self.held = report.draining, report.held
        if report.draining and self.drained_at_s is None:
            # Ordered by a scheduler before us.
            self.drained_at_s = now_s
        if report.capacity.is_sane:
            unfit = report.unfit
            self.capacity = replace(report.capacity, slots=min(report.capacity.slots, slots_max))
        else:
            unfit, self.capacity = "it reports nonsense about its capacity", Capacity(slots=0, slots_used=0)
        if unfit is not None and self.unfit is None:
            self.unfit_since_s = now_s
        self.unfit = unfit

    @property
    def takes_leases(self) -> bool:
        return self.seq > 0 and self.state is AgentState.ONLINE

    def note_missed(self, now_s: float) -> None:
        """Note that leases did not arrive: once may happen to anybody, then the next ones wait, longer each time."""
        if self.missed_at_s == now_s:
            return
        self.missed += 1
        self.missed_at_s = now_s
        if self.missed > 1:
            self.avoided_until_s = now_s + min(AVOIDED_S_MAX, AVOIDED_S * 2.0 ** (self.missed - 2))

    def note_arrivals(self, now_s: float, *, is_any_here: bool) -> None:
        """Trust the agent again once something did arrive."""
        if is_any_here and now_s >= self.avoided_until_s:
            self.missed = 0
