"""The asynchronous client: the API's routes as methods, its answers as the models of rayhaul.wire. Here: jobs."""

import asyncio
import builtins
import random
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar, Unpack

from rayhaul.client.calls import job_path, params_of
from rayhaul.client.errors import Conflict, JobCancelled, JobFailed, WaitTimeout
from rayhaul.client.feed import EventFeed
from rayhaul.client.fields import (
    BATCH_JOBS,
    LONG_PAGE_JOBS,
    PAGE_JOBS,
    JobFields,
    JobSource,
    batch_idempotency_key,
    batches,
    job_requests,
    new_idempotency_key,
    request,
)
from rayhaul.client.job_ids import JobIds
from rayhaul.client.many import Ends, OnTally, Tally
from rayhaul.client.operations import Operations
from rayhaul.client.retries import Patience
from rayhaul.client.saving import OnBytes, save
from rayhaul.client.transport import CORRELATION_ID, IDEMPOTENCY_KEY
from rayhaul.client.waiting import PASSING, OnEvent, final
from rayhaul.job import FINAL, JobStatus
from rayhaul.wire import (
    BatchAccepted,
    BatchRequest,
    DownloadLink,
    EventPage,
    EventView,
    JobPage,
    JobPartsView,
    JobRequest,
    JobView,
    ReceiptView,
)

T = TypeVar("T")


