"""Names that nobody answers for: they keep a few threads, and hold up nobody else."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from rayhaul.metrics import Meter
from rayhaul.settings import EgressSettings, SourceSettings
from tasks import names
from tasks.egress import GuardedClient
from tasks.hashing import hashed
from tasks.names import THREADS_MAX, THREADS_OF_DOMAIN_MAX, Names

#: Nobody here waits for long where things are right.
SOON_S = 5


class Hanging:
    """The system's resolver, where names under `.test` hang until all is over."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self.over = threading.Event()
        self._usual = socket.getaddrinfo

    def __call__(self, host: str, *arguments: object, **options: object) -> object:
        self.asked[host] += 1
        if host.endswith(".test"):
            self.over.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "nobody answered")
        return self._usual(host, *arguments, **options)  # type: ignore[arg-type]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    hanging = Hanging()
    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    yield hanging
    hanging.over.set()


async def given_up(hanging: Hanging, resolver: Names, *hosts: str) -> None:
    """Have names asked for by callers that give up."""
    asking = asyncio.gather(*(resolver.resolve(host) for host in hosts), return_exceptions=True)
    await asyncio.wait([asking], timeout=0.2)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_names_that_hang_hold_nobody_up(hanging: Hanging) -> None:
    """A hundred names of one domain hang, and their callers give up: other names, addresses, hashes and what else runs
    in threads go on. Once the system has given up as well, that domain's names are asked for again.
    """
    async with GuardedClient(EgressSettings(), SourceSettings(), connections_max=8, meter=Meter()) as client:
        assert isinstance(client.names, Names)
        await given_up(hanging, client.names, *(f"n{number}.evil.test" for number in range(100)))
        assert hanging.asked.total() == THREADS_OF_DOMAIN_MAX
        async with asyncio.timeout(SOON_S):
            assert {found["host"] for found in await client.names.resolve("localhost", 80)} <= {"127.0.0.1", "::1"}
            assert [found["host"] for found in await client.names.resolve("192.0.2.1", 80)] == ["192.0.2.1"]
            assert [found["host"] for found in await client.names.resolve("2001:db8::1", 80)] == ["2001:db8::1"]
            assert await hashed(sum, [1, 2]) == 3
            assert await asyncio.to_thread(sum, [1, 2]) == 3
        hanging.over.set()
        async with asyncio.timeout(SOON_S):
            with pytest.raises(socket.gaierror):
                await client.names.resolve("again.evil.test")


async def test_one_name_hangs_once(hanging: Hanging) -> None:
    """However many ask for it, and however it is written; all of them hear what became of it."""
    resolver = Names()
    await given_up(hanging, resolver, *["evil.test"] * 50)
    late = asyncio.gather(*(resolver.resolve(host) for host in ("evil.test", "EVIL.test")), return_exceptions=True)
    await asyncio.sleep(0)
    hanging.over.set()
    async with asyncio.timeout(SOON_S):
        assert [type(answer) for answer in await late] == [socket.gaierror] * 2
    assert hanging.asked == {"evil.test": 1}
    await resolver.close()


async def test_there_are_never_more_threads(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many domains that hang keep all threads and not one more; addresses need none; nothing is queued that nobody
    waits for.
    """
    monkeypatch.setattr(names, "THREADS_MAX", 4)
    resolver = Names()
    await given_up(hanging, resolver, *(f"evil{number}.test" for number in range(THREADS_MAX)))
    assert (hanging.asked.total(), len(resolver._threads._threads)) == (4, 4)
    async with asyncio.timeout(SOON_S):
        assert [found["host"] for found in await resolver.resolve("192.0.2.1")] == ["192.0.2.1"]
        hanging.over.set()
        await resolver.resolve("localhost")
    assert set(hanging.asked.values()) == {1}
    assert hanging.asked.total() == 4 + 2, "the two that were asked for last"
    await resolver.close()
