"""The gauges that describe this moment: agents, their load, and what waits."""

from collections import Counter

from actors.agent_record import AgentRecord
from actors.book import Book
from actors.ports import QueueView
from rayhaul.capacity import AgentState, Capacity
from rayhaul.metrics import (
    QUEUE_DEPTH,
    QUEUE_DLQ_DEPTH,
    QUEUE_OLDEST_AGE,
    SINK_PARKED,
    WORKER_CAPACITY,
    WORKER_CAPACITY_AVG,
    WORKER_OFFLINE,
    WORKERS,
    Meter,
)
from rayhaul.policy.scaling import average_pct


def gauge(book: Book, meter: Meter, queue: QueueView) -> None:
    """Set the gauges that describe this moment."""
    for priority, depth in queue.depth.items():
        meter.set(QUEUE_DEPTH, depth, priority)
    meter.set(QUEUE_OLDEST_AGE, queue.oldest_age_s)
    meter.set(QUEUE_DLQ_DEPTH, queue.dead_letters_count)
    states = Counter(str(record.state) for record in book.agents.values())
    for state in AgentState:
        meter.set(WORKERS, states[state], state)
    meter.set(WORKER_OFFLINE, states[AgentState.OFFLINE])
    meter.set(SINK_PARKED, float(book.parking.is_parked))
    meter.clear(WORKER_CAPACITY)
    for record in book.online_agents():
        meter.set(WORKER_CAPACITY, average_pct([reading_of(book, record)]) or 0.0, record.agent)
    readings = [reading_of(book, record) for record in book.agents.values() if record.takes_leases]
    meter.set(WORKER_CAPACITY_AVG, average_pct(readings) or 0.0)


def reading_of(book: Book, record: AgentRecord) -> tuple[Capacity, int]:
    """Return what an agent reported, and how many leases it was given since."""
    return record.capacity, len(book.leases_of_agent.get(record.agent, ()))
