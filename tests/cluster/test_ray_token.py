"""Ray's own ports ask for the cluster's token: without it, or with a wrong one, nobody is served."""

import grpc
import httpx
import pytest
from embedded import Embedded, eventually
from test_listening import listeners

pytestmark = pytest.mark.cluster

Metadata = tuple[tuple[str, str], ...]

#: One call of each service that Ray's and Serve's processes have, and whose processes have it.
_CALLS = {
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo": "gcs_server",
    "/ray.rpc.NodeManagerService/GetNodeStats": "raylet/raylet",
    "/ray.rpc.ObjectManagerService/Pull": "raylet/raylet",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats": "ray::",
    "/ray.rpc.ReporterService/HealthCheck": "ray::DashboardAgent",
    "/ray.serve.ASGIService/HandleRequest": "ray::ServeReplica",
}
#: What a port says that does not have the service, or speaks HTTP/1.1.
_NOT_HERE = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN}
_COMING_UP_S = 60
#: What speaks HTTP, and a path of it.
_PATHS = {
    "dashboard/dashboard.py": "/api/jobs/",
    "ray::DashboardAgent": "/api/job_agent/jobs/",
    "ray::RuntimeEnvAgent": "/get_or_create_runtime_env",
}


def answer(port: int, call: str, metadata: Metadata = ()) -> grpc.StatusCode:
    """Make a call with an empty message."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(call, bytes, bytes)
        try:
            ask(b"", timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)], ids=["no token", "a wrong one"])
def test_a_call_without_the_token(cluster: Embedded, call: str, metadata: Metadata) -> None:
    """Every process that has the service refuses."""

    def answers() -> set[grpc.StatusCode]:
        ports = [port for command, _, port in listeners(cluster) if _CALLS[call] in command]
        return {answer(port, call, metadata) for port in ports} - _NOT_HERE

    # Ray's own agents come up after the cluster.
    eventually(lambda: bool(answers()), within_s=_COMING_UP_S, what="somebody has it")
    assert answers() == {grpc.StatusCode.UNAUTHENTICATED}


def test_a_call_with_the_token(cluster: Embedded) -> None:
    """It is the token that is asked for: the control service answers whoever has it."""
    token = next(cluster.data_dir.rglob("*token*")).read_text().strip()
    call = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
    (port,) = {port for command, _, port in listeners(cluster) if _CALLS[call] in command}
    assert answer(port, call, (("authorization", f"Bearer {token}"),)) is grpc.StatusCode.OK


@pytest.mark.parametrize("process", _PATHS)
def test_http_without_the_token(cluster: Embedded, process: str) -> None:
    """Jobs and their environments are started over HTTP as well: nobody is let in there, either."""
    eventually(lambda: bool(statuses(cluster, process)), within_s=_COMING_UP_S, what="somebody has it")
    assert statuses(cluster, process) == {401}


def statuses(cluster: Embedded, process: str) -> set[int]:
    """Return what those ports of a process answer that know its path."""
    everywhere = ("::", "0.0.0.0")
    found = set()
    for command, address, port in listeners(cluster):
        if process in command:
            host = "127.0.0.1" if address in everywhere else address
            try:
                found.add(httpx.post(f"http://{host}:{port}{_PATHS[process]}", timeout=10).status_code)
            except httpx.TransportError:
                continue  # gRPC
    # Its metrics have no such path, or do not take POST.
    return found - {404, 405}
