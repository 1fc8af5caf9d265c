"""Bounds, and what the API shows of itself: the controls of SECURITY.md, and how each is switched off (`nulls.py`)."""

import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from switches import Null, nothing, replaced

import actors.dispatch
import actors.quotas
import rayhaul.policy.queueing
import serve_app.auth
import serve_app.bodies
import serve_app.context
import serve_app.edge
import serve_app.events
import serve_app.feed
import serve_app.jobs
import serve_app.limits
import serve_app.openapi
import serve_app.pages
import serve_app.problems
import serve_app.replica
import serve_app.session
import tasks.probe
import tasks.transfer

_PLENTY = 10**9


def _undocumented(path: str, method: str, status: str) -> Callable[[], None]:
    """Leave a status out of the document."""
    made = serve_app.openapi.describe

    def describe(app: Any) -> Any:
        document = made(app)
        document["paths"][path][method]["responses"].pop(status, None)
        return document

    return replaced(serve_app.openapi, "describe", describe)


def _never_refused_as(kind: type[Exception]) -> Callable[[], None]:
    made = serve_app.edge.refusal

    def refusal(scope: Any, *, body_bytes_max: int) -> Any:
        found = made(scope, body_bytes_max=body_bytes_max)
        return None if isinstance(found, kind) else found

    return replaced(serve_app.edge, "refusal", refusal)


def _endless(setting: str) -> Callable[[], None]:
    """Let the feed have as many streams as are asked for."""
    made = serve_app.feed.Feed.__init__

    def begin(self: Any, *, settings: Any, **more: Any) -> None:
        made(self, settings=settings.model_copy(update={setting: _PLENTY}), **more)

    return replaced(serve_app.feed.Feed, "__init__", begin)


