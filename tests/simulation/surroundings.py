"""What all agents of a world share, and how big its things are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from bucket import Bucket, Sources
from weather import Odds

from rayhaul.lease import AbortOrder, Order, ProbeOrder, SweepOrder, TransferOrder
from rayhaul.report import Notice

SLOTS = 3
PROBE_SLOTS = 4
#: Of a large file; a small one goes up in one PUT.
PARTS = 5


@dataclass(slots=True)
class Surroundings:
    """What all agents share."""

    rng: Random
    odds: Odds
    bucket: Bucket
    sources: Sources
    new_id: Callable[[str], str]
    note: Callable[[str], None]
    part_bytes: int
    self_fence_s: float
    now_s: float = 0.0
    #: Notices the ledger can not take, by id.
    poisoned: set[str] = field(default_factory=set)
    #: Uploads whose existence the scheduler was never told of, because who made them was stopped.
    untold: set[str] = field(default_factory=set)
    #: Published again after the job was completed, with the right bytes: what a late zombie can do at most.
    published_late: int = 0
    #: Job ids that are completed, by what stands in the ledger.
    completed: Mapping[str, str] = field(default_factory=dict)

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability


def key_of(order: Order) -> str:
    match order:
        case ProbeOrder() | SweepOrder():
            return order.order_id
        case TransferOrder():
            return order.lease_id
        case AbortOrder():
            return order.session_id


def describe(notice: Notice) -> str:
    about = getattr(notice, "lease_id", None) or getattr(notice, "order_id", None) or getattr(notice, "session_id", "")
    failure = getattr(notice, "failure", None)
    why = "" if failure is None else f" {failure.code}"
    return f"{type(notice).__name__}{why} {notice.notice_id} of {notice.job_id} under {about}"
