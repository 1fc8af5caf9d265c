"""Checks that keep wrong bytes out, each with a way to switch it off and the test that must then fail (`nulls.py`)."""

from dataclasses import replace
from typing import Any

import aiohttp
import botocore.handlers
from switches import Null, everywhere, nothing, nothing_later, replaced
from yarl import URL

import actors.draft
import actors.sweeping
import rayhaul.errors
import rayhaul.policy.mirrors
import rayhaul.policy.naming
import rayhaul.policy.retry
import serve_app.kept_store
import tasks.answer
import tasks.arriving
import tasks.bodies
import tasks.bucket_rules
import tasks.budget
import tasks.checksum
import tasks.dialing
import tasks.digests
import tasks.egress
import tasks.ftp_source
import tasks.guard
import tasks.hedging
import tasks.intake
import tasks.lanes
import tasks.mirrors
import tasks.outgoing
import tasks.peeks
import tasks.pieces
import tasks.probe
import tasks.sftp_source
import tasks.sink
import tasks.source
import tasks.speed
import tasks.store_calls
import tasks.store_puts
import tasks.stored
import tasks.transfer
import tasks.upload


def _unbounded() -> None:
    """Let a body end wherever it ends."""
    made = tasks.source._Body.__init__

    def begin(self: Any, answer: Any, *, bytes_expected: int | None, speed: Any) -> None:
        del bytes_expected
        made(self, answer, bytes_expected=None, speed=speed)

    setattr(tasks.source._Body, "__init__", begin)  # noqa: B010 - mypy refuses the plain assignment


def _uncounted() -> None:
    """The same for a body of another protocol than HTTP."""
    made = tasks.bodies.CountedBody.__init__

    def begin(self: Any, read: Any, **more: Any) -> None:
        made(self, read, **{**more, "bytes_expected": None})

    setattr(tasks.bodies.CountedBody, "__init__", begin)  # noqa: B010 - mypy refuses the plain assignment


def _any_body(response: Any, bytes_read: int, *, stall_timeout_s: float) -> Any:
    """Take over whatever comes."""
    library = response.connection.protocol if response.connection is not None else None
    if library is None:
        return None
    arriving = tasks.arriving.Arriving(
        library, response.content, (response.content_length or 10**6) - bytes_read, stall_timeout_s=stall_timeout_s
    )
    arriving._begin()
    return arriving


async def _rest_unchecked(feed: Any, hedge: Any, _crc_given: int) -> memoryview:
    return memoryview(hedge.data)[feed.given_bytes :]


def _promised(answer: Any, filename: str | None) -> Any:
    """Believe Accept-Ranges."""
    metadata = _read_whole(answer, filename)
    return replace(metadata, rangeable=answer.headers.get("Accept-Ranges") == "bytes")


def _one_by_one() -> None:
    """Read one range after the other."""
    made = tasks.lanes.Lanes.bring

    async def bring(self: Any, plan: Any, *, lanes_count: int) -> None:
        del lanes_count
        await made(self, plan, lanes_count=1)

    setattr(tasks.lanes.Lanes, "bring", bring)  # noqa: B010 - mypy refuses the plain assignment


def _with_head() -> None:
    """Ask by HEAD."""
    made = tasks.egress.GuardedClient._send

    async def send(self: Any, method: str, *about: Any) -> Any:
        return await made(self, "HEAD" if method == "GET" else method, *about)

    setattr(tasks.egress.GuardedClient, "_send", send)  # noqa: B010 - mypy refuses the plain assignment


def _follows_on() -> None:
    """Follow redirects for long."""
    made = tasks.egress.GuardedClient.__init__

    def begin(self: Any, egress: Any, *about: Any, **more: Any) -> None:
        made(self, egress.model_copy(update={"redirects_max": 50}), *about, **more)

    setattr(tasks.egress.GuardedClient, "__init__", begin)  # noqa: B010 - mypy refuses the plain assignment


async def _lost(_self: Any, _key: str, _parts: Any, _mark: Any, lost: Exception) -> str:
    raise lost


