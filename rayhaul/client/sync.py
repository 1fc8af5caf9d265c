"""The blocking client: the asynchronous one on an event loop of its own, in a thread of its own.

Laws of this file:
1. There is no second implementation: every method is AsyncClient's, run over there.
2. It works where a loop runs already (notebooks), for it never touches the caller's.
3. The thread and the sockets go with `close`, with the object, or with the interpreter, whichever comes first.
"""

import asyncio
import builtins
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping
from functools import wraps
from itertools import chain, islice
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

from rayhaul.client.aio import AsyncClient
from rayhaul.client.calls import RECONNECT_S_MAX, RETRIES_MAX
from rayhaul.client.endpoint import Endpoint
from rayhaul.client.fields import BATCH_JOBS, JobSource, batch_idempotency_key, new_idempotency_key
from rayhaul.client.job_ids import JobIds

P = ParamSpec("P")
T = TypeVar("T")


class _LoopThread:
    """An event loop in a daemon thread, which closes the client when it is told to stop."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="rayhaul-client", daemon=True)
        self._thread.start()
        self._started.wait()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._started.set()
        await self._stop.wait()
        await self._client.aclose()

    @property
    def _is_here(self) -> bool:
        return threading.current_thread() is self._thread

    @property
    def is_usable(self) -> bool:
        """Tell whether the calling thread may hand work over: one cannot wait for oneself, nor for the dead."""
        return self._thread.is_alive() and not self._is_here

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if not self.is_usable:
            work.close()
            raise RuntimeError("this client is closed, or is used from inside one of its own callbacks")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C, say: the caller no longer waits for it.
            future.cancel()
            raise

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            # The garbage collector may have called from the loop's own thread, which cannot wait for its own end.
            if not self._is_here:
                self._thread.join()


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    @wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(method(self._client, *args, **kwargs))

    return call


def _blocking_iterator(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate["Client", P], Iterator[T]]:
    @wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        iterator = method(self._client, *args, **kwargs)
        end = object()

        async def following() -> T | object:
            return await anext(iterator, end)

        try:
            while (value := self._thread.run(following())) is not end:
                yield cast("T", value)
        finally:
            # Otherwise the loop has closed it already, or will once it finds it abandoned.
            if self._thread.is_usable:
                self._thread.run(iterator.aclose())

    return call


class Client:
    """A connection to a cluster, for code that is not asynchronous; see AsyncClient for what the methods do.

    >>> with Client() as client:  # doctest: +SKIP
    ...     job = client.submit("https://files.example/data.tar")
    ...     print(client.wait(job.id).result)
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 30,
        retries_max: int = RETRIES_MAX,
        reconnect_s_max: float = RECONNECT_S_MAX,
    ) -> None:
        self._client = AsyncClient(
            url, api_key, timeout_s=timeout_s, retries_max=retries_max, reconnect_s_max=reconnect_s_max
        )
        self._thread = _LoopThread(self._client)
        self._finalizer = weakref.finalize(self, self._thread.stop)

    @property
    def endpoint(self) -> Endpoint:
        return self._client.endpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._finalizer()

    submit = _blocking(AsyncClient.submit)
    submit_batch = _blocking(AsyncClient.submit_batch)

    def submit_many(
        self,
        jobs: Iterable[JobSource],
        *,
        batch_size: int = BATCH_JOBS,
        idempotency_key: str | None = None,
        correlation_id: str | None = None,
    ) -> JobIds:
        """As AsyncClient's; `jobs` is read in the caller's thread, so it may use this client itself."""
        accepted = self.submit_batches(
            jobs, batch_size=batch_size, idempotency_key=idempotency_key, correlation_id=correlation_id
        )
        return JobIds(chain.from_iterable(accepted))

    def submit_batches(
        self,
        jobs: Iterable[JobSource],
        *,
        batch_size: int = BATCH_JOBS,
        idempotency_key: str | None = None,
        correlation_id: str | None = None,
    ) -> Iterator[builtins.list[str]]:
        """As AsyncClient's; `jobs` is read in the caller's thread."""
        if isinstance(jobs, str | Mapping):
            raise TypeError("this takes many jobs; for one there is `submit`")
        key = idempotency_key or new_idempotency_key()
        iterator = iter(jobs)
        index = 0
        while batch := builtins.list(islice(iterator, batch_size)):
            yield self.submit_batch(
                batch, idempotency_key=batch_idempotency_key(key, index), correlation_id=correlation_id
            )
            index += 1

    get = _blocking(AsyncClient.get)
    list = _blocking(AsyncClient.list)
    iter_jobs = _blocking_iterator(AsyncClient.iter_jobs)
    wait = _blocking(AsyncClient.wait)
    wait_many = _blocking_iterator(AsyncClient.wait_many)
    events = _blocking_iterator(AsyncClient.events)
    history = _blocking(AsyncClient.history)
    parts = _blocking(AsyncClient.parts)
    receipt = _blocking(AsyncClient.receipt)
    cancel = _blocking(AsyncClient.cancel)
    pause = _blocking(AsyncClient.pause)
    resume = _blocking(AsyncClient.resume)
    retry = _blocking(AsyncClient.retry)
    requeue = _blocking(AsyncClient.requeue)
    download_link = _blocking(AsyncClient.download_link)
    download = _blocking(AsyncClient.download)
    job_state = _blocking(AsyncClient.job_state)
    dead_letters = _blocking(AsyncClient.dead_letters)
    iter_dead_letters = _blocking_iterator(AsyncClient.iter_dead_letters)
    replay = _blocking(AsyncClient.replay)
    discard = _blocking(AsyncClient.discard)
    queue = _blocking(AsyncClient.queue)
    slo = _blocking(AsyncClient.slo)
    alerts = _blocking(AsyncClient.alerts)
    pause_queue = _blocking(AsyncClient.pause_queue)
    resume_queue = _blocking(AsyncClient.resume_queue)
    agents = _blocking(AsyncClient.agents)
    hosts = _blocking(AsyncClient.hosts)
    scaling = _blocking(AsyncClient.scaling)
    agent = _blocking(AsyncClient.agent)
    agent_status = _blocking(AsyncClient.agent_status)
    stop_job = _blocking(AsyncClient.stop_job)
    drain = _blocking(AsyncClient.drain)
    deliveries = _blocking(AsyncClient.deliveries)
    disabled_webhooks = _blocking(AsyncClient.disabled_webhooks)
    try_webhook = _blocking(AsyncClient.try_webhook)
    logs = _blocking(AsyncClient.logs)
    create_key = _blocking(AsyncClient.create_key)
    rotate_key = _blocking(AsyncClient.rotate_key)
    keys = _blocking(AsyncClient.keys)
    revoke_key = _blocking(AsyncClient.revoke_key)
    ready = _blocking(AsyncClient.ready)
