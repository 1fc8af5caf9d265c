"""What listens in a running cluster, held against the table in SECURITY.md: nothing of ours beyond loopback unasked."""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import psutil
import pytest
from embedded import Embedded

pytestmark = pytest.mark.cluster

#: Processes that listen on all interfaces by themselves, as SECURITY.md has them, and on which ports they may.
_EVERYWHERE = (
    # HAProxy's statistics and metrics: the first free ones from here on.
    (r"\bhaproxy\b", range(8404, 8504)),
    (r"\bhaproxy\b", range(9101, 9201)),
    # Ray's gRPC servers and its metrics, the driver's among them.
    (r"\bray::|/ray/|raylet|gcs_server|serve_app\.up|rayhaul\.cli\.main", range(1024, 65536)),
)


class Running(Protocol):
    def processes(self) -> Mapping[int, str]: ...


def listeners(cluster: Running) -> list[tuple[str, str, int]]:
    """Return what the cluster's processes listen on over TCP: command line, address, port."""
    found = []
    for pid, command in cluster.processes().items():
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except psutil.Error:
            continue
        found += [
            (command, each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN
        ]
    return found


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "::ffff:127.0.0.1")


def test_nothing_of_ours_listens_beyond_loopback(cluster: Embedded) -> None:
    """API and bucket are on loopback; what is on all interfaces is Ray's, Serve's and HAProxy's, as documented."""
    found = listeners(cluster)
    mine = [each for each in found if each[2] == cluster.port]
    assert mine
    assert all(is_loopback(address) for _, address, _ in mine), mine
    beyond = [each for each in found if not is_loopback(each[1])]
    unknown = [
        (command[:200], address, port)
        for command, address, port in beyond
        if not any(re.search(pattern, command) and port in ports for pattern, ports in _EVERYWHERE)
    ]
    assert unknown == []
    assert not [each for each in beyond if re.search(r"\bweed\b", each[0])], "the bucket"
    document = (Path(__file__).parents[2] / "SECURITY.md").read_text()
    for word in ("haproxy", "ray::ServeReplica", "raylet", "8404", "9101"):
        assert word in document


def test_a_replicas_own_port_asks_for_keys_too(cluster: Embedded) -> None:
    """Whoever goes round HAProxy meets the same door."""
    ports = [port for command, _, port in listeners(cluster) if "ServeReplica" in command]
    refused = 0
    for port in ports:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET /jobs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            connection.settimeout(10)
            try:
                answer = connection.recv(65536)
            except OSError:
                continue
        # The replica's other port is Ray's gRPC, which does not speak HTTP/1.1.
        refused += answer.startswith(b"HTTP/1.1 401 ")
        assert b" 200 " not in answer[:40]
    assert refused == 1
