"""What an agent has in hand: an order, how far it is, and how fast."""

import asyncio
from dataclasses import dataclass, field

from rayhaul.lease import AbortOrder, Order, PartDone, ProbeOrder, SweepOrder, TransferOrder
from rayhaul.origins import host_of
from rayhaul.report import COMMITTING, LeaseProgress
from tasks.intake import AT_AGENT
from tasks.mirrors import AT_GATE
from tasks.pace import Rate
from tasks.rooms import AT_MEMORY
from tasks.stripe import Stripe


@dataclass(slots=True)
class Held:
    """An order in hand, until what it led to is acknowledged."""

    order: Order
    task: asyncio.Task[None] | None = None
    rate: Rate = field(default_factory=Rate)
    bytes_done: int = 0
    parts_done: int = 0
    #: What is being done, in a word or two.
    doing: str = ""
    #: When bytes last moved (monotonic).
    moved_at_s: float | None = None
    #: Set when the lease is not ours any more.
    lost: bool = False
    #: Sources that it does not read from any more, and why.
    left_out: dict[int, str] = field(default_factory=dict)
    #: Of a transfer: what of the job is its.
    stripe: Stripe | None = None

    def __post_init__(self) -> None:
        if isinstance(self.order, TransferOrder):
            self.stripe = Stripe(self.order.first_part, self.order.end_part)

    @property
    def hosts(self) -> frozenset[str]:
        """Where it asks sources."""
        if not isinstance(self.order, TransferOrder | ProbeOrder):
            return frozenset()
        others = self.order.other_grants if isinstance(self.order, TransferOrder) else ()
        grants = (self.order.grant, *(source.grant for source in self.order.mirrors), *others)
        # Its requests begin at the URL, which may only lead to where the bytes are.
        return frozenset((host_of(self.order.url), *(grant.host for grant in grants if grant is not None)))

    @property
    def limits(self) -> frozenset[str]:
        """The limits in bytes per second that it reads under."""
        return (
            frozenset(rate.limit for rate in self.order.rates) if isinstance(self.order, TransferOrder) else frozenset()
        )

    def trim(self, end_part: int) -> None:
        """Leave the tail of its stripe to others, with what was known of it."""
        before = self.known()
        assert self.stripe is not None, "only a transfer has one"
        self.stripe.trim(end_part)
        if self.doing:
            gone = [part for part in before if part.number not in self.stripe]
            self.parts_done -= len(gone)
            self.bytes_done -= sum(part.size_bytes for part in gone)

    def known(self) -> list[PartDone]:
        """Return the parts of its stripe that were there before."""
        if not isinstance(self.order, TransferOrder) or self.stripe is None:
            return []
        return [part for part in self.order.parts_done if part.number in self.stripe]

    def move(self, bytes_moved: int, now_s: float) -> None:
        """Count bytes; negative where some have to be moved again."""
        self.bytes_done += bytes_moved
        if bytes_moved > 0:
            self.moved_at_s = now_s

    def do(self, what: str, now_s: float) -> None:
        """Note what is being done. Completing the upload moves no bytes, and begins with fresh patience.

        Nor does a lease that waits for a connection, or for memory: nothing is wrong with it.
        """
        if what == COMMITTING != self.doing or what in {AT_GATE, AT_AGENT, AT_MEMORY}:
            self.moved_at_s = now_s
        self.doing = what

    def lose(self) -> None:
        """Stop at once; whatever the order had to tell is not wanted any more."""
        self.lost = True
        if self.task is not None:
            self.task.cancel()


def key_of(order: Order) -> str:
    """Return the id under which an order is reported as held."""
    match order:
        case ProbeOrder() | SweepOrder():
            return order.order_id
        case TransferOrder():
            return order.lease_id
        case AbortOrder():
            return order.session_id


def progress_of(held: Held, now_s: float) -> LeaseProgress | None:
    """Return how far a transfer is; None for other orders."""
    order = held.order
    if not isinstance(order, TransferOrder):
        return None
    if held.moved_at_s is None:
        held.moved_at_s = now_s
    return LeaseProgress(
        lease_id=order.lease_id,
        job_id=order.context.job_id,
        bytes_done=held.bytes_done,
        bytes_per_s=held.rate.measure(now_s),
        idle_s=max(0.0, now_s - held.moved_at_s),
        doing=held.doing,
        parts_done=held.parts_done,
        parts_total=None if order.pin.size_bytes is None or held.stripe is None else held.stripe.parts_count,
    )
