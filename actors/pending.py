"""What the scheduler has asked of agents and waits for, and what befell them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pending:
    """An order sent to an agent whose outcome is not known yet."""

    job_id: str
    agent: str
    #: The agent's life that it was sent to.
    incarnation: str
    sent_at_s: float
    #: Its outcome was heard; the agent puts it down when it hears that.
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Setback:
    """What befell stripes of a job while others went on: no further ones are leased for a while."""

    count: int
    until_s: float
    #: The one it befell last: others are taken first.
    agent: str
    #: What befell whom, in a sentence each, until the job's history tells it with the next stripe.
    untold: tuple[str, ...] = ()


@dataclass(slots=True)
class Asked:
    """A request to an agent to leave the tail of its stripe to others."""

    at_s: float
    #: Whether the agent has answered that all it has is on its way.
    gave_nothing: bool = False
    #: Whether it agreed not to complete the upload under this lease.
    shared: bool = False
