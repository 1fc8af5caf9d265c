"""The scheduler as another process sees it: each of its verbs is a call by name.

Laws of this file:
1. A name and arguments cross, and an answer comes back: as it is, or an error as a value (crossing.py).
2. Nothing is repeated here: only who asks knows what is safe to ask twice.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from actors.crossing import opened
from actors.gathering import Gathering
from actors.ports import Accepted, AgentView, Command, HostView, JobState, ProgressPage, QueueView, Submission
from rayhaul.errors import Unavailable
from rayhaul.job import Job, Priority
from rayhaul.ledger.base import ApiKey, Viewer
from rayhaul.metrics import Snapshot
from rayhaul.policy.alerting import Alert
from rayhaul.report import AgentReport, ReportReply


class RemoteScheduler:
    """ports.ControlPlane and ports.Reports, over a `carry` that takes a verb and what belongs to it to the scheduler.

    `carry` raises Unavailable where the answer is not to be had: what was asked may or may not be done.
    """

    def __init__(self, carry: Callable[..., Awaitable[Any]]) -> None:
        self._carry = carry
        self._submissions: Gathering[Submission, Any] = Gathering(partial(self._call, "submit_all"))

    async def _call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        return opened(await self._carry(verb, *arguments, **options))

    async def submit(self, submission: Submission) -> Accepted:
        accepted: Accepted = opened(await self._submissions.ask(submission))
        return accepted

    async def command(self, viewer: Viewer, job_id: str, command: Command) -> Job:
        job: Job = await self._call("command", viewer, job_id, command)
        return job

    async def progress(self, since: int) -> ProgressPage:
        page: ProgressPage = await self._call("progress", since)
        return page

    async def agents(self) -> Sequence[AgentView]:
        views: Sequence[AgentView] = await self._call("agents")
        return views

    async def hosts(self, viewer: Viewer) -> Sequence[HostView]:
        views: Sequence[HostView] = await self._call("hosts", viewer)
        return views

    async def queue(self) -> QueueView:
        view: QueueView = await self._call("queue")
        return view

    async def set_paused(self, priority: Priority, *, paused: bool) -> QueueView:
        view: QueueView = await self._call("set_paused", priority, paused=paused)
        return view

    async def replay(self, job_id: str) -> Job:
        job: Job = await self._call("replay", job_id)
        return job

    async def discard(self, job_id: str) -> Job:
        job: Job = await self._call("discard", job_id)
        return job

    async def job_state(self, job_id: str) -> JobState:
        state: JobState = await self._call("job_state", job_id)
        return state

    async def stop_job(self, agent: str, job_id: str) -> Job:
        job: Job = await self._call("stop_job", agent, job_id)
        return job

    async def drain(self, agent: str) -> AgentView:
        view: AgentView = await self._call("drain", agent)
        return view

    async def enable_webhook(self, user_id: str, url: str) -> None:
        await self._call("enable_webhook", user_id, url)

    async def create_key(self, key: ApiKey) -> None:
        await self._call("create_key", key)

    async def revoke_key(self, key_id: str, now: datetime) -> ApiKey:
        key: ApiKey = await self._call("revoke_key", key_id, now)
        return key

    async def rotate_key(self, key_id: str, successor: ApiKey, now: datetime, overlap: timedelta) -> ApiKey:
        key: ApiKey = await self._call("rotate_key", key_id, successor, now, overlap)
        return key

    async def note_keys_used(self, used: Mapping[str, datetime]) -> None:
        await self._call("note_keys_used", used)

    async def metrics(self, replica: str, snapshot: Snapshot) -> Snapshot:
        total: Snapshot = await self._call("metrics", replica, snapshot)
        return total

    async def alerts(self) -> Sequence[Alert]:
        alerts: Sequence[Alert] = await self._call("alerts")
        return alerts

    async def ready(self) -> bool:
        try:
            return bool(await self._call("ready"))
        except Unavailable:
            return False

    async def report(self, report: AgentReport) -> ReportReply:
        reply: ReportReply = await self._call("report", report)
        return reply
