"""Leases, and the live state of a job, as they are shown to operators."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from rayhaul.cli.output import console, facts_table, moment, percent, plain, table
from rayhaul.units import duration, size
from rayhaul.wire import JobStateReport, LeaseReport, StripeView


def leases_table(leases: Sequence[LeaseReport]) -> Table:
    numbers = ("EPOCH", "PARTS", "DONE", "SPEED", "IDLE")
    made = table("LEASE", "AGENT", *numbers, "SINCE", "DOING", right=numbers)
    for lease in leases:
        progress = lease.progress
        made.add_row(
            lease.lease_id,
            Text(plain(lease.agent)),
            str(lease.epoch),
            parts_of(lease.stripe),
            (percent(progress) or size(progress.bytes)) if progress else "",
            f"{size(progress.bytes_per_second)}/s" if progress else "",
            duration(lease.idle_seconds),
            moment(lease.granted_at),
            Text(plain(lease.doing or "")),
        )
    return made


def parts_of(stripe: StripeView) -> str:
    """Return a stripe with its last part, as people count.

    >>> parts_of(StripeView(first_part=1, end_part=9)), parts_of(StripeView(first_part=4, end_part=5))
    ('1-8', '4')
    """
    last = stripe.end_part - 1
    return str(last) if last == stripe.first_part else f"{stripe.first_part}-{last}"


def print_state(state: JobStateReport) -> None:
    screen = console()
    screen.print(facts_table(_facts(state)))
    if state.leases:
        screen.print()
        screen.print(leases_table(state.leases))


def _facts(state: JobStateReport) -> Sequence[tuple[str, str]]:
    job, session, told = state.job, state.session, state.last_progress
    return (
        ("id", job.id),
        ("status", job.status),
        ("waits for", state.waits_for or ""),
        ("attempt", str(job.attempt)),
        ("requeues", str(job.requeues)),
        ("epoch", str(state.epoch)),
        ("dead since", moment(state.dead_lettered_at)),
        ("last progress", f"{size(told.bytes)} of {size(told.bytes_total)}" if told else ""),
        ("parts done", str(state.parts_done)),
        ("session", f"{session.session_id} ({session.state})" if session else ""),
        ("upload", session.upload_id if session else ""),
        ("object", f"{session.bucket}/{session.key}" if session else ""),
        ("part size", size(session.part_bytes) if session else ""),
    )
