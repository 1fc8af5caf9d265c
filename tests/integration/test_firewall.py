"""The shipped firewall, loaded in a network namespace: users reach the API, nodes everything, nobody anything else."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

RULES = Path(__file__).parents[2] / "deploy" / "rayhaul.nft"
#: API, HAProxy's statistics and metrics, a replica, a port of Ray's.
PORTS = (8000, 8404, 9101, 30000, 10007)
NODE, USER, HOST = "10.99.0.2", "10.99.0.3", "10.99.0.1"

_LISTEN = """
import selectors, socket, sys
listeners = [socket.create_server(("0.0.0.0", int(port))) for port in sys.argv[1:]]
print("up", flush=True)
chosen = selectors.DefaultSelector()
for each in listeners:
    chosen.register(each, selectors.EVENT_READ)
while True:
    for key, _ in chosen.select():
        key.fileobj.accept()[0].close()
"""
_CONNECT = """
import socket, sys
source, host, *ports = sys.argv[1:]
for port in ports:
    try:
        socket.create_connection((host, int(port)), timeout=0.5, source_address=(source, 0)).close()
    except OSError:
        continue
    print(port)
"""


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def names() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a wire between them: a cluster's node, and whoever knocks at it."""
    if os.geteuid() != 0 or shutil.which("nft") is None or shutil.which("ip") is None:
        pytest.skip("needs root, ip and nft (Debian: apt-get install nftables iproute2)")
    host, peer = f"rh-h{os.getpid()}", f"rh-p{os.getpid()}"
    with ExitStack() as stack:
        for name in (host, peer):
            try:
                run("ip", "netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
            stack.callback(run, "ip", "netns", "del", name)
        run("ip", "-n", host, "link", "add", "h0", "type", "veth", "peer", "name", "p0", "netns", peer)
        for name, link, addresses in ((host, "h0", (HOST,)), (peer, "p0", (NODE, USER))):
            for address in addresses:
                run("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
            for each in ("lo", link):
                run("ip", "-n", name, "link", "set", each, "up")
        yield host, peer


@pytest.fixture
def listening(names: tuple[str, str]) -> Iterator[None]:
    ports = [str(port) for port in PORTS]
    command = ["ip", "netns", "exec", names[0], sys.executable, "-c", _LISTEN, *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield
        finally:
            process.kill()


def reached(name: str, source: str) -> list[int]:
    """Return the ports of the host that `source` can connect to."""
    ports = [str(port) for port in PORTS]
    target = "127.0.0.1" if source == "127.0.0.1" else HOST
    found = run("ip", "netns", "exec", name, sys.executable, "-c", _CONNECT, source, target, *ports)
    return [int(line) for line in found.split()]


@pytest.mark.usefixtures("listening")
def test_users_reach_the_api_and_nothing_else(names: tuple[str, str], tmp_path: Path) -> None:
    """Without the rules everybody reaches everything; with them users have 8000, nodes and the host itself all."""
    host, peer = names
    assert reached(peer, USER) == reached(peer, NODE) == list(PORTS)
    text = RULES.read_text()
    assert "{ 192.0.2.1 }" in text
    rules = tmp_path / "rayhaul.nft"
    rules.write_text(text.replace("define nodes = { 192.0.2.1 }", f"define nodes = {{ {NODE} }}"))
    for _ in range(2):
        # Loading it again changes nothing.
        run("ip", "netns", "exec", host, "nft", "-f", str(rules))
        assert reached(peer, USER) == [8000]
        assert reached(peer, NODE) == list(PORTS)
        assert reached(host, "127.0.0.1") == list(PORTS)
