"""The parts of a job by the agents that brought them, or are to."""

from pydantic import Field

from rayhaul.wire.base import ResponseShape
from rayhaul.wire.operations import StripeView


class PartsBrought(ResponseShape):
    """The parts that one agent has brought into the bucket."""

    agent: str | None = Field(description="Its name; null where they came before it was noted who brought a part.")
    parts: int = Field(description="How many they are.")
    bytes: int = Field(description="How long they are together.")
    numbers: str = Field(
        description="Which they are, ascending, the last one of a run included: `1-12,30` are the first twelve and "
        "the thirtieth. A job has at most 10,000 parts, and each stands with one agent."
    )


class PartsToCome(ResponseShape):
    """The stripe that an agent has in hand; some of its parts may be in the bucket."""

    agent: str = Field(description="Its name.")
    stripe: StripeView = Field(description="The parts that its lease is for; may go on beyond the file's last one.")


class JobPartsView(ResponseShape):
    """Who brought which parts of a job, and who is to bring the rest."""

    job_id: str = Field(description="The job's id.")
    parts_done: int = Field(description="Parts that are in the bucket.")
    parts_total: int | None = Field(description="Null as long as it is not known.")
    brought: list[PartsBrought] = Field(description="One an agent, by their first parts.")
    to_come: list[PartsToCome] = Field(description="One a lease, by their first parts.")