async def _write_patiently(send: Any, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _large_batches(request: Any) -> Any:
    replica = _replica_of(request)
    api = replica.settings.api.model_copy(update={"batch_jobs_max": _PLENTY})
    return replace(replica, settings=replica.settings.model_copy(update={"api": api}))


class _NoTurns(OrderedDict[str, Any]):
    def move_to_end(self, key: str, last: bool = True) -> None:  # noqa: FBT001, FBT002 - as its base has it
        """Leave the first one first."""


def _of_any_size() -> None:
    made = tasks.probe.probe

    def probe(*about: Any, **more: Any) -> Any:
        return made(*about, **{**more, "size_bytes_max": None})

    setattr(tasks.probe, "probe", probe)  # noqa: B010 - mypy refuses the plain assignment


def _first_come() -> None:
    """Serve the first user until nothing of theirs waits."""
    made = rayhaul.policy.queueing._Lane.__init__

    def begin(self: Any, stride: int) -> None:
        made(self, stride)
        self.turns = _NoTurns()

    setattr(rayhaul.policy.queueing._Lane, "__init__", begin)  # noqa: B010


def _any_number(self: Any, draft: Any, book: Any) -> dict[str, Any]:
    return {**_limits(self, draft, book), "running_max": None}


def _open_rules() -> None:
    """Read the shipped firewall as one that lets everything in."""
    made = Path.read_text

    def read_text(self: Path, *about: Any, **more: Any) -> str:
        text = made(self, *about, **more)
        return text.replace("policy drop", "policy accept") if self.name == "rayhaul.nft" else text

    setattr(Path, "read_text", read_text)  # noqa: B010


def _new_route() -> None:
    serve_app.pages.routes.add_api_route("/new", serve_app.pages.page)


def _hidden_route() -> None:
    route: Any = next(each for each in serve_app.jobs.routes.routes if getattr(each, "path", "") == "/jobs")
    route.include_in_schema = False


def _unlisted() -> None:
    """Let the list of who may listen be empty."""
    import test_listening  # noqa: PLC0415 - a test of a cluster, for which pytest makes the path

    setattr(test_listening, "_BEYOND", ())  # noqa: B010 - mypy refuses the plain assignment


def _up_with(name: str, value: str) -> Callable[[], None]:
    """Have `rayhaul up`, which is another process, give Ray another environment."""
    text = f"""
import sys
if "serve_app.up" in sys.orig_argv:
    import serve_app.embedded
    made = serve_app.embedded._ray_environment
    serve_app.embedded._ray_environment = lambda *about: {{**made(*about), {name!r}: {value!r}}}
"""

    def switch() -> None:
        directory = tempfile.mkdtemp(prefix="rayhaul-null-")
        Path(directory, "sitecustomize.py").write_text(text)
        os.environ["PYTHONPATH"] = os.pathsep.join([directory, os.environ.get("PYTHONPATH", "")])

    return switch


_limits = actors.dispatch.Dispatch._limits
_replica_of = serve_app.replica.replica_of

NULLS = {
    "document": Null(
        "a route answers what the document lists",
        _undocumented("/jobs/{job_id}/receipt", "get", "404"),
        "tests/integration/test_fuzz.py::test_nothing_is_found",
    ),
    "rate": Null(
        "a key has a rate",
        replaced(serve_app.limits, "check", nothing),
        "tests/integration/test_api_edge.py::test_a_key_that_asks_too_often_is_told_when_to_come_back",
    ),
    "rate-sign-in": Null(
        "an address has a rate of sign-ins",
        replaced(serve_app.session, "limits", SimpleNamespace(check=nothing, address_of=serve_app.limits.address_of)),
        "tests/integration/test_api_edge.py::test_an_address_that_signs_in_too_often_is_told_so",
    ),
    "rate-wrong-keys": Null(
        "an address has a rate of wrong keys",
        replaced(serve_app.limits.Limiter, "look", lambda _self, _who: SimpleNamespace(allowed=True)),
        "tests/integration/test_api_edge.py::test_an_address_with_too_many_wrong_keys_has_no_more_of_them_looked_up",
    ),
    "strangers": Null(
        "made-up keys are looked up a few at a time",
        replaced(serve_app.auth, "_STRANGERS_MAX", _PLENTY),
        "tests/integration/test_api_edge.py::test_keys_that_are_made_up_are_looked_up_a_few_at_a_time",
    ),
    "quota-used-up": Null(
        "a day that is used up takes no job",
        replaced(actors.quotas, "check_submission", nothing),
        "tests/integration/test_control_quotas.py::test_a_used_up_day_is_told_at_submission",
    ),
    "quota-header": Null(
        "an announced length counts",
        replaced(actors.quotas, "charge_size", nothing),
        "tests/integration/test_control_quotas.py::test_a_size_that_is_announced_counts_at_once",
    ),
    "quota-stream": Null(
        "what streams without a length counts",
        replaced(actors.quotas, "charge_parts", nothing),
        "tests/integration/test_control_quotas.py::test_a_stream_without_a_length_is_cut_off",
    ),
    "largest-announced": Null(
        "a file that says to be too large is refused",
        _of_any_size,
        "tests/integration/test_probe.py::test_probe_refuses_what_is_too_large",
    ),
    "largest-stream": Null(
        "a file is measured while it streams",
        replaced(tasks.transfer._Transfer, "_check_size", nothing),
        "tests/integration/test_transfer.py::test_a_limit_of_size_holds",
    ),
    "header-fields": Null(
        "header fields are bounded",
        _never_refused_as(serve_app.edge.HeadersTooLarge),
        "tests/integration/test_api_edge.py::test_too_many_or_too_long_header_fields_are_431",
    ),
    "target": Null(
        "targets are bounded",
        _never_refused_as(serve_app.edge.TargetTooLong),
        "tests/integration/test_api_edge.py::test_a_target_that_is_too_long_is_414",
    ),
    "body-announced": Null(
        "a body that says to be too large is not read",
        _never_refused_as(serve_app.edge.BodyTooLarge),
        "tests/integration/test_api.py::test_bodies_beyond_the_limit_are_refused",
    ),
    "body-counted": Null(
        "a body is counted as it comes",
        replaced(serve_app.context._Exchange, "_read", lambda self: self._receive()),
        "tests/integration/test_api.py::test_bodies_beyond_the_limit_are_refused",
    ),
    "body-values": Null(
        "a body has only so many values",
        lambda: (serve_app.bodies.parsed.__kwdefaults__ or {}).update(values_max=_PLENTY),
        "tests/integration/test_api.py::test_a_body_has_only_so_many_values",
    ),
    "batch": Null(
        "a batch is bounded",
        replaced(serve_app.jobs, "replica_of", _large_batches),
        "tests/integration/test_api.py::test_a_batch_of_ten_thousand",
    ),
    "streams-of-user": Null(
        "a user has only so many streams",
        _endless("sse_streams_per_user_max"),
        "tests/integration/test_events.py::test_a_user_has_only_so_many_streams",
    ),
    "streams": Null(
        "a replica has only so many streams",
        _endless("sse_streams_max"),
        "tests/integration/test_events.py::test_a_replica_has_only_so_many_streams",
    ),
    "slow-client": Null(
        "a client that reads nothing is cut off",
        replaced(serve_app.events, "_write", _write_patiently),
        "tests/integration/test_events.py::test_a_client_that_takes_nothing_is_cut_off",
    ),
    "running-max": Null(
        "a user has only so many running jobs",
        replaced(actors.dispatch.Dispatch, "_limits", _any_number),
        "tests/integration/test_control.py::test_running_per_user_max",
    ),
    "turns": Null(
        "users take turns",
        _first_come,
        "tests/unit/test_queueing.py::test_a_backlog_is_nobody_elses",
    ),
    "security-headers": Null(
        "answers are framed by nobody",
        replaced(serve_app.context, "_SECURITY_HEADERS", ()),
        "tests/integration/test_api_edge.py::test_data_is_no_document_and_nothing_is_framed",
    ),
    "csp": Null(
        "data is no document",
        replaced(serve_app.context, "_CSP", (b"content-security-policy", b"frame-ancestors 'none'")),
        "tests/integration/test_api_edge.py::test_data_is_no_document_and_nothing_is_framed",
    ),
    "sniffing": Null(
        "answers are not sniffed",
        replaced(serve_app.context, "_SECURITY_HEADERS", ()),
        "tests/integration/test_api.py::test_answers_carry_the_security_headers",
    ),
    "no-store": Null(
        "answers are not stored",
        replaced(serve_app.context, "_NO_STORE", (b"cache-control", b"private")),
        "tests/integration/test_api.py::test_answers_carry_the_security_headers",
    ),
    "inner-details": Null(
        "errors tell no inner details",
        replaced(serve_app.problems, "_detail", lambda error: error.message),
        "tests/integration/test_api.py::test_what_fails_on_our_side",
    ),
    "knobs-refused": Null(
        "Serve's request headers are refused",
        _never_refused_as(serve_app.edge.KnobRefused),
        "tests/integration/test_api_edge.py::test_knobs_of_ray_serve_are_not_the_clients",
    ),
    "firewall": Null(
        "the shipped rules drop what they do not name",
        _open_rules,
        "tests/integration/test_firewall.py::test_users_reach_the_api_and_nothing_else",
    ),
    "route-untold": Null(
        "a new route must say who may",
        _new_route,
        "tests/integration/test_isolation.py::test_the_table_has_every_route",
    ),
    "route-hidden": Null(
        "the document has every route",
        _hidden_route,
        "tests/integration/test_isolation.py::test_the_document_has_every_route",
    ),
    "knobs": Null(
        "Serve's request headers are taken off",
        _up_with("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", ""),
        "tests/cluster/test_listening.py::test_what_serve_would_obey_is_taken_off",
    ),
    "listed": Null(
        "who listens is on the list",
        _unlisted,
        "tests/cluster/test_listening.py::test_nothing_of_ours_listens_beyond_loopback",
    ),
    "ray-token": Null(
        "Ray's gRPC asks for its token",
        _up_with("RAY_AUTH_MODE", "disabled"),
        "tests/cluster/test_ray_token.py::test_a_call_without_the_token",
    ),
    "ray-token-http": Null(
        "Ray's HTTP asks for its token",
        _up_with("RAY_AUTH_MODE", "disabled"),
        "tests/cluster/test_ray_token.py::test_http_without_the_token",
    ),
}
