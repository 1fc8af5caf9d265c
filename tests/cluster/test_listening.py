"""What listens in a running cluster, held against the table in SECURITY.md: nothing of ours beyond loopback unasked."""

import http.client
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import psutil
import pytest
from embedded import Embedded, eventually

pytestmark = pytest.mark.cluster

_EPHEMERAL = range(32768, 65536)
#: Who listens beyond loopback by itself, as SECURITY.md has it, on how many ports, and on which they may be.
_BEYOND = (
    # HAProxy's statistics and metrics: the first free ones from here on.
    (r"/haproxy\b", 1, range(8404, 8504)),
    (r"/haproxy\b", 1, range(9101, 9201)),
    # Ray's gRPC, which asks for its token (tests/cluster/test_ray_token.py): the control service; a raylet, for nodes
    # and for objects; each worker, and one that is a replica Serve's as well.
    (r"gcs/gcs_server\b", 1, _EPHEMERAL),
    (r"raylet/raylet\b", 2, _EPHEMERAL),
    (r"^ray::ServeReplica:rayhaul:api\b", 2, _EPHEMERAL),
    (r"^ray::(AgentActor|CourierActor|SchedulerActor|ServeController|HAProxyManager|ProxyActor|IDLE)\b", 1, _EPHEMERAL),
    # The dashboard's part that answers for Serve is a driver once it was asked.
    (r"^ray-dashboard-ServeHead\b", 1, _EPHEMERAL),
    # By HTTP with the token on the machine's own address; metrics, which ask for nothing; gRPC.
    (r"^ray::DashboardAgent\b", 3, _EPHEMERAL),
    (r"^ray::RuntimeEnvAgent\b", 1, _EPHEMERAL),
    # Metrics alone.
    (r"dashboard/dashboard\.py\b", 1, (44227,)),
    (r"autoscaler/_private/monitor\.py\b|/monitor\.py\b", 1, (44217,)),
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
    # HAProxy gives way to another one of itself when it is told of a change.
    eventually(lambda: any(each[2] == cluster.port for each in listeners(cluster)), within_s=30, what="an ingress")
    found = listeners(cluster)
    mine = [each for each in found if each[2] == cluster.port]
    assert all(is_loopback(address) for _, address, _ in mine), mine
    beyond = {each for each in found if not is_loopback(each[1])}
    for pattern, ports_max, ports in _BEYOND:
        theirs = {each for each in beyond if re.search(pattern, each[0]) and each[2] in ports}
        processes = [command for command in cluster.processes().values() if re.search(pattern, command)]
        assert len(theirs) <= ports_max * len(processes), theirs
        beyond -= theirs
    assert not beyond
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


@pytest.mark.parametrize(
    "field",
    [
        ("X-Request-Timeout-Seconds", b"0.000001"),
        ("X-Request-Timeout-Seconds", b"\xff"),
        ("X-Request-Disconnect-Disabled", b"?1"),
        ("serve_multiplexed_model_id", b"m"),
        ("X-Session-Id", b"\xff"),
    ],
)
def test_what_serve_would_obey_is_taken_off(cluster: Embedded, field: tuple[str, bytes]) -> None:
    """Behind HAProxy and at the replica's own port: a client has no say in Serve's deadlines and routing."""
    replicas = [port for command, _, port in listeners(cluster) if "ServeReplica" in command]
    statuses = []
    for port in (cluster.port, *replicas):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.putrequest("GET", "/jobs")
        connection.putheader("Authorization", f"Bearer {cluster.key}")
        connection.putheader(*field)
        connection.endheaders()
        # The replica's other ports are gRPC, which does not speak HTTP/1.1.
        with suppress(http.client.BadStatusLine):
            statuses.append(connection.getresponse().status)
        connection.close()
    assert statuses == [200, 200]
