"""Not one packet leaves for an address that may not be fetched: counted by the kernel, on every interface."""

import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from addresses import VECTORS, WRITTEN
from fetching import Canary, ScriptedNames, ask
from origin import Origin
from packets import packets_to

from rayhaul.errors import EgressDenied, InvalidRequest, RayhaulError
from rayhaul.metrics import Meter
from rayhaul.settings import EgressSettings, SourceSettings
from tasks.egress import GuardedClient

NAMES = {f"vector-{number}.example": address for number, (address, _) in enumerate(VECTORS)}


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    """A port that is listened at is nobody's own for connections either: what goes to it is meant for the canary."""
    async with Canary().listening() as canary:
        yield canary


def client_of(*allow: str, port: int) -> GuardedClient:
    """Return a client for which it is never the port that is wrong."""
    return GuardedClient(
        EgressSettings(allow=allow, ports=(80, 443, port)),
        SourceSettings(),
        connections_max=1,
        meter=Meter(),
        resolver=ScriptedNames({name: [[address]] for name, address in NAMES.items()}),
    )


async def test_no_packet_leaves(origin: Origin, canary: Canary) -> None:
    """Each vector by a name, by itself and by redirects to both, and the canary's address in all its spellings.

    The same counter sees the canary asked once it may be: it is no counter that sees nothing.
    """
    literals = [f"[{address.replace('%', '%25')}]" if ":" in address else address for address, _ in VECTORS]
    hosts = (*NAMES, *literals, *WRITTEN)
    with packets_to(canary.port) as packets:
        async with client_of(origin.host_port, port=canary.port) as client:
            for host in hosts:
                url = f"http://{host}:{canary.port}/"
                for asked in (url, origin.add("away", redirect_to=url)):
                    with pytest.raises((EgressDenied, InvalidRequest)):
                        await ask(client, asked)
                    assert packets() == 0, f"{asked} to {url}"
        assert canary.connections_count == 0
        assert len(origin.requests) == len(hosts)
        print(f"{2 * len(hosts)} requests, {packets()} packets")
        async with client_of(f"127.0.0.1:{canary.port}", port=canary.port) as client:
            with pytest.raises(RayhaulError):
                await ask(client, f"http://127.0.0.1:{canary.port}/")
        assert packets() > 0
    assert canary.connections_count > 0


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_the_count(family: socket.AddressFamily, host: str, kind: socket.SocketKind) -> None:
    """TCP and UDP of both families count, one to another port does not; nobody need be there."""
    with socket.socket(family, kind) as bound, socket.socket(family, kind) as other:
        try:
            bound.bind((host, 0))
        except OSError as error:
            pytest.skip(f"no {host} here: {error}")
        other.bind((host, 0))
        with packets_to(bound.getsockname()[1]) as packets:
            for target, counted in ((other, False), (bound, True)):
                with socket.socket(family, kind) as sender, suppress(ConnectionRefusedError):
                    sender.connect(target.getsockname())
                    sender.send(b"?")
                assert (packets() > 0) is counted
