"""Who may do and see what: the controls of SECURITY.md, and how each is switched off (`nulls.py`)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import starlette.responses
from switches import Null, nothing, nothing_later, replaced

import actors.scheduler
import actors.views
import rayhaul.keys
import rayhaul.ledger.read
import rayhaul.ledger.sealing
import rayhaul.log
import rayhaul.wire.base
import serve_app.auth
import serve_app.events
import serve_app.feed
import serve_app.session
import serve_app.views
from rayhaul.errors import Unauthorized
from rayhaul.ledger.base import Role, Scope, Viewer

_EVERYTHING = Viewer("nobody", Role.OPERATOR)


def _seen_by_all(owner: Any, name: str) -> Callable[[], None]:
    """Let a reader, whose second argument is the viewer, show everything to everybody."""
    made = getattr(owner, name)
    return replaced(owner, name, lambda first, _viewer, *more, **named: made(first, _EVERYTHING, *more, **named))


async def _as_operator(request: Any) -> Viewer:
    await serve_app.auth.key_of(request)
    return _EVERYTHING


def _all_scopes() -> None:
    made = serve_app.auth.Keyring.key

    async def key(self: Any, *about: Any) -> Any:
        return replace(await made(self, *about), scopes=frozenset(Scope))

    setattr(serve_app.auth.Keyring, "key", key)  # noqa: B010 - mypy refuses the plain assignment


def _never_over(field: str) -> Callable[[], None]:
    """Check a key as if that field of it were empty."""
    made = rayhaul.keys.check
    return replaced(rayhaul.keys, "check", lambda record, now: made(replace(record, **{field: None}), now))


def _telling(record: Any, secret_sha256: str) -> bool:
    """Say that it is the secret which is wrong."""
    if not _matches(record, secret_sha256) and record is not None:
        raise Unauthorized("the secret is wrong")
    return _matches(record, secret_sha256)


def _taking_unknown_fields() -> None:
    made = rayhaul.wire.base.RequestShape.model_validate_json.__func__  # type: ignore[attr-defined]

    def read(cls: Any, body: Any, /, **more: Any) -> Any:
        return made(cls, body, **more, extra="ignore")

    setattr(rayhaul.wire.base.RequestShape, "model_validate_json", classmethod(read))  # noqa: B010


def _bare_cookie(without: str) -> Callable[[], None]:
    made = starlette.responses.Response.set_cookie

    def set_cookie(self: Any, *about: Any, **more: Any) -> None:
        made(self, *about, **{name: value for name, value in more.items() if name != without})

    return replaced(starlette.responses.Response, "set_cookie", set_cookie)


def _same(value: Any, *_more: Any) -> Any:
    return value


def _yes(*_args: Any) -> bool:
    return True


def _everybody(self: Any, job_id: str, _user_id: str) -> Sequence[Any]:
    return [*self._of_job.get(job_id, ()), *self._of_all]


_matches = rayhaul.keys.matches

NULLS = {
    "viewer-job": Null(
        "a job is shown to its owner",
        _seen_by_all(rayhaul.ledger.read, "shown"),
        "tests/integration/test_isolation.py::test_somebody_elses_thing_is_as_unknown_as_none",
    ),
    "viewer-history": Null(
        "a job's history is shown to its owner",
        _seen_by_all(rayhaul.ledger.read, "history"),
        "tests/integration/test_isolation.py::test_somebody_elses_thing_is_as_unknown_as_none",
    ),
    "viewer-lists": Null(
        "lists have one's own jobs",
        _seen_by_all(rayhaul.ledger.read, "jobs"),
        "tests/integration/test_api.py::test_lists_show_only_ones_own",
    ),
    "viewer-events": Null(
        "a stream that is resumed tells of one's own jobs",
        _seen_by_all(rayhaul.ledger.read, "events_after"),
        "tests/integration/test_events.py::test_everybody_hears_what_they_may_see",
    ),
    "viewer-feed": Null(
        "a live stream tells of one's own jobs",
        _seen_by_all(serve_app.feed.Listener, "__init__"),
        "tests/integration/test_events.py::test_everybody_hears_what_they_may_see",
    ),
    "viewer-progress": Null(
        "progress is told of one's own jobs",
        replaced(serve_app.feed._Tail, "_interested", _everybody),
        "tests/integration/test_events.py::test_progress_is_told_while_bytes_move",
    ),
    "viewer-webhooks": Null(
        "the log of deliveries has one's own",
        _seen_by_all(rayhaul.ledger.read, "deliveries"),
        "tests/integration/test_api_webhooks.py::test_the_log_of_deliveries",
    ),
    "viewer-disabled": Null(
        "the list of disabled webhooks has one's own",
        _seen_by_all(rayhaul.ledger.read, "disabled_webhooks"),
        "tests/integration/test_api_webhooks.py::test_the_list_of_disabled_webhooks",
    ),
    "viewer-command": Null(
        "the scheduler obeys the owner of a job",
        _seen_by_all(actors.scheduler.Scheduler, "command"),
        "tests/integration/test_control.py::test_somebody_elses_job_is_not_steered",
    ),
    "viewer-hosts": Null(
        "the hosts that are shown are those of one's own jobs",
        _seen_by_all(actors.views, "host_views"),
        "tests/integration/test_control_hosts.py::test_a_full_host_holds_nobody_up",
    ),
    "key-secret": Null(
        "a key's secret is compared",
        replaced(rayhaul.keys, "matches", lambda record, _secret_sha256: record is not None),
        "tests/integration/test_isolation.py::test_no_other_route_lets_strangers_in",
    ),
    "key-revoked": Null(
        "a revoked key is refused",
        _never_over("revoked_at"),
        "tests/integration/test_isolation.py::test_no_other_route_lets_strangers_in",
    ),
    "key-expired": Null(
        "an expired key is refused",
        _never_over("expires_at"),
        "tests/integration/test_isolation.py::test_no_other_route_lets_strangers_in",
    ),
    "key-words": Null(
        "a wrong secret is told as an unknown key is",
        replaced(rayhaul.keys, "matches", _telling),
        "tests/integration/test_isolation.py::test_an_unknown_key_and_a_wrong_secret_get_the_same_answer",
    ),
    "key-rotated": Null(
        "a rotated key ends",
        replaced(rayhaul.keys, "retiring", lambda old, _now, _overlap: old),
        "tests/integration/test_api_keys.py::test_a_rotated_key_holds_for_the_overlap",
    ),
    "key-retired": Null(
        "the scheduler ends a rotated key",
        replaced(rayhaul.keys, "retiring", lambda old, _now, _overlap: old),
        "tests/integration/test_control.py::test_a_key_is_made_and_revoked",
    ),
    "key-forgotten": Null(
        "a key that was revoked here is not remembered",
        replaced(serve_app.auth.Keyring, "forget", nothing),
        "tests/integration/test_api.py::test_a_key_is_remembered_and_a_revoked_one_forgotten",
    ),
    "key-stream": Null(
        "an open stream asks again whether its key holds",
        replaced(serve_app.events.EventStream, "_recheck", nothing_later),
        "tests/integration/test_events.py::test_a_revoked_key_loses_its_stream",
    ),
    "answer-secrets": Null(
        "answers show no secrets of URLs",
        replaced(serve_app.views, "redacted", _same),
        "tests/integration/test_api.py::test_a_job_comes_back_without_its_secrets",
    ),
    "event-secrets": Null(
        "events show no secrets of URLs",
        replaced(serve_app.views, "clean", _same),
        "tests/unit/test_views.py::test_no_secret_gets_out",
    ),
    "log-secrets": Null(
        "log lines have no secrets",
        replaced(rayhaul.log, "without_secrets", _same),
        "tests/unit/test_log.py::test_secrets_in_messages_and_tracebacks",
    ),
    "sealing": Null(
        "secrets are sealed in the ledger",
        replaced(rayhaul.ledger.sealing.Sealer, "seal", lambda _self, document, _about: document),
        "tests/ledger/test_sealed_ledger.py::test_with_a_key_no_file_shows_a_secret",
    ),
    "unknown-fields": Null(
        "fields that a user may not set are refused",
        _taking_unknown_fields,
        "tests/integration/test_api.py::test_a_bad_body_is_named_and_not_echoed",
    ),
    "role": Null(
        "routes of operators are for operators",
        replaced(serve_app.auth, "caller", _as_operator),
        "tests/integration/test_isolation.py::test_routes_for_operators",
    ),
    "scope": Null(
        "a key does what its scopes allow",
        _all_scopes,
        "tests/integration/test_isolation.py::test_no_route_serves_a_key_without_the_scope",
    ),
    "csrf-change": Null(
        "what the cookie alone asks for is not done",
        replaced(serve_app.auth, "is_the_page", _yes),
        "tests/integration/test_page.py::test_another_site_changes_nothing",
    ),
    "csrf-session": Null(
        "another site signs nobody in or out",
        replaced(serve_app.session, "is_the_page", _yes),
        "tests/integration/test_page.py::test_another_site_changes_nothing",
    ),
    "cookie-scripts": Null(
        "no script reads the cookie",
        _bare_cookie("httponly"),
        "tests/integration/test_page.py::test_signing_in",
    ),
    "cookie-sites": Null(
        "no other site sends the cookie",
        _bare_cookie("samesite"),
        "tests/integration/test_page.py::test_signing_in",
    ),
    "cookie-tls": Null(
        "behind TLS the cookie is sent by TLS alone",
        _bare_cookie("secure"),
        "tests/integration/test_page.py::test_behind_tls_the_cookie_is_secure",
    ),
}
