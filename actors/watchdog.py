"""What is taken back from agents: those that fell silent, those that began anew, and leases whose bytes stand still.

This is the stalled-job runbook, carried out by the scheduler. All of it repeats itself every turn while the cause
lasts, so that a commit that failed loses nothing.
"""

import logging

from actors.book import Book
from actors.decisions import Rules, hand_back
from actors.draft import Draft
from actors.losses import hand_back_lost, probes_of
from rayhaul.errors import AgentLost, SourceStalled
from rayhaul.lease import Lease
from rayhaul.policy import liveness
from rayhaul.report import COMMITTING

log = logging.getLogger(__name__)


def observe_silence(draft: Draft, book: Book, rules: Rules) -> None:
    """Count agents that have been silent too long as offline, and hand back what they held."""
    for record in book.agents.values():
        if draft.now_s - record.seen_at_s <= rules.liveness.offline_s:
            continue
        if not record.offline:
            record.offline = True
            log.warning("agent %s is silent: offline", record.agent, extra={"agentId": record.agent})
        leases = [lease for lease in book.leases_held(record.agent) if draft.lease(lease.lease_id) is not None]
        probes = probes_of(book, record.agent)
        if leases or probes:
            why = f"{record.agent} is silent"
            hand_back_lost(draft, book, leases=leases, probes=probes, rules=rules, why=why)


def observe_stalls(draft: Draft, book: Book, rules: Rules) -> None:
    """Stop leases whose agent is online and whose bytes stand still, and hand their jobs back."""
    for lease_id, watch in list(book.watches.items()):
        lease = draft.lease(lease_id)
        record = None if lease is None else book.agents.get(lease.agent)
        if lease is None or record is None or record.offline:
            continue
        found = liveness.symptom(watch, draft.now_s, rules.liveness)
        if found is not None:
            silent_s = draft.now_s - watch.moved_at_s
            _stop(draft, lease, f"{found}: {watch.doing or 'not begun'} for {silent_s:.0f} s", watch.doing, rules)


def _stop(draft: Draft, lease: Lease, why: str, doing: str, rules: Rules) -> None:
    log.warning("lease stopped, %s", why, extra={"agentId": lease.agent, "jobId": lease.job_id})
    draft.revokes[lease.agent].append(lease.lease_id)
    code = AgentLost.code if doing in ("", COMMITTING) else SourceStalled.code
    hand_back(draft, lease, rules, why, code=code)
