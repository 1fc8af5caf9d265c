"""The system's resolver in threads of its own: a name that nobody answers for keeps few of them, and nobody else.

Laws of this file:
1. A lookup that has begun cannot be ended: whoever gives up leaves its thread behind until the system does. So all who
   ask for one name share one, and the names of one domain have a few at most.
2. What waits is a caller, who may give up; nothing is queued for the threads that nobody waits for.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from aiohttp.abc import AbstractResolver, ResolveResult

#: They wait, mostly.
THREADS_MAX = 64
#: For names that end with the same two labels: who lets one of them hang can do so with as many as there may be.
THREADS_OF_DOMAIN_MAX = 8

_Address: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
_Found: TypeAlias = Sequence[_Address]


class Names(AbstractResolver):
    """One per process, shared by all that connects on behalf of users."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="names")
        self._places = asyncio.Semaphore(THREADS_MAX)
        #: A domain stands here while one of its names is looked up or waits for that.
        self._places_of_domain: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._under_way: dict[tuple[str, int], asyncio.Future[_Found]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name; an address is its own. How long that may take is the caller's business.

        Raises: OSError.
        """
        if _is_address(host):
            found = _looked_up(host, family, socket.AI_NUMERICHOST)
        else:
            found = await asyncio.shield(await self._looking(host.lower(), family))
        return [_record(host, port, one) for one in found]

    async def close(self) -> None:
        """Take no more names. Threads whose names hang are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _looking(self, host: str, family: int) -> asyncio.Future[_Found]:
        """Return the lookup of a name: the one under way, or one begun as soon as there is a thread for it."""
        key = (host, family)
        if key not in self._under_way:
            domain = ".".join(host.rstrip(".").split(".")[-2:])
            of_domain = self._places_of_domain.setdefault(domain, asyncio.Semaphore(THREADS_OF_DOMAIN_MAX))
            with ExitStack() as places:
                for limit in (of_domain, self._places):
                    await limit.acquire()
                    places.callback(limit.release)
                if key not in self._under_way:
                    self._begin(key, places)
        return self._under_way[key]

    def _begin(self, key: tuple[str, int], places: ExitStack) -> None:
        looking = asyncio.get_running_loop().run_in_executor(self._threads, _looked_up, *key, socket.AI_ADDRCONFIG)
        self._under_way[key] = looking
        # Free again when the thread is, not when whoever waits for it has given up.
        held = places.pop_all()

        def end(ended: asyncio.Future[_Found]) -> None:
            del self._under_way[key]
            held.close()
            if not ended.cancelled():
                # Said to be looked at, though nobody may be left who does.
                ended.exception()

        looking.add_done_callback(end)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _looked_up(host: str, family: int, flags: int) -> _Found:
    return socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM, flags=flags)


def _record(host: str, port: int, found: _Address) -> ResolveResult:
    family, _kind, proto, _name, address = found
    scope = address[3] if family == socket.AF_INET6 else 0
    return ResolveResult(
        hostname=host,
        host=f"{address[0]}%{scope}" if scope else address[0],
        port=port,
        family=family,
        proto=proto,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