class AsyncClient(Operations):
    """A connection to a cluster; use it with `async with`, in one event loop.

    Without arguments it goes where RAYHAUL_URL and RAYHAUL_API_KEY say, else to the last `rayhaul up`.
    Every method raises ApiError and ConnectionFailed.
    """

    async def submit(
        self,
        url: str,
        *,
        idempotency_key: str | None = None,
        correlation_id: str | None = None,
        **fields: Unpack[JobFields],
    ) -> JobView:
        """Ask for one job; sent again after a broken connection, it is still one job."""
        body = request(JobRequest, {**fields, "url": url}).model_dump_json(by_alias=True, exclude_unset=True)
        headers = _submit_headers(idempotency_key or new_idempotency_key(), correlation_id)
        return self._read(JobView, await self._http.request("POST", "/jobs", body=body, headers=headers))

    async def submit_batch(
        self, jobs: Sequence[JobSource], *, idempotency_key: str | None = None, correlation_id: str | None = None
    ) -> builtins.list[str]:
        """Ask for all of these jobs or, where one of them is refused, for none; return their ids in order."""
        body = BatchRequest(jobs=job_requests(jobs)).model_dump_json(by_alias=True, exclude_unset=True)
        headers = _submit_headers(idempotency_key or new_idempotency_key(), correlation_id)
        accepted = self._read(
            BatchAccepted, await self._http.request("POST", "/jobs/batch", body=body, headers=headers)
        )
        return [job.id for job in accepted.jobs]

    async def submit_many(
        self,
        jobs: Iterable[JobSource] | AsyncIterable[JobSource],
        *,
        batch_size: int = BATCH_JOBS,
        idempotency_key: str | None = None,
        correlation_id: str | None = None,
    ) -> JobIds:
        """Ask for any number of jobs, reading `jobs` one batch at a time; return their ids in order.

        What is kept of a million jobs is their ids, 16 to 18 MB; `submit_batches` keeps nothing. Each batch is all or
        nothing. With an `idempotency_key` the whole call may be made again after a failure: what was accepted is not
        submitted twice.
        """
        submitting = self.submit_batches(
            jobs, batch_size=batch_size, idempotency_key=idempotency_key, correlation_id=correlation_id
        )
        async with aclosing(submitting) as accepted:
            return await JobIds.of_batches(accepted)

    async def submit_batches(
        self,
        jobs: Iterable[JobSource] | AsyncIterable[JobSource],
        *,
        batch_size: int = BATCH_JOBS,
        idempotency_key: str | None = None,
        correlation_id: str | None = None,
    ) -> AsyncGenerator[builtins.list[str], None]:
        """Ask for jobs as `submit_many` does; yield the ids of each batch once it is accepted.

        Nothing is kept of a batch that is done, so millions need no more memory than one batch.
        """
        key = idempotency_key or new_idempotency_key()
        index = 0
        async with aclosing(batches(jobs, batch_size)) as taken:
            async for batch in taken:
                yield await self.submit_batch(
                    batch, idempotency_key=batch_idempotency_key(key, index), correlation_id=correlation_id
                )
                index += 1

    async def get(self, job_id: str) -> JobView:
        return self._read(JobView, await self._http.request("GET", job_path(job_id)))

    async def list(
        self,
        *,
        status: JobStatus | str | None = None,
        tag: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> JobPage:
        """Return one page of jobs, newest first."""
        params = params_of(status=status, tag=tag, limit=limit, cursor=cursor)
        return self._read(JobPage, await self._http.request("GET", "/jobs", params=params))

    async def iter_jobs(
        self, *, status: JobStatus | str | None = None, tag: str | None = None, page_size: int = PAGE_JOBS
    ) -> AsyncGenerator[JobView, None]:
        """Yield all jobs, newest first, a page at a time."""
        cursor: str | None = None
        while True:
            page = await self.list(status=status, tag=tag, limit=page_size, cursor=cursor)
            for job in page.jobs:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def wait(self, job_id: str, timeout_s: float | None = None, on_event: OnEvent | None = None) -> JobView:
        """Return the job once it is completed, by its events where they come through, else by asking now and then.

        Raises: JobFailed, JobCancelled, WaitTimeout (the job goes on).
        """
        try:
            async with asyncio.timeout(timeout_s) as scope:
                feed = EventFeed(self._http, job_path(job_id, "events"))
                job = await final(lambda: self.get(job_id), feed, self._patience(), on_event)
        except TimeoutError:
            if not scope.expired() or timeout_s is None:
                raise
            raise WaitTimeout(job_id, timeout_s) from None
        match job.status:
            case JobStatus.FAILED:
                raise JobFailed(job)
            case JobStatus.CANCELLED:
                raise JobCancelled(job)
        return job

    async def wait_many(
        self, job_ids: Iterable[str], timeout_s: float | None = None, on_progress: OnTally | None = None
    ) -> AsyncGenerator[JobView, None]:
        """Yield each of these jobs as it ends, however it ends; `on_progress` is told how many have, and how.

        All of them are followed by one event stream. Raises: NotFound, WaitTimeout (the jobs go on).
        """
        loop = asyncio.get_running_loop()
        ends_s = None if timeout_s is None else loop.time() + timeout_s
        ends = Ends(
            job_ids,
            feed=EventFeed(self._http, "/events"),
            look=self.get,
            newest_first=lambda: self.iter_jobs(page_size=LONG_PAGE_JOBS),
            patience=self._patience(),
        )
        tally = Tally(total=len(ends.open))
        listening = asyncio.create_task(ends.listen())
        look = ends.first
        try:
            while ends.open:
                try:
                    async with asyncio.timeout_at(ends_s) as scope:
                        ended = await _unless_over(look(), listening)
                except TimeoutError:
                    if not scope.expired() or timeout_s is None:
                        raise
                    raise WaitTimeout(_named(ends.open), timeout_s) from None
                look = ends.next
                for job in ended:
                    tally = tally.with_one(job.status)
                    if on_progress is not None:
                        on_progress(tally)
                    yield job
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def events(self, job_id: str, last_event_id: str | int | None = None) -> AsyncGenerator[EventView, None]:
        """Yield the job's events until its last one, reconnecting as often as it takes; each once, in order.

        With `last_event_id` (an event's `seq`) only the later ones.
        """
        feed = EventFeed(self._http, job_path(job_id, "events"), str(last_event_id or ""))
        patience = self._patience()
        while True:
            try:
                async with aclosing(feed.listen()) as heard:
                    async for event in heard:
                        patience.renew()
                        yield event
                # A stream that ends without a word may be of a job that ended before `last_event_id`.
                patience.forgive()
                if feed.is_over or (not feed.has_heard and (await self.get(job_id)).status in FINAL):
                    return
            except PASSING:
                if patience.is_over():
                    raise
            await asyncio.sleep(max(feed.retry_s, patience.pause_s()))

    async def history(self, job_id: str) -> builtins.list[EventView]:
        answer = await self._http.request("GET", job_path(job_id, "history"))
        return self._read(EventPage, answer).events

    async def parts(self, job_id: str) -> JobPartsView:
        """Return which agent brought which parts of the job, and which is to bring the rest."""
        return self._read(JobPartsView, await self._http.request("GET", job_path(job_id, "parts")))

    async def receipt(self, job_id: str) -> ReceiptView:
        """Return what a completed job moved, and by what it was compared."""
        return self._read(ReceiptView, await self._http.request("GET", job_path(job_id, "receipt")))

    async def cancel(self, job_id: str) -> JobView:
        """Stop the job for good; a second time changes nothing."""
        return self._read(JobView, await self._http.request("DELETE", job_path(job_id)))

    async def pause(self, job_id: str) -> JobView:
        return await self._act(job_id, "pause")

    async def resume(self, job_id: str) -> JobView:
        return await self._act(job_id, "resume")

    async def retry(self, job_id: str) -> JobView:
        """Queue a failed or cancelled job again."""
        return await self._act(job_id, "retry")

    async def requeue(self, job_id: str) -> JobView:
        """Hand a job back to the queue, whoever works on it. Operators only."""
        return self._read(JobView, await self._http.request("PUT", job_path(job_id, "requeue")))

    async def download_link(self, job_id: str) -> DownloadLink:
        answer = await self._http.request("GET", job_path(job_id, "download"), params={"json": "1"})
        return self._read(DownloadLink, answer)

    async def download(self, job_id: str, path: str | Path, progress: OnBytes | None = None) -> Path:
        """Save a completed job's object as `path`, checked against the job's size (and sha256, where it is known).

        A broken connection goes on where it stopped. Until all is there the bytes stand in `path`.part.

        Raises: DownloadMismatch, SinkFailed, OSError.
        """
        job = await self.get(job_id)
        if job.result is None:
            raise Conflict("conflict", 409, f"{job_id} is {job.status}: there is no object yet", job.correlation_id)

        async def link() -> str:
            return (await self.download_link(job_id)).url

        target = Path(path)
        await save(self._http, link, job.result, target, progress)
        return target

    async def ready(self) -> bool:
        """Tell whether the cluster takes work.

        Raises: ConnectionFailed where nobody answers.
        """
        return (await self._http.probe("/readyz")).status == 200

    async def _act(self, job_id: str, verb: str) -> JobView:
        return self._read(JobView, await self._http.request("POST", job_path(job_id, verb)))

    def _patience(self) -> Patience:
        return Patience(self._reconnect_s_max, random.random)


async def _unless_over(looking: Coroutine[Any, Any, T], listening: asyncio.Task[None]) -> T:
    """Return what is looked for. Raises: what ended the listening, where it ended."""
    look = asyncio.ensure_future(looking)
    try:
        await asyncio.wait({look, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not look.done():
            listening.result()
        return await look
    finally:
        look.cancel()


def _named(job_ids: Collection[str]) -> str:
    first, *others = job_ids
    return f"{first} and {len(others)} more" if others else first


def _submit_headers(idempotency_key: str, correlation_id: str | None) -> Mapping[str, str]:
    headers = {IDEMPOTENCY_KEY: idempotency_key}
    return headers if correlation_id is None else {**headers, CORRELATION_ID: correlation_id}
