"""The routes about the cluster as methods: dead letters, queue, objectives, agents, webhooks, logs and keys."""

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Literal

from rayhaul.client.calls import Calls, agent_path, checked_id, job_path, params_of
from rayhaul.client.fields import PAGE_JOBS, request
from rayhaul.job import Priority
from rayhaul.wire import (
    AgentJobReport,
    AgentsPage,
    AlertList,
    CapacityView,
    DeadLetterPage,
    DeadLetterView,
    DeliveryPage,
    DisabledWebhooksPage,
    DisabledWebhookView,
    HostsPage,
    HostView,
    JobStateReport,
    JobView,
    KeyCreated,
    KeyRequest,
    KeysPage,
    KeyView,
    LogsPage,
    PriorityRequest,
    QueueReport,
    RotateRequest,
    ScalingPage,
    ScalingView,
    SloList,
    StopRequest,
    WebhookTestReport,
    WebhookTestRequest,
)


class Operations(Calls):
    """Part of AsyncClient."""

    async def job_state(self, job_id: str) -> JobStateReport:
        """Return the job as the scheduler sees it now. For operators."""
        return self._read(JobStateReport, await self._http.request("GET", f"/internal{job_path(job_id, 'state')}"))

    async def dead_letters(self, *, limit: int | None = None, cursor: str | None = None) -> DeadLetterPage:
        """Return one page of the dead-lettered jobs, newest first."""
        params = params_of(limit=limit, cursor=cursor)
        return self._read(DeadLetterPage, await self._http.request("GET", "/dlq", params=params))

    async def iter_dead_letters(self, *, page_size: int = PAGE_JOBS) -> AsyncGenerator[DeadLetterView, None]:
        """Yield all dead-lettered jobs, newest first, a page at a time."""
        cursor: str | None = None
        while True:
            page = await self.dead_letters(limit=page_size, cursor=cursor)
            for job in page.jobs:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def replay(self, job_id: str) -> JobView:
        """Give a dead-lettered job another life. Raises: Conflict where it is not, or no longer, dead-lettered."""
        return self._read(JobView, await self._http.request("POST", f"/dlq/{checked_id(job_id)}/replay"))

    async def discard(self, job_id: str) -> JobView:
        """Take a job out of the dead letters, where it stays failed; a second time changes nothing."""
        return self._read(JobView, await self._http.request("DELETE", f"/dlq/{checked_id(job_id)}"))

    async def queue(self) -> QueueReport:
        return self._read(QueueReport, await self._http.request("GET", "/queue"))

    async def slo(self) -> SloList:
        """Return how each service-level objective stands."""
        return self._read(SloList, await self._http.request("GET", "/slo"))

    async def alerts(self) -> AlertList:
        """Return every alert rule with its state."""
        return self._read(AlertList, await self._http.request("GET", "/alerts"))

    async def pause_queue(self, priority: Priority | Literal["low", "normal", "high"]) -> QueueReport:
        """Start no more jobs of a priority until `resume_queue`; those that run go on. For operators."""
        return self._read(QueueReport, await self._post("/queue/pause", PriorityRequest, priority=priority))

    async def resume_queue(self, priority: Priority | Literal["low", "normal", "high"]) -> QueueReport:
        return self._read(QueueReport, await self._post("/queue/resume", PriorityRequest, priority=priority))

    async def agents(self) -> list[CapacityView]:
        return self._read(AgentsPage, await self._http.request("GET", "/agents")).agents

    async def hosts(self) -> list[HostView]:
        """Return the origin hosts in use: all of them for operators, else those of the caller's running jobs."""
        return self._read(HostsPage, await self._http.request("GET", "/hosts")).hosts

    async def scaling(self, *, limit: int | None = None) -> list[ScalingView]:
        """Return the newest decisions about the number of agents, newest first. For operators."""
        answer = await self._http.request("GET", "/scaling", params=params_of(limit=limit))
        return self._read(ScalingPage, answer).decisions

    async def agent(self, agent: str) -> CapacityView:
        return self._read(CapacityView, await self._http.request("GET", agent_path(agent)))

    async def agent_status(self, agent: str, job_id: str) -> AgentJobReport:
        """Return what an agent does for a job. Raises: NotFound where it does nothing for it."""
        path = agent_path(agent, "status", checked_id(job_id))
        return self._read(AgentJobReport, await self._http.request("GET", path))

    async def stop_job(self, agent: str, job_id: str) -> JobView:
        """Stop what an agent does for a job and hand the job back to the queue, uncharged. For operators."""
        return self._read(JobView, await self._post(agent_path(agent, "stop"), StopRequest, job_id=checked_id(job_id)))

    async def drain(self, agent: str) -> CapacityView:
        """Let an agent finish what it holds and exit; a second time changes nothing. For operators."""
        return self._read(CapacityView, await self._http.request("POST", agent_path(agent, "drain")))

    async def deliveries(
        self, *, job_id: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> DeliveryPage:
        """Return what became of webhook messages, newest first; of one job or of all that the caller may see."""
        params = params_of(jobId=job_id, limit=limit, cursor=cursor)
        return self._read(DeliveryPage, await self._http.request("GET", "/webhooks/deliveries", params=params))

    async def disabled_webhooks(self, *, limit: int | None = None) -> list[DisabledWebhookView]:
        """Return webhooks that answered 410 and get no more messages: the caller's, or for operators everybody's."""
        answer = await self._http.request("GET", "/webhooks/disabled", params=params_of(limit=limit))
        return self._read(DisabledWebhooksPage, answer).webhooks

    async def try_webhook(self, url: str) -> WebhookTestReport:
        """Have a test message sent to a receiver, once; return what came back."""
        return self._read(WebhookTestReport, await self._post("/webhooks/test", WebhookTestRequest, url=url))

    async def logs(
        self,
        *,
        job_id: str | None = None,
        correlation_id: str | None = None,
        agent_id: str | None = None,
        level: str | None = None,
        ray: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> LogsPage:
        """Return the newest log lines of all nodes that fit, oldest first. For operators."""
        params = params_of(
            jobId=job_id,
            correlationId=correlation_id,
            agentId=agent_id,
            level=level,
            ray=ray,
            since=None if since is None else since.astimezone(UTC).isoformat(),
            limit=limit,
        )
        return self._read(LogsPage, await self._http.request("GET", "/logs", params=params))

    async def create_key(
        self,
        user: str,
        *,
        role: Literal["user", "operator"] = "user",
        name: str = "",
        scopes: Sequence[str] = ("read", "write"),
        expires_at: datetime | None = None,
    ) -> KeyCreated:
        """Make an API key. Not sent twice: after ConnectionFailed look at `keys`, one may have been made."""
        fields = {"user": user, "role": role, "name": name, "scopes": list(scopes), "expires_at": expires_at}
        body = request(KeyRequest, fields).model_dump_json(by_alias=True)
        return self._read(KeyCreated, await self._http.request("POST", "/keys", body=body))

    async def rotate_key(self, key_id: str, *, overlap_s: int = 86_400) -> KeyCreated:
        """Make a key in the place of another one, which ends after `overlap_s`. Not sent twice, as `create_key`."""
        body = request(RotateRequest, {"overlap_seconds": overlap_s}).model_dump_json(by_alias=True)
        return self._read(KeyCreated, await self._http.request("POST", f"/keys/{checked_id(key_id)}/rotate", body=body))

    async def keys(self) -> list[KeyView]:
        return self._read(KeysPage, await self._http.request("GET", "/keys")).keys

    async def revoke_key(self, key_id: str) -> None:
        await self._http.request("DELETE", f"/keys/{checked_id(key_id)}")