async def _any_etag(_outgoing: Any, headers: Any) -> str:
    return str(headers.get("ETag", "")).strip('"')


def _blind_to_200() -> None:
    """Take every 200 of the store for success."""
    blinded = [entry for entry in botocore.handlers.BUILTIN_HANDLERS if "_handle_200_error" not in repr(entry)]
    botocore.handlers.BUILTIN_HANDLERS[:] = blinded


def _no_vanishing() -> None:
    """Take an upload that is gone for any refusal."""
    made = tasks.store_calls.classify

    def classify(code: str, status: int, **more: Any) -> Any:
        return made("" if code == "NoSuchUpload" else code, status, **more)

    for owner in (tasks.store_calls, tasks.store_puts):
        setattr(owner, "classify", classify)  # noqa: B010 - mypy refuses the plain assignment


def _as_refusal() -> None:
    """Take 403s of a store for what another try cures."""
    made = tasks.store_calls.classify

    def classify(code: str, status: int, **more: Any) -> Any:
        return made(code, 503 if status == _FORBIDDEN else status, **more)

    for owner in (tasks.store_calls, tasks.store_puts):
        setattr(owner, "classify", classify)  # noqa: B010 - mypy refuses the plain assignment


SAME = tasks.source._Version.SAME
_read_whole = tasks.probe._read_whole
_FORBIDDEN = 403

NULLS = {
    "range": Null(
        "a 206 must be exactly the range asked for",
        replaced(tasks.source, "_check_partial", lambda *_args: SAME),
        "tests/integration/test_source.py::test_bad_range",
    ),
    "version": Null(
        "each answer must show the pinned version",
        replaced(tasks.source, "_shown_version", lambda *_args: SAME),
        "tests/integration/test_source.py::test_change_between_ranges",
    ),
    "accept-ranges": Null(
        "Accept-Ranges proves nothing",
        replaced(tasks.probe, "_read_whole", _promised),
        "tests/integration/test_probe.py::test_probe_of_an_odd_file",
    ),
    "416": Null(
        "a 416 that tells the pinned length is no change",
        replaced(tasks.source, "unsatisfied_total", nothing),
        "tests/integration/test_faults_source.py::test_416_in_the_middle",
    ),
    "size": Null(
        "a body of unknown length has a limit",
        replaced(tasks.transfer._Transfer, "_check_size", nothing),
        "tests/integration/test_transfer.py::test_a_limit_of_size_holds",
    ),
    "get": Null(
        "the probe is a GET",
        _with_head,
        "tests/integration/test_probe.py::test_probe_of_a_good_file",
    ),
    "redirects": Null(
        "redirects end",
        _follows_on,
        "tests/integration/test_faults_source.py::test_f13_redirects_that_never_end",
    ),
    "downgrade": Null(
        "https does not become http",
        replaced(tasks.guard.AddressGuard, "check_redirect", lambda self, base, to: self._checked(base.join(URL(to)))),
        "tests/integration/test_egress.py::test_redirect_may_not_leave_tls",
    ),
    "name": Null(
        "`filename*` comes before `filename`",
        replaced(rayhaul.policy.naming, "_extended_value", lambda _value: ""),
        "tests/unit/test_naming.py::test_name_from_the_header",
    ),
    "name-safe": Null(
        "file names are made safe",
        replaced(rayhaul.policy.naming, "clean", lambda name: name),
        "tests/integration/test_probe.py::test_name_comes_from_the_header_or_the_final_url",
    ),
    "parallel": Null(
        "ranges come over connections of their own",
        _one_by_one,
        "tests/integration/test_transfer.py::test_ranges_run_in_parallel_within_their_limit",
    ),
    "expired": Null(
        "an expired link behind a redirect is tried again",
        replaced(tasks.source, "EXPIRED", frozenset()),
        "tests/integration/test_source.py::test_expired_link_of_a_redirect_is_made_anew",
    ),
    "names": Null(
        "a name that cannot be resolved is tried again",
        replaced(rayhaul.errors.SourceUnreachable, "retryable", None),
        "tests/integration/test_faults_source.py::test_f16_names_that_come_and_go",
    ),
    "adopted": Null(
        "an object whose Complete's answer was lost is taken",
        replaced(tasks.sink.Sink, "_adopted", _lost),
        "tests/integration/test_faults_store.py::test_f22_complete_whose_answer_is_lost",
    ),
    "error-in-200": Null(
        "an error inside a 200 is one",
        _blind_to_200,
        "tests/integration/test_faults_store.py::test_f23_an_error_inside_a_200",
    ),
    "vanished": Null(
        "an upload that is gone ends the lease",
        _no_vanishing,
        "tests/integration/test_faults_store.py::test_f24_an_upload_that_vanishes",
    ),
    "refused": Null(
        "a store that refuses us is not asked again",
        _as_refusal,
        "tests/integration/test_faults_store.py::test_f27_f28_a_bucket_that_refuses_us",
    ),
    "kept-store": Null(
        "the embedded store is started again",
        replaced(serve_app.kept_store.KeptStore, "_start_again", lambda _self, wait_s: wait_s),
        "tests/integration/test_faults_store.py::test_f26_a_store_that_dies_is_started_again",
    ),
    "shown-crc": Null(
        "the object must show the CRC-64/NVME of the bytes sent",
        replaced(tasks.stored, "told_crc", nothing),
        "tests/integration/test_transfer.py::test_an_object_that_shows_another_crc_is_noticed",
    ),
    "length": Null("a body must have its length", _unbounded, "tests/integration/test_source.py::test_bad_whole"),
    "reset": Null(
        "a reset does not end a body",
        replaced(tasks.answer.Answer, "_was_reset", lambda _self: False),
        "tests/integration/test_source.py::test_unknown_length_needs_a_proper_end",
    ),
    "close-notify": Null(
        "TLS ends with a close_notify",
        replaced(tasks.answer.Answer, "_was_cut", lambda _self: False),
        "tests/integration/test_egress.py::test_tls_that_ends_without_saying_so",
    ),
    "unasked": Null(
        "a connection that brought what nobody asked for is not used again",
        replaced(aiohttp.client_proto.ResponseHandler, "should_close", property(lambda _self: False)),
        "tests/integration/test_arriving.py::test_bytes_that_nobody_asked_for",
    ),
    "taken-over": Null(
        "only bodies of a plain announced length are taken over from the library",
        replaced(tasks.arriving.Arriving, "of", _any_body),
        "tests/integration/test_arriving.py::test_never_taken_over",
    ),
    "coding": Null(
        "coded bodies are refused",
        everywhere("check_coding", nothing, tasks.source, tasks.probe),
        "tests/integration/test_probe.py::test_failed_probe",
    ),
    "digest": Null(
        "an answer's digest is compared",
        replaced(tasks.digests, "of_body", nothing),
        "tests/integration/test_digests.py::test_a_flipped_bit_of_a_whole_file",
    ),
    "if-range": Null(
        "If-Range needs a strong ETag",
        replaced(tasks.source, "_is_strong", lambda _etag: True),
        "tests/integration/test_source.py::test_if_range_needs_a_strong_etag",
    ),
    "date": Null(
        "a Last-Modified of this second is no validator",
        replaced(tasks.probe, "strong_date", lambda headers: headers.get("Last-Modified")),
        "tests/integration/test_probe.py::test_a_date_that_may_repeat_is_no_validator",
    ),
    "retry-after": Null(
        "Retry-After is honoured",
        replaced(tasks.source, "retry_after_s", nothing),
        "tests/integration/test_probe.py::test_retry_after",
    ),
    "speed": Null(
        "a source that drips is left",
        replaced(tasks.speed.SpeedWatch, "is_too_slow", lambda *_args: False),
        "tests/integration/test_source.py::test_slow_source_is_left",
    ),
    "secrets": Null(
        "what the caller said stays with its origin",
        replaced(tasks.egress, "_origin", nothing),
        "tests/integration/test_egress.py::test_what_the_caller_said_stays_with_its_origin",
    ),
    "guard": Null(
        "addresses are checked when they are connected to",
        replaced(tasks.guard.AddressGuard, "check_address", nothing),
        "tests/integration/test_egress.py::test_name_that_changes_its_answer",
    ),
    "codes": Null(
        "a 400 that means a cut body is tried again",
        replaced(tasks.store_calls, "_BUSY", frozenset()),
        "tests/integration/test_faults_store.py::test_f20_a_body_cut_on_its_way",
    ),
    "received": Null(
        "the store must have received what was sent",
        replaced(tasks.outgoing.Outgoing, "check_received", _any_etag),
        "tests/integration/test_sink.py::test_a_part_changed_on_its_way_is_noticed",
    ),
    "mirror": Null(
        "sources are mixed only where they have the same file",
        replaced(rayhaul.policy.mirrors, "match", lambda *_args: rayhaul.policy.mirrors.Match.SAME),
        "tests/integration/test_faults_mirrors.py::test_a_mirror_of_which_nothing_is_known",
    ),
    "checksum": Null(
        "a checksum is compared before publishing",
        replaced(tasks.checksum.Checksum, "check", nothing),
        "tests/integration/test_transfer.py::test_a_liar_is_caught_by_the_checksum",
    ),
    "combined": Null(
        "a CRC-32C is combined of all parts",
        replaced(tasks.upload, "combined_crc32c", lambda parts: parts[0].crc32c),
        "tests/integration/test_transfer.py::test_a_source_s_crc32c_is_compared_of_parts_in_any_order",
    ),
    "untold": Null(
        "parts of which the CRC-32C is not known are sent again",
        replaced(tasks.upload.Upload, "_can_tell", lambda _self, _part: True),
        "tests/integration/test_transfer.py::test_parts_of_which_it_is_not_known_are_sent_again",
    ),
    "versions": Null(
        "sources are not mixed by a CRC-32C",
        replaced(rayhaul.policy.mirrors, "tells_versions", lambda checksum: checksum is not None),
        "tests/unit/test_mirrors.py::test_the_same_file",
    ),
    "row": Null(
        "parts that wait for their turn are one holder of memory",
        replaced(
            tasks.budget.ByteBudget, "claim", lambda self, wanted, _row=None: tasks.budget.Claim(self, wanted, None)
        ),
        "tests/unit/test_budget.py::test_rows_wait_for_nobody_who_waits_for_them",
    ),
    "resume": Null(
        "a part counts only where ledger and store agree",
        replaced(tasks.upload, "_is_same", lambda _stored, known: known is not None),
        "tests/integration/test_transfer.py::test_a_resumed_lease_trusts_neither_ledger_nor_store_alone",
    ),
    "idle": Null(
        "no PUT waits long for its source",
        replaced(tasks.hedging.Feed, "__anext__", lambda self: anext(self._flow)),
        "tests/integration/test_faults_store.py::test_a_slow_origin_lets_no_put_idle",
    ),
    "hedge": Null(
        "a part that crawls is brought by a second request",
        replaced(tasks.hedging.Hedges, "_begun", nothing),
        "tests/integration/test_hedges.py::test_f04_a_part_that_drips_is_hedged",
    ),
    "hedge-apart": Null(
        "a second request for a part leaves the source that crawls, where there is another one",
        replaced(tasks.mirrors.Supplies, "apart_from", lambda _self, _supply: ()),
        "tests/integration/test_faults_mirrors.py::test_a_hedge_leaves_the_source_that_crawls",
    ),
    "hedge-bytes": Null(
        "an upload goes on with a hedge only where both brought the same",
        replaced(tasks.hedging.Feed, "_rest_of", _rest_unchecked),
        "tests/integration/test_hedges.py::test_a_hedge_that_brings_other_bytes",
    ),
    "cut-bytes": Null(
        "an upload whose request was cut goes on only where the second one brought the same",
        replaced(tasks.hedging.Feed, "_rest_of", _rest_unchecked),
        "tests/integration/test_hedges.py::test_a_cut_after_wrong_bytes",
    ),
    "peek-version": Null(
        "what came along with a look is published only as the version that the lease pins",
        replaced(tasks.peeks, "_version", lambda _pin: SAME),
        "tests/integration/test_peeks.py::test_a_file_that_changes_after_the_look",
    ),
    "twin": Null(
        "a twin reads its parts before it sends them",
        replaced(tasks.lanes.Lanes, "_send_ahead", tasks.lanes.Lanes._stream),
        "tests/integration/test_hedges.py::test_a_twin_that_is_stopped_breaks_no_upload",
    ),
    "budget": Null(
        "second tries keep to the endpoint's budget",
        replaced(rayhaul.policy.retry.RetryBudget, "take", lambda _self, _now_s: 0.0),
        "tests/unit/test_retry.py::test_an_endpoint_that_is_down_sees_a_trickle",
    ),
    "sweep": Null(
        "uploads in use are not swept",
        replaced(actors.draft.Draft, "knows_upload", lambda _self, _upload_id: False),
        "tests/unit/test_strays.py::test_uploads_in_use_stay",
    ),
    "sweep-named": Null(
        "uploads that somebody may have just opened are not swept",
        replaced(actors.sweeping, "_opened_under", lambda _leases, _created_at: False),
        "tests/unit/test_strays.py::test_uploads_under_keys_that_callers_named",
    ),
    "bucket-rules": Null(
        "what the cluster has written is no source, and what nobody allowed neither",
        replaced(
            tasks.bucket_rules.BucketRules, "check", lambda _self, url: tasks.bucket_rules.StoredObject.parse(url)
        ),
        "tests/unit/test_bucket_rules.py::test_what_is_denied",
    ),
    "ftp-version": Null(
        "FTP: size and time of change are compared",
        replaced(tasks.ftp_source, "_check_version", nothing_later),
        "tests/integration/test_ftp_source.py::test_change_while_it_is_read",
    ),
    "ftp-end": Null(
        "FTP: without a length the server's word ends a file",
        replaced(tasks.ftp_source.FtpTransport, "_check_end", nothing_later),
        "tests/integration/test_ftp_source.py::test_cut_where_no_length_is_known",
    ),
    "ftp-ports": Null(
        "FTP: no data from a port of services",
        replaced(tasks.dialing, "_DATA_PORT_MIN", 0),
        "tests/integration/test_ftp_source.py::test_data_comes_from_no_service_of_the_server",
    ),
    "dialing": Null(
        "sockets of other protocols pass the guard",
        replaced(tasks.guard.AddressGuard, "check_address", nothing),
        "tests/integration/test_sftp_source.py::test_addresses_are_guarded",
    ),
    "host-keys": Null(
        "SFTP: only trusted host keys",
        replaced(tasks.sftp_source.SftpTransport, "_trusted", nothing_later),
        "tests/integration/test_sftp_source.py::test_an_unknown_host_key_is_refused",
    ),
    "sftp-version": Null(
        "SFTP: size and time of change are compared",
        replaced(tasks.sftp_source, "_check_version", nothing_later),
        "tests/integration/test_sftp_source.py::test_change_while_it_is_read",
    ),
    "pieces": Null(
        "Metalink: pieces have their hashes",
        replaced(tasks.pieces._Comparison, "_compare", nothing),
        "tests/unit/test_metalink.py::TestPieces::test_a_flipped_bit",
    ),
    "places": Null(
        "Metalink: what a further URL brings is compared piece by piece",
        replaced(tasks.pieces._Comparison, "_compare", nothing),
        "tests/integration/test_metalink_mirrors.py::test_the_first_one_has_a_wrong_piece",
    ),
    "counted": Null(
        "a body of another protocol has its length",
        _uncounted,
        "tests/integration/test_sftp_source.py::test_a_server_that_lies_about_the_size",
    ),
}
